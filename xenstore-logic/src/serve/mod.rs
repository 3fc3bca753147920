//! The loop: bytes in, calls to State, answers, bytes out.

mod collect;
mod guest;
mod lines;
mod socket;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use ennead_xs_link::{Call, CallKind, Caller, MAX_BODY, MAX_LINES, OPERATOR, Shared, Violation};

use crate::handler::{self, Forgetful};
use lines::Lines;

/// Bytes read from a socket at once.
const INBOX: usize = 16 << 10;
/// Bytes that wait for one socket's write. More are written in several.
const OUTBOX: usize = 64 << 10;
/// Events looked at together.
pub const EVENTS: usize = 64;
/// Bytes of a guest's ring.
const RING: usize = crate::ring::RING as usize;

/// Who a socket's clients act as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The privileged operator.
    Operator,
    /// A domain, to try permissions and quotas without Xen.
    Domain(u16),
}

impl Actor {
    fn line(self) -> u32 {
        match self {
            Self::Operator => OPERATOR,
            Self::Domain(domid) => domid.into(),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A client has connected.
    Connected {
        /// The world's number for its socket.
        socket: u32,
        /// Who it acts as.
        actor: Actor,
    },
    /// A line's socket has bytes, or has ended.
    Readable(u32),
    /// A line's socket takes bytes again.
    Writable(u32),
    /// An event on a port.
    Port(u32),
    /// State rang.
    State,
    /// Without Xen: a domain's state has changed.
    Domain {
        /// Whose.
        domid: u16,
        /// 1: it is new, 2: it has shut down, 3: it was there when Logic started, 0: it is gone.
        state: u32,
        /// What else was seen at the same look follows.
        more: bool,
    },
}

/// What became of reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// Not now.
    Later,
    /// The client is gone.
    Closed,
}

/// The machine around the loop. Nothing here allocates once the loop runs.
pub trait World {
    /// A mapped ring page.
    type Page: Shared;

    /// Adds what happened to `events`, at most `EVENTS`; waits for something if `block`.
    ///
    /// # Errors
    /// Something without which Logic cannot go on.
    fn wait(&mut self, events: &mut Vec<Event>, block: bool) -> Result<(), Stop>;
    /// Waits until State rings (or anything else happens; that is seen at the next `wait`).
    ///
    /// # Errors
    /// State is gone.
    fn wait_for_state(&mut self) -> Result<(), Stop>;
    /// Rings State's doorbell.
    fn wake_state(&mut self);
    /// Whether it is worth while to look again `round` times before sleeping; gives way to others.
    fn spin(&mut self, round: u32) -> bool;
    /// Maps a guest's ring and binds its port; gives the page and our end of the port.
    fn map(&mut self, domid: u16, port: u32) -> Option<(Self::Page, u32)>;
    /// Gives a ring's port back; its page is dropped before.
    fn unbind(&mut self, port: u32);
    /// Sends an event.
    fn notify(&mut self, port: u32);
    /// The guest behind this port has broken its ring, so that its events mean nothing but that it may want a new start: let
    /// them cost no more than a few of them would. Or, if not `hushed`, the new start has come.
    fn hush(&mut self, port: u32, hushed: bool);
    /// From now on events of this socket are those of `line`.
    fn adopt(&mut self, socket: u32, line: u32) -> bool;
    /// Reads from a socket.
    fn read(&mut self, socket: u32, out: &mut [u8]) -> Moved;
    /// Writes to a socket.
    fn write(&mut self, socket: u32, data: &[u8]) -> Moved;
    /// Which events a line's socket shall have: to be read from, or (while replies wait) to be written to.
    fn choose(&mut self, socket: u32, line: u32, blocked: bool);
    /// Closes a socket.
    fn close(&mut self, socket: u32);
}

/// Why Logic ends; whoever started it starts it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// State is gone.
    StateGone,
    /// State's contents are in another VM now, whose domid and page these are: see `Serve::move_to`.
    Moved(u16, u32),
    /// State wrote what cannot be.
    Link(Violation),
    /// The machine refused something.
    World(&'static str),
}

impl From<Violation> for Stop {
    fn from(v: Violation) -> Self {
        Self::Link(v)
    }
}

/// The loop with its tables, which have their full size from the start.
#[derive(Debug)]
pub struct Serve<M: Shared, W: World, F: Forgetful> {
    caller: Caller<M>,
    world: W,
    memory: F,
    lines: Lines<W::Page>,
    events: Vec<Event>,
    /// Sockets whose line State has not named yet, in order.
    opening: Vec<u32>,
    inbox: Box<[u8]>,
    /// An answer's records.
    answer: Box<[u8; MAX_BODY]>,
    /// What a handler left.
    scratch: Box<[u8]>,
    /// Bytes for the socket of line `out_line`.
    out: Vec<u8>,
    out_line: u32,
    /// What waits in a ring.
    ring: Box<[u8]>,
    /// The last `attention` of State's that was followed.
    attention: u32,
    /// State has something to `Take`.
    more: bool,
    /// An answer is being acted on.
    acting: bool,
}

impl<M: Shared, W: World, F: Forgetful> Serve<M, W, F> {
    /// With its tables; `memory` is made last, since nothing may be allocated once it is.
    ///
    /// # Errors
    /// Those of `memory`.
    pub fn new<E>(caller: Caller<M>, world: W, memory: impl FnOnce() -> Result<F, E>) -> Result<Self, E> {
        let lines = Lines::new();
        let (events, opening) = (Vec::with_capacity(EVENTS), Vec::with_capacity(EVENTS));
        let (inbox, ring) = (vec![0; INBOX].into(), vec![0; RING].into());
        let (answer, scratch) = (Box::new([0; MAX_BODY]), vec![0; MAX_BODY].into());
        let out = Vec::with_capacity(OUTBOX);
        Ok(Self {
            memory: memory()?,
            caller,
            world,
            lines,
            events,
            opening,
            inbox,
            answer,
            scratch,
            out,
            out_line: MAX_LINES,
            ring,
            attention: 0,
            more: false,
            acting: false,
        })
    }

    /// Starts: State tells which rings there are.
    ///
    /// # Errors
    /// See `Stop`.
    pub fn attach(&mut self) -> Result<(), Stop> {
        let mut round = 0;
        while !self.caller.settled() {
            self.follow()?;
            if !self.world.spin(round) {
                self.world.wait_for_state()?;
            }
            round += 1;
        }
        self.attention = self.caller.attention();
        self.call(CallKind::Attach, 0, &[])?;
        self.settle()
    }

    /// State answers no more if its contents have moved.
    fn follow(&self) -> Result<(), Stop> {
        self.caller.successor().map_or(Ok(()), |(domid, page)| Err(Stop::Moved(domid, page)))
    }

    /// Attaches to another State, as if it had just started: what it was asked for lies in the rings still. Gives the end at the
    /// State of before. The world rings at the new one already.
    ///
    /// # Errors
    /// See `Stop`.
    pub fn move_to(&mut self, caller: Caller<M>) -> Result<Caller<M>, Stop> {
        for line in 0..MAX_LINES {
            self.disconnect(line);
            self.cut(line);
        }
        while self.lines.next().is_some() {}
        while let Some(socket) = self.opening.pop() {
            self.world.close(socket);
        }
        self.events.clear();
        self.out.clear();
        (self.out_line, self.more, self.acting) = (MAX_LINES, false, false);
        let before = core::mem::replace(&mut self.caller, caller);
        self.attach()?;
        Ok(before)
    }

    /// What is around the loop.
    pub const fn world(&mut self) -> &mut W {
        &mut self.world
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// See `Stop`.
    pub fn run(&mut self) -> Result<core::convert::Infallible, Stop> {
        loop {
            self.wait()?;
            self.turn()?;
        }
    }

    /// Handles what has happened and everything that follows from it, without waiting for anything to happen.
    ///
    /// # Errors
    /// See `Stop`.
    pub fn poll(&mut self) -> Result<(), Stop> {
        self.world.wait(&mut self.events, false)?;
        self.turn()?;
        while self.lines.queued() > 0 {
            self.turn()?;
        }
        Ok(())
    }

    /// One round: the events at hand, then each ring whose last request was answered in the round before. A ring has one request
    /// in a round, so that a guest whose next one is always there keeps nobody waiting.
    fn turn(&mut self) -> Result<(), Stop> {
        for i in 0..self.events.len() {
            let Some(event) = self.events.get(i).copied() else { break };
            self.handle(event)?;
        }
        self.events.clear();
        for _ in 0..self.lines.queued() {
            let Some(line) = self.lines.next() else { break };
            self.look_at_ring(line, false)?;
        }
        self.settle()
    }

    fn handle(&mut self, event: Event) -> Result<(), Stop> {
        match event {
            Event::Connected { socket, actor } => {
                if self.opening.len() == self.opening.capacity() {
                    self.settle()?;
                }
                self.opening.push(socket);
                self.call(CallKind::Open, actor.line(), &[])
            }
            Event::Readable(line) => self.read_socket(line),
            Event::Writable(line) => self.call(CallKind::Writable, line, &[]),
            Event::Port(port) => match self.lines.of_port(port) {
                Some(line) => self.look_at_ring(line, true),
                None => Ok(()),
            },
            Event::State => Ok(()),
            Event::Domain { domid, state, more } => {
                self.make_room()?;
                let (line, rsp_cons) = (domid.into(), more.into());
                let call = Call { kind: CallKind::Domain, line, req_cons: state, rsp_cons };
                self.submit(&call, 0)
            }
        }
    }

    /// Until nothing is under way and State has nothing more.
    fn settle(&mut self) -> Result<(), Stop> {
        loop {
            while self.caller.under_way() > 0 {
                self.collect_one()?;
            }
            self.flush()?;
            let attention = self.caller.attention();
            if attention != self.attention {
                self.attention = attention;
                self.more = true;
            }
            if self.caller.under_way() == 0 {
                if !self.more {
                    return Ok(());
                }
                self.more = false;
                self.call(CallKind::Take, 0, &[])?;
            }
        }
    }

    /// Waits for events: looks for a while, then sleeps.
    fn wait(&mut self) -> Result<(), Stop> {
        if self.lines.queued() > 0 {
            return self.world.wait(&mut self.events, false);
        }
        let mut round = 0;
        loop {
            self.world.wait(&mut self.events, false)?;
            if !self.events.is_empty() || self.caller.attention() != self.attention {
                return Ok(());
            }
            if !self.world.spin(round) {
                break;
            }
            round += 1;
        }
        self.caller.sleeps(true);
        let result = if self.caller.attention() == self.attention {
            self.world.wait(&mut self.events, true)
        } else {
            Ok(())
        };
        self.caller.sleeps(false);
        result
    }

    /// A call whose body is `body`.
    fn call(&mut self, kind: CallKind, line: u32, body: &[u8]) -> Result<(), Stop> {
        self.make_room()?;
        let call = self.header(kind, line);
        self.caller.submit(&call, body)?;
        self.told(&call);
        self.wake();
        Ok(())
    }

    /// A call whose body are the first `len` bytes of `scratch`.
    fn submit(&mut self, call: &Call, len: usize) -> Result<(), Stop> {
        self.caller.submit(call, self.scratch.get(..len).unwrap_or_default())?;
        self.told(call);
        self.wake();
        Ok(())
    }

    /// State takes how far responses were read from such calls.
    fn told(&mut self, call: &Call) {
        if let CallKind::Request | CallKind::Stash | CallKind::Progress | CallKind::Reset = call.kind {
            if let Some(guest) = self.lines.guest(call.line) {
                guest.told = call.rsp_cons;
            }
        }
    }

    fn header(&self, kind: CallKind, line: u32) -> Call {
        let (req_cons, rsp_cons) = self.lines.positions(line);
        Call { kind, line, req_cons, rsp_cons }
    }

    fn wake(&mut self) {
        if self.caller.must_wake() {
            self.world.wake_state();
        }
    }

    /// Calls that do not follow from an answer use half of the slots; the others are for those that do (`collect`).
    fn make_room(&mut self) -> Result<(), Stop> {
        while !self.acting && !self.caller.has_room() {
            self.collect_one()?;
        }
        Ok(())
    }
}
