//! One line: frames on the outside, messages on the inside. Nothing here waits.
//!
//! Each direction goes on only when the next has taken what it has, so neither holds more than a few KiB, whoever floods it;
//! and neither waits for the other.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use anyhow::Context as _;
use ennead_channel::line::Bytes;
use ennead_channel::{List, Tagged};
use ennead_line::{Framer, Piece};

/// Bytes read, and written, at once.
const PIECE: usize = 4096;
/// Bytes in one message, so that two fit into the channel's ring: the toolstack takes one while the next is written.
const DATA: usize = 880;

/// The toolstack's end. Does not block; its file is readable when something has happened there.
pub(super) trait Inside: AsFd {
    /// The next message, if there is one.
    fn receive(&mut self) -> anyhow::Result<Option<Bytes>>;
    /// Sends a message; `false` if there is no room for it now.
    fn send(&mut self, message: &Tagged<Bytes>) -> anyhow::Result<bool>;
    /// Takes note of what made the file readable.
    fn hush(&self) -> anyhow::Result<()>;
}

/// A line. The outside's file does not block; reading gives 0 bytes while nobody is at its other end, who comes and goes.
#[derive(Debug)]
pub(super) struct Relay<O, I> {
    outside: O,
    inside: I,
    /// Whether the kernel has known of somebody, and nobody has gone since. Bytes are no sign: they may come before it knows.
    connected: bool,
    framer: Framer,
    /// What has been read of the outside and not looked at yet: this part of the buffer.
    input: (usize, usize),
    buffer: [u8; PIECE],
    /// What goes to the inside next.
    message: Option<Tagged<Bytes>>,
    /// Frames for the outside: at most those of one message more than a piece.
    output: Vec<u8>,
}

impl<O: Read + Write, I: Inside> Relay<O, I> {
    pub(super) fn new(outside: O, inside: I) -> Self {
        Self {
            outside,
            inside,
            connected: false,
            framer: Framer::new(),
            input: (0, 0),
            buffer: [0; PIECE],
            message: None,
            output: Vec::new(),
        }
    }

    pub(super) fn outside(&self) -> &O {
        &self.outside
    }

    pub(super) fn inside(&self) -> &I {
        &self.inside
    }

    /// Passes on all that can be.
    ///
    /// # Errors
    /// When an end fails; the line has then ended.
    pub(super) fn pass_on(&mut self) -> anyhow::Result<()> {
        // Not one direction until it stops: it need not.
        while self.inward()? | self.outward()? {}
        Ok(())
    }

    /// The operator's side has gone: the toolstack is told, for it may hold something for it. What the toolstack sends from now
    /// on waits, within bounds: the next one may be there before the kernel knows. Says whether this is new.
    fn disconnected(&mut self) -> bool {
        let new = std::mem::take(&mut self.connected);
        if new {
            self.message = Some(reset());
            self.output.clear();
        }
        new
    }

    /// One step from the outside to the inside; says whether there was anything to do.
    fn inward(&mut self) -> anyhow::Result<bool> {
        if let Some(message) = &self.message {
            if !self.inside.send(message)? {
                return Ok(false);
            }
            self.message = None;
            return Ok(true);
        }
        let (start, end) = self.input;
        if start < end {
            let end = end.min(start.saturating_add(DATA));
            let mut input = self.buffer.get(start..end).unwrap_or_default();
            self.message = match self.framer.next(&mut input) {
                Some(Piece::Data(data)) => List::new(data.to_vec()).map(Bytes::Data).map(message),
                Some(Piece::Reset) => Some(reset()),
                None => None,
            };
            self.input.0 = end.saturating_sub(input.len());
            return Ok(true);
        }
        match self.outside.read(&mut self.buffer) {
            Ok(0) => Ok(self.disconnected()),
            Ok(count) => {
                self.input = (0, count);
                Ok(true)
            }
            Err(e) => {
                // With nobody there it would have been the end (`port_fops_read` in Linux's virtio_console.c).
                self.connected |= e.kind() == io::ErrorKind::WouldBlock;
                later(e).context("Cannot read from the port")
            }
        }
    }

    /// One step from the inside to the outside; says whether there was anything to do.
    fn outward(&mut self) -> anyhow::Result<bool> {
        if self.output.len() < PIECE {
            if let Some(bytes) = self.inside.receive()? {
                match bytes {
                    Bytes::Reset => Framer::reset(&mut self.output),
                    Bytes::Data(data) => Framer::data(&data, &mut self.output),
                }
                return Ok(true);
            }
        }
        let piece = self.output.get(..PIECE).unwrap_or(&self.output);
        if piece.is_empty() {
            return Ok(false);
        }
        match self.outside.write(piece) {
            Ok(count) => {
                self.output.drain(..count.min(self.output.len()));
                Ok(count > 0)
            }
            Err(e) => later(e).context("Cannot write to the port"),
        }
    }
}

/// Nobody asked for it: a toolstack does not look at the number.
fn message(body: Bytes) -> Tagged<Bytes> {
    Tagged { id: 0, body }
}

fn reset() -> Tagged<Bytes> {
    message(Bytes::Reset)
}

/// Nothing was done, if that is only for now.
fn later(error: io::Error) -> io::Result<bool> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(false),
        io::ErrorKind::Interrupted => Ok(true),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests;
