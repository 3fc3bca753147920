//! Looking at nodes, writing and creating them.

use alloc::vec::Vec;

use ennead_xs_wire::{Errno, PAYLOAD_MAX, Perm, path};

use crate::{
    State,
    output::Body,
    perms::Rights,
    request::{Cx, fits},
    store::Seen,
    transaction::{Reach, Transaction},
    tree::{NodeId, PERM, RECORD},
};

impl State {
    /// Looks a node up. A transaction remembers that it did, as C xenstored does, for missing nodes as well.
    ///
    /// # Errors
    /// ENOSPC or ENOMEM if the transaction looks at too much; it cannot be committed then.
    pub(crate) fn look(&mut self, cx: &mut Cx, path: &[u8]) -> Result<Option<NodeId>, Errno> {
        let found = self.store.tree.find(self.root(cx), path);
        let Some(txn) = &mut cx.txn else { return Ok(found) };
        if txn.touched.contains_key(path) {
            return Ok(found);
        }
        if !cx.who.operator {
            let quotas = self.quotas(cx.who.domid);
            let memory = self.store.domains.get(cx.who.domid).map_or(0, |domain| domain.memory);
            let refused = if txn.touched.len() >= quotas.transaction_nodes {
                Some(Errno::Enospc)
            } else {
                (memory + Transaction::cost_of_look(path) >= quotas.memory).then_some(Errno::Enomem)
            };
            if let Some(errno) = refused {
                txn.failed = true;
                return Err(errno);
            }
        }
        txn.touch(&mut self.store, path, found);
        // What it sees is its snapshot's; if that is not true any more it must not commit.
        let now = self.store.find(path).map(|id| self.store.tree.generation(id));
        txn.stale |= now != found.map(|id| self.store.tree.generation(id));
        Ok(found)
    }

    /// The node at `path`, if there is one and `cx` may do `need` with it.
    ///
    /// # Errors
    /// EACCES if it may not. ENOENT if there is none, but only to who has rights to the nearest node above: others do not
    /// learn what exists.
    pub(crate) fn get(&mut self, cx: &mut Cx, path: &[u8], need: Rights) -> Result<NodeId, Errno> {
        let errno = match self.look(cx, path)? {
            Some(id) if self.rights(cx.who, self.root(cx), path, id).has(need) => return Ok(id),
            Some(_) => Errno::Eacces,
            None => Errno::Enoent,
        };
        let (above, id) = self.nearest(cx, path)?;
        let root = self.root(cx);
        let told = self.is_free(cx.who, root, path) || self.rights(cx.who, root, above, id).has_any(need);
        Err(if told { errno } else { Errno::Eacces })
    }

    /// The nearest existing node above.
    fn nearest<'a>(&mut self, cx: &mut Cx, path: &'a [u8]) -> Result<(&'a [u8], NodeId), Errno> {
        let mut at = path;
        loop {
            at = path::parent(at).unwrap_or(path::ROOT);
            match self.look(cx, at)? {
                Some(id) => return Ok((at, id)),
                None if at == path::ROOT => return Err(Errno::Eio),
                None => {}
            }
        }
    }

    pub(crate) fn directory(&mut self, cx: &mut Cx, name: &[u8]) -> Result<Body, Errno> {
        let path = self.node_path(cx, name)?;
        let id = self.get(cx, &path, Rights::READ)?;
        fits(self.store.tree.listing_len(id))?;
        Ok(Body::Names(self.store.tree.listing(id)))
    }

    pub(crate) fn directory_part(&mut self, cx: &mut Cx, name: &[u8], offset: u32) -> Result<Body, Errno> {
        let path = self.node_path(cx, name)?;
        let id = self.get(cx, &path, Rights::READ)?;
        let generation = self.store.tree.generation(id);
        let listing = self.store.tree.listing(id);
        let rest = usize::try_from(offset).ok().and_then(|offset| listing.get(offset..)).unwrap_or_default();
        // As many whole names as fit besides the generation and the NUL that marks the end.
        let digits = usize::try_from(generation.checked_ilog10().unwrap_or(0)).unwrap_or(0) + 1;
        let room = PAYLOAD_MAX - (digits + 1) - 1;
        let mut len = 0;
        for name in rest.split_inclusive(|&byte| byte == 0) {
            if len + name.len() > room {
                break;
            }
            len += name.len();
        }
        let last = len == rest.len();
        Ok(Body::Part { generation, names: rest.get(..len).unwrap_or_default().into(), last })
    }

    pub(crate) fn read(&mut self, cx: &mut Cx, name: &[u8]) -> Result<Body, Errno> {
        let path = self.node_path(cx, name)?;
        let id = self.get(cx, &path, Rights::READ)?;
        let value = self.store.tree.value(id);
        fits(value.len())?;
        Ok(Body::Bytes(value.into()))
    }

    pub(crate) fn get_perms(&mut self, cx: &mut Cx, name: &[u8]) -> Result<Body, Errno> {
        let path = self.node_path(cx, name)?;
        let id = self.get(cx, &path, Rights::READ)?;
        let list = self.store.tree.perms.get(self.store.tree.perms(id));
        Ok(Body::Perms(list.iter().copied().map(Perm::from).collect()))
    }

    pub(crate) fn write(&mut self, cx: &mut Cx, name: &[u8], value: &[u8]) -> Result<Body, Errno> {
        let path = self.node_path(cx, name)?;
        match self.get(cx, &path, Rights::WRITE) {
            Ok(id) => {
                let old = self.store.tree.size(id);
                let new = old + value.len() - self.store.tree.value(id).len();
                self.may_grow(cx, &path, self.store.tree.owner(id), old, new)?;
                match &mut cx.txn {
                    None => self.store.change(&path, |tree, id| tree.set_value(id, value)),
                    Some(txn) => txn.change(&mut self.store, &path, |tree, id| tree.set_value(id, value)),
                }
            }
            Err(Errno::Enoent) => self.create(cx, &path, value)?,
            Err(errno) => return Err(errno),
        }
        self.changed(cx, &path, None);
        Ok(Body::Done)
    }

    pub(crate) fn mkdir(&mut self, cx: &mut Cx, name: &[u8]) -> Result<Body, Errno> {
        let path = self.node_path(cx, name)?;
        match self.get(cx, &path, Rights::WRITE) {
            Ok(_) => {}
            Err(Errno::Enoent) => {
                self.create(cx, &path, &[])?;
                self.changed(cx, &path, None);
            }
            Err(errno) => return Err(errno),
        }
        Ok(Body::Done)
    }

    /// Creates a node, and those above it that are missing. All or nothing (XSA-414).
    fn create(&mut self, cx: &mut Cx, path: &[u8], value: &[u8]) -> Result<(), Errno> {
        let root = self.root(cx);
        let free = self.is_free(cx.who, root, path);
        let (above, base) = self.nearest(cx, path)?;
        let mut missing = Vec::from([path]);
        while let Some(up) = missing.last().and_then(|at| path::parent(at)).filter(|up| *up != above) {
            missing.push(up);
        }
        if !free {
            self.may_create(cx, &missing, base, value.len())?;
        }
        let owners: Vec<_> = missing.iter().map(|path| self.new_owner(cx.who, root, path, free)).collect();
        for (&at, owner) in missing.iter().zip(owners).rev() {
            let value = if at == path { value } else { &[] };
            match &mut cx.txn {
                None => self.store.attach(at, value, owner),
                Some(txn) => txn.attach(&mut self.store, at, value, owner),
            }
        }
        Ok(())
    }

    /// Quotas of who creates these nodes, the deepest first, below `base`.
    fn may_create(
        &mut self,
        cx: &mut Cx,
        missing: &[&[u8]],
        base: NodeId,
        value: usize,
    ) -> Result<(), Errno> {
        let quotas = *self.quotas(cx.who.domid);
        let tree = &self.store.tree;
        let (nodes, memory) =
            self.store.domains.get(cx.who.domid).map_or((0, 0), |domain| (domain.nodes, domain.memory));
        // A transaction's own nodes are counted when it ends.
        let wanted = match &mut cx.txn {
            None => nodes + missing.len(),
            Some(txn) => {
                txn.checks_quota = true;
                nodes + 1
            }
        };
        if wanted > quotas.nodes {
            return Err(Errno::Enospc);
        }
        let record = RECORD + PERM * tree.perms.get(tree.perms(base)).len();
        let mut bytes = 0;
        let mut largest = 0;
        let mut below = value;
        for path in missing {
            bytes += record + below + path.len();
            largest = largest.max(record + below);
            below = path::name(path).map_or(0, |name| name.len() + 1);
        }
        largest = largest.max(tree.size(base) + below);
        let refused = if largest >= quotas.node_size {
            Some(Errno::Enospc)
        } else {
            (memory + bytes >= quotas.memory).then_some(Errno::Eio)
        };
        self.refuse(cx, refused)
    }

    /// Quotas of who makes a node larger.
    pub(crate) fn may_grow(
        &mut self,
        cx: &mut Cx,
        path: &[u8],
        owner: u16,
        old: usize,
        new: usize,
    ) -> Result<(), Errno> {
        if self.is_free(cx.who, self.root(cx), path) {
            return Ok(());
        }
        let charged = if cx.txn.is_some() { cx.who.domid } else { owner };
        let limit = self.quotas(charged).memory;
        let memory = self.store.domains.get(charged).map_or(0, |domain| domain.memory);
        // In a transaction the first change charges the whole node.
        let more = if cx.txn.is_some() { new } else { new.saturating_sub(old) };
        let refused = if new >= self.quotas(cx.who.domid).node_size {
            Some(Errno::Enospc)
        } else {
            (new > old && memory + more >= limit).then_some(Errno::Eio)
        };
        self.refuse(cx, refused)
    }

    fn refuse(&self, cx: &mut Cx, refused: Option<Errno>) -> Result<(), Errno> {
        let Some(errno) = refused else { return Ok(()) };
        if let Some(txn) = &mut cx.txn {
            txn.failed = true;
        }
        Err(errno)
    }

    /// The node changed: its watches fire, now or when the transaction commits. `old`: the permissions that it had, if
    /// those changed.
    pub(crate) fn changed(&mut self, cx: &mut Cx, path: &[u8], old: Option<Seen>) {
        if let Some(txn) = &mut cx.txn {
            txn.queue_event(path, Reach::Above);
            return;
        }
        self.wrote(cx.who);
        self.fire(path, Reach::Above, |state| {
            let up = path::parent(path).unwrap_or(path::ROOT);
            let now = [path, up].into_iter().filter_map(|path| state.store.find(path));
            old.into_iter().chain(now.map(|id| state.store.seen(id))).collect()
        });
    }
}
