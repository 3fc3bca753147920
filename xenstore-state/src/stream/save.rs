//! Writing.

use alloc::vec::Vec;

use ennead_xs_wire::{HEADER_LEN, PAYLOAD_MAX, path};

use super::{Carried, IGNORED, NO_DOMAIN, domain, kind, line, record::Writer, transactions};
use crate::{
    Conn, DeviceKind, Role, State, connection::Connection, domain::Domain, perms::Entry, store::Seen,
    watches::Watch,
};

/// The longest message.
const MESSAGE: usize = HEADER_LEN + PAYLOAD_MAX;

impl State {
    /// The stream, in pieces for `sink`, which says whether to go on; `carried` says what else belongs to a ring. Whether all
    /// of it was taken.
    pub(crate) fn save_with(
        &self,
        carried: impl Fn(Conn) -> Carried,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> bool {
        let mut out = Writer::new(sink);
        // No file descriptors.
        out.record(kind::GLOBAL, |out| {
            out.u32(u32::MAX);
            out.u32(u32::MAX);
        });
        out.record(kind::COUNTER, |out| out.u64(self.store.generation()));
        for (domid, role) in &self.settings.roles {
            save_role(&mut out, *domid, role);
        }
        // Domain 0 always exists.
        for (domid, domain) in self.store.domains.iter().filter(|(domid, _)| *domid != 0) {
            self.save_domain(&mut out, domid, domain);
        }
        // In the order of connections: that is the order in which events go out.
        for (conn, domid, domain, port) in self.rings() {
            let Some(connection) = self.connections.get(&conn) else { continue };
            let carried = carried(conn);
            save_connection(&mut out, conn, (domid, domain.target, port), connection, &carried);
        }
        for (_, watch) in self.watches.iter().filter(|(_, watch)| self.is_ring(watch.conn)) {
            save_watch(&mut out, watch);
        }
        for (conn, ..) in self.rings() {
            for tx_id in self.connections.get(&conn).into_iter().flat_map(|one| one.transactions.keys()) {
                out.record(kind::TRANSACTION, |out| {
                    out.u32(conn.0);
                    out.u32(*tx_id);
                });
            }
        }
        let generation = self.store.generation();
        save_node(&mut out, path::INTRODUCE_DOMAIN, &[], generation, &self.specials.introduce);
        save_node(&mut out, path::RELEASE_DOMAIN, &[], generation, &self.specials.release);
        let tree = &self.store.tree;
        tree.walk(self.store.root, path::ROOT, |id, path| {
            let seen = self.store.seen(id);
            save_node(&mut out, path, tree.value(id), seen.1, &self.settled(seen));
            out.is_going()
        });
        for (conn, ..) in self.rings() {
            for (tx_id, txn) in self.connections.get(&conn).into_iter().flat_map(|one| &one.transactions) {
                transactions::save(self, &mut out, conn, *tx_id, txn);
            }
        }
        for (conn, ..) in self.rings() {
            let next = self.connections.get(&conn).map_or(0, |connection| connection.next_transaction);
            out.record(kind::NEXT, |out| {
                out.u32(conn.0);
                out.u32(next);
            });
        }
        out.finish()
    }

    /// The entries of a list, those marked that do not count any more.
    pub(super) fn settled(&self, (perms, generation): Seen) -> Vec<Entry> {
        let list = self.store.tree.perms.get(perms).iter();
        list.map(|entry| Entry {
            ignored: entry.ignored || !self.store.domains.is_meant(entry.domid, generation),
            ..*entry
        })
        .collect()
    }

    fn save_domain(&self, out: &mut Writer<'_>, domid: u16, domain: &Domain) {
        let flags = [
            (domain.announced, domain::ANNOUNCED),
            (domain.introduced, domain::INTRODUCED),
            (domain.shutdown, domain::SHUT_DOWN),
            (domain.restarting, domain::RESTARTING),
            (self.has_role(domid), domain::SERVICE),
        ];
        out.record(kind::DOMAIN, |out| {
            out.u16(domid);
            out.u16(flags.iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag));
            out.u16(domain.manager.unwrap_or(NO_DOMAIN));
            out.u16(domain.target.unwrap_or(NO_DOMAIN));
        });
    }

    /// All rings, in the order of their connections.
    fn rings(&self) -> Vec<(Conn, u16, &Domain, u32)> {
        let ring = |(domid, domain)| {
            let domain: &Domain = domain;
            domain.ring.map(|(conn, port)| (conn, domid, domain, port))
        };
        let mut rings: Vec<_> = self.store.domains.iter().filter_map(ring).collect();
        rings.sort_by_key(|(conn, ..)| *conn);
        rings
    }

    fn is_ring(&self, conn: Conn) -> bool {
        let payer = self.connections.get(&conn).and_then(Connection::payer);
        let domain = payer.and_then(|domid| self.store.domains.get(domid));
        domain.and_then(|domain| domain.ring).is_some_and(|(ring, _)| ring == conn)
    }
}

fn save_connection(
    out: &mut Writer<'_>,
    conn: Conn,
    (domid, target, port): (u16, Option<u16>, u32),
    connection: &Connection,
    carried: &Carried,
) {
    let messages = connection.outbox.iter().map(|item| item.message().encode());
    // None is longer; who reads the stream would refuse all of it.
    let messages: Vec<_> = messages.filter(|message| message.len() <= MESSAGE).collect();
    let part = messages.first().map_or(0, Vec::len);
    let waiting = messages.concat();
    let sent = carried.sent.min(part);
    let (sent, waiting) = waiting.split_at_checked(sent).unwrap_or_default();
    if *carried != Carried::default() {
        save_line(out, conn, carried, sent);
    }
    out.record(kind::CONNECTION, |out| {
        out.u32(conn.0);
        // A ring.
        out.u16(0);
        out.u16(0);
        out.u16(domid);
        out.u16(target.unwrap_or(NO_DOMAIN));
        out.u32(port);
        out.len16(carried.unread.len());
        out.len16(if sent.is_empty() { 0 } else { part - sent.len() });
        out.len32(waiting.len());
        out.bytes(&carried.unread);
        out.bytes(waiting);
    });
}

fn save_line(out: &mut Writer<'_>, conn: Conn, carried: &Carried, sent: &[u8]) {
    let flags = [
        (carried.positions.is_some(), line::KNOWN),
        (carried.fresh, line::FRESH),
        (carried.held.is_some(), line::HELD),
    ];
    let held = carried.held.as_deref().unwrap_or_default();
    let positions = carried.positions.map(|at| [at.req_cons, at.rsp_prod, at.rsp_cons]);
    out.record(kind::LINE, |out| {
        out.u32(conn.0);
        out.u32(flags.iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag));
        for position in positions.unwrap_or_default() {
            out.u32(position);
        }
        out.len32(held.len());
        out.len16(sent.len());
        out.len16(carried.last.len());
        out.bytes(sent);
        out.bytes(held);
        for piece in &carried.last {
            out.u32(piece.at);
            out.u16(piece.skip);
            out.u16(piece.take);
            out.len32(piece.message.len());
            out.bytes(&piece.message);
        }
    });
}

fn save_watch(out: &mut Writer<'_>, watch: &Watch) {
    // As the client wrote it.
    let path = watch.path.get(watch.skip..).unwrap_or_default();
    out.record(kind::WATCH, |out| {
        out.u32(watch.conn.0);
        out.len16(path.len() + 1);
        out.len16(watch.token.len() + 1);
        out.bytes(path);
        out.bytes(&[0]);
        out.bytes(&watch.token);
        out.bytes(&[0]);
    });
}

/// What a toolstack may do. Builder's authority is its channel's.
fn save_role(out: &mut Writer<'_>, domid: u16, role: &Role) {
    let Role::Toolstack { backends } = role else { return };
    out.record(kind::TOOLSTACK, |out| {
        out.u16(domid);
        out.len16(backends.len());
        for backend in backends {
            out.u16(backend.domid);
            out.u16(u16::from(backend.kind == DeviceKind::Vif));
        }
    });
}

fn save_node(out: &mut Writer<'_>, path: &[u8], value: &[u8], generation: u64, perms: &[Entry]) {
    out.record(kind::GENERATION, |out| out.u64(generation));
    out.record(kind::NODE, |out| {
        // Not in a transaction.
        out.u32(0);
        out.u32(0);
        out.len16(path.len() + 1);
        out.len16(value.len());
        out.u16(0);
        out.len16(perms.len());
        save_perms(out, perms);
        out.bytes(path);
        out.bytes(&[0]);
        out.bytes(value);
    });
}

pub(super) fn save_perms(out: &mut Writer<'_>, perms: &[Entry]) {
    for entry in perms {
        out.bytes(&[entry.access.letter(), if entry.ignored { IGNORED } else { 0 }]);
        out.u16(entry.domid);
    }
}
