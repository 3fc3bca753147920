//! The nodes. A tree is a root; snapshots are roots that share all nodes they have in common.
//!
//! A node that only one tree holds is changed in place; one that a snapshot holds too is copied first, with its
//! ancestors (`edit`). Nothing here recurses: a guest decides how deep the tree is (XSA-418).

use alloc::{boxed::Box, collections::BTreeSet, vec::Vec};
use core::cmp::Ordering;

use ennead_xs_wire::path;

use crate::{
    perms::{PermTable, PermsId},
    slab::Slab,
};

/// Bytes of C xenstored's record of a node, before permissions (8 each), value and children's names. The quotas
/// node-size and memory count with it.
pub(crate) const RECORD: usize = 24;
/// Bytes of one permission in such a record.
pub(crate) const PERM: usize = 8;

/// A node, in one of the trees. Whoever holds a root, and each parent, holds a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

#[derive(Debug)]
struct Node {
    /// The name (empty for the root), then the value: one allocation for both.
    data: Box<[u8]>,
    /// Of the last change of value, permissions or list of children.
    generation: u64,
    kids: Option<Box<Kids>>,
    refs: u32,
    perms: PermsId,
    name_len: u16,
}

/// The children of a node.
#[derive(Debug, Clone, Default)]
struct Kids {
    /// In the order of their creation, as DIRECTORY lists them.
    order: Vec<NodeId>,
    /// The same by name.
    sorted: Vec<NodeId>,
    /// Bytes of all names, each with a NUL.
    listing: usize,
}

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Slab<Node>,
    pub(crate) perms: PermTable,
    /// Sum of `size` over all nodes of all trees.
    bytes: usize,
}

impl Tree {
    pub(crate) const fn new() -> Self {
        Self { nodes: Slab::new(), perms: PermTable::new(), bytes: 0 }
    }

    /// A new tree of one empty node. Takes the reference to `perms`.
    pub(crate) fn root(&mut self, perms: PermsId, generation: u64) -> NodeId {
        self.add(&[], &[], perms, generation)
    }

    fn add(&mut self, name: &[u8], value: &[u8], perms: PermsId, generation: u64) -> NodeId {
        let data = [name, value].concat().into_boxed_slice();
        let name_len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        let id = NodeId(self.nodes.insert(Node { data, generation, kids: None, refs: 1, perms, name_len }));
        self.bytes += self.size(id);
        id
    }

    // Reading

    pub(crate) fn find(&self, root: NodeId, path: &[u8]) -> Option<NodeId> {
        path::segments(path).try_fold(root, |at, name| self.child(at, name))
    }

    pub(crate) fn child(&self, at: NodeId, name: &[u8]) -> Option<NodeId> {
        let place = self.place(at, name).ok()?;
        self.nodes[at.0].kids.as_ref()?.sorted.get(place).copied()
    }

    fn place(&self, at: NodeId, name: &[u8]) -> Result<usize, usize> {
        let Some(kids) = &self.nodes[at.0].kids else { return Err(0) };
        // Names that come in order (n1, n2 ...) are told apart at the end at once.
        match kids.sorted.last() {
            Some(&last) if self.name(last).cmp(name) == Ordering::Less => Err(kids.sorted.len()),
            _ => kids.sorted.binary_search_by(|&kid| self.name(kid).cmp(name)),
        }
    }

    pub(crate) fn name(&self, id: NodeId) -> &[u8] {
        let node = &self.nodes[id.0];
        node.data.get(..usize::from(node.name_len)).unwrap_or_default()
    }

    pub(crate) fn value(&self, id: NodeId) -> &[u8] {
        let node = &self.nodes[id.0];
        node.data.get(usize::from(node.name_len)..).unwrap_or_default()
    }

    pub(crate) fn perms(&self, id: NodeId) -> PermsId {
        self.nodes[id.0].perms
    }

    pub(crate) fn owner(&self, id: NodeId) -> u16 {
        self.perms.owner(self.perms(id))
    }

    pub(crate) fn generation(&self, id: NodeId) -> u64 {
        self.nodes[id.0].generation
    }

    /// The children in the order of their creation.
    pub(crate) fn kids(&self, id: NodeId) -> &[NodeId] {
        self.nodes[id.0].kids.as_ref().map_or(&[], |kids| &kids.order)
    }

    /// Bytes of the children's names, each with its NUL.
    pub(crate) fn listing_len(&self, id: NodeId) -> usize {
        self.nodes[id.0].kids.as_ref().map_or(0, |kids| kids.listing)
    }

    /// The children's names, each with its NUL.
    pub(crate) fn listing(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::with_capacity(self.listing_len(id));
        for &kid in self.kids(id) {
            names.extend_from_slice(self.name(kid));
            names.push(0);
        }
        names
    }

    /// Bytes that the node counts, without its path.
    pub(crate) fn size(&self, id: NodeId) -> usize {
        let perms = self.perms.get(self.perms(id)).len();
        RECORD + PERM * perms + self.value(id).len() + self.listing_len(id)
    }

    /// Nodes of all trees, and the sum of their sizes.
    pub(crate) const fn totals(&self) -> (usize, usize) {
        (self.nodes.len(), self.bytes)
    }

    /// Calls `visit` with each node of a subtree and its path, parents first, children in order; not with what is below
    /// a node where `visit` returns false. `path` is that of `top`.
    pub(crate) fn walk(&self, top: NodeId, path: &[u8], mut visit: impl FnMut(NodeId, &[u8]) -> bool) {
        let mut at = Vec::from(path);
        let mut open = Vec::from([(top, None)]);
        while let Some((id, above)) = open.pop() {
            if let Some(len) = above {
                at.truncate(len);
                at.push(b'/');
                at.extend_from_slice(self.name(id));
            }
            if visit(id, &at) {
                let len = if at == path::ROOT { 0 } else { at.len() };
                open.extend(self.kids(id).iter().rev().map(|&kid| (kid, Some(len))));
            }
        }
    }

    // Holding

    /// One more holder of a tree: a snapshot.
    pub(crate) fn share(&mut self, id: NodeId) -> NodeId {
        self.nodes[id.0].refs += 1;
        id
    }

    /// One holder less; what nobody holds any more is gone.
    pub(crate) fn release(&mut self, id: NodeId) {
        let mut open = Vec::from([id]);
        while let Some(id) = open.pop() {
            self.nodes[id.0].refs -= 1;
            if self.nodes[id.0].refs == 0 {
                self.bytes -= self.size(id);
                let dead = self.nodes.remove(id.0);
                self.perms.release(dead.perms);
                if let Some(mut kids) = dead.kids {
                    open.append(&mut kids.order);
                }
            }
        }
    }

    // Changing

    /// The node at `path` in a form that no other tree holds, its ancestors as well. `root` changes if it was shared.
    pub(crate) fn edit(&mut self, root: &mut NodeId, path: &[u8]) -> Option<NodeId> {
        *root = self.unshared(*root);
        let mut at = *root;
        for name in path::segments(path) {
            let place = self.place(at, name).ok()?;
            let shared = *self.nodes[at.0].kids.as_ref()?.sorted.get(place)?;
            let own = self.unshared(shared);
            if own != shared {
                self.replace(at, place, shared, own);
            }
            at = own;
        }
        Some(at)
    }

    fn unshared(&mut self, id: NodeId) -> NodeId {
        let node = &mut self.nodes[id.0];
        if node.refs == 1 {
            return id;
        }
        node.refs -= 1;
        let copy = Node {
            data: node.data.clone(),
            generation: node.generation,
            kids: node.kids.clone(),
            refs: 1,
            perms: node.perms,
            name_len: node.name_len,
        };
        self.perms.retain(copy.perms);
        for kid in copy.kids.iter().flat_map(|kids| &kids.order) {
            self.nodes[kid.0].refs += 1;
        }
        let copy = NodeId(self.nodes.insert(copy));
        self.bytes += self.size(copy);
        copy
    }

    fn replace(&mut self, at: NodeId, place: usize, old: NodeId, new: NodeId) {
        let Some(kids) = &mut self.nodes[at.0].kids else { return };
        for slot in
            kids.order.iter_mut().find(|kid| **kid == old).into_iter().chain(kids.sorted.get_mut(place))
        {
            *slot = new;
        }
    }

    /// Adds a child to an unshared node that has none of this name. Takes the reference to `perms`.
    pub(crate) fn attach(
        &mut self,
        at: NodeId,
        name: &[u8],
        value: &[u8],
        perms: PermsId,
        generation: u64,
    ) -> NodeId {
        let place = self.place(at, name).unwrap_or_else(|place| place);
        let kid = self.add(name, value, perms, generation);
        let kids = self.nodes[at.0].kids.get_or_insert_default();
        kids.order.push(kid);
        kids.sorted.insert(place, kid);
        kids.listing += name.len() + 1;
        self.bytes += name.len() + 1;
        kid
    }

    /// Takes a child from an unshared node; the caller gets the reference to it.
    pub(crate) fn detach(&mut self, at: NodeId, name: &[u8]) -> Option<NodeId> {
        let place = self.place(at, name).ok()?;
        let node = &mut self.nodes[at.0];
        let kids = node.kids.as_mut()?;
        let kid = kids.sorted.remove(place);
        // The newest and the oldest child go most often.
        if kids.order.last() == Some(&kid) {
            kids.order.pop();
        } else if let Some(at) = kids.order.iter().position(|&other| other == kid) {
            kids.order.remove(at);
        }
        kids.listing -= name.len() + 1;
        if kids.order.is_empty() {
            node.kids = None;
        }
        self.bytes -= name.len() + 1;
        Some(kid)
    }

    /// Gives an unshared node exactly the children of these names, which are all different, in this order: others go, missing
    /// ones are made like it, and empty.
    pub(crate) fn set_kids(&mut self, at: NodeId, names: &[&[u8]]) {
        let wanted: BTreeSet<&[u8]> = names.iter().copied().collect();
        let others: Vec<_> = self.kids(at).iter().filter(|kid| !wanted.contains(self.name(**kid))).collect();
        let others: Vec<Box<[u8]>> = others.into_iter().map(|kid| self.name(*kid).into()).collect();
        for name in others {
            if let Some(kid) = self.detach(at, &name) {
                self.release(kid);
            }
        }
        for name in names {
            if self.child(at, name).is_none() {
                let (perms, generation) = (self.perms(at), self.generation(at));
                self.perms.retain(perms);
                self.attach(at, name, &[], perms, generation);
            }
        }
        let order: Vec<_> = names.iter().filter_map(|name| self.child(at, name)).collect();
        if let Some(kids) = &mut self.nodes[at.0].kids {
            kids.order = order;
        }
    }

    /// Calls `visit` with each node of `other` that is not the same as in `root`, and its path, parents first; not with what is
    /// below a node where `visit` returns false.
    pub(crate) fn differences(
        &self,
        root: NodeId,
        other: NodeId,
        mut visit: impl FnMut(NodeId, &[u8]) -> bool,
    ) {
        let mut open = Vec::from([(Some(root), other, Vec::from(path::ROOT))]);
        while let Some((here, there, path)) = open.pop() {
            if here == Some(there) || !visit(there, &path) {
                continue;
            }
            let above: &[u8] = if path == path::ROOT { &[] } else { &path };
            for &kid in self.kids(there).iter().rev() {
                let name = self.name(kid);
                let twin = here.and_then(|here| self.child(here, name));
                if twin != Some(kid) {
                    open.push((twin, kid, [above, b"/", name].concat()));
                }
            }
        }
    }

    pub(crate) fn set_value(&mut self, id: NodeId, value: &[u8]) {
        self.bytes = self.bytes + value.len() - self.value(id).len();
        self.nodes[id.0].data = [self.name(id), value].concat().into_boxed_slice();
    }

    /// Takes the reference to `perms`.
    pub(crate) fn set_perms(&mut self, id: NodeId, perms: PermsId) {
        let before = self.size(id);
        let old = core::mem::replace(&mut self.nodes[id.0].perms, perms);
        self.bytes = self.bytes + self.size(id) - before;
        self.perms.release(old);
    }

    pub(crate) fn set_generation(&mut self, id: NodeId, generation: u64) {
        self.nodes[id.0].generation = generation;
    }
}

mod verify;

#[cfg(test)]
mod tests;
