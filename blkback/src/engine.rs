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

use crate::protocol::{
    Body, ERROR, Limits, MAX_SEGMENTS, OKAY, Piece, Plan, RESPONSE, Refusal, Request, SEGMENT, discard,
    response,
};
use crate::storage::Storage;

/// Pages of memory for a ring's I/O: what the largest request needs, eight of the largest of Linux's.
pub const BUFFER_PAGES: usize = MAX_SEGMENTS;

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
    /// I/O is under way. The pieces are those of a read, which go to the guest at the end.
    Started { len: usize, pieces: Vec<Piece> },
    /// This is the answer.
    Done(i16),
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
        Ok(Self { ring, memory, storage, buffers, limits, sectors, open, hungry, refused: None })
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
        let mut reads: Vec<(u32, Vec<Piece>, Buffer)> = Vec::new();
        while let Some(completion) = self.storage.completed() {
            progress = true;
            let Ok(index) = u32::try_from(completion.token) else { continue };
            let Some(open) = self.at(index) else { continue };
            let Work::Started { len, pieces } = &mut open.work else { continue };
            let (len, pieces) = (*len, std::mem::take(pieces));
            match (completion.result, completion.buffer) {
                (Ok(read), Some(buffer)) if read == len && !pieces.is_empty() => {
                    reads.push((index, pieces, buffer));
                }
                (Ok(moved), _) if moved == len => open.work = Work::Done(OKAY),
                _ => open.work = Work::Done(ERROR),
            }
        }
        let mut ops = Vec::new();
        for (_, pieces, buffer) in &reads {
            let mut rest: &[u8] = buffer;
            for piece in pieces {
                let (part, behind) = rest.split_at_checked(piece.len).unwrap_or_default();
                rest = behind;
                ops.push(CopyOp::write(piece.gref, piece.offset, part));
            }
        }
        let mut statuses = copy(&mut self.memory, ops).into_iter();
        for (index, pieces, _) in reads {
            let done = all_done(&mut statuses, pieces.len());
            self.done(index, if done { OKAY } else { ERROR });
        }
        progress
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
                Body::Flush => self.start(index, Operation::Sync, 0, Vec::new()),
                Body::Discard { sector, count } => match discard(sector, count, &self.limits()) {
                    Ok((offset, len)) => {
                        self.start(index, Operation::Discard { offset, len }, 0, Vec::new());
                    }
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
        let mut fed: Vec<(u32, Plan, Buffer)> = Vec::new();
        while let Some(index) = self.hungry.front().copied() {
            let buffers = self.buffers.clone();
            let Some(Open { work, .. }) = self.at(index) else { break };
            let Work::Planned(plan) = work else { break };
            let Some(buffer) = buffers.take(plan.len) else { break };
            let plan = Plan { pieces: std::mem::take(&mut plan.pieces), ..*plan };
            self.hungry.pop_front();
            fed.push((index, plan, buffer));
        }
        let mut ops = Vec::new();
        for (_, plan, buffer) in fed.iter_mut().filter(|(_, plan, _)| plan.write) {
            let mut rest: &mut [u8] = buffer;
            for piece in &plan.pieces {
                let (part, behind) = rest.split_at_mut_checked(piece.len).unwrap_or_default();
                rest = behind;
                ops.push(CopyOp::read(piece.gref, piece.offset, part));
            }
        }
        let mut statuses = copy(&mut self.memory, ops).into_iter();
        for (index, plan, buffer) in fed {
            if plan.write {
                let count = plan.pieces.len();
                if all_done(&mut statuses, count) {
                    self.start(index, Operation::Write(plan.offset, buffer), plan.len, Vec::new());
                } else {
                    self.refuse(index, Refusal::Grant);
                }
            } else {
                self.start(index, Operation::Read(plan.offset, buffer), plan.len, plan.pieces);
            }
        }
    }

    fn start(&mut self, index: u32, operation: Operation, len: usize, pieces: Vec<Piece>) {
        let started = self.storage.start(operation, u64::from(index)).is_ok();
        if let Some(open) = self.at(index) {
            open.work = if started { Work::Started { len, pieces } } else { Work::Done(ERROR) };
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

/// Whether all of the next `count` copies were done; takes them all, whatever they are.
fn all_done(statuses: &mut impl Iterator<Item = bool>, count: usize) -> bool {
    statuses.take(count).filter(|done| !done).count() == 0
}

#[cfg(test)]
mod tests;
