//! What an answer holds: records, one after the other.

use alloc::vec::Vec;

use crate::slots::MAX_BODY;

const HEADER: usize = 20;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A reply or an event (`decode_message`). On a ring: bytes `skip..skip + take` of its wire form go to position `at`.
    Message = 1,
    /// A complete request that was stashed: its bytes.
    Packet = 2,
    /// A ring to serve (`Connect`).
    Connect = 3,
    /// A ring not to serve any more: unmap it.
    Disconnect = 4,
    /// The line of a new socket client.
    Opened = 5,
    /// Bytes that were `Unsent`.
    Raw = 6,
    /// Close this line: its client has broken the protocol or a limit.
    Drop = 7,
    /// The ring's request is kept for later: read nothing more from that ring until `Resume`.
    Hold = 8,
    /// The request that was held is answered (its reply is a `Message`).
    Resume = 9,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Message,
        Self::Packet,
        Self::Connect,
        Self::Disconnect,
        Self::Opened,
        Self::Raw,
        Self::Drop,
        Self::Hold,
        Self::Resume,
    ];
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What.
    pub kind: Kind,
    /// For which line.
    pub line: u32,
    /// Rings: position in the stream of responses where the bytes go (`rsp_prod` before them).
    pub at: u32,
    /// First byte of the wire form to deliver now.
    pub skip: u16,
    /// How many bytes of it to deliver now; 0: all that follow.
    pub take: u16,
    /// The rest.
    pub data: &'a [u8],
}

/// A ring: `data` of `Kind::Connect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect {
    /// Whose.
    pub domid: u16,
    /// The domain's end of the event channel.
    pub port: u32,
    /// State knows the positions (the ring was served before); else the page's count.
    pub known: bool,
    /// State holds the beginning of a message.
    pub stashed: bool,
    /// How far requests are read.
    pub req_cons: u32,
    /// How far responses are written.
    pub rsp_prod: u32,
}

impl Connect {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 16] {
        let mut out = [0; 16];
        let words = [
            u32::from(self.domid) | (u32::from(self.known) << 16) | (u32::from(self.stashed) << 24),
            self.port,
            self.req_cons,
            self.rsp_prod,
        ];
        for (chunk, word) in out.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// From bytes.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        let [first, port, req_cons, rsp_prod] = words(data)?;
        let [a, b, known, stashed] = first.to_le_bytes();
        let domid = u16::from_le_bytes([a, b]);
        Some(Self { domid, port, known: known != 0, stashed: stashed != 0, req_cons, rsp_prod })
    }
}

fn words<const N: usize>(data: &[u8]) -> Option<[u32; N]> {
    let mut out = [0; N];
    for (word, chunk) in out.iter_mut().zip(data.get(..N * 4)?.chunks_exact(4)) {
        *word = u32::from_le_bytes(chunk.try_into().ok()?);
    }
    Some(out)
}

/// Collects the records of one answer.
#[derive(Debug, Default)]
pub struct RecordWriter {
    bytes: Vec<u8>,
}

impl RecordWriter {
    /// Whether a record with `len` bytes of data fits.
    #[must_use]
    pub fn fits(&self, len: usize) -> bool {
        len.checked_add(HEADER + self.bytes.len()).is_some_and(|end| end <= MAX_BODY)
    }

    /// Adds a record. `false`, and nothing is added, if it does not fit.
    pub fn push(&mut self, record: &Record<'_>) -> bool {
        let (Ok(len), true) = (u32::try_from(record.data.len()), self.fits(record.data.len())) else {
            return false;
        };
        for word in [record.kind as u32, record.line, record.at, len] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.bytes.extend_from_slice(&record.skip.to_le_bytes());
        self.bytes.extend_from_slice(&record.take.to_le_bytes());
        self.bytes.extend_from_slice(record.data);
        true
    }

    /// A record without data.
    pub fn push_bare(&mut self, kind: Kind, line: u32) -> bool {
        self.push(&Record { kind, line, at: 0, skip: 0, take: 0, data: &[] })
    }

    /// The answer's body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Starts the next answer.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// The records of an answer. Ends at the first thing that is no record.
#[derive(Debug)]
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let [kind, line, at, len] = words(self.0)?;
        let kind = Kind::ALL.into_iter().find(|k| *k as u32 == kind)?;
        let short = |i: usize| Some(u16::from_le_bytes(self.0.get(i..i + 2)?.try_into().ok()?));
        let (skip, take) = (short(16)?, short(18)?);
        let rest = self.0.get(HEADER..)?;
        let (data, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(Record { kind, line, at, skip, take, data })
    }
}
