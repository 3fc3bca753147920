//! A queue's way to its guest. Two may go it, one at a time: the queue's own thread, and that of a neighbour which has left packets
//! while that one sleeps. To deliver them costs less than to wake a thread that does, with its system calls and switches.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ennead_backend::memory::GuestMemory;
use ennead_xen::SharedPage;

use crate::offload::VnetHeader;
use crate::rx::{Error, Receive};
use crate::tap::Tap;
use crate::tx::{Counts, Round};

/// A ring to a guest, and the guest's memory, until it is closed.
#[derive(Debug)]
pub struct Delivery<P, M>(Mutex<Option<Half<P, M>>>);

#[derive(Debug)]
struct Half<P, M> {
    rx: Receive<P>,
    memory: M,
}

impl<P: SharedPage, M: GuestMemory> Delivery<P, M> {
    pub(crate) const fn new(rx: Receive<P>, memory: M) -> Self {
        Self(Mutex::new(Some(Half { rx, memory })))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Half<P, M>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A round of the queue's own thread; whether a packet that comes now could be given to the guest.
    pub(crate) fn round(&self, tap: &mut impl Tap) -> Result<(Round, bool), Error> {
        match &mut *self.lock() {
            Some(Half { rx, memory }) => Ok((rx.round(memory, tap)?, rx.wants_packets())),
            None => Ok((Round::default(), false)),
        }
    }

    /// A round of a neighbour's thread; whether the queue's own thread may sleep on, as far as this ring goes. `None`: it is at work
    /// itself, or has to find out what is wrong with the ring.
    #[must_use]
    pub fn round_for(&self) -> Option<(Round, bool)> {
        let mut half = self.0.try_lock().ok()?;
        let Half { rx, memory } = half.as_mut()?;
        let round = rx.round(memory, &mut NoTap).ok()?;
        Some((round, !round.more && rx.wants_packets()))
    }

    pub(crate) fn no_packets_yet(&self) {
        if let Some(half) = &mut *self.lock() {
            half.rx.no_packets_yet();
        }
    }

    /// What has become of packets to the guest.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().as_ref().map_or_else(Counts::default, |half| half.rx.counts())
    }

    /// Lets ring and memory go, whoever still knows of this.
    pub fn close(&self) {
        *self.lock() = None;
    }

    #[cfg(test)]
    pub(crate) fn is_holding(&self) -> bool {
        self.lock().as_ref().is_some_and(|half| half.rx.is_holding())
    }
}

/// A neighbour has nothing to do with the bridge.
struct NoTap;

impl Tap for NoTap {
    fn receive(&mut self, _: &mut VnetHeader, _: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn send(&mut self, packets: &[(VnetHeader, &[u8])]) -> Vec<bool> {
        vec![false; packets.len()]
    }
}
