//! Clients that speak the wire protocol raw: what they send may be wrong on purpose, what they get is kept byte for byte.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use ennead_xs_wire::{HEADER_LEN, Header, Op, Raw};

/// One message from the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its type, by number.
    pub op: u32,
    /// The request that it answers.
    pub request_id: u32,
    /// The transaction that it belongs to.
    pub tx_id: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A watch event.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.op == Op::WatchEvent as u32
    }

    /// A reply that says that the request failed.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.op == Op::Error as u32
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_event() && (self.request_id, self.tx_id) == (0, 0) {
            return write!(f, "event {}", show(&self.payload));
        }
        let kind = if self.is_error() { "error " } else { "" };
        write!(f, "{kind}{}", show(&self.payload))?;
        write!(f, " (type {} request {} tx {})", self.op, self.request_id, self.tx_id)
    }
}

/// Bytes for people: escaped, and cut when long.
#[must_use]
pub fn show(bytes: &[u8]) -> String {
    const MOST: usize = 120;
    match bytes.get(..MOST) {
        Some(start) if bytes.len() > MOST => {
            format!("\"{}\"... ({} bytes)", start.escape_ascii(), bytes.len())
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// The bytes of a request. The header tells the payload's real length.
#[must_use]
pub fn message(op: u32, request_id: u32, tx_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header { op, request_id, tx_id, len: payload.len() }.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A connection to a daemon that never blocks the caller.
pub trait Client: fmt::Debug {
    /// Queues these bytes for the daemon and moves what can be moved now.
    ///
    /// # Errors
    /// When the daemon is gone.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;

    /// Moves what can be moved now, in both directions.
    ///
    /// # Errors
    /// When the daemon is gone, or a guest's ring is broken.
    fn pump(&mut self) -> Result<()>;

    /// The next whole message that has arrived.
    ///
    /// # Errors
    /// When the daemon sent a message that is too long.
    fn take(&mut self) -> Result<Option<Packet>>;

    /// What becomes readable when there is something to pump.
    fn events(&self) -> BorrowedFd<'_>;

    /// Bytes are queued that did not fit yet.
    fn is_full(&self) -> bool;

    /// The daemon has closed the connection.
    fn is_closed(&self) -> bool;
}

/// Takes the first whole message out of what has arrived.
///
/// # Errors
/// When its header claims more than the protocol allows.
pub(crate) fn take_packet(input: &mut Vec<u8>) -> Result<Option<Packet>> {
    let split = Raw::split(input)
        .map_err(|error| anyhow::anyhow!("The daemon sent too long a message: {error:?}"))?;
    let Some((raw, used)) = split else { return Ok(None) };
    let Header { op, request_id, tx_id, .. } = raw.header;
    let packet = Packet { op, request_id, tx_id, payload: raw.payload.to_vec() };
    input.drain(..used);
    Ok(Some(packet))
}

/// A client on the daemon's socket, with domain 0's rights.
#[derive(Debug)]
pub struct SocketClient {
    stream: UnixStream,
    output: Vec<u8>,
    input: Vec<u8>,
    closed: bool,
}

impl SocketClient {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("Cannot connect to {}", socket.display()))?;
        stream.set_nonblocking(true).context("Cannot make the socket non-blocking")?;
        Ok(Self { stream, output: Vec::new(), input: Vec::new(), closed: false })
    }
}

impl Client for SocketClient {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.extend_from_slice(bytes);
        self.pump()
    }

    fn pump(&mut self) -> Result<()> {
        while !self.closed && !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if is_hang_up(error.kind()) => self.closed = true,
                Err(error) => return Err(error).context("Cannot write to the daemon's socket"),
            }
        }
        let mut buffer = [0; 4096 + HEADER_LEN];
        while !self.closed {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(count) => self.input.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if is_hang_up(error.kind()) => self.closed = true,
                Err(error) => return Err(error).context("Cannot read from the daemon's socket"),
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Packet>> {
        take_packet(&mut self.input)
    }

    fn events(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn is_full(&self) -> bool {
        !self.output.is_empty()
    }

    fn is_closed(&self) -> bool {
        self.closed
    }
}

fn is_hang_up(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_one_by_one_and_only_when_whole() {
        let bytes = [message(2, 7, 3, b"value"), message(15, 0, 0, b"/a\0t\0")].concat();
        let mut input = Vec::new();
        let mut packets = Vec::new();
        for byte in bytes {
            input.push(byte);
            packets.extend(take_packet(&mut input).unwrap());
        }
        let reply = Packet { op: 2, request_id: 7, tx_id: 3, payload: b"value".to_vec() };
        let event = Packet { op: 15, request_id: 0, tx_id: 0, payload: b"/a\0t\0".to_vec() };
        assert_eq!(packets, [reply, event.clone()]);
        assert!(input.is_empty() && event.is_event() && !event.is_error());
        assert_eq!(event.to_string(), r#"event "/a\x00t\x00""#);
    }

    #[test]
    fn a_message_that_is_too_long_is_an_error() {
        let mut input = message(2, 7, 0, &[0; 4097]);
        take_packet(&mut input).unwrap_err();
    }

    #[test]
    fn long_bytes_are_cut() {
        assert_eq!(show(b"a\0"), r#""a\x00""#);
        assert!(show(&[b'a'; 500]).ends_with("(500 bytes)"));
    }
}
