//! Who asks for which guest: the trust list of each toolstack, its tenant's limits, and the guests that there are.
//!
//! A caller is the domid at the other end of a channel, which Xen vouches for. To it, guests of others do not exist.

use std::collections::{BTreeMap, VecDeque};

use ennead_channel::guests::{NewGuest, Refusal, State};
use ennead_manifest::{Plan, Tenant};
use ennead_xen::DomId;

/// Domids of guests: far above those of service VMs, which must stay free for their rebuilds.
const DOMIDS: std::ops::RangeInclusive<u16> = 1024..=32_751;
/// Keys that are remembered for each toolstack.
const KEYS: usize = 64;

/// Why a caller's wish is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The caller has no guest of this domid.
    #[error("You have no guest {0}")]
    Unknown(DomId),
    /// The caller manages nobody.
    #[error("{0} is no tenant's toolstack")]
    NoTenant(DomId),
    /// It has one of that name.
    #[error("There is a guest `{0}` already")]
    Exists(String),
    /// A limit of the tenant.
    #[error("{wanted} {what} more, but the tenant has {used} of its {limit}")]
    Quota {
        /// Of what.
        what: &'static str,
        /// How much more.
        wanted: u32,
        /// How much there is.
        used: u32,
        /// How much may be.
        limit: u32,
    },
    /// Not in the state that it is in.
    #[error("{domid} is {state}")]
    State {
        /// The guest.
        domid: DomId,
        /// What it is.
        state: &'static str,
    },
    /// One guest at a time.
    #[error("{0} is being built: finish or destroy it first")]
    Busy(DomId),
    /// It cannot be.
    #[error("{0}")]
    Invalid(&'static str),
}

impl Refused {
    /// The same for a program.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Unknown(_) => Refusal::Unknown,
            Self::NoTenant(_) | Self::Invalid(_) => Refusal::Invalid,
            Self::Exists(_) => Refusal::Exists,
            Self::Quota { .. } => Refusal::Quota,
            Self::State { .. } | Self::Busy(_) => Refusal::State,
        }
    }
}

/// Where a guest is in its life, beyond what Xen knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its memory is being filled.
    Building,
    /// It is whole.
    Whole,
    /// It has shut down, with this code of Xen's, and its toolstack knows.
    ShutDown(u8),
    /// It was destroyed, and Xen has not yet let it go.
    Dying,
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// The toolstack that it belongs to.
    pub parent: DomId,
    /// MiB of memory.
    pub memory_mib: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// Where it is in its life.
    pub phase: Phase,
}

impl Guest {
    /// What its toolstack is told; Xen says whether it is paused.
    #[must_use]
    pub fn state(&self, paused: bool) -> State {
        match self.phase {
            Phase::Building => State::Building,
            Phase::Whole if paused => State::Paused,
            Phase::Whole => State::Running,
            Phase::ShutDown(code) => State::ShutDown(code),
            Phase::Dying => State::Dying,
        }
    }
}

/// What is to be done with a request for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Build it under this domid.
    New(DomId),
    /// It has been asked for before, and got this domid.
    Again(DomId),
}

#[derive(Debug)]
struct Parent {
    tenant: Tenant,
    keys: VecDeque<(u64, DomId)>,
}

/// All guests, and who may manage which.
#[derive(Debug)]
pub struct Guests {
    parents: BTreeMap<DomId, Parent>,
    guests: BTreeMap<DomId, Guest>,
    next: u16,
}

impl Guests {
    /// No guests yet, and the tenants of the plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let parent = |tenant: &Tenant| {
            let toolstack = plan.vm(&tenant.toolstack)?;
            Some((DomId(toolstack.domid), Parent { tenant: tenant.clone(), keys: VecDeque::new() }))
        };
        Self {
            parents: plan.tenants.iter().filter_map(parent).collect(),
            guests: BTreeMap::new(),
            next: *DOMIDS.start(),
        }
    }

    /// The tenant whose toolstack this is.
    #[must_use]
    pub fn tenant(&self, caller: DomId) -> Option<&Tenant> {
        self.parents.get(&caller).map(|parent| &parent.tenant)
    }

    /// Takes a guest on the list if its tenant may have it; it is being built then.
    ///
    /// # Errors
    /// When it may not be.
    pub fn admit(
        &mut self,
        caller: DomId,
        key: u64,
        new: &NewGuest,
        in_use: impl Fn(DomId) -> bool,
    ) -> Result<Admitted, Refused> {
        let parent = self.parents.get(&caller).ok_or(Refused::NoTenant(caller))?;
        if let Some((_, domid)) = parent.keys.iter().find(|(known, _)| *known == key) {
            return Ok(Admitted::Again(*domid));
        }
        let own = || self.guests.iter().filter(|(_, guest)| guest.parent == caller);
        if let Some((domid, _)) = own().find(|(_, guest)| guest.phase == Phase::Building) {
            return Err(Refused::Busy(*domid));
        }
        let name = new.name.to_string();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(Refused::Invalid("A guest's name is of letters, digits, `-`, `_` and `.`"));
        }
        if own().any(|(_, guest)| guest.name == name && guest.phase != Phase::Dying) {
            return Err(Refused::Exists(name));
        }
        if new.memory_mib == 0 || new.vcpus == 0 {
            return Err(Refused::Invalid("A guest needs memory and a vCPU"));
        }
        // What is dying still has its memory.
        let sum = |of: fn(&Guest) -> u32| own().map(|(_, guest)| of(guest)).fold(0, u32::saturating_add);
        let tenant = &parent.tenant;
        for (what, wanted, used, limit) in [
            ("MiB of memory", new.memory_mib, sum(|guest| guest.memory_mib), tenant.memory_mib),
            ("vCPUs", new.vcpus, sum(|guest| guest.vcpus), tenant.vcpus),
            ("guests", 1, sum(|_| 1), tenant.guests),
        ] {
            if used.saturating_add(wanted) > limit {
                return Err(Refused::Quota { what, wanted, used, limit });
            }
        }
        let domid = self.free_domid(in_use).ok_or(Refused::Invalid("The host has no domid left"))?;
        let guest = Guest {
            name,
            parent: caller,
            memory_mib: new.memory_mib,
            vcpus: new.vcpus,
            phase: Phase::Building,
        };
        self.guests.insert(domid, guest);
        if let Some(parent) = self.parents.get_mut(&caller) {
            parent.keys.push_back((key, domid));
            if parent.keys.len() > KEYS {
                parent.keys.pop_front();
            }
        }
        Ok(Admitted::New(domid))
    }

    /// The next domid that nobody has. One that has just become free is the last to be taken: whoever still means the old
    /// guest by it should notice.
    fn free_domid(&mut self, in_use: impl Fn(DomId) -> bool) -> Option<DomId> {
        for _ in DOMIDS {
            let domid = DomId(self.next);
            self.next = if self.next >= *DOMIDS.end() { *DOMIDS.start() } else { self.next + 1 };
            if !self.guests.contains_key(&domid) && !in_use(domid) {
                return Some(domid);
            }
        }
        None
    }

    /// A guest of the caller's.
    ///
    /// # Errors
    /// When the caller has none of this domid.
    pub fn of(&mut self, caller: DomId, domid: DomId) -> Result<&mut Guest, Refused> {
        self.guests.get_mut(&domid).filter(|guest| guest.parent == caller).ok_or(Refused::Unknown(domid))
    }

    /// The same, if it is whole.
    ///
    /// # Errors
    /// When it is not.
    pub fn whole(&mut self, caller: DomId, domid: DomId) -> Result<&mut Guest, Refused> {
        let guest = self.of(caller, domid)?;
        let state = match guest.phase {
            Phase::Whole => return Ok(guest),
            Phase::Building => "being built",
            Phase::ShutDown(_) => "shut down",
            Phase::Dying => "being destroyed",
        };
        Err(Refused::State { domid, state })
    }

    /// Any guest.
    #[must_use]
    pub fn get(&self, domid: DomId) -> Option<&Guest> {
        self.guests.get(&domid)
    }

    /// Notes where a guest is in its life.
    pub fn set(&mut self, domid: DomId, phase: Phase) {
        if let Some(guest) = self.guests.get_mut(&domid) {
            guest.phase = phase;
        }
    }

    /// Forgets a guest that was never whole.
    pub fn remove(&mut self, domid: DomId) {
        self.guests.remove(&domid);
    }

    /// The caller's guests with larger domids, in order.
    pub fn after(&self, caller: DomId, domid: DomId) -> impl Iterator<Item = (DomId, &Guest)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let larger = self.guests.range((Excluded(domid), Unbounded));
        larger.filter(move |(_, guest)| guest.parent == caller).map(|(domid, guest)| (*domid, guest))
    }

    /// Takes the guests that Xen no longer has from the list.
    pub fn take_gone(&mut self, present: impl Fn(DomId) -> bool) -> Vec<(DomId, Guest)> {
        let gone: Vec<DomId> = self
            .guests
            .iter()
            .filter(|(domid, guest)| guest.phase != Phase::Building && !present(**domid))
            .map(|(domid, _)| *domid)
            .collect();
        gone.into_iter().filter_map(|domid| Some((domid, self.guests.remove(&domid)?))).collect()
    }
}

#[cfg(test)]
mod tests;
