//! RM.

use alloc::{boxed::Box, vec::Vec};

use ennead_xs_wire::{Errno, path};

use crate::{State, output::Body, perms::Rights, request::Cx, store::Seen, transaction::Reach, tree::NodeId};

/// A node whose watches fire when it is removed.
struct Gone {
    path: Vec<u8>,
    lists: [Seen; 2],
}

/// A node on the way through what is removed: `kids` of it are done.
struct Open {
    id: NodeId,
    step: u32,
    path_len: usize,
    kids: usize,
}

impl State {
    pub(crate) fn rm(&mut self, cx: &mut Cx, name: &[u8]) -> Result<Body, Errno> {
        let path = self.node_path(cx, name)?;
        let parent = path::parent(&path).unwrap_or(path::ROOT);
        match self.get(cx, &path, Rights::WRITE) {
            Ok(_) if *path == *path::ROOT => return Err(Errno::Einval),
            Ok(_) => {}
            // Nothing to do, if there is where it could be.
            Err(Errno::Enoent) => {
                return match self.look(cx, parent)? {
                    Some(_) => Ok(Body::Done),
                    None => Err(Errno::Enoent),
                };
            }
            Err(errno) => return Err(errno),
        }
        self.look(cx, parent)?;
        if cx.txn.is_some() {
            self.rm_in_transaction(cx, &path)?;
        } else {
            self.wrote(cx.who);
            self.remove_node(&path);
        }
        Ok(Body::Done)
    }

    /// Removes a node with all below it from the main tree. Watches fire first, while the permissions are still there.
    pub(crate) fn remove_node(&mut self, path: &[u8]) {
        for gone in self.watched_below(path) {
            let reach = if gone.path == path { Reach::Above } else { Reach::Exact };
            self.fire(&gone.path, reach, |_| gone.lists.into());
        }
        self.store.remove(path);
    }

    /// What of this subtree to tell, children before their parents, and `path` itself. Goes only where something is
    /// watched.
    fn watched_below(&self, path: &[u8]) -> Vec<Gone> {
        let tree = &self.store.tree;
        let mut found = Vec::new();
        let up = path::parent(path).unwrap_or(path::ROOT);
        let (Some(top), Some(parent)) = (self.store.find(path), self.store.find(up)) else { return found };
        let seen = |id, above| [self.store.seen(id), self.store.seen(above)];
        let mut at = Vec::from(path);
        let mut open = Vec::new();
        if let Some(step) = self.watches.step(path).filter(|&step| !self.watches.is_leaf(step)) {
            open.push(Open { id: top, step, path_len: path.len(), kids: 0 });
        }
        while let Some(here) = open.last_mut() {
            if let Some(&kid) = tree.kids(here.id).get(here.kids) {
                here.kids += 1;
                let name = tree.name(kid);
                if let Some(step) = self.watches.below(here.step, name) {
                    at.truncate(here.path_len);
                    at.push(b'/');
                    at.extend_from_slice(name);
                    open.push(Open { id: kid, step, path_len: at.len(), kids: 0 });
                }
                continue;
            }
            let done = open.pop();
            if let (Some(done), Some(above)) = (done, open.last()) {
                let path = at.get(..done.path_len).unwrap_or_default().into();
                found.push(Gone { path, lists: seen(done.id, above.id) });
            }
        }
        found.push(Gone { path: path.into(), lists: seen(top, parent) });
        found
    }

    /// All that is removed was looked at, and must not change until the transaction commits.
    fn rm_in_transaction(&mut self, cx: &mut Cx, path: &[u8]) -> Result<(), Errno> {
        let root = self.root(cx);
        let tree = &self.store.tree;
        let Some(top) = tree.find(root, path) else { return Ok(()) };
        let mut subtree: Vec<(Box<[u8]>, u16)> = Vec::new();
        tree.walk(top, path, |id, path| {
            subtree.push((path.into(), tree.owner(id)));
            true
        });
        for (gone, _) in &subtree {
            // C xenstored takes a quota that is hit half-way for a broken tree.
            self.look(cx, gone).map_err(|_| Errno::Eio)?;
        }
        if let Some(txn) = &mut cx.txn {
            txn.remove(&mut self.store, path, &subtree);
        }
        Ok(())
    }
}
