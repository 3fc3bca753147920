//! What State answers, and what follows from it.

use ennead_xs_link::{Answer, Call, CallKind, Connect, RecordKind, Records, Shared};

use super::lines::{Line, Socket};
use super::{Serve, Stop, World, handler};
use crate::handler::Forgetful;
use crate::ring;

/// A record, after the part of it that lies in the answer's buffer has been dealt with.
enum Step {
    /// A message's wire form is in `scratch`, so many bytes; bytes `skip..skip + take` are for the line, at `at` of its ring.
    Message {
        at: u32,
        skip: usize,
        take: usize,
    },
    /// A call's body is in `scratch`; `rest`: State holds more bytes of the line.
    Packet {
        len: usize,
        rest: bool,
    },
    /// Bytes for the line are in `scratch`.
    Raw(usize),
    Connect(Connect),
    Opened,
    Disconnect,
    Drop,
    Hold,
    Resume,
    Nothing,
}

impl<M: Shared, W: World, F: Forgetful> Serve<M, W, F> {
    /// Waits for the oldest answer and acts on it.
    pub(super) fn collect_one(&mut self) -> Result<(), Stop> {
        let mut round = 0;
        let answer = loop {
            if let Some(answer) = self.caller.collect(&mut self.answer)? {
                break answer;
            }
            self.follow()?;
            if !self.world.spin(round) {
                self.caller.sleeps(true);
                let waited = if self.caller.is_answered() { Ok(()) } else { self.world.wait_for_state() };
                self.caller.sleeps(false);
                waited?;
            }
            round += 1;
        };
        self.more |= answer.more;
        // Calls that follow from an answer use the slots that are kept free for them: nothing is collected meanwhile, so that
        // the answer stays in its buffer.
        self.acting = true;
        let result = self.act(&answer);
        self.acting = false;
        result
    }

    fn act(&mut self, answer: &Answer) -> Result<(), Stop> {
        let moved = self.consume(answer);
        let mut at = 0;
        // The ring of this answer waits for another one: to the request in a packet, or to one that is held.
        let mut busy = false;
        // The ring on which the last message went out: rung once for all that follow each other.
        let mut ring_line = None;
        while at < answer.len {
            let mut records = Records(self.answer.get(at..answer.len).unwrap_or_default());
            let Some(record) = records.next() else { break };
            at = answer.len - records.0.len();
            let (line, record_at) = (record.line, record.at);
            let step = match record.kind {
                RecordKind::Message => {
                    let len = self.memory.run(handler::format, record.data, &mut self.scratch);
                    let skip = usize::from(record.skip).min(len);
                    let take = if record.take == 0 { len - skip } else { usize::from(record.take) };
                    Step::Message { at: record_at, skip, take: take.min(len - skip) }
                }
                RecordKind::Packet => Step::Packet {
                    len: self.memory.run(handler::parse, record.data, &mut self.scratch),
                    rest: record.take != 0,
                },
                RecordKind::Raw => {
                    if let Some(to) = self.scratch.get_mut(..record.data.len()) {
                        to.copy_from_slice(record.data);
                    }
                    Step::Raw(record.data.len())
                }
                RecordKind::Connect => Connect::decode(record.data).map_or(Step::Nothing, Step::Connect),
                RecordKind::Disconnect => Step::Disconnect,
                RecordKind::Opened => Step::Opened,
                RecordKind::Drop => Step::Drop,
                RecordKind::Hold => Step::Hold,
                RecordKind::Resume => Step::Resume,
            };
            match step {
                Step::Message { at, skip, take } => {
                    if self.lines.guest(line).is_some() {
                        if ring_line.is_some_and(|l| l != line) {
                            self.ring_bell(ring_line);
                        }
                        ring_line = Some(line);
                        self.respond(line, at, skip, take);
                    } else {
                        self.send(line, skip, take)?;
                    }
                }
                Step::Raw(len) => self.send(line, 0, len)?,
                Step::Packet { len, rest } => {
                    busy = true;
                    self.packet(line, len, rest)?;
                }
                Step::Connect(connect) => self.connect(line, connect)?,
                Step::Disconnect => self.disconnect(line),
                Step::Opened => self.opened(line)?,
                Step::Drop => self.dropped(answer.kind, line),
                // It stays busy until `Resume`.
                Step::Hold => busy = true,
                Step::Resume => self.proceed(line),
                Step::Nothing => {}
            }
        }
        if answer.kind == CallKind::Writable {
            self.writable(answer.line)?;
        }
        if self.lines.guest(answer.line).is_some() && is_about_a_ring(answer.kind) {
            self.ring_answered(answer, moved, busy, ring_line);
            return Ok(());
        }
        self.ring_bell(ring_line);
        Ok(())
    }

    /// State has committed how far a ring is read: the guest may have that room. Says whether it is any.
    fn consume(&mut self, answer: &Answer) -> bool {
        let Some(guest) = self.lines.guest(answer.line).filter(|_| is_reading(answer.kind)) else {
            return false;
        };
        let moved = guest.req_cons != answer.req_cons;
        guest.req_cons = answer.req_cons;
        ring::consume(&guest.page, answer.req_cons);
        moved
    }

    /// A call about a ring is answered: its next request's turn has come.
    fn ring_answered(&mut self, answer: &Answer, moved: bool, busy: bool, ring_line: Option<u32>) {
        let line = answer.line;
        if ring_line.is_some_and(|l| l != line) {
            self.ring_bell(ring_line);
        }
        if moved || ring_line == Some(line) || answer.kind == CallKind::Mapped {
            self.ring_bell(Some(line));
        }
        if busy {
            return;
        }
        if answer.kind == CallKind::Request {
            return self.proceed(line);
        }
        if let Some(guest) = self.lines.guest(line) {
            guest.busy = false;
        }
        self.lines.queue(line);
    }

    /// A ring's request is answered: the next one's turn comes in the next round.
    fn proceed(&mut self, line: u32) {
        let Some(guest) = self.lines.guest(line) else { return };
        (guest.busy, guest.more) = (false, guest.stashed);
        self.lines.queue(line);
    }

    fn ring_bell(&mut self, line: Option<u32>) {
        if let Some(guest) = line.and_then(|line| self.lines.guest(line)) {
            self.world.notify(guest.port);
        }
    }

    /// A stashed message has become complete: its request. What else is stashed comes after it.
    fn packet(&mut self, line: u32, len: usize, rest: bool) -> Result<(), Stop> {
        let (req_cons, rsp_cons) = self.lines.positions(line);
        self.submit(&Call { kind: CallKind::Request, line, req_cons, rsp_cons }, len)?;
        if let Some(socket) = self.lines.socket(line) {
            socket.stashed = rest;
            if rest {
                self.call(CallKind::Stash, line, &[])?;
            }
        }
        if let Some(guest) = self.lines.guest(line) {
            guest.stashed = rest;
        }
        Ok(())
    }

    /// State has given the oldest waiting client its line.
    fn opened(&mut self, line: u32) -> Result<(), Stop> {
        if self.opening.is_empty() {
            return Ok(());
        }
        let socket = self.opening.remove(0);
        self.lines.put(line, Line::Socket(Socket { socket, blocked: false, stashed: false }));
        if self.world.adopt(socket, line) { Ok(()) } else { self.hang_up(line) }
    }

    fn dropped(&mut self, kind: CallKind, line: u32) {
        if kind == CallKind::Open {
            if !self.opening.is_empty() {
                let socket = self.opening.remove(0);
                self.world.close(socket);
            }
        } else {
            self.cut(line);
        }
    }

    /// What State held for a client is in the out buffer (or there was nothing more).
    fn writable(&mut self, line: u32) -> Result<(), Stop> {
        if let Some(socket) = self.lines.socket(line) {
            socket.blocked = false;
            let number = socket.socket;
            self.world.choose(number, line, false);
        }
        self.flush()
    }
}

/// Whether a ring waits for the answer to such a call.
fn is_about_a_ring(kind: CallKind) -> bool {
    use CallKind::{Mapped, Progress, Request, Reset, Stash};
    matches!(kind, Mapped | Progress | Request | Reset | Stash)
}

/// Whether such a call reads from a ring.
fn is_reading(kind: CallKind) -> bool {
    matches!(kind, CallKind::Request | CallKind::Stash)
}
