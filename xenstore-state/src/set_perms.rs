//! SET_PERMS.

use alloc::vec::Vec;

use ennead_xs_wire::{Errno, Perm, path};

use crate::{
    State,
    output::Body,
    perms::{Entry, Rights},
    request::Cx,
    tree::PERM,
};

impl State {
    pub(crate) fn set_perms(&mut self, cx: &mut Cx, name: &[u8], perms: &[Perm]) -> Result<Body, Errno> {
        let entry = |perm: &Perm| Entry {
            domid: perm.domid,
            access: perm.access,
            // Stored but never honoured, even if the domain exists later (XSA-417).
            ignored: self.store.domains.get(perm.domid).is_none(),
        };
        let list: Vec<_> = perms.iter().map(entry).collect();
        let owner = *list.first().ok_or(Errno::Einval)?;
        if !cx.who.operator && list.len() > self.quotas(cx.who.domid).permissions {
            return Err(Errno::Enospc);
        }
        if owner.ignored {
            return Err(Errno::Enoent);
        }
        if path::is_special(name) {
            return self.set_special_perms(cx, name, list);
        }
        let path = self.node_path(cx, name)?;
        let id = self.get(cx, &path, Rights::WRITE | Rights::OWNER)?;
        let old_owner = self.store.tree.owner(id);
        // Who gives nodes away escapes their quota (XSA-352).
        if owner.domid != old_owner {
            let free = self.is_free(cx.who, self.root(cx), &path);
            if !free || !self.may_give(cx.who, owner.domid) {
                return Err(Errno::Eperm);
            }
        }
        let size = self.store.tree.size(id);
        let old = self.store.seen(id);
        let entries = self.store.tree.perms.get(old.0).len();
        self.may_grow(cx, &path, old_owner, size, size + PERM * list.len() - PERM * entries)?;
        // Who loses the right to read hears of it.
        self.store.tree.perms.retain(old.0);
        let perms = self.store.tree.perms.intern(&list);
        match &mut cx.txn {
            None => self.store.change(&path, |tree, id| tree.set_perms(id, perms)),
            Some(txn) => {
                txn.change(&mut self.store, &path, |tree, id| tree.set_perms(id, perms));
                txn.moved(old_owner, owner.domid);
            }
        }
        self.changed(cx, &path, Some(old));
        self.store.tree.perms.release(old.0);
        Ok(Body::Done)
    }

    /// Takes effect at once, in a transaction too.
    fn set_special_perms(&mut self, cx: &Cx, name: &[u8], list: Vec<Entry>) -> Result<Body, Errno> {
        let rights = self.special_rights(cx.who, name).ok_or(Errno::Einval)?;
        if !rights.has(Rights::WRITE | Rights::OWNER) {
            return Err(Errno::Eacces);
        }
        if name == path::INTRODUCE_DOMAIN {
            self.specials.introduce = list;
        } else {
            self.specials.release = list;
        }
        Ok(Body::Done)
    }
}
