//! Between a tenant's toolstack (client, and owner of the page) and Builder (server): the guests of that tenant.
//!
//! Who asks is known by the channel, which Xen binds to a domid; no message says it. Guests of others do not exist for the
//! caller. What is too large for a message stands in the *window*: pages that the toolstack grants and Builder maps; Builder
//! copies out of them once, then looks.

use ennead_domain::KernelPlan;
use serde::{Deserialize, Serialize};

use crate::{Error, List, Protocol, Text};

/// Most pages of the window: as many as a `Hello` can name, since each request costs time, and a kernel has 40 MiB.
pub const WINDOW_PAGES: usize = 448;
/// Longest [`NewGuest`], encoded, bytes.
pub const MAX_NEW_GUEST: usize = 4096;
/// Longest name of a guest, bytes.
pub const MAX_NAME: usize = 64;
/// Longest command line of a guest's kernel, bytes.
pub const MAX_CMDLINE: usize = 1022;
/// Guests in one reply.
pub const GUESTS_PER_REPLY: usize = 8;
/// Longest reason of a refusal, bytes.
pub const MAX_REASON: usize = 256;

/// The protocol between a toolstack and Builder.
#[derive(Debug, Clone, Copy)]
pub enum Guests {}

impl Protocol for Guests {
    const ID: u32 = u32::from_le_bytes(*b"Gsts");
    type Request = Request;
    type Reply = Reply;
}

/// What a toolstack asks. A `domid` that is not one of its guests' is refused as one that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Comes first, and again to change it: the window's grants. Ends the building of what is half built. Answered by `Limits`.
    Hello {
        /// Grant references, in the order of the window's pages.
        window: List<u32, WINDOW_PAGES>,
    },
    /// Begins to build the guest that a [`NewGuest`] at the window's start describes. One at a time. Answered by `Created`.
    Create {
        /// Chosen by the caller, new for each guest: the same key again gets the same answer and builds nothing.
        key: u64,
        /// Bytes of the encoded `NewGuest`.
        length: u32,
    },
    /// Copies bytes from the window's start into the guest that is being built. Answered by `Done`.
    Load {
        /// The guest.
        domid: u16,
        /// Where they belong.
        part: Part,
        /// How many.
        length: u32,
    },
    /// Ends the building: the guest has its label and its XenStore ring, is paused, and nobody can map its memory any more.
    /// Answered by `Finished`.
    Finish {
        /// The guest.
        domid: u16,
    },
    /// Lets it run. Answered by `Done`, as are the others.
    Unpause {
        /// The guest.
        domid: u16,
    },
    /// Stops its vCPUs.
    Pause {
        /// The guest.
        domid: u16,
    },
    /// Ends it at once, or its building.
    Destroy {
        /// The guest.
        domid: u16,
    },
    /// The caller's guests with larger domids, in order. Answered by `Guests`.
    List {
        /// A domid; 0 for the first.
        after: u16,
    },
    /// The host's service VMs with larger domids, in order. Answered by `Services`.
    Services {
        /// A domid; 0 for the first.
        after: u16,
    },
}

/// Where loaded bytes belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// A segment of the kernel.
    Kernel {
        /// Its number in the plan.
        segment: u8,
        /// Bytes from its start.
        offset: u64,
    },
    /// The ramdisk.
    Ramdisk {
        /// Bytes from its start.
        offset: u64,
    },
}

/// A guest to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewGuest {
    /// Its name, which no other guest of the caller has.
    pub name: Text<MAX_NAME>,
    /// MiB of memory.
    pub memory_mib: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// Its kernel: where what goes, and where it starts.
    pub kernel: KernelPlan,
    /// Bytes of its ramdisk.
    pub ramdisk_bytes: u64,
    /// Its kernel's command line.
    pub cmdline: Text<MAX_CMDLINE>,
}

/// What Builder answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// What the caller may have in all.
    Limits {
        /// MiB of memory of all its guests together.
        memory_mib: u32,
        /// vCPUs of all its guests together.
        vcpus: u32,
        /// Number of its guests.
        guests: u32,
        /// Whether an IOMMU keeps each device of the host to the memory of its VM.
        iommu: bool,
    },
    /// It is being built.
    Created {
        /// Its domid.
        domid: u16,
    },
    /// It is built, and paused.
    Finished {
        /// Its port for the caller, which is its console's.
        console_port: u32,
        /// Its port for XenStore.
        store_port: u32,
    },
    /// It has been done.
    Done,
    /// A part of the list.
    Guests {
        /// The guests of this part.
        guests: List<Guest, GUESTS_PER_REPLY>,
        /// Whether there are more.
        more: bool,
    },
    /// A part of the list of service VMs.
    Services {
        /// The VMs of this part.
        services: List<Service, GUESTS_PER_REPLY>,
        /// Whether there are more.
        more: bool,
    },
    /// A guest has changed by itself. Comes unasked, with the number 0.
    Changed {
        /// Its domid.
        domid: u16,
        /// What it does now.
        state: State,
    },
    /// It cannot be done.
    Refused {
        /// Why, for a program.
        refusal: Refusal,
        /// Why, for people.
        reason: Text<MAX_REASON>,
    },
}

/// A guest as Xen sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its domid.
    pub domid: u16,
    /// Its name.
    pub name: Text<MAX_NAME>,
    /// What it does.
    pub state: State,
    /// KiB of memory that it has.
    pub memory_kib: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Processor time that it has used, nanoseconds.
    pub cpu_time_ns: u64,
}

/// A service VM of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its domid.
    pub domid: u16,
    /// Its name in the manifest.
    pub name: Text<32>,
    /// What it does; `Gone` if it is not there.
    pub state: State,
    /// KiB of memory that it has.
    pub memory_kib: u64,
    /// Seconds since it was built.
    pub uptime_s: u64,
    /// How often it was built again since the host's start.
    pub restarts: u32,
}

/// What a guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It is not yet whole.
    Building,
    /// It runs or waits for events.
    Running,
    /// Its vCPUs are stopped.
    Paused,
    /// It has shut down and waits to be destroyed; Xen's code (sched.h, `SHUTDOWN_*`).
    ShutDown(u8),
    /// It is being destroyed.
    Dying,
    /// It is gone.
    Gone,
}

/// Why something cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// What was asked makes no sense.
    Invalid,
    /// The caller has no such guest.
    Unknown,
    /// There is a guest of that name.
    Exists,
    /// Not as long as the guest is, or the caller does, something else.
    State,
    /// The tenant's limits.
    Quota,
    /// The host has not enough memory.
    Memory,
    /// Xen or XenStore refused.
    Failed,
}

impl NewGuest {
    /// As it stands in the window.
    ///
    /// # Errors
    /// `TooLong` if it has more than [`MAX_NEW_GUEST`] bytes.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let bytes = postcard::to_allocvec(self).map_err(Error::Encode)?;
        if bytes.len() > MAX_NEW_GUEST {
            return Err(Error::TooLong { len: bytes.len() });
        }
        Ok(bytes)
    }

    /// What a caller says that it wants; `None` if it is no such description.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((guest, [])) => Some(guest),
            _ => None,
        }
    }
}
