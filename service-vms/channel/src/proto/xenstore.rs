//! Between who builds VMs (bootstrapper, Builder: clients) and XenStore-State (server): which VMs there are, and the
//! trees of the service VMs.

use ennead_xs_wire::{Errno, Perm};
use serde::{Deserialize, Serialize};

use crate::{List, Protocol, Text};

/// Longest path, bytes. Service VMs' trees and what an operator types are far shorter than XenStore allows.
pub const MAX_PATH: usize = 256;
/// Longest value that can be written, bytes.
pub const MAX_VALUE: usize = 512;
/// Most permissions of a node (Xen's default quota).
pub const MAX_PERMS: usize = 5;
/// Most backends of a toolstack's guests.
pub const MAX_BACKENDS: usize = 8;
/// Most bytes in one part of an answer: it fits into one message.
pub const MAX_PART: usize = 896;
/// Longest value or listing that a client puts together, bytes; it refuses a longer one.
pub const MAX_WHOLE: usize = 16 * 1024;

/// A path in XenStore.
pub type Path = Text<MAX_PATH>;

/// The protocol between who builds VMs and XenStore-State.
#[derive(Debug, Clone, Copy)]
pub enum XenStoreControl {}

impl Protocol for XenStoreControl {
    const ID: u32 = u32::from_le_bytes(*b"XsCt");
    type Request = Request;
    type Reply = Reply;
}

/// A service VM that serves one kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its number.
    pub domid: u16,
    /// What it serves.
    pub device: Device,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// A disk, `vbd`.
    Vbd,
    /// A NIC, `vif`.
    Vif,
}

/// What State is told or asked. `domid` is always that of a VM that the sender builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Xen has a new domain of this number, which does not run yet. Permissions that name it count from now on.
    Created {
        /// Its number.
        domid: u16,
        /// The toolstack that manages it; `None` for a service VM.
        manager: Option<u16>,
    },
    /// It is a toolstack: it keeps the trees of the domains that it manages. After `Created`.
    Toolstack {
        /// Its number.
        domid: u16,
        /// Service VMs that its guests' disks and NICs may come from.
        backends: List<Backend, MAX_BACKENDS>,
    },
    /// It has a ring (its grant 1 for Logic) and an unbound port for Logic. It does not run before this is answered.
    Introduce {
        /// Its number.
        domid: u16,
        /// Its port.
        port: u32,
        /// As for `Created`.
        manager: Option<u16>,
    },
    /// Logic lets go of its ring, and the nodes that it owns go; Xen may still have it. Also for one that was announced as
    /// restarting and does not come back.
    Release {
        /// Its number.
        domid: u16,
    },
    /// It stopped by itself and will be destroyed.
    ShutDown {
        /// Its number.
        domid: u16,
    },
    /// It is destroyed for good: Logic lets go of its ring, and the nodes that it owns go.
    Died {
        /// Its number.
        domid: u16,
    },
    /// It will be destroyed and built again under the same number: Logic lets go of its ring, its nodes stay.
    Restarting {
        /// Its number.
        domid: u16,
    },
    /// It has been built again after `Restarting`. It does not run before this is answered.
    Rebound {
        /// Its number.
        domid: u16,
        /// Its new port.
        port: u32,
    },
    /// Give everything to the State in this VM. Answered when that one has it, and serves from then on.
    HandOver {
        /// Its number.
        domid: u16,
        /// Its grant of the page on which it says more.
        page: u32,
    },
    /// Writes a node; missing parents are made.
    Write {
        /// The node.
        path: Path,
        /// Its value.
        value: List<u8, MAX_VALUE>,
        /// Its permissions; none: those that it has, or its parent's if it is new.
        perms: List<Perm, MAX_PERMS>,
    },
    /// Removes a node and all below it.
    Remove {
        /// The node.
        path: Path,
    },
    /// The value of a node, from byte `offset` on. Answered by a `Part`.
    Read {
        /// The node.
        path: Path,
        /// Where the part begins.
        offset: u32,
    },
    /// How many nodes are there in all? Answered by `Count`.
    Count,
    /// The names of a node's children, each with a NUL at its end, from byte `offset` on. Answered by a `Part`.
    List {
        /// The node.
        path: Path,
        /// Where the part begins.
        offset: u32,
    },
}

/// What State answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It has been done.
    Done,
    /// A part of a value or listing. The whole may change from one part to the next.
    Part {
        /// At most `MAX_PART` bytes of it.
        bytes: List<u8, MAX_PART>,
        /// Nothing follows.
        last: bool,
    },
    /// So many.
    Count(u32),
    /// It cannot be done.
    Refused(Errno),
}

/// The part of `whole` that begins at `offset`; an empty last one if that is behind its end.
pub fn part(whole: &[u8], offset: u32) -> Reply {
    let rest = usize::try_from(offset).ok().and_then(|start| whole.get(start..)).unwrap_or_default();
    let bytes = rest.get(..MAX_PART).unwrap_or(rest);
    let last = bytes.len() == rest.len();
    Reply::Part { bytes: List::new(bytes.to_vec()).unwrap_or_default(), last }
}
