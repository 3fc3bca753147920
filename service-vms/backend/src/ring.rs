//! The backend's end of a shared ring (xen/include/public/io/ring.h), made so that another process can go on where this one
//! was killed.
//!
//! A response overwrites the slot of its request before the guest sees it, so a backend that dies in between has destroyed
//! what its successor needs. Therefore [`Ring::publish`] works in three steps: a **commit record** into the padding of the
//! ring's header, which frontends only zero; the responses into their slots; `rsp_prod`. Cut anywhere, the ring says what
//! is to be done: [`Ring::attach`] gives a record that was complete (the slots that it covers are to be published
//! again from it), and all later requests are untouched.
//!
//! ```text
//! byte  0 req_prod   4 req_event   8 rsp_prod   12 rsp_event     the protocol's
//!      20 number: index of the first response it covers, plus 1. Written last: the record counts if it is rsp_prod + 1
//!      24 count of responses
//!      28 what they are, in the backend's own words: RECORD bytes
//!      64 slots
//! ```
//!
//! The guest can write all of this at any time, and only harms itself: indices are checked or taken from our own memory, slots
//! are copied once, and a forged record becomes responses in the guest's own ring.

use std::sync::atomic::{Ordering, fence};

use ennead_xen::SharedPage;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
const RECORD_NUMBER: usize = 20;
const RECORD_COUNT: usize = 24;
const RECORD_BODY: usize = 28;
const SLOTS: usize = 64;

/// Bytes of a record's body.
pub const RECORD: usize = SLOTS - RECORD_BODY;

/// The frontend broke the ring's protocol: it must be disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More requests than slots.
    #[error("req_prod {req_prod} is more than {slots} ahead of rsp_prod {rsp_prod}")]
    Overflow {
        /// As the guest wrote it.
        req_prod: u32,
        /// Ours.
        rsp_prod: u32,
        /// Slots of the ring.
        slots: u32,
    },
    /// The shared memory has no room for a slot.
    #[error("the ring has no room for a slot")]
    NoRoom,
}

/// Responses that a predecessor committed and may not have shown: `count` of them from `rsp_prod` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// How many; at least 1, and at most the requests that there are.
    pub count: u32,
    /// The record's body, as it was given to `publish`, with zeroes behind.
    pub body: [u8; RECORD],
}

/// How many slots a ring has: as many as fit behind the header, down to a power of two (`__RING_SIZE`).
#[must_use]
pub fn slots(bytes: usize, slot: usize) -> Option<u32> {
    let fit = bytes.checked_sub(SLOTS)?.checked_div(slot)?;
    u32::try_from(fit).ok().filter(|fit| *fit > 0).map(|fit| 1 << fit.ilog2())
}

/// A ring with slots of `SLOT` bytes, in one or more pages side by side.
///
/// blkif: 112 (64-bit guests) or 108 (32-bit ones). netif: 12 to transmit, 8 to receive.
#[derive(Debug)]
pub struct Ring<P, const SLOT: usize> {
    page: P,
    slots: u32,
    req_cons: u32,
    rsp_prod: u32,
    /// `rsp_prod` when it was last asked whether to notify.
    asked: u32,
}

impl<P: SharedPage, const SLOT: usize> Ring<P, SLOT> {
    /// Takes over a ring as the frontend made it or a predecessor left it. What the predecessor had committed must be
    /// published before anything is taken, and the frontend be notified: it may have been waiting meanwhile.
    ///
    /// # Errors
    /// The ring is broken, or too small for a slot.
    pub fn attach(page: P) -> Result<(Self, Option<Committed>), Violation> {
        let slots = slots(page.size(), SLOT).ok_or(Violation::NoRoom)?;
        let rsp_prod = page.load(RSP_PROD);
        let ring = Self { page, slots, req_cons: rsp_prod, rsp_prod, asked: rsp_prod };
        let open = ring.open_requests()?;
        let mut committed = None;
        if ring.page.load(RECORD_NUMBER) == rsp_prod.wrapping_add(1) {
            let mut body = [0; RECORD];
            ring.page.read(RECORD_BODY, &mut body);
            let count = ring.page.load(RECORD_COUNT);
            committed = Some(Committed { count, body }).filter(|c| (1..=open).contains(&c.count));
        }
        Ok((ring, committed))
    }

    /// Number of slots, a power of two.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Index of the next request to take.
    #[must_use]
    pub const fn req_cons(&self) -> u32 {
        self.req_cons
    }

    /// Index of the next response to publish.
    #[must_use]
    pub const fn rsp_prod(&self) -> u32 {
        self.rsp_prod
    }

    /// Requests from `rsp_prod` on, taken or not.
    fn open_requests(&self) -> Result<u32, Violation> {
        let (req_prod, rsp_prod) = (self.page.load(REQ_PROD), self.rsp_prod);
        let open = req_prod.wrapping_sub(rsp_prod);
        if open > self.slots || self.req_cons.wrapping_sub(rsp_prod) > open {
            return Err(Violation::Overflow { req_prod, rsp_prod, slots: self.slots });
        }
        Ok(open)
    }

    /// How many requests wait to be taken.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn waiting(&self) -> Result<u32, Violation> {
        Ok(self.open_requests()?.wrapping_sub(self.req_cons.wrapping_sub(self.rsp_prod)))
    }

    /// Takes the next request: its index, and its bytes, copied once.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn take(&mut self) -> Result<Option<(u32, [u8; SLOT])>, Violation> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        let index = self.req_cons;
        self.req_cons = index.wrapping_add(1);
        Ok(Some((index, self.slot(index))))
    }

    /// The bytes of a slot as they are now, without taking it.
    pub fn slot(&self, index: u32) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        self.page.read(self.offset(index), &mut bytes);
        bytes
    }

    /// Publishes the responses to the oldest open requests, all or (if we are killed) none: the guest sees them together, and
    /// `record` (at most [`RECORD`] bytes; what is more is cut off) must say enough to make them again. The requests must have been
    /// taken, but for those of [`Committed`]; a response has at most `SLOT` bytes.
    pub fn publish<R: AsRef<[u8]>>(&mut self, record: &[u8], responses: &[R]) {
        let Some(count) =
            u32::try_from(responses.len()).ok().filter(|count| (1..=self.slots).contains(count))
        else {
            return;
        };
        // The number still belongs to the record before, which is of no more use: rsp_prod has passed it.
        // On x86, stores of one processor are seen in order; the fences keep the compiler from moving them.
        fence(Ordering::Release);
        let mut body = [0; RECORD];
        body.iter_mut().zip(record).for_each(|(to, from)| *to = *from);
        self.page.write(RECORD_BODY, &body);
        self.page.store(RECORD_COUNT, count);
        self.page.store(RECORD_NUMBER, self.rsp_prod.wrapping_add(1));
        fence(Ordering::Release);
        let mut index = self.rsp_prod;
        for response in responses {
            self.page.write(self.offset(index), response.as_ref());
            index = index.wrapping_add(1);
        }
        self.rsp_prod = index;
        // Those of a predecessor were never taken.
        if self.req_cons.wrapping_sub(index) > self.slots {
            self.req_cons = index;
        }
        self.page.store(RSP_PROD, index);
    }

    /// Whether the frontend wants an event for what was published since this was last asked (`..._AND_CHECK_NOTIFY`).
    pub fn needs_notify(&mut self) -> bool {
        // rsp_prod must be out before rsp_event is read, or both sides could wait for each other.
        fence(Ordering::SeqCst);
        let new = self.rsp_prod;
        let old = std::mem::replace(&mut self.asked, new);
        new.wrapping_sub(self.page.load(RSP_EVENT)) < new.wrapping_sub(old)
    }

    /// Asks for an event with the next request, then looks whether it has come already (`RING_FINAL_CHECK_FOR_REQUESTS`).
    /// After `false`, wait for the event.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn final_check_for_requests(&mut self) -> Result<bool, Violation> {
        self.final_check_for(1)
    }

    /// The same with so many requests at once, at least 1. Fewer may come without an event: wait for a bounded time only.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn final_check_for(&mut self, requests: u32) -> Result<bool, Violation> {
        self.page.store(REQ_EVENT, self.req_cons.wrapping_add(requests));
        fence(Ordering::SeqCst);
        self.waiting().map(|count| count >= requests)
    }

    fn offset(&self, index: u32) -> usize {
        let number = usize::try_from(index & (self.slots - 1)).unwrap_or_default();
        SLOTS + number * SLOT
    }
}

#[cfg(test)]
mod tests;
