//! From the bridge, and from neighbours, to the guest.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use ennead_backend::memory::GuestMemory;
use ennead_backend::ring::{Committed, RECORD, Ring};
use ennead_os::{Buffer, Offload};
use ennead_xen::{CopyOp, GrantRef, PAGE_SIZE, SharedPage};

use crate::Few;
use crate::gather::Broken;
use crate::headers::ETHERNET;
use crate::inbox::{Batch, Inbox, Packet, pages};
use crate::netif::{MAX_DATA_SLOTS, RSP_ERROR, RX_EXTRA_INFO, RX_MORE_DATA, RX_SLOT, RxRequest, RxResponse};
use crate::offload::{VNET_HEADER, allow, to_guest};
use crate::tap::{MAX_FROM_BRIDGE, Tap};
use crate::tx::{Counts, Round};
use crate::vlan::{self, TAG, Vlan};

/// Packets in one round at most, those that are dropped too.
const ROUND_PACKETS: usize = 64;
/// Pages for the longest packet, and whatever would tell that it is longer.
const PACKET_PAGES: usize = MAX_FROM_BRIDGE / PAGE_SIZE + 1;
/// Pages of a round: as many as it has packets, unless they are long, and one for a tag before the first.
const ROUND: usize = (ROUND_PACKETS + PACKET_PAGES + 1) * PAGE_SIZE;

/// Why receiving ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The frontend's fault.
    #[error("{0}")]
    Broken(#[from] Broken),
    /// Ours.
    #[error("the tap is of no more use: {0}")]
    Tap(#[from] io::Error),
    /// Ours.
    #[error("no memory for packets: {0}")]
    Memory(io::Error),
}

/// Where a packet comes from, and its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Bridge,
    Neighbours,
}

/// Packets of a round.
#[derive(Debug)]
struct Gathered {
    packets: Few<(Source, Packet)>,
    /// Buffers of the guest's that they leave.
    room: usize,
}

impl Gathered {
    fn is_full(&self) -> bool {
        self.room == 0 || self.packets.len() >= ROUND_PACKETS
    }

    /// Takes a packet for which there are buffers.
    fn add(&mut self, source: Source, packet: Packet) -> bool {
        let left = self.room.checked_sub(packet.slots());
        if let Some(left) = left {
            self.room = left;
            self.packets.push((source, packet));
        }
        left.is_some()
    }
}

/// The ring to the guest, and what is needed to fill it.
#[derive(Debug)]
pub struct Receive<P> {
    ring: Ring<P, RX_SLOT>,
    vlan: Option<Vlan>,
    offloads: Offload,
    /// Slots that one packet may take.
    most_slots: usize,
    /// Buffers of the guest's, taken from the ring, not yet filled.
    posted: VecDeque<RxRequest>,
    /// Packets from the bridge.
    buffer: Buffer,
    /// Read, but the guest has not enough buffers for it; its bytes are where a round's first are.
    held: Option<Packet>,
    /// The tap may have a packet.
    tap_is_ready: bool,
    inbox: Arc<Inbox>,
    /// Packets from neighbours.
    taken: Batch,
    /// Whose turn it is to be first.
    first: Source,
    counts: Counts,
}

impl<P: SharedPage> Receive<P> {
    /// Takes the ring over. Buffers that a predecessor had begun to fill are given back empty: those packets are lost.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(
        mut ring: Ring<P, RX_SLOT>,
        committed: Option<Committed>,
        inbox: Arc<Inbox>,
        vlan: Option<Vlan>,
        offloads: Offload,
        chains: bool,
    ) -> io::Result<Self> {
        let (buffer, taken) = (pages(ROUND)?, Batch::new()?);
        if let Some(Committed { count, body }) = committed {
            let begin = ring.rsp_prod();
            let respond = |n: u32| {
                let RxRequest { id, .. } = RxRequest::read(&ring.slot(begin.wrapping_add(n)));
                let id = extra_id(&body).filter(|_| n == 1).unwrap_or(id);
                RxResponse { id, flags: 0, status: RSP_ERROR }.bytes()
            };
            let responses: Vec<_> = (0..count).map(respond).collect();
            ring.publish(&body, &responses);
        }
        Ok(Self {
            ring,
            vlan,
            offloads,
            most_slots: if chains { MAX_DATA_SLOTS } else { 1 },
            posted: VecDeque::new(),
            buffer,
            held: None,
            tap_is_ready: false,
            inbox,
            taken,
            first: Source::Bridge,
            counts: Counts::default(),
        })
    }

    /// What has become of the packets to the guest.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The tap has a packet: it is asked until it has none. To ask is a system call.
    pub const fn tap_is_ready(&mut self) {
        self.tap_is_ready = true;
    }

    /// Whether a packet waits for buffers.
    #[cfg(test)]
    pub(crate) const fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Whether a packet that comes now could be given to the guest. If not, what comes waits, and is dropped if it is much.
    #[must_use]
    pub fn wants_packets(&self) -> bool {
        let fits = |packet: &Packet| packet.slots() <= self.posted.len();
        self.held.is_none() && !self.posted.is_empty() && self.taken.first().is_none_or(fits)
    }

    /// Takes buffers from the ring, packets from tap and neighbours, copies them, and answers.
    ///
    /// # Errors
    /// How the frontend broke the protocol, or the tap; nothing of this round is answered then.
    pub fn round(&mut self, memory: &mut impl GuestMemory, tap: &mut impl Tap) -> Result<Round, Error> {
        let taken = self.take_posted()?;
        let packets = self.gather(tap)?;
        let mut round = Round { busy: taken || !packets.is_empty(), ..Round::default() };
        if !packets.is_empty() {
            self.deliver(memory, &packets);
            round.notify = self.ring.needs_notify();
            self.keep_held();
        }
        round.more = self.is_asked()?;
        Ok(round)
    }

    /// Whether a round has something to do now.
    ///
    /// # Errors
    /// How the frontend broke the protocol.
    pub fn is_asked(&self) -> Result<bool, Broken> {
        if self.wants_packets() {
            Ok(self.tap_is_ready || self.taken.first().is_some() || !self.inbox.is_empty())
        } else {
            Ok(self.ring.waiting()? > 0)
        }
    }

    /// Asks for an event with the guest's next buffers, if it has too few; whether there is something to do already.
    ///
    /// # Errors
    /// How the frontend broke the protocol.
    pub fn rest(&mut self) -> Result<bool, Broken> {
        if self.wants_packets() { self.is_asked() } else { Ok(self.ring.final_check_for_requests()?) }
    }

    /// Bytes before each packet, for a tag that is taken out.
    fn room(&self) -> usize {
        self.vlan.map_or(0, |_| TAG)
    }

    /// Where a round's first packet from the tap begins.
    fn begin(&self) -> usize {
        self.room().next_multiple_of(PAGE_SIZE)
    }

    fn take_posted(&mut self) -> Result<bool, Broken> {
        let before = self.posted.len();
        while let Some((_, slot)) = self.ring.take()? {
            self.posted.push_back(RxRequest::read(&slot));
        }
        Ok(self.posted.len() > before)
    }

    /// Packets for which the guest has buffers. Tap and neighbours take turns in being first, and who is first and has a packet that
    /// needs more buffers keeps its turn: so neither is starved by the other.
    fn gather(&mut self, tap: &mut impl Tap) -> io::Result<Few<(Source, Packet)>> {
        let mut gathered = Gathered { packets: Few::new(), room: self.posted.len() };
        let first = self.first;
        let (on, second) = match first {
            Source::Bridge => (self.read(tap, &mut gathered)?, Source::Neighbours),
            Source::Neighbours => (self.take(&mut gathered), Source::Bridge),
        };
        if on {
            self.first = second;
            match second {
                Source::Bridge => self.read(tap, &mut gathered)?,
                Source::Neighbours => self.take(&mut gathered),
            };
        }
        Ok(gathered.packets)
    }

    /// Packets from neighbours. Whether all found buffers that were looked at.
    fn take(&mut self, to: &mut Gathered) -> bool {
        if self.taken.first().is_none() && !to.is_full() {
            self.inbox.take(&mut self.taken);
        }
        while !to.is_full()
            && let Some(packet) = self.taken.first()
        {
            if !to.add(Source::Neighbours, *packet) {
                return false;
            }
            self.taken.take_first();
        }
        true
    }

    /// Packets from the tap; one more may be held. Whether all found buffers that were looked at.
    fn read(&mut self, tap: &mut impl Tap, to: &mut Gathered) -> io::Result<bool> {
        let mut used = self.begin();
        for _ in 0..ROUND_PACKETS {
            if to.is_full() || used + PACKET_PAGES * PAGE_SIZE > self.buffer.len() {
                break;
            }
            let packet = match self.held.take() {
                Some(held) => held,
                None if !self.tap_is_ready => break,
                None => match self.read_one(tap, used)? {
                    Next::Packet(packet) => packet,
                    Next::Dropped => continue,
                    Next::None => {
                        self.tap_is_ready = false;
                        break;
                    }
                },
            };
            if !to.add(Source::Bridge, packet) {
                self.held = Some(packet);
                return Ok(false);
            }
            used = (packet.start + packet.size + self.room()).next_multiple_of(PAGE_SIZE);
        }
        Ok(true)
    }

    fn read_one(&mut self, tap: &mut impl Tap, start: usize) -> io::Result<Next> {
        let mut header = [0; VNET_HEADER];
        let room = self.room();
        let end = start + PACKET_PAGES * PAGE_SIZE;
        let buffer = self.buffer.get_mut(start - room..end).unwrap_or_default();
        let Some(size) = tap.receive(&mut header, buffer)? else { return Ok(Next::None) };
        let read = buffer.get_mut(..size).unwrap_or_default();
        if !vlan::is_for(self.vlan, read) {
            return Ok(Next::Dropped);
        }
        if room > 0 {
            vlan::strip(read);
        }
        let size = size.saturating_sub(room);
        let packet = to_guest(&header).ok().map(|(flags, gso)| Packet { start, size, flags, gso });
        let fits = |p: &Packet| {
            (ETHERNET..=MAX_FROM_BRIDGE).contains(&size)
                && p.pieces() <= self.most_slots
                && allow(self.offloads, p.flags, p.gso)
        };
        let packet = packet.filter(fits);
        if packet.is_none() {
            self.counts.errors += 1;
        }
        Ok(packet.map_or(Next::Dropped, Next::Packet))
    }

    /// Copies all packets at once, and answers.
    fn deliver(&mut self, memory: &mut impl GuestMemory, packets: &[(Source, Packet)]) {
        let mut buffers = self.posted.iter();
        let mut ops = Few::new();
        for (source, packet) in packets {
            let bytes = match source {
                Source::Bridge => {
                    self.buffer.get(packet.start..packet.start + packet.size).unwrap_or_default()
                }
                Source::Neighbours => self.taken.bytes(packet),
            };
            for (n, piece) in bytes.chunks(PAGE_SIZE).enumerate() {
                if n == 1 && packet.gso.is_some() {
                    // The slot of the extra information; its buffer stays empty.
                    buffers.next();
                }
                let gref = buffers.next().map_or(0, |request| request.gref);
                ops.push(CopyOp::write(GrantRef(gref), 0, piece));
            }
            if packet.gso.is_some() && packet.pieces() == 1 {
                buffers.next();
            }
        }
        let all = memory.copy(&mut ops).is_ok();
        let mut done = ops.iter().map(CopyOp::is_done);
        let mut responses = Few::new();
        for (_, packet) in packets {
            let arrived = done.by_ref().take(packet.pieces()).fold(all, |all, done| all & done);
            if arrived {
                self.counts.packets += 1;
                self.counts.bytes += packet.size as u64;
            } else {
                self.counts.errors += 1;
            }
            let extra = packet.gso.and(self.posted.get(1)).map(|request| request.id);
            let ids = self.posted.drain(..packet.slots()).map(|request| request.id);
            respond(packet, ids, arrived, &mut responses);
            // One by one: a record has room for one number.
            self.ring.publish(&record(extra), &responses);
            responses.clear();
        }
    }

    /// Moves the bytes of a held packet to where a round's first are, out of the next round's way.
    fn keep_held(&mut self) {
        let first = self.begin();
        if let Some(held) = &mut self.held {
            self.buffer.copy_within(held.start..held.start + held.size, first);
            held.start = first;
        }
    }
}

enum Next {
    Packet(Packet),
    Dropped,
    None,
}

/// A slot's number survives its response, but for one with extra information: a record has that of a packet's second slot, if it
/// is such a one.
fn record(extra: Option<u16>) -> [u8; 3] {
    let [low, high] = extra.unwrap_or_default().to_le_bytes();
    [u8::from(extra.is_some()), low, high]
}

fn extra_id(record: &[u8; RECORD]) -> Option<u16> {
    let [extra, low, high, ..] = *record;
    (extra != 0).then_some(u16::from_le_bytes([low, high]))
}

/// The responses of one packet. One that did not arrive is an error in each of its slots, so that none depends on another.
fn respond(packet: &Packet, ids: impl Iterator<Item = u16>, arrived: bool, to: &mut Few<[u8; RX_SLOT]>) {
    let mut left = packet.size;
    for (n, id) in ids.enumerate() {
        to.push(match packet.gso {
            _ if !arrived => RxResponse { id, flags: 0, status: RSP_ERROR }.bytes(),
            Some(gso) if n == 1 => gso.bytes(),
            gso => {
                let piece = left.min(PAGE_SIZE);
                left -= piece;
                let mut flags = if left > 0 { RX_MORE_DATA } else { 0 };
                if n == 0 {
                    flags |= packet.flags | if gso.is_some() { RX_EXTRA_INFO } else { 0 };
                }
                RxResponse { id, flags, status: i16::try_from(piece).unwrap_or(RSP_ERROR) }.bytes()
            }
        });
    }
}
