//! Packets for a guest from its neighbours, guests of this netback on the same bridge: they go past taps and bridge (see
//! [`crate::neighbours`]), and wait here for the thread of the guest's queue.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ennead_os::{Buffer, Buffers};
use ennead_xen::PAGE_SIZE;

use crate::bell::Bell;
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

/// Where neighbours leave packets for one queue of a vif. The lock is held for the copy of one packet at most.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Batch>,
    bell: Arc<Bell>,
}

impl Inbox {
    /// An empty one, for a queue which is served by the thread that this bell wakes.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(bell: Arc<Bell>) -> io::Result<Self> {
        Ok(Self { waiting: Mutex::new(Batch::new()?), bell })
    }

    fn lock(&self) -> MutexGuard<'_, Batch> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a packet, if there is room. After the last of a round, [`Inbox::wake`] is due.
    #[must_use]
    pub fn put(&self, packet: &[u8], flags: u16, gso: Option<Gso>) -> bool {
        self.lock().add(packet, flags, gso)
    }

    /// Sees to it that what was left is taken.
    pub fn wake(&self) {
        self.bell.wake();
    }

    /// Takes all packets in exchange for a batch that is used up.
    pub fn take(&self, batch: &mut Batch) {
        let mut waiting = self.lock();
        batch.packets.clear();
        batch.used = 0;
        if !waiting.packets.is_empty() {
            std::mem::swap(&mut *waiting, batch);
        }
    }

    /// Whether nothing is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().packets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netif::Tcp;
    use crate::queue::tests::inbox;

    #[test]
    fn it_is_bounded() {
        let (inbox, mut batch) = (inbox(), Batch::new().unwrap());
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
            let (inbox, mut batch) = (inbox(), Batch::new().unwrap());
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
