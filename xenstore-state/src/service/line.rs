//! One line's transport.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use ennead_xs_link::{Connect, MAX_BODY, Record, RecordKind, RecordWriter};
use ennead_xs_wire::{Raw, TooLong};

mod carry;

use super::MESSAGE;
use crate::Conn;

/// Bytes of a ring.
const RING: u32 = 1024;
/// Most bytes that a socket's client can leave untaken. It is cut off then.
const UNSENT_MAX: usize = 256 << 10;
/// Bytes given back at once: they must fit into one call if they cannot be written.
const RAW: usize = MAX_BODY / 2;

/// Bytes of messages that are not complete.
#[derive(Debug, Default)]
pub(super) struct Stash {
    bytes: Vec<u8>,
    /// The first message was handed to Logic; it stays until its request comes.
    handed: bool,
}

impl Stash {
    /// Adds bytes; `Err` if they are no messages.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), ()> {
        if self.bytes.len() + bytes.len() > MESSAGE + MAX_BODY {
            return Err(());
        }
        self.bytes.extend_from_slice(bytes);
        self.first().map_or(Err(()), |_| Ok(()))
    }

    /// Bytes of the first message, if it is complete.
    fn first(&self) -> Result<Option<usize>, TooLong> {
        Ok(Raw::split(&self.bytes)?.map(|(_, len)| len))
    }

    /// The request of the handed message has come.
    pub(super) fn taken(&mut self) {
        if core::mem::take(&mut self.handed) {
            if let Ok(Some(total)) = self.first() {
                self.bytes.drain(..total);
            }
        }
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A client on a socket of Logic's.
#[derive(Debug, Default)]
pub(super) struct Socket {
    /// It does not take bytes at the moment.
    pub(super) blocked: bool,
    raw: VecDeque<u8>,
}

impl Socket {
    /// Keeps bytes that it did not take; `false` if there are too many.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> bool {
        if self.raw.len() + bytes.len() > UNSENT_MAX {
            return false;
        }
        if core::mem::replace(&mut self.blocked, true) {
            self.raw.extend(bytes);
        } else {
            // What was given out last comes before what is still here.
            for byte in bytes.iter().rev() {
                self.raw.push_front(*byte);
            }
        }
        true
    }
}

/// A guest's ring, as far as it has been read and written.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) domid: u16,
    pub(super) port: u32,
    /// The positions are known; else they are what the page says when it is first mapped.
    pub(super) known: bool,
    /// Logic serves it.
    pub(super) mapped: bool,
    pub(super) req_cons: u32,
    pub(super) rsp_prod: u32,
    pub(super) rsp_cons: u32,
    /// Bytes of the first undelivered message that are written already.
    skip: usize,
    /// The records given last, and with which answer that began.
    last: Vec<Written>,
    fresh: bool,
}

#[derive(Debug)]
struct Written {
    at: u32,
    skip: u16,
    take: u16,
    data: Vec<u8>,
}

impl Ring {
    pub(super) fn new(domid: u16, port: u32) -> Self {
        Self {
            domid,
            port,
            known: false,
            mapped: false,
            req_cons: 0,
            rsp_prod: 0,
            rsp_cons: 0,
            skip: 0,
            last: Vec::new(),
            fresh: true,
        }
    }

    /// Its guest has started it anew: both rings are empty.
    pub(super) fn restart(&mut self) {
        *self = Self { known: true, mapped: true, ..Self::new(self.domid, self.port) };
    }

    pub(super) fn connect(&self, stash: &Stash) -> Connect {
        Connect {
            domid: self.domid,
            port: self.port,
            known: self.known,
            stashed: !stash.bytes.is_empty(),
            req_cons: self.req_cons,
            rsp_prod: self.rsp_prod,
        }
    }

    /// Gives what was given last once more: the same bytes for the same places.
    pub(super) fn repeat(&self, line: u32, out: &mut RecordWriter) {
        for Written { at, skip, take, data } in &self.last {
            let (kind, at, skip, take) = (RecordKind::Message, *at, *skip, *take);
            // It fitted into an answer before.
            out.push(&Record { kind, line, at, skip, take, data });
        }
    }

    fn room(&self) -> u32 {
        // A `rsp_cons` that cannot be leaves no room.
        RING.saturating_sub(self.rsp_prod.wrapping_sub(self.rsp_cons))
    }
}

#[derive(Debug)]
pub(super) enum Transport {
    Socket(Socket),
    Ring(Ring),
}

/// What became of a message.
pub(super) enum Given {
    /// It is delivered.
    All,
    /// A part of it is; the ring is full now.
    Part,
    /// The answer is full.
    Full,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) conn: Conn,
    pub(super) transport: Transport,
    pub(super) stash: Stash,
    /// The body of a request whose time has not come yet (`State::ready`).
    pub(super) held: Option<Vec<u8>>,
    /// It stands in the queue of lines with something to deliver.
    pub(super) queued: bool,
}

impl Line {
    pub(super) fn new(conn: Conn, transport: Transport) -> Self {
        Self { conn, transport, stash: Stash::default(), held: None, queued: false }
    }

    /// Whether its client can take anything.
    pub(super) fn can_deliver(&self) -> bool {
        match &self.transport {
            Transport::Socket(socket) => !socket.blocked,
            Transport::Ring(ring) => ring.mapped && ring.room() > 0,
        }
    }

    pub(super) fn has_raw(&self) -> bool {
        matches!(&self.transport, Transport::Socket(socket) if !socket.raw.is_empty())
    }

    /// What is given from here on belongs to a new answer: the one before was acted on.
    pub(super) fn begin(&mut self) {
        if let Transport::Ring(ring) = &mut self.transport {
            ring.fresh = true;
        }
    }

    /// Gives back what a client did not take. `false` if the answer is full or more is left.
    pub(super) fn give_raw(&mut self, line: u32, out: &mut RecordWriter) -> bool {
        let Transport::Socket(socket) = &mut self.transport else { return true };
        if socket.raw.is_empty() {
            return true;
        }
        let n = socket.raw.len().min(RAW);
        if !out.fits(n) {
            return false;
        }
        let data: Vec<u8> = socket.raw.drain(..n).collect();
        out.push(&Record { kind: RecordKind::Raw, line, at: 0, skip: 0, take: 0, data: &data });
        socket.raw.is_empty()
    }

    /// Gives the first stashed message, if it is complete.
    pub(super) fn give_packet(&mut self, line: u32, out: &mut RecordWriter) {
        let Ok(Some(total)) = self.stash.first() else { return };
        let Some(data) = self.stash.bytes.get(..total) else { return };
        let rest = self.stash.bytes.len() > total;
        let record = Record { kind: RecordKind::Packet, line, at: 0, skip: 0, take: rest.into(), data };
        self.stash.handed = out.push(&record);
    }

    /// Gives a message (`data`; `len` bytes on the wire), or the part that the ring has room for.
    pub(super) fn give(&mut self, line: u32, data: &[u8], len: usize, out: &mut RecordWriter) -> Given {
        if !out.fits(data.len()) {
            return Given::Full;
        }
        let kind = RecordKind::Message;
        let Transport::Ring(ring) = &mut self.transport else {
            out.push(&Record { kind, line, at: 0, skip: 0, take: 0, data });
            return Given::All;
        };
        let left = len.saturating_sub(ring.skip);
        let take = left.min(usize::try_from(ring.room()).unwrap_or(0));
        // Both are at most a message.
        let (Ok(skip), Ok(part)) = (u16::try_from(ring.skip), u16::try_from(take)) else { return Given::All };
        let at = ring.rsp_prod;
        out.push(&Record { kind, line, at, skip, take: part, data });
        if core::mem::take(&mut ring.fresh) {
            ring.last.clear();
        }
        ring.last.push(Written { at, skip, take: part, data: data.to_vec() });
        ring.rsp_prod = at.wrapping_add(part.into());
        if take == left {
            ring.skip = 0;
            Given::All
        } else {
            ring.skip += take;
            Given::Part
        }
    }
}
