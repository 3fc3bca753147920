//! What XenStore holds now (the main tree), and what each domain is charged for it.

use ennead_xs_wire::{Access, path};

use crate::{
    domain::Domains,
    perms::{Asker, Entry, PermsId, Rights, rights},
    tree::{NodeId, Tree},
};

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) tree: Tree,
    pub(crate) root: NodeId,
    pub(crate) domains: Domains,
    /// Counts changes; C xenstored numbers them the same way.
    generation: u64,
    /// Nodes of the main tree, and the sum of their sizes.
    nodes: usize,
    bytes: usize,
}

/// Permissions that a node had, and the generation that says which of their entries count.
pub(crate) type Seen = (PermsId, u64);

impl Store {
    /// The nodes that C xenstored starts with.
    pub(crate) fn new() -> Self {
        let mut store = Self::bare();
        store.attach(b"/tool", &[], None);
        store.attach(b"/tool/xenstored", &[], None);
        store
    }

    /// Nothing but the root.
    pub(crate) fn bare() -> Self {
        let mut tree = Tree::new();
        let perms = tree.perms.intern(&[Entry { domid: 0, access: Access::None, ignored: false }]);
        let root = tree.root(perms, 1);
        let mut store = Self { tree, root, domains: Domains::new(), generation: 1, nodes: 1, bytes: 0 };
        store.bytes = store.tree.size(root);
        store.account_bytes(0, 1, store.bytes, path::ROOT.len());
        store
    }

    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// How many changes there were.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    // Loading

    /// Goes on counting changes from here.
    pub(crate) const fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Adds a node as it was, below an existing one that has none of its name. No snapshot may exist.
    pub(crate) fn restore(
        &mut self,
        at: NodeId,
        path: &[u8],
        value: &[u8],
        perms: &[Entry],
        generation: u64,
    ) {
        let perms = self.tree.perms.intern(perms);
        let kid = self.tree.attach(at, path::name(path).unwrap_or_default(), value, perms, generation);
        self.attached(at, kid, path);
    }

    // Reading

    pub(crate) fn find(&self, path: &[u8]) -> Option<NodeId> {
        self.tree.find(self.root, path)
    }

    pub(crate) fn seen(&self, id: NodeId) -> Seen {
        (self.tree.perms(id), self.tree.generation(id))
    }

    /// What the list of permissions gives, without any privilege.
    pub(crate) fn rights(&self, who: Asker, (perms, generation): Seen) -> Rights {
        let valid = |entry: &Entry| self.domains.is_meant(entry.domid, generation);
        rights(self.tree.perms.get(perms), who, valid)
    }

    /// Estimate of the bytes that only transactions hold.
    pub(crate) const fn held_by_transactions(&self) -> usize {
        /// Bytes of a node beyond its record: the allocator's, the slab's and the parent's.
        const OVERHEAD: usize = 64;
        let (nodes, bytes) = self.tree.totals();
        bytes.saturating_sub(self.bytes) + OVERHEAD * nodes.saturating_sub(self.nodes)
    }

    /// Nodes of the main tree and the sum of their sizes, as counted.
    pub(crate) const fn totals(&self) -> (usize, usize) {
        (self.nodes, self.bytes)
    }

    // Changing any tree

    /// The node at `path` ready to be changed: unshared, with a new generation, and with those entries marked that do
    /// not count any more (the new generation would make them count again).
    pub(crate) fn edit(&mut self, root: &mut NodeId, path: &[u8]) -> Option<NodeId> {
        let id = self.tree.edit(root, path)?;
        let (perms, generation) = self.seen(id);
        let gone = |entry: &Entry| !entry.ignored && !self.domains.is_meant(entry.domid, generation);
        let list = self.tree.perms.get(perms);
        if list.iter().skip(1).any(gone) {
            let mut settled = list.to_vec();
            for entry in settled.iter_mut().skip(1) {
                entry.ignored |= gone(entry);
            }
            let settled = self.tree.perms.intern(&settled);
            self.tree.set_perms(id, settled);
        }
        let generation = self.next_generation();
        self.tree.set_generation(id, generation);
        Some(id)
    }

    /// Adds a node below an existing one, with its parent's permissions; `owner` if it is not to have the same. Returns
    /// parent and child.
    pub(crate) fn attach_to(
        &mut self,
        root: &mut NodeId,
        path: &[u8],
        value: &[u8],
        owner: Option<u16>,
    ) -> Option<(NodeId, NodeId)> {
        let (parent, name) = (path::parent(path)?, path::name(path)?);
        let at = self.edit(root, parent)?;
        let perms = self.tree.perms(at);
        let owner = owner.unwrap_or_else(|| self.tree.perms.owner(perms));
        let perms = self.tree.perms.with_owner(perms, owner);
        let generation = self.next_generation();
        Some((at, self.tree.attach(at, name, value, perms, generation)))
    }

    // Changing the main tree

    fn account_bytes(&mut self, owner: u16, nodes: isize, bytes: usize, path_len: usize) {
        let charge = isize::try_from(bytes + path_len).unwrap_or(isize::MAX);
        self.domains.account(owner, nodes, if nodes < 0 { -charge } else { charge });
    }

    /// Changes a node, and its owner's account.
    pub(crate) fn change(&mut self, path: &[u8], change: impl FnOnce(&mut Tree, NodeId)) {
        let mut root = self.root;
        let Some(id) = self.edit(&mut root, path) else { return };
        self.root = root;
        let (owner, size) = (self.tree.owner(id), self.tree.size(id));
        change(&mut self.tree, id);
        let (new_owner, new_size) = (self.tree.owner(id), self.tree.size(id));
        self.bytes = self.bytes + new_size - size;
        self.account_bytes(owner, -1, size, path.len());
        self.account_bytes(new_owner, 1, new_size, path.len());
    }

    pub(crate) fn attach(&mut self, path: &[u8], value: &[u8], owner: Option<u16>) {
        let mut root = self.root;
        let Some((at, kid)) = self.attach_to(&mut root, path, value, owner) else { return };
        self.root = root;
        self.attached(at, kid, path);
    }

    /// Counts a new node of the main tree.
    fn attached(&mut self, at: NodeId, kid: NodeId, path: &[u8]) {
        let name = self.tree.name(kid).len() + 1;
        let (owner, size) = (self.tree.owner(kid), self.tree.size(kid));
        self.nodes += 1;
        self.bytes += name + size;
        self.account_bytes(self.tree.owner(at), 0, name, 0);
        self.account_bytes(owner, 1, size, path.len());
    }

    /// Removes a node with all below it; the root cannot be removed.
    pub(crate) fn remove(&mut self, path: &[u8]) {
        let (Some(parent), Some(name)) = (path::parent(path), path::name(path)) else { return };
        if self.find(path).is_none() {
            return;
        }
        let mut kid = None;
        self.change(parent, |tree, at| kid = tree.detach(at, name));
        let Some(kid) = kid else { return };
        let Self { tree, domains, nodes, bytes, .. } = self;
        tree.walk(kid, path, |id, path| {
            let size = tree.size(id);
            *nodes -= 1;
            *bytes -= size;
            let charge = isize::try_from(size + path.len()).unwrap_or(isize::MAX);
            domains.account(tree.owner(id), -1, -charge);
            true
        });
        tree.release(kid);
    }
}
