//! Serves Logic: calls in, records out (`ennead_xs_link`). Keeps what belongs to a connection's transport and must outlive a
//! response: how far its ring is read and written, messages that are not complete, bytes that its client does not take.
//!
//! A ring moves only when State has committed: each call about a ring says how far the ring is read by it, and each record how
//! far it is written after it. The last records of each ring are kept: a new Logic gets them again, and writes the same bytes
//! to the same place.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use ennead_xs_link::{
    Call, CallKind, Head, MAX_BODY, MAX_LINES, OPERATOR, Record, RecordKind, RecordWriter, decode_request,
    encode_message,
};
use ennead_xs_wire::{HEADER_LEN, PAYLOAD_MAX};

use crate::{Conn, Identity, Notice, State};

mod carry;
mod line;

pub use carry::Loading;
use line::{Line, Ring, Socket, Transport};

/// Rings that one answer tells of: each makes Logic call back.
const CONNECTS: usize = 4;
/// Lines that one answer has records for: each can make Logic call back.
const DRAINED: usize = 64;

/// Whether there are clients without Xen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Logic may open sockets for anybody and tells of domains: development and tests.
    Process,
    /// Connections and domains come from Builder only.
    Xen,
}

/// State with its transports.
#[derive(Debug)]
pub struct Service {
    /// The contents.
    pub state: State,
    mode: Mode,
    lines: Vec<Option<Line>>,
    by_conn: BTreeMap<u32, u32>,
    /// Lines with something to deliver, each once.
    pending: VecDeque<u32>,
    /// Rings that Logic shall serve.
    connects: VecDeque<u32>,
    /// Rings that Logic shall let go.
    disconnects: VecDeque<u32>,
    /// Without Xen: domains that have shut down.
    shut_down: Vec<u16>,
    /// Rings whose request is held.
    held: Vec<u32>,
    /// Rings whose held request is answered.
    resumed: VecDeque<u32>,
    scratch: Box<[u8; MAX_BODY]>,
}

impl Service {
    /// Without connections.
    #[must_use]
    pub fn new(state: State, mode: Mode) -> Self {
        Self {
            state,
            mode,
            lines: Vec::new(),
            by_conn: BTreeMap::new(),
            pending: VecDeque::new(),
            connects: VecDeque::new(),
            disconnects: VecDeque::new(),
            shut_down: Vec::new(),
            held: Vec::new(),
            resumed: VecDeque::new(),
            scratch: Box::new([0; MAX_BODY]),
        }
    }

    /// Answers one call; says whether there is more to `Take`.
    pub fn handle(&mut self, call: &Call, body: &[u8], out: &mut RecordWriter) -> bool {
        out.clear();
        match call.kind {
            CallKind::Attach => self.attach(),
            CallKind::Open => self.open(call.line, out),
            CallKind::Domain => self.domain(call),
            CallKind::Take => self.take(out),
            CallKind::Close => self.close(call.line),
            CallKind::Request => self.request(call, body, out),
            CallKind::Stash => self.stash(call, body, out),
            CallKind::Unsent => self.unsent(call.line, body, out),
            CallKind::Writable => self.writable(call.line, out),
            CallKind::Mapped => self.mapped(call, out),
            CallKind::Progress => {
                self.note_rsp_cons(call);
                self.drain(call.line, out);
            }
            CallKind::Reset => self.reset(call.line),
            CallKind::Broken => self.broken(call.line),
            // Between States only (`handover`).
            CallKind::Contents => {}
        }
        self.gather()
    }

    /// The time, in milliseconds from any start: does what was held for now. Says whether there is anything to `Take`.
    pub fn tick(&mut self, now_ms: u64) -> bool {
        self.state.tick(now_ms);
        for number in core::mem::take(&mut self.held) {
            let Some(line) = self.line(number) else { continue };
            let conn = line.conn;
            if !self.state.ready(conn) {
                self.held.push(number);
            } else if let Some(body) = self.line(number).and_then(|line| line.held.take()) {
                self.execute(conn, &body);
                self.resumed.push_back(number);
            }
        }
        self.gather()
    }

    /// Whether a request is held: `tick` must come soon.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes up what State wants delivered; says whether there is anything. After every change that Logic did not ask for.
    pub fn gather(&mut self) -> bool {
        while let Some(notice) = self.state.next_notice() {
            match notice {
                Notice::Connect { conn, domid, port } => self.connect(conn, domid, port),
                Notice::Disconnect { conn, .. } => {
                    self.disconnects.extend(self.by_conn.remove(&conn.0));
                }
            }
        }
        while let Some(conn) = self.state.next_with_output() {
            if let Some(line) = self.by_conn.get(&conn.0).copied() {
                self.queue(line);
            }
        }
        let rings = self.connects.is_empty() && self.disconnects.is_empty() && self.resumed.is_empty();
        !(self.pending.is_empty() && rings)
    }

    fn line(&mut self, line: u32) -> Option<&mut Line> {
        self.lines.get_mut(usize::try_from(line).ok()?)?.as_mut()
    }

    fn queue(&mut self, number: u32) {
        let Some(line) =
            self.lines.get_mut(usize::try_from(number).unwrap_or(usize::MAX)).and_then(Option::as_mut)
        else {
            return;
        };
        if !line.queued && line.can_deliver() && (line.has_raw() || self.state.front(line.conn).is_some()) {
            line.queued = true;
            self.pending.push_back(number);
        }
    }

    /// Puts a connection on the lowest free line.
    fn place(&mut self, conn: Conn, transport: Transport) -> Option<u32> {
        let index = self.lines.iter().position(Option::is_none).unwrap_or(self.lines.len());
        let number = u32::try_from(index).ok().filter(|n| *n < MAX_LINES)?;
        let line = Some(Line::new(conn, transport));
        match self.lines.get_mut(index) {
            Some(free) => *free = line,
            None => self.lines.push(line),
        }
        self.by_conn.insert(conn.0, number);
        Some(number)
    }

    fn free(&mut self, number: u32) -> Option<Line> {
        let line = self.lines.get_mut(usize::try_from(number).ok()?)?.take()?;
        self.pending.retain(|n| *n != number);
        self.connects.retain(|n| *n != number);
        self.held.retain(|n| *n != number);
        self.resumed.retain(|n| *n != number);
        self.by_conn.retain(|_, n| *n != number);
        Some(line)
    }

    /// A new Logic: its predecessor's sockets are gone, its rings are to be served again.
    fn attach(&mut self) {
        for number in 0..u32::try_from(self.lines.len()).unwrap_or(0) {
            let Some(line) = self.line(number) else { continue };
            line.queued = false;
            match &mut line.transport {
                Transport::Socket(_) => self.close(number),
                Transport::Ring(ring) => {
                    ring.mapped = false;
                    self.connects.retain(|n| *n != number);
                    self.connects.push_back(number);
                }
            }
        }
        self.pending.clear();
        self.resumed.clear();
        // A Logic that has mapped nothing has nothing to let go.
        for number in core::mem::take(&mut self.disconnects) {
            self.free(number);
        }
    }

    fn open(&mut self, who: u32, out: &mut RecordWriter) {
        let identity = match (self.mode, u16::try_from(who)) {
            (Mode::Process, _) if who == OPERATOR => Some(Identity::Operator),
            (Mode::Process, Ok(domid)) => Some(Identity::Domain(domid)),
            _ => None,
        };
        let conn = identity.map(|identity| self.state.open(identity));
        let line = conn.and_then(|conn| self.place(conn, Transport::Socket(Socket::default())));
        match line {
            Some(line) => out.push_bare(RecordKind::Opened, line),
            None => {
                if let Some(conn) = conn {
                    self.state.close(conn);
                }
                out.push_bare(RecordKind::Drop, 0)
            }
        };
    }

    /// Only sockets are closed by Logic; rings end when Builder says so.
    fn close(&mut self, number: u32) {
        if self.line(number).is_some_and(|line| matches!(line.transport, Transport::Socket(_))) {
            if let Some(line) = self.free(number) {
                self.state.close(line.conn);
            }
        }
    }

    fn domain(&mut self, call: &Call) {
        let (Mode::Process, Ok(domid)) = (self.mode, u16::try_from(call.line)) else { return };
        match call.req_cons {
            0 => self.state.died(domid),
            1 => self.state.created(domid, None),
            2 => self.shut_down.push(domid),
            _ if self.state.exists(domid) => {}
            _ => self.state.created(domid, None),
        }
        // More of the same look follow.
        if call.rsp_cons == 0 {
            let domids = core::mem::take(&mut self.shut_down);
            self.state.domains_shut_down(&domids);
        }
    }

    fn connect(&mut self, conn: Conn, domid: u16, port: u32) {
        // The same connection again: its channel was bound anew.
        if let Some(line) = self.by_conn.remove(&conn.0) {
            self.disconnects.push_back(line);
        }
        if let Some(line) = self.place(conn, Transport::Ring(Ring::new(domid, port))) {
            self.connects.push_back(line);
        }
    }

    fn take(&mut self, out: &mut RecordWriter) {
        while let Some(number) = self.disconnects.pop_front() {
            if !out.push_bare(RecordKind::Disconnect, number) {
                self.disconnects.push_front(number);
                return;
            }
            self.free(number);
        }
        while let Some(number) = self.resumed.pop_front() {
            if !out.push_bare(RecordKind::Resume, number) {
                self.resumed.push_front(number);
                return;
            }
        }
        for _ in 0..CONNECTS {
            let Some(number) = self.connects.pop_front() else { break };
            let Some(Line { transport: Transport::Ring(ring), stash, .. }) = self.line(number) else {
                continue;
            };
            let data = ring.connect(stash).encode();
            let record =
                Record { kind: RecordKind::Connect, line: number, at: 0, skip: 0, take: 0, data: &data };
            if !out.push(&record) {
                self.connects.push_front(number);
                return;
            }
        }
        for _ in 0..DRAINED {
            let Some(number) = self.pending.pop_front() else { return };
            if let Some(line) = self.line(number) {
                line.queued = false;
            }
            if !self.drain(number, out) {
                return;
            }
        }
    }

    fn request(&mut self, call: &Call, body: &[u8], out: &mut RecordWriter) {
        let Some(line) = self.line(call.line) else { return };
        let conn = line.conn;
        line.stash.taken();
        if let Transport::Ring(ring) = &mut line.transport {
            ring.req_cons = call.req_cons;
            ring.rsp_cons = call.rsp_cons;
        }
        let is_ring = matches!(line.transport, Transport::Ring(_));
        if is_ring && !self.state.ready(conn) {
            if let Some(line) = self.line(call.line) {
                line.held = Some(body.to_vec());
            }
            self.held.push(call.line);
            out.push_bare(RecordKind::Hold, call.line);
        } else if self.execute(conn, body) {
            self.drain(call.line, out);
        } else {
            // The handler made nothing of it: it was no message.
            self.refuse(call.line, out);
        }
    }

    /// `false` if the body is no request.
    fn execute(&mut self, conn: Conn, body: &[u8]) -> bool {
        let Some((Head { op, request_id, tx_id }, request)) = decode_request(body) else { return false };
        let head = crate::Head { op, request_id, tx_id };
        self.state.request(conn, head, request.as_ref().map_err(|errno| *errno));
        true
    }

    fn stash(&mut self, call: &Call, body: &[u8], out: &mut RecordWriter) {
        let Some(line) = self.line(call.line) else { return };
        if let Transport::Ring(ring) = &mut line.transport {
            ring.req_cons = call.req_cons;
            ring.rsp_cons = call.rsp_cons;
        }
        if line.stash.add(body).is_err() {
            return self.refuse(call.line, out);
        }
        line.give_packet(call.line, out);
    }

    fn unsent(&mut self, number: u32, body: &[u8], out: &mut RecordWriter) {
        let Some(Line { transport: Transport::Socket(socket), .. }) = self.line(number) else { return };
        if !socket.keep(body) {
            self.refuse(number, out);
        }
    }

    fn writable(&mut self, number: u32, out: &mut RecordWriter) {
        if let Some(Line { transport: Transport::Socket(socket), .. }) = self.line(number) {
            socket.blocked = false;
            self.drain(number, out);
        }
    }

    fn mapped(&mut self, call: &Call, out: &mut RecordWriter) {
        let Some(line) = self.line(call.line) else { return };
        let Transport::Ring(ring) = &mut line.transport else { return };
        if !ring.known {
            (ring.known, ring.req_cons, ring.rsp_prod) = (true, call.req_cons, call.rsp_cons);
        }
        ring.mapped = true;
        // Room is what was known last: the guest can only have made more. What is new now is kept with what is repeated.
        ring.repeat(call.line, out);
        if line.held.is_some() {
            out.push_bare(RecordKind::Hold, call.line);
        }
        line.give_packet(call.line, out);
        self.deliver(call.line, out);
    }

    fn note_rsp_cons(&mut self, call: &Call) {
        if let Some(Line { transport: Transport::Ring(ring), .. }) = self.line(call.line) {
            ring.rsp_cons = call.rsp_cons;
        }
    }

    /// A guest has started its ring anew.
    fn reset(&mut self, number: u32) {
        let Some(line) = self.line(number) else { return };
        let conn = line.conn;
        line.stash.clear();
        line.held = None;
        if let Transport::Ring(ring) = &mut line.transport {
            ring.restart();
        }
        self.state.reset(conn);
    }

    /// A guest has broken its ring: it is not served until its ring starts anew.
    fn broken(&mut self, number: u32) {
        if let Some(Line { transport: Transport::Ring(ring), .. }) = self.line(number) {
            ring.mapped = false;
        }
    }

    /// Ends the service of a client that broke the protocol or a limit.
    fn refuse(&mut self, number: u32, out: &mut RecordWriter) {
        match self.line(number) {
            Some(Line { transport: Transport::Ring(_), .. }) => self.broken(number),
            Some(_) => {
                self.close(number);
                out.push_bare(RecordKind::Drop, number);
            }
            None => {}
        }
    }

    /// Delivers what there is for a line; what it was given before this answer was acted on. `false` if the answer is full.
    fn drain(&mut self, number: u32, out: &mut RecordWriter) -> bool {
        if let Some(line) = self.line(number) {
            line.begin();
        }
        self.deliver(number, out)
    }

    /// Delivers what there is for a line, as far as it has room. `false` if the answer is full.
    fn deliver(&mut self, number: u32, out: &mut RecordWriter) -> bool {
        let Self { state, lines, scratch, pending, .. } = self;
        let Some(line) =
            lines.get_mut(usize::try_from(number).unwrap_or(usize::MAX)).and_then(Option::as_mut)
        else {
            return true;
        };
        let mut full = false;
        if line.can_deliver() {
            full = !line.give_raw(number, out);
            while !full && line.can_deliver() {
                let Some(item) = state.front(line.conn) else { break };
                let message = item.message();
                let Some(used) = encode_message(&message, &mut scratch[..]) else {
                    // No message is that long; drop it rather than stop.
                    state.pop(line.conn);
                    continue;
                };
                let data = scratch.get(..used).unwrap_or_default();
                match line.give(number, data, message.len(), out) {
                    line::Given::All => {
                        state.pop(line.conn);
                    }
                    line::Given::Part => {}
                    line::Given::Full => full = true,
                }
            }
        }
        if full && !line.queued {
            line.queued = true;
            pending.push_back(number);
        }
        !full
    }
}

/// Bytes of the longest message.
const MESSAGE: usize = HEADER_LEN + PAYLOAD_MAX;

#[cfg(test)]
mod tests;
