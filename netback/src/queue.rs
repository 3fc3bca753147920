//! Both directions of one queue of a vif.

use std::sync::Arc;
use std::time::Instant;

use ennead_backend::memory::GuestMemory;
use ennead_backend::ring::Ring;
use ennead_os::Offload;
use ennead_xen::SharedPage;

use crate::delivery::Delivery;
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
    memory: M,
    tap: T,
    inbox: Arc<Inbox>,
    delivery: Arc<Delivery<P, M>>,
}

/// What is to be done after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// From the guest.
    pub tx: Round,
    /// To the guest.
    pub rx: Round,
    /// A packet could be given to the guest.
    pub wants_packets: bool,
}

impl Pass {
    /// Something was done.
    #[must_use]
    pub const fn busy(&self) -> bool {
        self.tx.busy || self.rx.busy
    }

    /// There is more to do at once.
    #[must_use]
    pub const fn more(&self) -> bool {
        self.tx.more || self.rx.more
    }
}

impl<P: SharedPage, M: GuestMemory, T: Tap> Queue<P, M, T> {
    /// Takes the rings over as the frontend made them or a predecessor left them, and finishes what that had begun. The
    /// frontend must be notified after it: it may have been waiting.
    ///
    /// # Errors
    /// A ring is broken; there is no memory.
    pub fn attach(
        (tx, rx): (P, P),
        (memory, memory_rx): (M, M),
        tap: T,
        inbox: Arc<Inbox>,
        rules: Rules,
    ) -> Result<Self, Error> {
        let Rules { filter, vlan, rate, chains, offloads, way } = rules;
        let (tx, committed) = Ring::attach(tx).map_err(Broken::from)?;
        let tx = Transmit::new(tx, committed, filter, vlan, rate, way).map_err(Error::Memory)?;
        let (rx, committed) = Ring::attach(rx).map_err(Broken::from)?;
        let rx = Receive::new(rx, committed, Arc::clone(&inbox), vlan, offloads, chains);
        let delivery = Arc::new(Delivery::new(rx.map_err(Error::Memory)?, memory_rx));
        Ok(Self { tx, memory, tap, inbox, delivery })
    }

    /// A bounded round in each direction. It asks for the time only if there is a rate: that mostly is a system call.
    ///
    /// # Errors
    /// How the frontend broke the protocol, or the tap.
    pub fn pass(&mut self, now: impl Fn() -> Instant) -> Result<Pass, Error> {
        let tx = self.tx.round(&mut self.memory, &mut self.tap, now)?;
        let (rx, wants_packets) = self.delivery.round(&mut self.tap)?;
        Ok(Pass { tx, rx, wants_packets })
    }

    /// The bridge has no packet for the guest: the next pass does not ask for one.
    pub fn no_packets_yet(&self) {
        self.delivery.no_packets_yet();
    }

    /// Where neighbours leave packets for the guest.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// The way to the guest.
    #[must_use]
    pub const fn delivery(&self) -> &Arc<Delivery<P, M>> {
        &self.delivery
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
    pub fn counts(&self) -> (Counts, Counts) {
        (self.tx.counts(), self.delivery.counts())
    }
}

#[cfg(test)]
mod direct;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod tests;
