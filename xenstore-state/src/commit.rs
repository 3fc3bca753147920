//! TRANSACTION_START and TRANSACTION_END.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};

use ennead_xs_wire::{Errno, path};

use crate::{
    Conn, Identity, State,
    fairness::LOST,
    output::Body,
    request::Cx,
    rights::Who,
    store::Seen,
    transaction::{Touch, Transaction},
    tree::NodeId,
};

/// A path and what the transaction did there.
type Touched<'a> = (&'a [u8], &'a Touch);

impl State {
    pub(crate) fn start(&mut self, cx: &Cx) -> Result<Body, Errno> {
        if cx.txn.is_some() {
            return Err(Errno::Ebusy);
        }
        let payer = self.connections.get(&cx.conn).and_then(|connection| connection.payer());
        if let Some(domid) = payer
            && !cx.who.operator
        {
            let limit = self.quotas(domid).transactions;
            if self.store.domains.get(domid).is_some_and(|domain| domain.transactions > limit) {
                return Err(Errno::Enospc);
            }
        }
        let connection = self.connections.get_mut(&cx.conn).ok_or(Errno::Einval)?;
        if let Some(domain) = payer.and_then(|domid| self.store.domains.get_mut(domid)) {
            domain.transactions += 1;
        }
        Ok(Body::Transaction(connection.new_transaction(Transaction::start(&mut self.store, payer))))
    }

    /// Gives back what a transaction holds that is no longer among its connection's.
    pub(crate) fn end(&mut self, txn: Transaction) {
        if let Some(domain) = txn.payer().and_then(|domid| self.store.domains.get_mut(domid)) {
            domain.transactions = domain.transactions.saturating_sub(1);
        }
        txn.end(&mut self.store);
    }

    pub(crate) fn drop_transactions(&mut self, conn: Conn) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        for txn in core::mem::take(&mut connection.transactions).into_values() {
            self.end(txn);
        }
    }

    pub(crate) fn end_transaction(&mut self, cx: &mut Cx, commit: bool) -> Result<Body, Errno> {
        let mut txn = cx.txn.take().ok_or(Errno::Enoent)?;
        let result = if commit { self.commit(cx, &mut txn) } else { Ok(()) };
        self.end(txn);
        result.map(|()| Body::Done)
    }

    /// Brings the transaction's changes into the main tree: all, or none if it fails (XSA-415, XSA-421, XSA-440).
    fn commit(&mut self, cx: &Cx, txn: &mut Transaction) -> Result<(), Errno> {
        if txn.failed {
            return Err(Errno::Enomem);
        }
        for &(domid, more) in &txn.owners {
            // Somebody who owns nodes in the snapshot may be gone.
            let domain = self.store.domains.get(domid).ok_or(Errno::Enomem)?;
            let nodes = domain.nodes.saturating_add_signed(more);
            if txn.checks_quota && domid != 0 && nodes >= self.quotas(domid).nodes {
                return Err(Errno::Enospc);
            }
        }
        let as_it_was = txn.touched.iter().all(|(path, touch)| {
            let now = self.store.find(path).map(|id| self.store.tree.generation(id));
            now == touch.before.map(|(_, generation)| generation)
        });
        if txn.stale || !as_it_was {
            self.lost(cx);
            return Err(Errno::Eagain);
        }
        self.won(cx);
        let touched = core::mem::take(&mut txn.touched);
        let mut in_order: Vec<Touched<'_>> = touched
            .iter()
            .filter(|(_, touch)| touch.modified)
            .map(|(path, touch)| (&**path, touch))
            .collect();
        in_order.sort_unstable_by_key(|(_, touch)| touch.order);
        if !in_order.is_empty() {
            self.wrote(cx.who);
            self.apply(txn.root, &in_order);
            self.tell_all(&touched, &in_order);
        }
        txn.touched = touched;
        Ok(())
    }

    /// Nothing that the transaction looked at changed since: whatever else did is elsewhere and stays.
    fn apply(&mut self, own: NodeId, modified: &[Touched<'_>]) {
        for (path, touch) in modified {
            let stays = touch.created.is_none() && self.store.tree.find(own, path).is_some();
            if touch.before.is_some() && !stays {
                self.store.remove(path);
            }
        }
        // In the order of creation: parents first, and children as the transaction listed them.
        let mut created: Vec<_> =
            modified.iter().filter_map(|(path, touch)| Some((touch.created?, path))).collect();
        created.sort_unstable();
        for (_, path) in created {
            self.store.attach(path, &[], None);
        }
        for (path, _) in modified {
            let Some(id) = self.store.tree.find(own, path) else { continue };
            let value: Box<[u8]> = self.store.tree.value(id).into();
            let perms = self.store.tree.perms(id);
            self.store.change(path, |tree, id| {
                if *tree.value(id) != *value {
                    tree.set_value(id, &value);
                }
                tree.perms.retain(perms);
                tree.set_perms(id, perms);
            });
        }
    }

    /// Events as if the nodes were changed one after the other, in the order in which the transaction first looked at
    /// them: that decides whose parent can be read already.
    fn tell_all(&mut self, touched: &BTreeMap<Box<[u8]>, Touch>, modified: &[Touched<'_>]) {
        for (path, touch) in modified {
            let Some(reach) = touch.event else { continue };
            self.fire(path, reach, |state| {
                let mut lists: Vec<Seen> = touch.before.into_iter().collect();
                let Some(id) = state.store.find(path) else { return lists };
                lists.push(state.store.seen(id));
                let up = path::parent(path).unwrap_or(path::ROOT);
                let later = touched.get(up).filter(|parent| parent.modified && parent.order > touch.order);
                match later {
                    Some(parent) => lists.extend(parent.before),
                    None => lists.extend(state.store.find(up).map(|id| state.store.seen(id))),
                }
                lists
            });
        }
    }

    // Fairness

    /// A change of the main tree by `who`.
    pub(crate) fn wrote(&mut self, who: Who) {
        if self.is_guest(who) {
            self.fairness.wrote(self.now_ms, who.domid);
        }
    }

    fn is_guest(&self, who: Who) -> bool {
        !who.operator && !self.settings.roles.contains_key(&who.domid)
    }

    fn lost(&mut self, cx: &Cx) {
        let Some(connection) = self.connections.get_mut(&cx.conn) else { return };
        connection.lost = connection.lost.saturating_add(1);
        let lost = connection.lost;
        if !self.is_guest(cx.who) {
            self.fairness.lost(self.now_ms, lost);
        }
    }

    fn won(&mut self, cx: &Cx) {
        let Some(connection) = self.connections.get_mut(&cx.conn) else { return };
        if core::mem::take(&mut connection.lost) >= LOST && !self.is_guest(cx.who) {
            self.fairness.won();
        }
    }

    // Snapshots

    /// Lets the oldest transactions start over while snapshots hold too much; those of domains before the operator's.
    pub(crate) fn bound_snapshots(&mut self) {
        while self.store.held_by_transactions() > self.settings.snapshot_memory {
            let oldest = self
                .connections
                .values_mut()
                .flat_map(|connection| {
                    let operator = connection.identity == Identity::Operator;
                    connection.transactions.values_mut().map(move |txn| (operator, txn))
                })
                .filter(|(_, txn)| !txn.stale || !txn.touched.is_empty() || txn.root != self.store.root)
                .min_by_key(|(operator, txn)| (*operator, txn.started));
            let Some((_, txn)) = oldest else { return };
            txn.started = self.store.next_generation();
            txn.start_over(&mut self.store);
        }
    }
}
