//! From the guest to the bridge, or to a neighbour.

use std::io;
use std::ops::Add;
use std::time::Instant;

use ennead_backend::memory::GuestMemory;
use ennead_backend::ring::{Committed, RECORD, Ring};
use ennead_os::Buffer;
use ennead_xen::{CopyOp, GrantRef, PAGE_SIZE, SharedPage};

use crate::Few;
use crate::filter::{Filter, Forbidden};
use crate::gather::{self, Broken, Packet};
use crate::headers::ETHERNET;
use crate::inbox::{Inbox, pages};
use crate::neighbours::{OnBridge, Way};
use crate::netif::{Gso, MAX_PACKET, RSP_ERROR, RSP_NULL, RSP_OKAY, TX_SLOT, tx_response};
use crate::offload::{VnetHeader, to_guest, to_tap};
use crate::rate::Credit;
use crate::tap::Tap;
use crate::vlan::{TAG, Vlan};

/// Bytes that are copied in one round at most; the largest packet fits three times.
const ROUND: usize = 64 * PAGE_SIZE;
/// Packets in one round at most.
const ROUND_PACKETS: usize = 64;

/// What has become of packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// They arrived.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Dropped by the filter.
    pub forbidden: u64,
    /// Dropped since they are not what they should be, or their pages are not.
    pub errors: u64,
    /// Dropped since the other side has no room.
    pub full: u64,
}

impl Counts {
    const fn sent(&mut self, bytes: usize, arrived: bool) {
        if arrived {
            self.packets += 1;
            self.bytes += bytes as u64;
        } else {
            self.full += 1;
        }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            forbidden: self.forbidden + other.forbidden,
            errors: self.errors + other.errors,
            full: self.full + other.full,
        }
    }
}

/// What is to be done after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Something was done.
    pub busy: bool,
    /// There is more to do at once.
    pub more: bool,
    /// The guest wants an event.
    pub notify: bool,
    /// The guest has used up its rate until then.
    pub until: Option<Instant>,
}

/// The ring from the guest, and what is needed to empty it.
#[derive(Debug)]
pub struct Transmit<P> {
    ring: Ring<P, TX_SLOT>,
    filter: Filter,
    vlan: Option<Vlan>,
    rate: Option<Credit>,
    way: Way,
    buffer: Buffer,
    /// Taken, but the guest has no credit for it.
    held: Option<Packet>,
    counts: Counts,
    /// Why the filter dropped the last that it dropped.
    forbidden: Option<Forbidden>,
}

/// A packet and where its bytes are in the buffer.
struct Placed {
    packet: Packet,
    start: usize,
}

/// Where a packet goes that may pass, and what is left undone in it.
enum Passing<'a> {
    Bridge(VnetHeader),
    Neighbour(&'a Inbox, u16, Option<Gso>),
}

impl<P: SharedPage> Transmit<P> {
    /// Takes the ring over, and finishes what a predecessor had begun to publish: those packets are sent.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(
        mut ring: Ring<P, TX_SLOT>,
        committed: Option<Committed>,
        filter: Filter,
        vlan: Option<Vlan>,
        rate: Option<Credit>,
        way: Way,
    ) -> io::Result<Self> {
        let buffer = pages(ROUND)?;
        if let Some(Committed { count, body }) = committed {
            let begin = ring.rsp_prod();
            let respond = |n: u32| {
                // A slot's number lies behind what a response overwrites.
                let id = ring
                    .slot(begin.wrapping_add(n))
                    .last_chunk::<4>()
                    .map_or(0, |end| u16::from_le_bytes([end[0], end[1]]));
                tx_response(id, if is_extra(&body, n) { RSP_NULL } else { RSP_OKAY })
            };
            let responses: Vec<_> = (0..count).map(respond).collect();
            ring.publish(&body, &responses);
        }
        Ok(Self {
            ring,
            filter,
            vlan,
            rate,
            way,
            buffer,
            held: None,
            counts: Counts::default(),
            forbidden: None,
        })
    }

    /// What has become of the guest's packets.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Why the filter dropped a packet, the last time it did.
    #[must_use]
    pub const fn forbidden(&self) -> Option<Forbidden> {
        self.forbidden
    }

    /// Takes packets from the ring, copies them, sends those that may pass, and answers.
    ///
    /// # Errors
    /// How the frontend broke the protocol; nothing of this round is answered then.
    pub fn round(
        &mut self,
        memory: &mut impl GuestMemory,
        tap: &mut impl Tap,
        now: impl Fn() -> Instant,
    ) -> Result<Round, Broken> {
        let (placed, until) = self.gather(now)?;
        let mut round = Round { until, ..Round::default() };
        if !placed.is_empty() {
            round.busy = true;
            let copied = self.copy(memory, &placed);
            self.send(tap, &placed, &copied);
            round.notify = self.ring.needs_notify();
        }
        round.more = self.is_asked()?;
        Ok(round)
    }

    /// Whether a round has something to do now. It has not as long as the guest has no credit.
    ///
    /// # Errors
    /// How the frontend broke the protocol.
    pub fn is_asked(&self) -> Result<bool, Broken> {
        Ok(self.held.is_none() && self.ring.waiting()? > 0)
    }

    /// Asks for an event when the guest has filled so many more slots; whether it has already.
    ///
    /// # Errors
    /// How the frontend broke the protocol.
    pub fn rest(&mut self, slots: u32) -> Result<bool, Broken> {
        Ok(self.held.is_none() && self.ring.final_check_for(slots)?)
    }

    /// The next packets, as many as are there, fit, and are within the guest's rate.
    fn gather(&mut self, now: impl Fn() -> Instant) -> Result<(Few<Placed>, Option<Instant>), Broken> {
        let (mut placed, mut used) = (Few::new(), 0);
        while placed.len() < ROUND_PACKETS && used + TAG + MAX_PACKET + PAGE_SIZE <= self.buffer.len() {
            let held = self.held.take();
            let Some(packet) = (if held.is_some() { held } else { gather::next(&mut self.ring)? }) else {
                break;
            };
            if let Some(Err(until)) = self.rate.as_ref().map(|rate| rate.take(packet.size.into(), now())) {
                self.held = Some(packet);
                return Ok((placed, Some(until)));
            }
            let start = start(used + self.room(), &packet);
            used = start + usize::from(packet.size);
            placed.push(Placed { packet, start });
        }
        Ok((placed, None))
    }

    /// Copies all packets at once; which of them arrived whole.
    fn copy(&mut self, memory: &mut impl GuestMemory, placed: &[Placed]) -> Few<bool> {
        let mut ops = Few::new();
        let (mut rest, mut at) = (&mut *self.buffer, 0);
        for Placed { packet, start } in placed {
            at += cut(&mut rest, start - at).len();
            for piece in &packet.pieces {
                let to = cut(&mut rest, piece.size.into());
                at += to.len();
                ops.push(CopyOp::read(GrantRef(piece.gref), piece.offset.into(), to));
            }
        }
        let all = memory.copy(&mut ops).is_ok();
        let mut done = ops.iter().map(CopyOp::is_done);
        placed
            .iter()
            .map(|p| done.by_ref().take(p.packet.pieces.len()).fold(all, |a, done| a & done))
            .collect()
    }

    /// Sends what may pass and answers everything.
    fn send(&mut self, tap: &mut impl Tap, placed: &[Placed], copied: &[bool]) {
        let (mut record, mut responses) = ([0; RECORD], Few::new());
        let there = self.way.look();
        let judged: Few<Result<Passing<'_>, i16>> =
            placed.iter().zip(copied).map(|(placed, copied)| self.judge(&there, placed, *copied)).collect();
        let (room, mut to_bridge, mut woken) = (self.room(), Few::new(), Few::new());
        let bytes = |from, to| self.buffer.get(from..to).unwrap_or_default();
        for (Placed { packet, start }, judged) in placed.iter().zip(&judged) {
            let end = start + usize::from(packet.size);
            match judged {
                Ok(Passing::Bridge(header)) => to_bridge.push((*header, bytes(start - room, end))),
                Ok(Passing::Neighbour(inbox, flags, gso)) => {
                    self.counts.sent(packet.size.into(), inbox.put(bytes(*start, end), *flags, *gso));
                    woken.push(*inbox);
                }
                Err(_) => {}
            }
        }
        for ((_, bytes), sent) in to_bridge.iter().zip(tap.send(&to_bridge)) {
            self.counts.sent(bytes.len(), sent);
        }
        for (Placed { packet, .. }, judged) in placed.iter().zip(judged) {
            let status = judged.err().unwrap_or(RSP_OKAY);
            for slot in &packet.slots {
                if slot.is_none() {
                    mark_extra(&mut record, responses.len());
                }
                responses.push(slot.map_or(tx_response(0, RSP_NULL), |id| tx_response(id, status)));
            }
        }
        self.ring.publish(&record, &responses);
        // After all of the round: a thread that wakes may take the processor.
        woken.dedup_by(|a, b| std::ptr::eq(*a, *b));
        woken.into_iter().for_each(Inbox::wake);
    }

    /// Where a packet goes, or what is answered at once.
    fn judge<'a>(
        &mut self,
        there: &'a OnBridge,
        Placed { packet, start }: &Placed,
        copied: bool,
    ) -> Result<Passing<'a>, i16> {
        let size = usize::from(packet.size);
        let bytes = self.buffer.get_mut(*start..start + size).filter(|_| copied && size >= ETHERNET);
        let Some(bytes) = bytes else {
            self.counts.errors += 1;
            return Err(RSP_ERROR);
        };
        if let Err(why) = self.filter.check(bytes) {
            self.forbidden = Some(why);
            self.counts.forbidden += 1;
            return Err(RSP_OKAY);
        }
        let Ok(mut header) = to_tap(bytes, packet.blank, packet.gso) else {
            self.counts.errors += 1;
            return Err(RSP_ERROR);
        };
        // A VLAN's tag is for the bridge only.
        if let (Some(inbox), Ok((flags, gso))) = (self.way.find(there, bytes, packet.gso), to_guest(&header))
        {
            return Ok(Passing::Neighbour(inbox, flags, gso));
        }
        if let Some(vlan) = self.vlan {
            let bytes = self.buffer.get_mut(start - TAG..start + size);
            vlan.tag(bytes.unwrap_or_default(), &mut header);
        }
        Ok(Passing::Bridge(header))
    }

    /// Bytes before each packet, for a tag.
    fn room(&self) -> usize {
        self.vlan.map_or(0, |_| TAG)
    }
}

/// Takes so many bytes from the front.
fn cut<'a>(rest: &mut &'a mut [u8], length: usize) -> &'a mut [u8] {
    let (front, back) = std::mem::take(rest).split_at_mut_checked(length).unwrap_or_default();
    *rest = back;
    front
}

/// Where a packet's bytes go, not before `used`: its first piece ends with a page, or lies within one, so that whole pages that
/// follow are copied in one piece each.
fn start(used: usize, packet: &Packet) -> usize {
    let first = packet.pieces.first().map_or(0, |piece| usize::from(piece.size));
    let end = (used + first).next_multiple_of(PAGE_SIZE);
    let within = used % PAGE_SIZE + first <= PAGE_SIZE;
    if packet.pieces.len() == 1 && within { used } else { end - first }
}

fn place(n: usize) -> (usize, u8) {
    (n / 8, 1 << (n % 8))
}

/// Notes that a slot has no data: the record is a bit for each slot.
fn mark_extra(record: &mut [u8; RECORD], n: usize) {
    let (byte, bit) = place(n);
    if let Some(byte) = record.get_mut(byte) {
        *byte |= bit;
    }
}

fn is_extra(record: &[u8; RECORD], n: u32) -> bool {
    let (byte, bit) = place(usize::try_from(n).unwrap_or(usize::MAX));
    record.get(byte).is_some_and(|byte| byte & bit != 0)
}
