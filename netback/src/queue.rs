//! Both directions of one queue of a vif.

use std::sync::Arc;
use std::time::Instant;

use ennead_backend::memory::GuestMemory;
use ennead_backend::ring::Ring;
use ennead_os::Offload;
use ennead_xen::SharedPage;

use crate::filter::{Filter, Forbidden};
use crate::gather::Broken;
use crate::inbox::Inbox;
use crate::neighbours::Way;
use crate::rate::Credit;
use crate::rx::{Error, Receive};
use crate::tap::Tap;
use crate::tx::{Counts, Round, Transmit};
use crate::vlan::Vlan;

/// What a queue does with packets.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What the guest may send.
    pub filter: Filter,
    /// The VLAN that it is in.
    pub vlan: Option<Vlan>,
    /// How much it may send.
    pub rate: Option<Credit>,
    /// A packet to the guest may take more than one slot.
    pub chains: bool,
    /// What may be left undone in packets to the guest.
    pub offloads: Offload,
    /// The way to its neighbours.
    pub way: Way,
}

/// A queue's two rings, the guest's memory, and the port of the bridge.
#[derive(Debug)]
pub struct Queue<P, M, T> {
    tx: Transmit<P>,
    rx: Receive<P>,
    memory: M,
    tap: T,
}

impl<P: SharedPage, M: GuestMemory, T: Tap> Queue<P, M, T> {
    /// Takes the rings over as the frontend made them or a predecessor left them, and finishes what that had begun. The
    /// frontend must be notified after it: it may have been waiting.
    ///
    /// # Errors
    /// A ring is broken; there is no memory.
    pub fn attach(
        (tx, rx): (P, P),
        memory: M,
        tap: T,
        inbox: Arc<Inbox>,
        rules: Rules,
    ) -> Result<Self, Error> {
        let Rules { filter, vlan, rate, chains, offloads, way } = rules;
        let (tx, committed) = Ring::attach(tx).map_err(Broken::from)?;
        let tx = Transmit::new(tx, committed, filter, vlan, rate, way).map_err(Error::Memory)?;
        let (rx, committed) = Ring::attach(rx).map_err(Broken::from)?;
        let rx = Receive::new(rx, committed, inbox, vlan, offloads, chains).map_err(Error::Memory)?;
        Ok(Self { tx, rx, memory, tap })
    }

    /// A bounded round from the guest. It asks for the time only if there is a rate: that mostly is a system call.
    ///
    /// # Errors
    /// How the frontend broke the protocol.
    pub fn take(&mut self, now: impl Fn() -> Instant) -> Result<Round, Error> {
        Ok(self.tx.round(&mut self.memory, &mut self.tap, now)?)
    }

    /// A bounded round to the guest.
    ///
    /// # Errors
    /// How the frontend broke the protocol, or the tap.
    pub fn give(&mut self) -> Result<Round, Error> {
        self.rx.round(&mut self.memory, &mut self.tap)
    }

    /// Whether there is something to [take](Self::take) now: a look at memory, no more.
    #[must_use]
    pub fn has_to_take(&self) -> bool {
        // A round says what is broken.
        self.tx.is_asked().unwrap_or(true)
    }

    /// Whether there is something to [give](Self::give) now, or to give it in.
    #[must_use]
    pub fn has_to_give(&self) -> bool {
        self.rx.is_asked().unwrap_or(true)
    }

    /// Asks the guest for an event with whatever makes a round necessary, but of what it sends only when so many slots of the ring
    /// are filled; whether something has done so already.
    ///
    /// # Errors
    /// How the frontend broke the protocol.
    pub fn rest(&mut self, slots: u32) -> Result<bool, Error> {
        let (tx, rx) = (self.tx.rest(slots)?, self.rx.rest()?);
        Ok(tx || rx)
    }

    /// The bridge has a packet for the guest.
    pub const fn tap_is_ready(&mut self) {
        self.rx.tap_is_ready();
    }

    /// The port of the bridge.
    pub const fn tap(&self) -> &T {
        &self.tap
    }

    /// Why the filter dropped a packet of the guest's, the last time it did.
    #[must_use]
    pub const fn forbidden(&self) -> Option<Forbidden> {
        self.tx.forbidden()
    }

    /// What has become of packets: the guest's, and those to it.
    #[must_use]
    pub const fn counts(&self) -> (Counts, Counts) {
        (self.tx.counts(), self.rx.counts())
    }
}

#[cfg(test)]
mod direct;
#[cfg(test)]
mod kernel;
#[cfg(test)]
pub(crate) mod tests;
