//! Lines on sockets, for development and tests.

use ennead_xs_link::{Call, CallKind, Shared};
use ennead_xs_wire::Raw;

use super::lines::Line;
use super::{Moved, OUTBOX, Serve, Stop, World, handler};
use crate::handler::Forgetful;

/// Most bytes stashed in one call.
const STASH: usize = 4096;
/// Most bytes of unsent replies in one call.
const UNSENT: usize = ennead_xs_link::MAX_BODY;

impl<M: Shared, W: World, F: Forgetful> Serve<M, W, F> {
    /// Reads what a client sent, and makes calls of it.
    pub(super) fn read_socket(&mut self, line: u32) -> Result<(), Stop> {
        let Some(socket) = self.lines.socket(line).filter(|s| !s.blocked) else { return Ok(()) };
        let (number, stashed) = (socket.socket, socket.stashed);
        let n = match self.world.read(number, &mut self.inbox) {
            Moved::Bytes(n) => n,
            Moved::Later => return Ok(()),
            Moved::Closed => return self.hang_up(line),
        };
        let mut at = 0;
        while !stashed && at < n {
            let rest = self.inbox.get(at..n).unwrap_or_default();
            match Raw::split(rest) {
                Ok(Some((_, len))) => {
                    self.make_room()?;
                    let message = self.inbox.get(at..at + len).unwrap_or_default();
                    let used = self.memory.run(handler::parse, message, &mut self.scratch);
                    let call = Call { kind: CallKind::Request, line, req_cons: 0, rsp_cons: 0 };
                    self.submit(&call, used)?;
                    at += len;
                }
                Ok(None) => break,
                Err(_) => return self.hang_up(line),
            }
        }
        while at < n {
            self.make_room()?;
            let end = n.min(at + STASH);
            if let Some(socket) = self.lines.socket(line) {
                socket.stashed = true;
            }
            let call = Call { kind: CallKind::Stash, line, req_cons: 0, rsp_cons: 0 };
            self.caller.submit(&call, self.inbox.get(at..end).unwrap_or_default())?;
            self.wake();
            at = end;
        }
        Ok(())
    }

    /// Ends a client's line, here and at State.
    pub(super) fn hang_up(&mut self, line: u32) -> Result<(), Stop> {
        self.cut(line);
        self.call(CallKind::Close, line, &[])
    }

    /// Ends a client's line here.
    pub(super) fn cut(&mut self, line: u32) {
        if self.out_line == line {
            self.out.clear();
        }
        if self.lines.socket(line).is_some() {
            if let Line::Socket(socket) = self.lines.put(line, Line::Free) {
                self.world.close(socket.socket);
            }
        }
    }

    /// Adds bytes `skip..skip + len` of `scratch` for a client; they are written when those of another line come, or at the end.
    pub(super) fn send(&mut self, line: u32, skip: usize, len: usize) -> Result<(), Stop> {
        if self.out_line != line || self.out.len() + len > OUTBOX {
            self.flush()?;
            self.out_line = line;
        }
        self.out.extend_from_slice(self.scratch.get(skip..skip + len).unwrap_or_default());
        Ok(())
    }

    /// Writes what there is for a client. What it does not take goes to State.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let line = self.out_line;
        let Some(socket) = self.lines.socket(line) else {
            self.out.clear();
            return Ok(());
        };
        let number = socket.socket;
        let mut sent = 0;
        // What State already holds comes first.
        while sent < self.out.len() && !socket.blocked {
            match self.world.write(number, self.out.get(sent..).unwrap_or_default()) {
                Moved::Bytes(n) => sent += n,
                Moved::Later => break,
                Moved::Closed => {
                    self.out.clear();
                    return self.hang_up(line);
                }
            }
        }
        if sent == self.out.len() {
            self.out.clear();
            return Ok(());
        }
        socket.blocked = true;
        self.world.choose(number, line, true);
        // Taken out, since making room may want to send.
        let out = core::mem::take(&mut self.out);
        let mut result = Ok(());
        for part in out.get(sent..).unwrap_or_default().chunks(UNSENT) {
            result = result.and_then(|()| self.call(CallKind::Unsent, line, part));
        }
        self.out = out;
        self.out.clear();
        result
    }
}
