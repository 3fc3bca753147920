//! Counters and slots.
//!
//! Page 0: `magic, version, slots` written once by State; `submitted` (calls made, by Logic), `completed` (calls answered,
//! by State), `attention` (bumped by State when it has something unasked), and one word for each side that says that it
//! sleeps and wants its doorbell rung. The words that are written often lie in cache lines of their own. `successor` and its
//! `page` say that State's contents are in another VM now: no call is answered any more, and Logic attaches there, and says
//! `left` here. Then the slots.

use core::sync::atomic::{Ordering, fence};

use crate::memory::Shared;

const MAGIC: u32 = u32::from_le_bytes(*b"XsLk");
const VERSION: u32 = 1;
const PAGE: usize = 4096;

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 4;
const AT_SLOTS: usize = 8;
const AT_SUBMITTED: usize = 64;
const AT_COMPLETED: usize = 128;
const AT_ATTENTION: usize = 192;
const AT_LOGIC_SLEEPS: usize = 256;
const AT_STATE_SLEEPS: usize = 320;
const AT_SUCCESSOR: usize = 384;
const AT_SUCCESSOR_PAGE: usize = 388;
const AT_LEFT: usize = 448;
/// Set in `successor` if there is one; the rest is its domid.
const IS_SUCCESSOR: u32 = 1 << 31;

/// Bytes of one slot: the largest call or answer, and its header.
pub const SLOT_LEN: usize = 8192;
const HEADER: usize = 24;
/// Most bytes of a body.
pub const MAX_BODY: usize = SLOT_LEN - HEADER;

/// Bytes of a region with so many slots.
#[must_use]
pub const fn region_len(slots: usize) -> usize {
    PAGE + slots * SLOT_LEN
}

/// What Logic asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CallKind {
    /// Logic has just started: forget the socket lines of its predecessor, tell all ring lines.
    Attach = 1,
    /// A new socket line; `line` is the domid that its client acts as, or `OPERATOR`. Answered by `Opened` or `Drop`.
    Open = 2,
    /// A line has ended.
    Close = 3,
    /// One request; the body is `encode_request`'s.
    Request = 4,
    /// The body are bytes of a message that is not complete yet. Answered by a `Packet` for each that now is.
    Stash = 5,
    /// The body are bytes of replies that the client does not take at the moment. State keeps them.
    Unsent = 6,
    /// The client takes bytes again. Answered by what was unsent, as `Raw`, and by messages.
    Writable = 7,
    /// What is there to deliver, on any line?
    Take = 8,
    /// A guest has taken bytes out of its ring (`rsp_cons`).
    Progress = 9,
    /// A guest asked for a new start of its ring: both indices are 0 now.
    Reset = 10,
    /// A ring is mapped; `req_cons` and `rsp_cons` (here: the producer of responses) are what the page says.
    Mapped = 11,
    /// A ring cannot be mapped, or its guest has broken the protocol: it is not served until it is introduced again.
    Broken = 12,
    /// Without Xen only: domain `line` is new (`req_cons` 1), has shut down (2), is there when Logic starts (3), or is gone
    /// (0); `rsp_cons` 1: more such calls of the same look follow.
    Domain = 13,
    /// From a State to its successor only: the body are bytes of its contents. `line` is 1 in the last one, whose body is empty
    /// and whose `req_cons` and `rsp_cons` are the two halves of a sum of all bytes. Answered by nothing, or by a `Drop` that
    /// says why not.
    Contents = 14,
}

impl CallKind {
    fn from_u32(kind: u32) -> Option<Self> {
        use CallKind::{
            Attach, Broken, Close, Contents, Domain, Mapped, Open, Progress, Request, Reset, Stash, Take,
            Unsent, Writable,
        };
        [
            Attach, Open, Close, Request, Stash, Unsent, Writable, Take, Progress, Reset, Mapped, Broken,
            Domain, Contents,
        ]
        .into_iter()
        .find(|k| *k as u32 == kind)
    }
}

/// The header of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What is asked for.
    pub kind: CallKind,
    /// On which line.
    pub line: u32,
    /// Rings: how far the ring of requests is read once this call has been answered.
    pub req_cons: u32,
    /// Rings: how far the guest has read the ring of responses.
    pub rsp_cons: u32,
}

/// The header of an answer, with the call's kind and line again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Of which call.
    pub kind: CallKind,
    /// On which line.
    pub line: u32,
    /// How far the line's ring is read, as the call said.
    pub req_cons: u32,
    /// State has more to deliver: `Take` it.
    pub more: bool,
    /// Bytes of records in the body.
    pub len: usize,
}

/// The region is not a link of this version, or is smaller than it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotALink;

/// The other side wrote what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation(pub &'static str);

fn slot_at(slots: u32, number: u32) -> usize {
    let index = usize::try_from(number % slots.max(1)).unwrap_or(0);
    PAGE + index * SLOT_LEN
}

/// Logic's end.
#[derive(Debug)]
pub struct Caller<M: Shared> {
    memory: M,
    slots: u32,
    submitted: u32,
    collected: u32,
}

impl<M: Shared> Caller<M> {
    /// Takes the region over. A predecessor's calls may still be under way: `settled` says when they are all answered.
    ///
    /// # Errors
    /// The region is none of ours.
    pub fn attach(memory: M) -> Result<Self, NotALink> {
        let slots = memory.load(AT_SLOTS);
        let len = usize::try_from(slots).map(region_len).unwrap_or(usize::MAX);
        // A power of two, so that the counters may wrap.
        if memory.load(AT_MAGIC) != MAGIC
            || memory.load(AT_VERSION) != VERSION
            || !slots.is_power_of_two()
            || slots > 1024
            || memory.size() < len
        {
            return Err(NotALink);
        }
        let submitted = memory.load(AT_SUBMITTED);
        Ok(Self { memory, slots, submitted, collected: submitted })
    }

    /// Whether everything that a predecessor asked for is answered.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.memory.load(AT_COMPLETED) == self.memory.load(AT_SUBMITTED)
    }

    /// Calls whose answers have not been collected.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.submitted.wrapping_sub(self.collected)
    }

    /// Whether another call fits into the first half of the slots. The second half is for calls that follow from answers.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.under_way() < (self.slots / 2).max(1)
    }

    /// Makes a call.
    ///
    /// # Errors
    /// A body that is too long, or no slot free.
    pub fn submit(&mut self, call: &Call, body: &[u8]) -> Result<(), Violation> {
        if self.under_way() >= self.slots {
            return Err(Violation("more calls than slots"));
        }
        let Some(len) = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY) else {
            return Err(Violation("a call's body is too long"));
        };
        let at = slot_at(self.slots, self.submitted);
        write_header(&self.memory, at, [call.kind as u32, call.line, len, call.req_cons, call.rsp_cons, 0]);
        self.memory.write(at + HEADER, body);
        self.submitted = self.submitted.wrapping_add(1);
        self.memory.store(AT_SUBMITTED, self.submitted);
        Ok(())
    }

    /// Whether State sleeps and must be woken for what was submitted.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.memory.load(AT_STATE_SLEEPS) != 0
    }

    /// The next answer, if it is there; its records are copied to `body`.
    ///
    /// # Errors
    /// State wrote what cannot be.
    pub fn collect(&mut self, body: &mut [u8; MAX_BODY]) -> Result<Option<Answer>, Violation> {
        if self.collected == self.submitted || self.collected == self.memory.load(AT_COMPLETED) {
            return Ok(None);
        }
        let at = slot_at(self.slots, self.collected);
        let [kind, line, len, more, req_cons, _] = read_header(&self.memory, at);
        let kind = CallKind::from_u32(kind).ok_or(Violation("an answer to no call"))?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let part = body.get_mut(..len).ok_or(Violation("an answer that is too long"))?;
        self.memory.read(at + HEADER, part);
        self.collected = self.collected.wrapping_add(1);
        Ok(Some(Answer { kind, line, req_cons, more: more != 0, len }))
    }

    /// Whether there is an answer to collect.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.collected != self.memory.load(AT_COMPLETED)
    }

    /// Changes when State has something unasked.
    #[must_use]
    pub fn attention(&self) -> u32 {
        self.memory.load(AT_ATTENTION)
    }

    /// Where State's contents are now, if not here any more: a domid, and the grant of the page that says more (`Directory`).
    #[must_use]
    pub fn successor(&self) -> Option<(u16, u32)> {
        let domid = self.memory.load(AT_SUCCESSOR);
        let [low, high, ..] = domid.to_le_bytes();
        (domid & IS_SUCCESSOR != 0)
            .then(|| (u16::from_le_bytes([low, high]), self.memory.load(AT_SUCCESSOR_PAGE)))
    }

    /// Says that this side uses the memory no more.
    pub fn leave(&self) {
        self.memory.store(AT_LEFT, 1);
    }

    /// Says whether this side sleeps. After `true`, look again (`collect`, `attention`) before really sleeping.
    pub fn sleeps(&self, yes: bool) {
        self.memory.store(AT_LOGIC_SLEEPS, yes.into());
        fence(Ordering::SeqCst);
    }
}

/// State's end.
#[derive(Debug)]
pub struct Answerer<M: Shared> {
    memory: M,
    slots: u32,
    completed: u32,
    current: Option<Call>,
}

impl<M: Shared> Answerer<M> {
    /// Makes a region of zeroes a link with as many slots as fit.
    #[must_use]
    pub fn create(memory: M) -> Self {
        let fit = memory.size().saturating_sub(PAGE) / SLOT_LEN;
        // Rounded down to a power of two, so that the counters may wrap.
        let slots =
            u32::try_from(fit.checked_ilog2().map_or(1, |bits| 1_usize << bits)).unwrap_or(1).min(1024);
        memory.store(AT_SLOTS, slots);
        memory.store(AT_VERSION, VERSION);
        memory.store(AT_MAGIC, MAGIC);
        Self { memory, slots, completed: 0, current: None }
    }

    /// The region.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// Whether there is a call.
    #[must_use]
    pub fn has_call(&self) -> bool {
        self.memory.load(AT_SUBMITTED) != self.completed
    }

    /// The next call; its body is copied to `body`. Answer it before asking for the next.
    ///
    /// # Errors
    /// What Logic wrote cannot be; the call counts as answered by nothing.
    pub fn next_call<'a>(
        &mut self,
        body: &'a mut [u8; MAX_BODY],
    ) -> Result<Option<(Call, &'a [u8])>, Violation> {
        let waiting = self.memory.load(AT_SUBMITTED).wrapping_sub(self.completed);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.slots {
            // Go on from where it says to be: what lies between cannot be known.
            self.completed = self.completed.wrapping_add(waiting);
            self.memory.store(AT_COMPLETED, self.completed);
            return Err(Violation("more calls than slots"));
        }
        let at = slot_at(self.slots, self.completed);
        let [kind, line, len, req_cons, rsp_cons, _] = read_header(&self.memory, at);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let (Some(kind), Some(part)) = (CallKind::from_u32(kind), body.get_mut(..len)) else {
            self.current = Some(Call { kind: CallKind::Take, line: 0, req_cons: 0, rsp_cons: 0 });
            self.answer(&[], false);
            return Err(Violation("a call of no known kind or too long"));
        };
        self.memory.read(at + HEADER, part);
        let call = Call { kind, line, req_cons, rsp_cons };
        self.current = Some(call);
        Ok(Some((call, part)))
    }

    /// Answers the current call with records. Longer ones than `MAX_BODY` do not exist (`RecordWriter`).
    pub fn answer(&mut self, records: &[u8], more: bool) {
        let Some(call) = self.current.take() else { return };
        let at = slot_at(self.slots, self.completed);
        let records = records.get(..records.len().min(MAX_BODY)).unwrap_or_default();
        let len = u32::try_from(records.len()).unwrap_or(0);
        self.memory.write(at + HEADER, records);
        write_header(&self.memory, at, [call.kind as u32, call.line, len, more.into(), call.req_cons, 0]);
        self.completed = self.completed.wrapping_add(1);
        self.memory.store(AT_COMPLETED, self.completed);
    }

    /// Sends Logic to another State: to the one in VM `domid`, by the directory that it granted as `page`.
    pub fn send_to(&self, domid: u16, page: u32) {
        self.memory.store(AT_SUCCESSOR_PAGE, page);
        self.memory.store(AT_SUCCESSOR, IS_SUCCESSOR | u32::from(domid));
        self.call_attention();
    }

    /// Whether Logic uses the memory no more.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.memory.load(AT_LEFT) != 0
    }

    /// Tells Logic that there is something unasked.
    pub fn call_attention(&self) {
        self.memory.store(AT_ATTENTION, self.memory.load(AT_ATTENTION).wrapping_add(1));
    }

    /// Whether Logic sleeps and must be woken for what was answered.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.memory.load(AT_LOGIC_SLEEPS) != 0
    }

    /// Says whether this side sleeps. After `true`, look again (`has_call`) before really sleeping.
    pub fn sleeps(&self, yes: bool) {
        self.memory.store(AT_STATE_SLEEPS, yes.into());
        fence(Ordering::SeqCst);
    }
}

fn write_header(memory: &impl Shared, at: usize, words: [u32; HEADER / 4]) {
    let mut bytes = [0; HEADER];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    memory.write(at, &bytes);
}

fn read_header(memory: &impl Shared, at: usize) -> [u32; HEADER / 4] {
    let mut bytes = [0; HEADER];
    memory.read(at, &mut bytes);
    let mut words = [0; HEADER / 4];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = chunk.try_into().map_or(0, u32::from_le_bytes);
    }
    words
}
