//! What service VMs may do beyond the permissions of nodes. Whatever is not said here goes by permissions, as for any
//! domain.

use alloc::{format, vec::Vec};

use ennead_xs_wire::{Op, path};

/// What a service VM is, for XenStore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A domain like any other, with the quotas of a service VM: backends.
    Service,
    /// Introduces and releases domains, and keeps the trees of the service VMs and the PCI devices of all VMs.
    Builder,
    /// Keeps the trees of the guests that it manages, and their directories at these backends; and its own, of network
    /// interfaces.
    Toolstack {
        /// Where its guests' disks and networks may come from.
        backends: Vec<Backend>,
    },
}

/// A service VM that serves one kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// The service VM.
    pub domid: u16,
    /// What it serves.
    pub kind: DeviceKind,
}

/// A kind of device, by its name in XenStore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A disk, `vbd`.
    Vbd,
    /// A network interface, `vif`.
    Vif,
}

impl DeviceKind {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Vbd => b"vbd",
            Self::Vif => b"vif",
        }
    }

    /// The directory of a domain's devices of this kind.
    pub(crate) fn frontends(self, domid: u16) -> Vec<u8> {
        [format!("/local/domain/{domid}/device/").as_bytes(), self.name()].concat()
    }
}

/// What the answer depends on besides the path.
pub(crate) trait Facts {
    /// Whether this is a service VM.
    fn is_service(&self, domid: u16) -> bool;
    /// The toolstack that manages this domain.
    fn manager(&self, domid: u16) -> Option<u16>;
    /// The owner of a node that exists.
    fn owner(&self, path: &[u8]) -> Option<u16>;
}

/// Whether the service VM `me` may do everything with `path`, whatever its permissions say. `claim`: also if it does not
/// exist and would be `me`'s once it does (so not when an event tells of its end).
pub(crate) fn authority(role: &Role, me: u16, path: &[u8], claim: bool, facts: &impl Facts) -> bool {
    let mut segments = path::segments(path);
    let mut next = || segments.next().unwrap_or_default();
    let is_mine = |guest: Option<u16>| guest.is_some_and(|guest| facts.manager(guest) == Some(me));
    match (role, next()) {
        (Role::Service, _) => false,
        (Role::Builder, b"local") => {
            let (domain, domid) = (next(), parse_domid(next()));
            let is_pci = matches!((next(), next()), (b"device" | b"backend", b"pci"));
            domain == b"domain" && domid.is_some_and(|domid| is_pci || facts.is_service(domid))
        }
        (Role::Toolstack { backends }, b"local") => {
            let (domain, domid) = (next(), parse_domid(next()));
            let (backend, kind, guest) = (next(), next(), parse_domid(next()));
            let whose = |one: &Backend| is_mine(guest) || (guest == Some(me) && one.kind == DeviceKind::Vif);
            // What a tenant's volumes are is said there, too.
            let volumes =
                |one: &Backend| one.kind == DeviceKind::Vbd && kind == b"volumes" && guest == Some(me);
            let serves = |one: &Backend| {
                Some(one.domid) == domid && (one.kind.name() == kind && whose(one) || volumes(one))
            };
            domain == b"domain" && (is_mine(domid) || (backend == b"backend" && backends.iter().any(serves)))
        }
        // Named by a UUID: whose it is, its owner says.
        (Role::Toolstack { .. }, b"vm") => {
            let name = next();
            let dir = [b"/vm/", name].concat();
            let whose = |owner| owner == me || is_mine(Some(owner));
            !name.is_empty() && facts.owner(&dir).map_or(claim, whose)
        }
        _ => false,
    }
}

/// Whether a node under `me`'s authority may be given to `owner`: nobody else's quota is `me`'s to use.
pub(crate) fn may_give(role: &Role, me: u16, owner: u16, facts: &impl Facts) -> bool {
    match role {
        Role::Service => false,
        Role::Builder => true,
        Role::Toolstack { backends } => {
            owner == me
                || facts.manager(owner) == Some(me)
                || backends.iter().any(|backend| backend.domid == owner)
        }
    }
}

/// Whether a service VM may ask for what only the operator may, in C xenstored.
pub(crate) fn may_ask(role: &Role, op: Op) -> bool {
    let builders =
        matches!(op, Op::Introduce | Op::Release | Op::Resume | Op::SetTarget | Op::IsDomainIntroduced);
    *role == Role::Builder && builders
}

/// Whether a service VM hears of domains that come and go: who manages some must.
pub(crate) fn hears_of_domains(role: &Role) -> bool {
    matches!(role, Role::Builder | Role::Toolstack { .. })
}

/// A domid as it stands in a path: decimal, no leading zero.
fn parse_domid(segment: &[u8]) -> Option<u16> {
    if segment.len() > 1 && segment.first() == Some(&b'0') {
        return None;
    }
    core::str::from_utf8(segment).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
