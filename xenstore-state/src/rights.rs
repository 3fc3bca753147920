//! All questions of who may do what.

use ennead_xs_wire::{Op, path};

use crate::{
    Conn, Identity, Role, State,
    authority::{self, Facts},
    perms::{Rights, rights},
    store::{Seen, Store},
    tree::NodeId,
};
use alloc::collections::BTreeMap;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    /// 0 for the operator.
    pub(crate) domid: u16,
    pub(crate) operator: bool,
    /// Whose rights it has besides its own (SET_TARGET).
    pub(crate) target: Option<u16>,
}

/// A tree to ask about service VMs' authority.
struct View<'a> {
    store: &'a Store,
    root: NodeId,
    roles: &'a BTreeMap<u16, Role>,
}

impl Facts for View<'_> {
    fn is_service(&self, domid: u16) -> bool {
        self.roles.contains_key(&domid)
    }

    fn manager(&self, domid: u16) -> Option<u16> {
        self.store.domains.get(domid)?.manager
    }

    fn owner(&self, path: &[u8]) -> Option<u16> {
        let id = self.store.tree.find(self.root, path)?;
        Some(self.store.tree.owner(id))
    }
}

impl State {
    pub(crate) fn who(&self, conn: Conn) -> Option<Who> {
        Some(match self.connections.get(&conn)?.identity {
            Identity::Operator => Who { domid: 0, operator: true, target: None },
            Identity::Domain(domid) => {
                let target = self.store.domains.get(domid).and_then(|domain| domain.target);
                Who { domid, operator: false, target }
            }
        })
    }

    fn role(&self, who: Who) -> Option<&Role> {
        if who.operator { None } else { self.settings.roles.get(&who.domid) }
    }

    fn view(&self, root: NodeId) -> View<'_> {
        View { store: &self.store, root, roles: &self.settings.roles }
    }

    /// Whether permissions and quotas do not hold for what `who` does with `path`. `root` is the tree that it sees.
    pub(crate) fn is_free(&self, who: Who, root: NodeId, path: &[u8]) -> bool {
        who.operator || self.has_authority(who, root, path, true)
    }

    fn has_authority(&self, who: Who, root: NodeId, path: &[u8], claim: bool) -> bool {
        let has = |role| authority::authority(role, who.domid, path, claim, &self.view(root));
        self.role(who).is_some_and(has)
    }

    /// What `who` may do with a node.
    pub(crate) fn rights(&self, who: Who, root: NodeId, path: &[u8], id: NodeId) -> Rights {
        if self.is_free(who, root, path) {
            return Rights::ALL;
        }
        self.store.rights((who.domid, who.target), self.store.seen(id))
    }

    /// Whether a watcher may hear of a change of `path`: one of these lists, those of the node and of its parent, before
    /// or after, lets it read.
    pub(crate) fn may_hear(&self, who: Who, path: &[u8], lists: &[Seen]) -> bool {
        let reads =
            |seen: &Seen| who.operator || self.store.rights((who.domid, who.target), *seen).has(Rights::READ);
        let keeps = |path: &[u8]| self.has_authority(who, self.store.root, path, false);
        lists.iter().any(reads)
            || (!lists.is_empty() && (keeps(path) || path::parent(path).is_some_and(keeps)))
    }

    /// What `who` may do with a special path; None if there is none of this name.
    pub(crate) fn special_rights(&self, who: Who, name: &[u8]) -> Option<Rights> {
        let list = match name {
            path::INTRODUCE_DOMAIN => &self.specials.introduce,
            path::RELEASE_DOMAIN => &self.specials.release,
            _ => return None,
        };
        if who.operator {
            return Some(Rights::ALL);
        }
        let listed = rights(list, (who.domid, who.target), |_| true);
        let hears = self.role(who).is_some_and(authority::hears_of_domains);
        Some(if hears { listed | Rights::READ } else { listed })
    }

    /// Whether `who`, who is free to change `path`, may make `owner` the owner.
    pub(crate) fn may_give(&self, who: Who, owner: u16) -> bool {
        let may = |role| authority::may_give(role, who.domid, owner, &self.view(self.store.root));
        who.operator || self.role(who).is_some_and(may)
    }

    /// Whether `who` may ask for this at all.
    pub(crate) fn may_ask(&self, who: Who, op: Op) -> bool {
        let operators = matches!(
            op,
            Op::Control | Op::Introduce | Op::Release | Op::Resume | Op::SetTarget | Op::IsDomainIntroduced
        );
        !operators || who.operator || self.role(who).is_some_and(|role| authority::may_ask(role, op))
    }

    /// The owner of a node that `who` creates at `path`; None: as its parent's. What is created on the way to where a
    /// service VM has authority belongs to whom the nodes above belong; where its authority starts, it is the owner.
    pub(crate) fn new_owner(&self, who: Who, root: NodeId, path: &[u8], free: bool) -> Option<u16> {
        if who.operator {
            return None;
        }
        let keeps = |path: &[u8]| self.has_authority(who, root, path, true);
        let inherits = free && (!keeps(path) || path::parent(path).is_some_and(keeps));
        (!inherits).then_some(who.domid)
    }
}
