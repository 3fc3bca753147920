//! Domains come, get a ring, shut down, restart, and go.

use alloc::vec::Vec;

use ennead_xs_wire::{Errno, path};

use crate::{Conn, DeviceKind, Identity, State, domain::Domain, output::Body, perms::Entry, request::Cx};

/// Domids from here on are not domains (`DOMID_FIRST_RESERVED`), this one means the caller (`DOMID_SELF`).
const FIRST_RESERVED: u16 = 0x7ff0;

impl State {
    /// Xen has this domain now, and `manager` manages it. To be told once for each domain that Xen creates, before
    /// anything names it: permissions that named its domid before do not count (XSA-322). If the domid is known already,
    /// that domain is gone unnoticed: it died (unless it restarts).
    pub fn created(&mut self, domid: u16, manager: Option<u16>) {
        if domid == 0 || domid >= FIRST_RESERVED {
            return;
        }
        if self.store.domains.get(domid).is_some_and(|domain| domain.announced && !domain.restarting) {
            self.destroy(domid);
        }
        let domain = self.known(domid);
        domain.announced = true;
        domain.manager = manager.or(domain.manager);
        // Without a ring there is no `rebound` to wait for.
        domain.restarting &= domain.introduced;
    }

    /// Whether XenStore knows of this domain.
    #[must_use]
    pub fn exists(&self, domid: u16) -> bool {
        self.store.domains.get(domid).is_some()
    }

    pub(crate) fn known(&mut self, domid: u16) -> &mut Domain {
        let generation = match self.store.domains.get(domid) {
            Some(domain) => domain.generation,
            None => self.store.next_generation(),
        };
        self.store.domains.get_or_add(domid, generation)
    }

    /// The domain gets a connection: its ring. For one that has a ring already the connection starts afresh, with the new
    /// port: no watches, no transactions, nothing to read. `manager` as for `created`, which is implied.
    ///
    /// # Errors
    /// EINVAL if there is no such port or cannot be such a domain.
    pub fn introduce(&mut self, domid: u16, port: u32, manager: Option<u16>) -> Result<Conn, Errno> {
        if port == 0 || domid == 0 || domid >= FIRST_RESERVED {
            return Err(Errno::Einval);
        }
        let domain = self.known(domid);
        domain.manager = manager.or(domain.manager);
        let was_introduced = core::mem::replace(&mut domain.introduced, true);
        domain.restarting = false;
        if let Some((conn, _)) = domain.ring {
            domain.ring = Some((conn, port));
            self.reset(conn);
            self.notices.connect(conn, domid, port, false);
            return Ok(conn);
        }
        let conn = self.open(Identity::Domain(domid));
        self.known(domid).ring = Some((conn, port));
        self.notices.connect(conn, domid, port, true);
        if !was_introduced {
            self.known(domid).shutdown = false;
            self.fire_special(path::INTRODUCE_DOMAIN);
        }
        Ok(conn)
    }

    /// The domain shut down or crashed, but is still there.
    pub fn domain_shut_down(&mut self, domid: u16) {
        self.domains_shut_down(&[domid]);
    }

    /// These domains shut down or crashed, as was found at one look: watchers are told once, as C xenstored does.
    pub fn domains_shut_down(&mut self, domids: &[u16]) {
        let mut news = false;
        for domid in domids {
            let Some(domain) = self.store.domains.get_mut(*domid) else { continue };
            news |=
                domain.introduced && !domain.restarting && !core::mem::replace(&mut domain.shutdown, true);
        }
        if news {
            self.fire_special(path::RELEASE_DOMAIN);
        }
    }

    /// The domain is gone. Its nodes go with it, unless it restarts.
    pub fn died(&mut self, domid: u16) {
        if self.store.domains.get(domid).is_some_and(|domain| !domain.restarting) {
            self.destroy(domid);
        }
    }

    /// The domain is destroyed and built again under the same domid, announced by Builder. Its connections end; nodes,
    /// owners and permissions stay until `rebound`, or `release` if it does not come back. Its disks and network interfaces do
    /// not: its next kernel knows nothing of them, and their backends must let go of its pages, or it could not be built.
    pub fn restarting(&mut self, domid: u16) {
        if domid != 0
            && let Some(domain) = self.store.domains.get_mut(domid)
        {
            domain.restarting = true;
            self.disconnect(domid);
            for kind in [DeviceKind::Vbd, DeviceKind::Vif] {
                self.remove_node(&kind.frontends(domid));
            }
        }
    }

    /// A restarted domain has its ring again.
    ///
    /// # Errors
    /// ENOENT if the domain is not known; EINVAL if there is no such port.
    pub fn rebound(&mut self, domid: u16, port: u32) -> Result<Conn, Errno> {
        if !self.exists(domid) {
            return Err(Errno::Enoent);
        }
        self.introduce(domid, port, None)
    }

    /// The domain's connection ends, its nodes go. Xen may still have it, so it can be introduced again; `died` tells if
    /// not.
    ///
    /// # Errors
    /// EINVAL for domain 0; ENOENT if it was not introduced.
    pub fn release(&mut self, domid: u16) -> Result<(), Errno> {
        if domid == 0 {
            return Err(Errno::Einval);
        }
        let domain = self.store.domains.get(domid).ok_or(Errno::Enoent)?;
        if !domain.introduced && !domain.restarting {
            return Err(Errno::Enoent);
        }
        let (announced, manager) = (domain.announced, domain.manager);
        self.destroy(domid);
        let domain = self.known(domid);
        (domain.announced, domain.manager) = (announced, manager);
        Ok(())
    }

    fn disconnect(&mut self, domid: u16) {
        let connections = self.store.domains.get(domid).map(|domain| domain.connections.clone());
        for conn in connections.unwrap_or_default() {
            self.close(conn);
            self.notices.disconnect(conn, domid);
        }
    }

    /// Ends everything of a connection but itself.
    pub(crate) fn reset(&mut self, conn: Conn) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.outbox.clear();
        }
        self.drop_watches(conn);
        self.drop_transactions(conn);
    }

    fn destroy(&mut self, domid: u16) {
        self.disconnect(domid);
        self.remove_owned(domid);
        for list in [&mut self.specials.introduce, &mut self.specials.release] {
            forget_in(list, domid);
        }
        // A stub domain must not get the rights of the next domain with this domid (XSA-233).
        for domain in self.store.domains.iter_mut().filter(|domain| domain.target == Some(domid)) {
            domain.target = None;
        }
        let introduced = self.store.domains.get(domid).is_some_and(|domain| domain.introduced);
        self.store.domains.remove(domid);
        self.fairness.forget(domid);
        self.refusals.forget(domid);
        if introduced {
            self.fire_special(path::RELEASE_DOMAIN);
        }
    }

    /// Removes all nodes of a domain, wherever they are, with what is below them (XSA-419).
    fn remove_owned(&mut self, domid: u16) {
        if self.store.domains.get(domid).is_none_or(|domain| domain.nodes == 0) {
            return;
        }
        if self.store.tree.owner(self.store.root) == domid {
            self.store.change(path::ROOT, |tree, id| {
                let perms = tree.perms.with_owner(tree.perms(id), 0);
                tree.set_perms(id, perms);
            });
        }
        let mut owned = Vec::new();
        self.store.tree.walk(self.store.root, path::ROOT, |id, path| {
            let is_owner = self.store.tree.owner(id) == domid;
            if is_owner {
                owned.push(Vec::from(path));
            }
            !is_owner
        });
        for path in owned {
            self.remove_node(&path);
        }
    }

    // As requests

    pub(crate) fn do_introduce(&mut self, cx: &mut Cx, domid: u16, port: u32) -> Result<Body, Errno> {
        if port == 0 {
            return Err(Errno::Einval);
        }
        // Domain 0 has no ring here.
        if domid == 0 {
            return Ok(Body::Done);
        }
        // Nobody could map the ring of a domain that is not there.
        if !self.exists(domid) {
            return Err(Errno::Enoent);
        }
        if domid == cx.who.domid
            && let Some(txn) = cx.txn.take()
        {
            self.end(txn);
        }
        self.introduce(domid, port, None)?;
        Ok(Body::Done)
    }

    pub(crate) fn do_release(&mut self, domid: u16) -> Result<Body, Errno> {
        self.release(domid)?;
        Ok(Body::Done)
    }

    pub(crate) fn is_introduced(&self, domid: u16) -> bool {
        domid == FIRST_RESERVED || self.store.domains.get(domid).is_some_and(|domain| domain.introduced)
    }

    pub(crate) fn resume(&mut self, domid: u16) -> Result<Body, Errno> {
        if domid == 0 {
            return Err(Errno::Einval);
        }
        let domain = self.store.domains.get_mut(domid).filter(|domain| domain.introduced);
        domain.ok_or(Errno::Enoent)?.shutdown = false;
        Ok(Body::Done)
    }

    pub(crate) fn set_target(&mut self, domid: u16, target: u16) -> Result<Body, Errno> {
        let is_introduced = |domid| self.store.domains.get(domid).is_some_and(|domain| domain.introduced);
        if !is_introduced(domid) || !is_introduced(target) {
            return Err(Errno::Enoent);
        }
        if let Some(domain) = self.store.domains.get_mut(domid) {
            domain.target = Some(target);
        }
        Ok(Body::Done)
    }
}

/// What a list grants to a domain that is gone: nothing. What it owned is the operator's.
fn forget_in(list: &mut Vec<Entry>, domid: u16) {
    if let Some(owner) = list.first_mut().filter(|owner| owner.domid == domid) {
        owner.domid = 0;
    }
    let mut is_owner = true;
    list.retain(|entry| core::mem::take(&mut is_owner) || entry.domid != domid);
}
