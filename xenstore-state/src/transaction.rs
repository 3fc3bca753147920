//! A transaction: a snapshot of the tree, what it changed there, and what it looked at.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};

use ennead_xs_wire::path;

use crate::{
    store::{Seen, Store},
    tree::{NodeId, Tree},
};

/// Bytes that are charged for each node looked at, besides its path.
const TOUCH: usize = 64;

/// A node that the transaction looked at. C xenstored reads each node before it changes it, so what is changed is here too.
#[derive(Debug)]
pub(crate) struct Touch {
    /// Nodes are checked, and their events fire, in the order in which they were first looked at.
    pub(crate) order: usize,
    /// What it was then; None if it did not exist.
    pub(crate) before: Option<Seen>,
    pub(crate) modified: bool,
    /// The transaction created what is there now: its place among all that it created.
    pub(crate) created: Option<usize>,
    /// Watches fire at the end. `Exact`: only those on the node itself.
    pub(crate) event: Option<Reach>,
    /// Bytes of the transaction's own version.
    pub(crate) bytes: usize,
}

/// Which watches a change reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Those on the node itself: something above it was removed.
    Exact,
    /// Those on the node and on all above it.
    Above,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    /// The tree as of the start, with its own changes.
    pub(crate) root: NodeId,
    /// Who is charged; None: the operator.
    payer: Option<u16>,
    /// The generation at its start.
    pub(crate) started: u64,
    pub(crate) touched: BTreeMap<Box<[u8]>, Touch>,
    pub(crate) created: usize,
    /// By how many nodes each domain owns more or less.
    pub(crate) owners: Vec<(u16, isize)>,
    /// Somebody created nodes who has a quota.
    pub(crate) checks_quota: bool,
    /// A quota was exceeded in it: it ends with ENOMEM.
    pub(crate) failed: bool,
    /// It saw what was not true any more: it ends with EAGAIN.
    pub(crate) stale: bool,
    memory: usize,
}

impl Transaction {
    pub(crate) fn start(store: &mut Store, payer: Option<u16>) -> Self {
        let root = store.root;
        Self {
            root: store.tree.share(root),
            payer,
            started: store.next_generation(),
            touched: BTreeMap::new(),
            created: 0,
            owners: Vec::new(),
            checks_quota: false,
            failed: false,
            stale: false,
            memory: 0,
        }
    }

    /// Gives back all that it holds.
    pub(crate) fn end(mut self, store: &mut Store) {
        self.forget(store);
        store.tree.release(self.root);
    }

    /// Lets go of the snapshot and of all changes; the transaction goes on with the tree as it is now, and ends with
    /// EAGAIN.
    pub(crate) fn start_over(&mut self, store: &mut Store) {
        self.forget(store);
        self.owners.clear();
        self.stale = true;
        let root = store.root;
        let old = core::mem::replace(&mut self.root, store.tree.share(root));
        store.tree.release(old);
    }

    fn forget(&mut self, store: &mut Store) {
        for touch in core::mem::take(&mut self.touched).into_values() {
            if let Some((perms, _)) = touch.before {
                store.tree.perms.release(perms);
            }
        }
        self.charge(store, self.memory, 0);
    }

    /// The charge goes from `old` to `new` bytes.
    fn charge(&mut self, store: &mut Store, old: usize, new: usize) {
        self.memory = self.memory + new - old;
        if let Some(domain) = self.payer.and_then(|payer| store.domains.get_mut(payer)) {
            domain.memory = (domain.memory + new).saturating_sub(old);
        }
    }

    /// Bytes that looking at one more node is charged.
    pub(crate) const fn cost_of_look(path: &[u8]) -> usize {
        TOUCH + path.len()
    }

    /// Remembers what a node (`id`, if there is one) is when it is first looked at.
    pub(crate) fn touch(&mut self, store: &mut Store, path: &[u8], id: Option<NodeId>) {
        let before = id.map(|id| store.seen(id));
        if let Some((perms, _)) = before {
            store.tree.perms.retain(perms);
        }
        let order = self.touched.len();
        let touch = Touch { order, before, modified: false, created: None, event: None, bytes: 0 };
        self.touched.insert(path.into(), touch);
        self.charge(store, 0, Self::cost_of_look(path));
    }

    /// A node that it looked at in another State. Takes the reference to the permissions.
    pub(crate) fn restore(&mut self, store: &mut Store, path: &[u8], touch: Touch) {
        self.charge(store, 0, Self::cost_of_look(path) + touch.bytes);
        self.touched.insert(path.into(), touch);
    }

    pub(crate) fn queue_event(&mut self, path: &[u8], reach: Reach) {
        if let Some(touch) = self.touched.get_mut(path)
            && touch.event != Some(Reach::Above)
        {
            touch.event = Some(reach);
        }
    }

    /// Changes a node that was looked at.
    pub(crate) fn change(&mut self, store: &mut Store, path: &[u8], change: impl FnOnce(&mut Tree, NodeId)) {
        let Some(id) = store.edit(&mut self.root, path) else { return };
        change(&mut store.tree, id);
        let size = store.tree.size(id);
        self.mark(store, path, size);
    }

    /// Adds a node that was looked at and did not exist.
    pub(crate) fn attach(&mut self, store: &mut Store, path: &[u8], value: &[u8], owner: Option<u16>) {
        let Some((at, kid)) = store.attach_to(&mut self.root, path, value, owner) else { return };
        let (parent_size, size) = (store.tree.size(at), store.tree.size(kid));
        self.count(store.tree.owner(kid), 1);
        self.mark(store, path::parent(path).unwrap_or(path::ROOT), parent_size);
        self.mark(store, path, size);
        if let Some(touch) = self.touched.get_mut(path) {
            touch.created = Some(self.created);
        }
        self.created += 1;
    }

    /// Removes a node; `subtree` is that node and all below it, all looked at, with their owners.
    pub(crate) fn remove(&mut self, store: &mut Store, path: &[u8], subtree: &[(Box<[u8]>, u16)]) {
        let (Some(parent), Some(name)) = (path::parent(path), path::name(path)) else { return };
        let mut kid = None;
        self.change(store, parent, |tree, at| kid = tree.detach(at, name));
        let Some(kid) = kid else { return };
        store.tree.release(kid);
        for (gone, owner) in subtree {
            self.count(*owner, -1);
            self.mark(store, gone, 0);
            if let Some(touch) = self.touched.get_mut(gone) {
                touch.created = None;
            }
            self.queue_event(gone, if **gone == *path { Reach::Above } else { Reach::Exact });
        }
    }

    /// A node got new permissions. Who owns it is looked up when the transaction ends, even if it is the same as before.
    pub(crate) fn moved(&mut self, old_owner: u16, owner: u16) {
        self.count(old_owner, -1);
        self.count(owner, 1);
    }

    fn mark(&mut self, store: &mut Store, path: &[u8], size: usize) {
        let Some(touch) = self.touched.get_mut(path) else { return };
        touch.modified = true;
        let old = core::mem::replace(&mut touch.bytes, size);
        self.charge(store, old, size);
    }

    fn count(&mut self, owner: u16, nodes: isize) {
        match self.owners.iter_mut().find(|(domid, _)| *domid == owner) {
            Some((_, count)) => *count += nodes,
            None => self.owners.push((owner, nodes)),
        }
    }

    /// Bytes charged, as counted and as they should be; for `check`.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let costs = self.touched.iter().map(|(path, touch)| Self::cost_of_look(path) + touch.bytes);
        (self.memory, costs.sum())
    }

    pub(crate) const fn payer(&self) -> Option<u16> {
        self.payer
    }
}
