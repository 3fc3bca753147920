//! Between Builder (client) and pciback (server).

#[cfg(any(feature = "offer", test))]
mod parts;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{List, Protocol, Text};
#[cfg(any(feature = "offer", test))]
pub use parts::controllers_in_parts;

/// Most controllers in one reply: they fit into one message whatever they are.
pub const CONTROLLERS_PER_REPLY: usize = 16;
/// Most controllers of a host. A client refuses more; a server tells of the first so many.
pub const MAX_CONTROLLERS: usize = 256;
/// Longest text of an error, bytes.
pub const MAX_ERROR: usize = 512;

/// The protocol between Builder and pciback.
#[derive(Debug, Clone, Copy)]
pub enum Pciback {}

impl Protocol for Pciback {
    const ID: u32 = u32::from_le_bytes(*b"PciB");
    type Request = Request;
    type Reply = Reply;
}

/// What Builder asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Which network and storage controllers are there? Answered by one or more `Reply::Controllers`.
    Controllers,
    /// Take this function from pciback's own drivers, so that it can be lent. Before `Seal` only. Answered by `Seized`.
    Seize {
        /// Where it is.
        address: Address,
        /// Also if it cannot be reset: what one borrower began may end in the next one's memory.
        without_reset: bool,
    },
    /// Reset a seized function and hand its rights to a VM, which has been built and does not run. Answered by `Lent`.
    Lend {
        /// Number of the VM.
        domid: u16,
        /// Where the function is.
        address: Address,
    },
    /// Nothing is configured any more after this, but what was seized is still lent. Answered by `Sealed`.
    Seal,
    /// Switch the host off. Answered by `PoweringOff` before it happens.
    PowerOff,
    /// Restart the host. Answered by `Rebooting` before it happens.
    Reboot,
    /// Are you there? Answered by `Pong`.
    Ping,
}

/// What pciback answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// A part of the list of controllers.
    Controllers {
        /// Number of this part, from 0.
        index: u16,
        /// Whether another part follows.
        more: bool,
        /// The controllers of this part.
        controllers: List<Controller, CONTROLLERS_PER_REPLY>,
    },
    /// Seized.
    Seized,
    /// The VM has it, and nobody else.
    Lent,
    /// Sealed.
    Sealed,
    /// The host goes off now.
    PoweringOff,
    /// The host restarts now.
    Rebooting,
    /// Here.
    Pong,
    /// It did not work, and why.
    Error(Text<MAX_ERROR>),
}

/// One PCI function that is a network or storage controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Where it is.
    pub address: Address,
    /// Class code, 24 bits: base class, subclass, programming interface (`0x010601` is AHCI).
    pub class: u32,
    /// PCI vendor.
    pub vendor: u16,
    /// PCI device.
    pub device: u16,
    /// The driver bound to it in pciback; empty if none.
    pub driver: Text<32>,
    /// It has MSI or MSI-X: its interrupts are nobody else's.
    pub has_msi: bool,
    /// It can be reset without another function.
    pub has_reset: bool,
}

impl Controller {
    /// The base class: `0x01` storage, `0x02` network.
    pub fn base_class(&self) -> u32 {
        self.class >> 16
    }
}

/// Address of a PCI function, `dddd:bb:dd.f`; inside, Xen's machine_sbdf (segment 16 bits, bus 8, device 5, function 3),
/// so there is no value that is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address(u32);

impl Address {
    /// From Xen's machine_sbdf.
    pub const fn from_sbdf(sbdf: u32) -> Self {
        Self(sbdf)
    }

    /// As Xen's machine_sbdf (`XEN_DOMCTL_assign_device`).
    pub const fn sbdf(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sbdf = self.0;
        write!(f, "{:04x}:{:02x}:{:02x}.{}", sbdf >> 16, (sbdf >> 8) & 0xff, (sbdf >> 3) & 0x1f, sbdf & 7)
    }
}

/// A text that is no address of a PCI function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Not the address of a PCI function: it is dddd:bb:dd.f in hexadecimal, like 0000:00:1f.2")]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let mut fields = text.split([':', '.']);
        let mut field = |digits: usize, limit: u32| {
            fields
                .next()
                .filter(|f| f.len() == digits && f.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|f| u32::from_str_radix(f, 16).ok())
                .filter(|&value| value <= limit)
                .ok_or(NoAddress)
        };
        let (segment, bus) = (field(4, 0xffff)?, field(2, 0xff)?);
        let (device, function) = (field(2, 0x1f)?, field(1, 7)?);
        let address = Self((segment << 16) | (bus << 8) | (device << 3) | function);
        // The separators, and that nothing follows: the only text of an address is the one that we write.
        if address.to_string().eq_ignore_ascii_case(text) { Ok(address) } else { Err(NoAddress) }
    }
}

/// Puts the list of controllers together again.
#[derive(Debug, Default)]
pub struct Assembly {
    controllers: Vec<Controller>,
    next: u16,
}

impl Assembly {
    /// Takes the next part; `true` if it was the last one.
    ///
    /// # Errors
    /// What is wrong, if it is not the next part or there are more than `MAX_CONTROLLERS`.
    pub fn add(
        &mut self,
        index: u16,
        more: bool,
        part: List<Controller, CONTROLLERS_PER_REPLY>,
    ) -> Result<bool, &'static str> {
        if index != self.next {
            return Err("with the wrong part of the list of controllers");
        }
        if more && part.is_empty() {
            return Err("with an empty part in the middle of the list of controllers");
        }
        if self.controllers.len() + part.len() > MAX_CONTROLLERS {
            return Err("with more controllers than a host may have");
        }
        self.next = self.next.saturating_add(1);
        self.controllers.extend(part.into_vec());
        Ok(!more)
    }

    /// The controllers so far, in the server's order.
    pub fn into_controllers(self) -> Vec<Controller> {
        self.controllers
    }
}
