//! Open transactions. Of a snapshot only what differs from the main tree is in the stream: the rest is shared again.

use alloc::{collections::BTreeSet, vec::Vec};

use ennead_xs_wire::{PAYLOAD_MAX, path};

use super::{
    NOT_CREATED, kind,
    load::{Loaded, entries_of},
    record::{Fields, Writer},
    save::save_perms,
    touch, transaction,
};
use crate::{
    Conn, State,
    transaction::{Reach, Touch, Transaction},
    tree::NodeId,
};

pub(super) fn save(state: &State, out: &mut Writer<'_>, conn: Conn, tx_id: u32, txn: &Transaction) {
    let flags = [
        (txn.checks_quota, transaction::CHECKS_QUOTA),
        (txn.failed, transaction::FAILED),
        (txn.stale, transaction::STALE),
    ];
    out.record(kind::SNAPSHOT, |out| {
        out.u32(conn.0);
        out.u32(tx_id);
        out.u64(txn.started);
        out.u32(flags.iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag));
        out.len32(txn.created);
        out.len32(txn.owners.len());
        for (domid, more) in &txn.owners {
            out.u32((*domid).into());
            let more = i32::try_from(*more).unwrap_or(if *more < 0 { i32::MIN } else { i32::MAX });
            out.bytes(&more.to_le_bytes());
        }
    });
    for (path, touch) in &txn.touched {
        save_touch(state, out, path, touch);
    }
    state.store.tree.differences(state.store.root, txn.root, |id, path| {
        save_change(state, out, id, path);
        out.is_going()
    });
}

fn save_touch(state: &State, out: &mut Writer<'_>, path: &[u8], seen: &Touch) {
    let flags = [
        (seen.before.is_some(), touch::EXISTED),
        (seen.modified, touch::MODIFIED),
        (seen.event.is_some(), touch::EVENT),
        (seen.event == Some(Reach::Above), touch::EVENT_ABOVE),
    ];
    let perms = seen.before.map(|before| state.settled(before)).unwrap_or_default();
    out.record(kind::TOUCH, |out| {
        out.u64(seen.before.map_or(0, |(_, generation)| generation));
        out.len32(seen.order);
        out.u32(seen.created.map_or(NOT_CREATED, |place| u32::try_from(place).unwrap_or(NOT_CREATED - 1)));
        out.len32(seen.bytes);
        out.u16(flags.iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag));
        out.len16(path.len() + 1);
        out.len16(perms.len());
        out.u16(0);
        save_perms(out, &perms);
        out.bytes(path);
        out.bytes(&[0]);
    });
}

fn save_change(state: &State, out: &mut Writer<'_>, id: NodeId, path: &[u8]) {
    let tree = &state.store.tree;
    let (seen, value) = (state.store.seen(id), tree.value(id));
    let perms = state.settled(seen);
    out.record(kind::CHANGE, |out| {
        out.u64(seen.1);
        out.len32(tree.kids(id).len());
        out.len16(path.len() + 1);
        out.len16(value.len());
        out.len16(perms.len());
        out.u16(0);
        save_perms(out, &perms);
        out.bytes(path);
        out.bytes(&[0]);
        out.bytes(value);
        out.bytes(&tree.listing(id));
    });
}

/// A transaction that has looked at nothing and sees the main tree: what it did follows.
pub(super) fn snapshot(state: &mut State, conn: Conn, fields: &mut Fields<'_>) -> Loaded<Transaction> {
    let payer = state.connections.get(&conn).and_then(|connection| connection.payer());
    let mut txn = Transaction::start(&mut state.store, payer);
    match read(&mut txn, fields) {
        Ok(()) => Ok(txn),
        Err(why) => {
            txn.end(&mut state.store);
            Err(why)
        }
    }
}

fn read(txn: &mut Transaction, fields: &mut Fields<'_>) -> Loaded<()> {
    txn.started = fields.u64()?;
    let flags = fields.u32()?;
    txn.checks_quota = flags & transaction::CHECKS_QUOTA != 0;
    txn.failed = flags & transaction::FAILED != 0;
    txn.stale = flags & transaction::STALE != 0;
    txn.created = fields.len32()?;
    for _ in 0..fields.u32()? {
        let domid = u16::try_from(fields.u32()?).map_err(|_| "there can be no such domain")?;
        let more = isize::try_from(fields.i32()?).map_err(|_| "nobody owns so many")?;
        txn.owners.push((domid, more));
    }
    Ok(())
}

/// A node that the transaction looked at.
pub(super) fn touch(state: &mut State, open: Option<(Conn, u32)>, fields: &mut Fields<'_>) -> Loaded<()> {
    let (generation, order, created) = (fields.u64()?, fields.len32()?, fields.u32()?);
    let (bytes, flags) = (fields.len32()?, fields.u16()?);
    let (path_len, entries, _) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let perms = entries_of(fields, entries)?;
    let path = fields.text(path_len)?;
    let txn = find(&mut state.connections, open)?;
    if !is_node(path) || txn.touched.contains_key(path) {
        return Err("there can be no such path");
    }
    let has = |flag| flags & flag != 0;
    if has(touch::EXISTED) == perms.is_empty() {
        return Err("it has no owner");
    }
    let before = has(touch::EXISTED).then(|| (state.store.tree.perms.intern(&perms), generation));
    let event = match (has(touch::EVENT), has(touch::EVENT_ABOVE)) {
        (false, _) => None,
        (true, false) => Some(Reach::Exact),
        (true, true) => Some(Reach::Above),
    };
    let created = usize::try_from(created).ok().filter(|_| created != NOT_CREATED);
    let seen = Touch { order, before, modified: has(touch::MODIFIED), created, event, bytes };
    txn.restore(&mut state.store, path, seen);
    Ok(())
}

/// A node of the transaction's tree.
pub(super) fn change(state: &mut State, open: Option<(Conn, u32)>, fields: &mut Fields<'_>) -> Loaded<()> {
    let (generation, kids) = (fields.u64()?, fields.len32()?);
    let (path_len, value_len, entries, _) = (fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?);
    let perms = entries_of(fields, entries)?;
    let (path, value) = (fields.text(path_len)?, fields.bytes(value_len.into())?);
    let names: Vec<&[u8]> = fields.texts(kids)?;
    if perms.is_empty() || value.len() > PAYLOAD_MAX || !is_node(path) {
        return Err("there can be no such node");
    }
    let above: &[u8] = if path == path::ROOT { &[] } else { path };
    let fits = |name: &&[u8]| path::is_valid(&[above, b"/", name].concat()) && !name.contains(&b'/');
    let different: BTreeSet<_> = names.iter().collect();
    if !names.iter().all(fits) || different.len() != names.len() {
        return Err("there can be no such children");
    }
    let txn = find(&mut state.connections, open)?;
    let tree = &mut state.store.tree;
    // As it comes: `Store::edit` would give it a new generation.
    let id = tree.edit(&mut txn.root, path).ok_or("the node above it is missing")?;
    tree.set_value(id, value);
    let perms = tree.perms.intern(&perms);
    tree.set_perms(id, perms);
    tree.set_generation(id, generation);
    tree.set_kids(id, &names);
    Ok(())
}

/// The transaction that is read.
fn find(
    connections: &mut alloc::collections::BTreeMap<Conn, crate::connection::Connection>,
    open: Option<(Conn, u32)>,
) -> Loaded<&mut Transaction> {
    let txn = open.and_then(|(conn, tx_id)| connections.get_mut(&conn)?.transactions.get_mut(&tx_id));
    txn.ok_or("it belongs to no transaction")
}

fn is_node(path: &[u8]) -> bool {
    path == path::ROOT || (path::is_valid(path) && !path::is_special(path))
}
