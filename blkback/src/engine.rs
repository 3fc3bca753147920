//! One ring: requests are taken in order and their I/O is under way all at once; responses go out in the order of the requests,
//! each after its commit record, so that a successor can go on from any instruction (see `ennead_backend::ring`).
//!
//! Nothing is acknowledged that only we have: a write's response goes out when the disk has it, and a redone request does what
//! it did before, since the guest's pages are the guest's until the response.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ennead_backend::memory::GuestMemory;
use ennead_backend::ring::{Committed, Ring, Violation};
use ennead_os::{Buffer, Buffers, Operation};
use ennead_xen::{CopyOp, SharedPage};

use crate::ahead::Ahead;
use crate::protocol::{
    Body, ERROR, Limits, MAX_SEGMENTS, OKAY, Piece, Plan, RESPONSE, Refusal, Request, SEGMENT, discard,
    response,
};
use crate::storage::Storage;

/// Pages of memory for a ring's I/O: twice what the largest request needs, or sixteen of the largest of Linux's, so that some are
/// copied while the disk has others.
pub const BUFFER_PAGES: usize = 2 * MAX_SEGMENTS;

/// The frontend must be disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It broke the ring.
    #[error(transparent)]
    Ring(#[from] Violation),
    /// The commit record is not one of ours.
    #[error("the commit record was forged")]
    Record,
}

/// A request that was taken and is not answered.
#[derive(Debug)]
struct Open {
    id: u64,
    operation: u8,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// It has no buffer yet.
    Planned(Plan),
    /// I/O is under way.
    Started(Started),
    /// This is the answer.
    Done(i16),
}

/// What is under way.
#[derive(Debug)]
struct Started {
    offset: u64,
    /// Bytes that are to be moved for the guest.
    len: usize,
    /// Bytes that are read beyond them.
    more: usize,
    /// Those of a read, which go to the guest at the end.
    pieces: Vec<Piece>,
}

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Whether anything was.
    pub progress: bool,
    /// Whether the frontend wants an event.
    pub notify: bool,
}

/// One ring, with slots of `SLOT` bytes: [`crate::protocol::SLOT_64`] or [`crate::protocol::SLOT_32`].
#[derive(Debug)]
pub struct Engine<P, M, S, const SLOT: usize> {
    ring: Ring<P, SLOT>,
    memory: M,
    storage: S,
    buffers: Buffers,
    limits: Limits,
    /// The disk's size, which may grow.
    sectors: Arc<AtomicU64>,
    /// From the ring's `rsp_prod` to its `req_cons`.
    open: VecDeque<Open>,
    /// Indices of those that have no buffer yet, in order.
    hungry: VecDeque<u32>,
    /// If this ring is the only one to its disk.
    ahead: Option<Ahead>,
    refused: Option<Refusal>,
}

impl<P: SharedPage, M: GuestMemory, S: Storage, const SLOT: usize> Engine<P, M, S, SLOT> {
    /// Takes over a ring, fresh or left by a predecessor, whose last committed response is published. The frontend must be
    /// notified.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn attach(page: P, memory: M, storage: S, buffers: Buffers, limits: Limits) -> Result<Self, Broken> {
        let (mut ring, committed) = Ring::attach(page)?;
        if let Some(Committed { count, body }) = committed {
            let answer: [u8; RESPONSE] = body.first_chunk().copied().ok_or(Broken::Record)?;
            if count != 1 {
                return Err(Broken::Record);
            }
            ring.publish(&answer, &[answer]);
        }
        let (open, hungry) = (VecDeque::new(), VecDeque::new());
        let sectors = Arc::new(AtomicU64::new(limits.sectors));
        Ok(Self { ring, memory, storage, buffers, limits, sectors, open, hungry, ahead: None, refused: None })
    }

    /// Nobody but this ring's frontend writes to the disk: what is read ahead stays right.
    pub fn read_ahead(&mut self) {
        self.ahead = Some(Ahead::default());
    }

    /// The disk's size, in units of 512 bytes; a larger one counts from the next request on.
    #[must_use]
    pub fn sectors(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sectors)
    }

    /// What the disk allows, for requests that are there already: a frontend knows of a size only after us.
    fn limits(&self) -> Limits {
        Limits { sectors: self.sectors.load(Ordering::Acquire), ..self.limits }
    }

    /// The storage, to wait on.
    pub fn storage(&mut self) -> &mut S {
        &mut self.storage
    }

    /// Why a request was refused since this was last asked, if any was: the last one.
    pub fn take_refused(&mut self) -> Option<Refusal> {
        self.refused.take()
    }

    /// Whether a request was taken that is not answered.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a request waits that is not taken yet.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn is_asked(&self) -> Result<bool, Broken> {
        Ok(self.ring.waiting()? > 0)
    }

    /// Asks for an event with the next request; whether one waits already.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn final_check(&mut self) -> Result<bool, Broken> {
        Ok(self.ring.final_check_for_requests()?)
    }

    /// Does all that can be done now.
    ///
    /// # Errors
    /// The frontend must be disconnected.
    pub fn turn(&mut self) -> Result<Turn, Broken> {
        let finished = self.finish();
        let taken = self.take()?;
        let turn = self.answer();
        Ok(Turn { progress: finished || taken || turn.progress, ..turn })
    }

    /// The same, but takes no more requests; `None` when all that were taken are answered.
    pub fn wind_up(&mut self) -> Option<Turn> {
        self.finish();
        let turn = self.answer();
        (turn.progress || !self.open.is_empty()).then_some(turn)
    }

    /// Goes on with what was taken, and publishes the answers that are next.
    fn answer(&mut self) -> Turn {
        self.feed();
        let published = self.publish();
        Turn { progress: published, notify: published && self.ring.needs_notify() }
    }

    fn at(&mut self, index: u32) -> Option<&mut Open> {
        let place = index.wrapping_sub(self.ring.rsp_prod());
        self.open.get_mut(usize::try_from(place).ok()?)
    }

    fn done(&mut self, index: u32, status: i16) {
        if let Some(open) = self.at(index) {
            open.work = Work::Done(status);
        }
    }

    fn refuse(&mut self, index: u32, refusal: Refusal) {
        self.refused = Some(refusal);
        self.done(index, refusal.status());
    }

    /// Takes what I/O has ended; what was read goes to the guest, all in one call.
    fn finish(&mut self) -> bool {
        let mut progress = false;
        let mut reads: Vec<(u32, Started, Buffer)> = Vec::new();
        while let Some(completion) = self.storage.completed() {
            progress = true;
            let Ok(index) = u32::try_from(completion.token) else { continue };
            let Some(open) = self.at(index) else { continue };
            let Work::Started(_) = &open.work else { continue };
            let Work::Started(started) = std::mem::replace(&mut open.work, Work::Done(ERROR)) else {
                continue;
            };
            match (completion.result, completion.buffer) {
                (Ok(read), Some(buffer))
                    if read == started.len + started.more && !started.pieces.is_empty() =>
                {
                    reads.push((index, started, buffer));
                }
                (Ok(moved), _) if moved == started.len && started.pieces.is_empty() => {
                    open.work = Work::Done(OKAY);
                }
                // What was asked for may be readable though.
                _ if started.more > 0 => self.read_alone(index, started),
                _ => {}
            }
        }
        let mut ops = Vec::new();
        for (_, started, buffer) in &reads {
            ops.extend(to_guest(&started.pieces, buffer));
        }
        let mut statuses = copy(&mut self.memory, ops).into_iter();
        for (index, started, buffer) in reads {
            let done = all_done(&mut statuses, started.pieces.len());
            self.done(index, if done { OKAY } else { ERROR });
            if let Some(ahead) = self.ahead.as_mut().filter(|_| started.more > 0) {
                ahead.keep(started.offset, buffer);
            }
        }
        progress
    }

    /// Reads again what could not be read together with more.
    fn read_alone(&mut self, index: u32, Started { offset, len, pieces, .. }: Started) {
        self.ahead.iter_mut().for_each(Ahead::forget);
        if let Some(open) = self.at(index) {
            open.work = Work::Planned(Plan { write: false, offset, len, pieces });
            self.hungry.push_front(index);
        }
    }

    /// Takes all requests that there are; the segments of indirect ones in one call.
    fn take(&mut self) -> Result<bool, Broken> {
        let mut progress = false;
        let mut indirect = Vec::new();
        while let Some((index, slot)) = self.ring.take()? {
            progress = true;
            let Request { id, operation, body } = Request::parse(&slot);
            // Until it is known better.
            self.open.push_back(Open { id, operation, work: Work::Done(ERROR) });
            match body {
                Body::Transfer(transfer, segments) => {
                    let plan = transfer.plan(&segments, &self.limits());
                    self.plan(index, plan);
                }
                Body::Indirect { transfer, gref, count } => indirect.push((index, transfer, gref, count)),
                Body::Flush => self.start_alone(index, Operation::Sync),
                Body::Discard { sector, count } => match discard(sector, count, &self.limits()) {
                    Ok((offset, len)) => self.start_alone(index, Operation::Discard { offset, len }),
                    Err(refusal) => self.refuse(index, refusal),
                },
                Body::Wrong(refusal) => self.refuse(index, refusal),
            }
        }
        let mut descriptions: Vec<Vec<u8>> =
            indirect.iter().map(|(.., count)| vec![0; count * SEGMENT]).collect();
        let grefs = indirect.iter().map(|(_, _, gref, _)| *gref);
        let ops = descriptions.iter_mut().zip(grefs).map(|(to, gref)| CopyOp::read(gref, 0, to)).collect();
        let statuses = copy(&mut self.memory, ops);
        for (((index, transfer, ..), description), done) in indirect.iter().zip(&descriptions).zip(statuses) {
            let segments = description.chunks_exact(SEGMENT).filter_map(|segment| segment.first_chunk());
            let plan = if done { transfer.plan(segments, &self.limits()) } else { Err(Refusal::Grant) };
            self.plan(*index, plan);
        }
        Ok(progress)
    }

    fn plan(&mut self, index: u32, plan: Result<Plan, Refusal>) {
        match plan {
            Ok(plan) => {
                match &mut self.ahead {
                    Some(ahead) if plan.write => ahead.forget(),
                    Some(ahead) => ahead.note(&plan),
                    None => {}
                }
                if let Some(open) = self.at(index) {
                    open.work = Work::Planned(plan);
                    self.hungry.push_back(index);
                }
            }
            Err(refusal) => self.refuse(index, refusal),
        }
    }

    /// Gives buffers to those that wait for one, oldest first, and starts their I/O; what is to be written comes from the
    /// guest in one call.
    fn feed(&mut self) {
        let mut fed: Vec<(u32, Plan, Buffer, usize)> = Vec::new();
        while let Some(index) = self.hungry.front().copied() {
            let Some(Open { work, .. }) = self.at(index) else { break };
            let Work::Planned(plan) = std::mem::replace(work, Work::Done(ERROR)) else { break };
            if self.answer_at_once(index, &plan) {
                self.hungry.pop_front();
                continue;
            }
            let sizes = [self.more(&plan), 0];
            let taken = sizes.into_iter().find_map(|more| Some((self.buffers.take(plan.len + more)?, more)));
            let Some((buffer, more)) = taken else {
                if let Some(open) = self.at(index) {
                    open.work = Work::Planned(plan);
                }
                break;
            };
            self.hungry.pop_front();
            fed.push((index, plan, buffer, more));
        }
        let mut ops = Vec::new();
        for (_, plan, buffer, _) in fed.iter_mut().filter(|(_, plan, ..)| plan.write) {
            let mut rest: &mut [u8] = buffer;
            for piece in &plan.pieces {
                let (part, behind) = rest.split_at_mut_checked(piece.len).unwrap_or_default();
                rest = behind;
                ops.push(CopyOp::read(piece.gref, piece.offset, part));
            }
        }
        let mut statuses = copy(&mut self.memory, ops).into_iter();
        for (index, Plan { write, offset, len, pieces }, buffer, more) in fed {
            if !write {
                let started = Started { offset, len, more, pieces };
                self.start(index, Operation::Read(offset, buffer), started);
            } else if all_done(&mut statuses, pieces.len()) {
                let started = Started { offset, len, more, pieces: Vec::new() };
                self.start(index, Operation::Write(offset, buffer), started);
            } else {
                self.refuse(index, Refusal::Grant);
            }
        }
    }

    /// Whether what is asked for was read ahead.
    fn answer_at_once(&mut self, index: u32, plan: &Plan) -> bool {
        let found = self.ahead.as_ref().filter(|_| !plan.write).and_then(|ahead| ahead.find(plan));
        let Some(bytes) = found else { return false };
        let ops = to_guest(&plan.pieces, bytes).collect();
        let done = copy(&mut self.memory, ops).into_iter().all(|done| done);
        self.done(index, if done { OKAY } else { ERROR });
        true
    }

    /// Bytes that are to be read beyond a request: while there are others, the disk is not waited for anyway.
    fn more(&mut self, plan: &Plan) -> usize {
        let sectors = self.limits().sectors;
        match &mut self.ahead {
            Some(ahead) if !plan.write && self.open.len() == 1 => ahead.begin(plan, sectors),
            _ => 0,
        }
    }

    /// Starts what moves no bytes.
    fn start_alone(&mut self, index: u32, operation: Operation) {
        self.ahead.iter_mut().for_each(Ahead::forget);
        self.start(index, operation, Started { offset: 0, len: 0, more: 0, pieces: Vec::new() });
    }

    fn start(&mut self, index: u32, operation: Operation, started: Started) {
        let is_started = self.storage.start(operation, u64::from(index)).is_ok();
        if let Some(open) = self.at(index) {
            open.work = if is_started { Work::Started(started) } else { Work::Done(ERROR) };
        }
    }

    /// Publishes the answers that are next.
    fn publish(&mut self) -> bool {
        let mut progress = false;
        while let Some(Open { id, operation, work: Work::Done(status) }) = self.open.front() {
            let answer = response(*id, *operation, *status);
            self.open.pop_front();
            self.ring.publish(&answer, &[answer]);
            progress = true;
        }
        progress
    }
}

/// Which of the copies were done. What Linux refuses as a whole was not.
fn copy(memory: &mut impl GuestMemory, mut ops: Vec<CopyOp<'_>>) -> Vec<bool> {
    if ops.is_empty() {
        return Vec::new();
    }
    let called = memory.copy(&mut ops).is_ok();
    ops.iter().map(|op| called && op.is_done()).collect()
}

/// Copies of a buffer's first bytes to a guest's pieces.
fn to_guest<'b>(pieces: &'b [Piece], buffer: &'b [u8]) -> impl Iterator<Item = CopyOp<'b>> {
    pieces.iter().scan(buffer, |rest, piece| {
        let (part, behind) = rest.split_at_checked(piece.len).unwrap_or_default();
        *rest = behind;
        Some(CopyOp::write(piece.gref, piece.offset, part))
    })
}

/// Whether all of the next `count` copies were done; takes them all, whatever they are.
fn all_done(statuses: &mut impl Iterator<Item = bool>, count: usize) -> bool {
    statuses.take(count).filter(|done| !done).count() == 0
}

#[cfg(test)]
mod tests;
