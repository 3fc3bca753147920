//! Packets for a guest from its neighbours, guests of this netback on the same bridge: they go past taps and bridge (see
//! [`crate::neighbours`]), and wait here for the thread of the guest's queue.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use ennead_os::{Buffer, Buffers};
use ennead_xen::PAGE_SIZE;
use rustix::event::{EventfdFlags, eventfd};

use crate::netif::Gso;

/// Pages for packets that wait: as many as Linux's netback keeps for a queue (half a ring's). One takes real memory from its first
/// use on, and the first are used first.
const PAGES: usize = 128;
/// Packets that wait at most: what two rings hold.
const PACKETS: usize = 512;
/// Packets begin at multiples of it, bytes.
const ALIGN: usize = 64;

/// Page-aligned memory, so that a page's worth is copied at once.
///
/// # Errors
/// There is none.
pub fn pages(bytes: usize) -> io::Result<Buffer> {
    let pages = Buffers::new(bytes.div_ceil(PAGE_SIZE))?;
    pages.take(bytes).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// A packet for the guest, in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// First byte; it takes no more pages than its size needs.
    pub start: usize,
    /// Bytes.
    pub size: usize,
    /// Of its first slot.
    pub flags: u16,
    /// Whether it is large.
    pub gso: Option<Gso>,
}

impl Packet {
    /// Pieces of a page each.
    #[must_use]
    pub const fn pieces(&self) -> usize {
        self.size.div_ceil(PAGE_SIZE)
    }

    /// Slots of the guest's that it takes.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.pieces() + usize::from(self.gso.is_some())
    }
}

/// Packets and their bytes, in order.
#[derive(Debug)]
pub struct Batch {
    bytes: Buffer,
    used: usize,
    packets: VecDeque<Packet>,
}

impl Batch {
    /// None.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { bytes: pages(PAGES * PAGE_SIZE)?, used: 0, packets: VecDeque::new() })
    }

    /// The next packet.
    #[must_use]
    pub fn first(&self) -> Option<&Packet> {
        self.packets.front()
    }

    /// Takes it. Its bytes stay until more packets are taken from the inbox.
    pub fn take_first(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    /// Bytes of a packet that was here.
    #[must_use]
    pub fn bytes(&self, packet: &Packet) -> &[u8] {
        self.bytes.get(packet.start..packet.start + packet.size).unwrap_or_default()
    }

    fn add(&mut self, packet: &[u8], flags: u16, gso: Option<Gso>) -> bool {
        let (size, in_page) = (packet.len(), self.used % PAGE_SIZE);
        let fits = in_page + size <= PAGE_SIZE;
        let start = if fits { self.used } else { self.used.next_multiple_of(PAGE_SIZE) };
        let Some(to) = self.bytes.get_mut(start..start + size).filter(|_| self.packets.len() < PACKETS)
        else {
            return false;
        };
        to.copy_from_slice(packet);
        self.used = (start + size).next_multiple_of(ALIGN);
        self.packets.push_back(Packet { start, size, flags, gso });
        true
    }
}

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    /// The thread waits for the bell.
    asleep: bool,
}

/// Delivers in place of a queue's thread that sleeps.
pub trait Deputy: Send + Sync + fmt::Debug {
    /// Takes packets out of the inbox to the guest. Whether the thread may sleep on: then the inbox was [empty](Inbox::may_sleep).
    fn deliver(&self) -> bool;
}

/// Where neighbours leave packets for one queue of a vif. The lock is held for the copy of one packet at most.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    bell: OwnedFd,
    deputy: OnceLock<Weak<dyn Deputy>>,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    /// Linux's.
    pub fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let waiting = Mutex::new(Waiting { batch: Batch::new()?, asleep: false });
        Ok(Self { waiting, bell, deputy: OnceLock::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a packet, if there is room. After the last of a round, [`Inbox::wake`] is due.
    #[must_use]
    pub fn put(&self, packet: &[u8], flags: u16, gso: Option<Gso>) -> bool {
        self.lock().batch.add(packet, flags, gso)
    }

    /// Who delivers while the thread sleeps; the first that is named stays.
    pub fn appoint(&self, deputy: Weak<dyn Deputy>) {
        let _first = self.deputy.set(deputy);
    }

    /// Sees to it that what was left is taken: if the thread sleeps, its deputy delivers, or it is woken.
    pub fn wake(&self) {
        // `asleep` and the packets are behind one lock: a thread that is about to sleep sees a packet that was left before, and
        // whoever leaves one later sees that it sleeps.
        if std::mem::take(&mut self.lock().asleep) {
            let deputy = self.deputy.get().and_then(Weak::upgrade);
            if !deputy.is_some_and(|deputy| deputy.deliver()) {
                self.ring();
            }
        }
    }

    /// Takes all packets in exchange for a batch that is used up.
    pub fn take(&self, batch: &mut Batch) {
        let mut waiting = self.lock();
        waiting.asleep = false;
        batch.packets.clear();
        batch.used = 0;
        if !waiting.batch.packets.is_empty() {
            std::mem::swap(&mut waiting.batch, batch);
        }
    }

    /// Whether the thread may wait for the bell: nothing is here. If so, the next packet rings it.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        let mut waiting = self.lock();
        waiting.asleep = waiting.batch.packets.is_empty();
        waiting.asleep
    }

    /// Wakes the thread, asleep or not.
    pub fn ring(&self) {
        // It fails only if it has been rung very often already.
        let _full = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Makes the bell quiet again.
    pub fn hush(&self) {
        let _quiet = rustix::io::read(&self.bell, &mut [0; 8]);
    }
}

/// The bell: readable when it has been rung.
impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::netif::Tcp;

    fn rings(inbox: &Inbox) -> bool {
        poll(&mut [PollFd::new(inbox, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn the_bell_rings_for_a_thread_that_sleeps_only() {
        let (inbox, mut batch) = (Inbox::new().unwrap(), Batch::new().unwrap());
        assert!(inbox.put(&[1], 0, None));
        inbox.wake();
        assert!(!rings(&inbox), "nobody sleeps");
        assert!(!inbox.may_sleep(), "a packet is here");
        inbox.wake();
        assert!(!rings(&inbox));
        inbox.take(&mut batch);
        assert!(inbox.may_sleep());
        assert!(inbox.put(&[2], 0, None));
        assert!(!rings(&inbox), "the round may go on");
        inbox.wake();
        assert!(rings(&inbox));
        inbox.hush();
        inbox.wake();
        assert!(!rings(&inbox), "once is enough");
        inbox.take(&mut batch);
        assert!(inbox.may_sleep());
        inbox.take(&mut batch);
        inbox.wake();
        assert!(!rings(&inbox), "who looks does not sleep");
        inbox.ring();
        assert!(rings(&inbox));
    }

    #[test]
    fn it_is_bounded() {
        let (inbox, mut batch) = (Inbox::new().unwrap(), Batch::new().unwrap());
        let count = |packet: &[u8]| (0..2000).filter(|_| inbox.put(packet, 0, None)).count();
        assert_eq!(count(&[7; 60]), PACKETS);
        inbox.take(&mut batch);
        assert_eq!(count(&[7; 65_535]), PAGES / 16);
        inbox.take(&mut batch);
        assert_eq!(
            count(&[7; 4097]),
            PAGES / 2,
            "whole pages, so that a page of the guest's is filled by one copy"
        );
    }

    #[derive(Debug, Clone)]
    enum Action {
        Put(usize),
        First,
        Take,
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn packets_come_out_in_order_and_whole(actions in prop::collection::vec(prop_oneof![
            6 => prop_oneof![1..200_usize, 1..9000_usize, Just(65_535)].prop_map(Action::Put),
            3 => Just(Action::First),
            1 => Just(Action::Take),
        ], 0..200)) {
            let (inbox, mut batch) = (Inbox::new().unwrap(), Batch::new().unwrap());
            // What is taken, and what waits.
            let (mut taken, mut waiting) = (VecDeque::new(), VecDeque::new());
            for (n, action) in actions.into_iter().enumerate() {
                match action {
                    Action::Put(size) => {
                        let seed = u8::try_from(n).unwrap();
                        let packet = vec![seed; size];
                        let gso = (size > 1514).then_some(Gso { tcp: Tcp::V6, size: 1448 });
                        if inbox.put(&packet, u16::from(seed), gso) {
                            waiting.push_back((packet, u16::from(seed), gso));
                        } else {
                            let bytes: usize = waiting.iter().map(|(packet, ..)| packet.len().next_multiple_of(ALIGN)).sum();
                            prop_assert!(waiting.len() == PACKETS || bytes + size > PAGES * PAGE_SIZE / 2);
                        }
                    }
                    Action::First => {
                        let packet = batch.take_first();
                        let found = packet.map(|p| (batch.bytes(&p).to_vec(), p.flags, p.gso));
                        prop_assert!(found == taken.pop_front());
                        if let Some(packet) = packet {
                            let pages = (packet.start + packet.size).div_ceil(PAGE_SIZE) - packet.start / PAGE_SIZE;
                            prop_assert_eq!(pages, packet.pieces());
                        }
                    }
                    Action::Take if batch.first().is_none() => {
                        inbox.take(&mut batch);
                        taken = std::mem::take(&mut waiting);
                        prop_assert_eq!(batch.first().is_none(), taken.is_empty());
                    }
                    Action::Take => {}
                }
            }
        }
    }
}
