//! Records as bytes.

use alloc::vec::Vec;

use super::{StreamError, kind};

const IDENT: &[u8; 8] = b"xenstore";
const VERSION: u32 = 1;
/// Records start at multiples of this.
const ALIGN: usize = 8;

/// Bytes that are collected before they are given on: with most records they fit into one call between two VMs.
const PIECE: usize = 6 << 10;
/// Longest record that is taken: what waits for one client, or the names below one node.
const LONGEST: usize = 16 << 20;
const HEADER: usize = 16;

/// Gives the stream on in pieces, so that it never lies in memory as a whole.
pub(super) struct Writer<'a> {
    bytes: Vec<u8>,
    /// `false`: it is of no use to go on.
    sink: &'a mut dyn FnMut(&[u8]) -> bool,
    going: bool,
}

impl<'a> Writer<'a> {
    /// The header, whose numbers are big-endian. Flags are 0: all others are little-endian.
    pub(super) fn new(sink: &'a mut dyn FnMut(&[u8]) -> bool) -> Self {
        let mut bytes = Vec::from(IDENT);
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        Self { bytes, sink, going: true }
    }

    /// Whether what is written still goes anywhere.
    pub(super) const fn is_going(&self) -> bool {
        self.going
    }

    pub(super) fn record(&mut self, kind: u32, fill: impl FnOnce(&mut Self)) {
        if !self.going {
            return;
        }
        let start = self.bytes.len();
        self.u32(kind);
        self.u32(0);
        fill(self);
        // The header's length is a multiple as well.
        self.bytes.resize(start + (self.bytes.len() - start).next_multiple_of(ALIGN), 0);
        let len = u32::try_from(self.bytes.len() - start - 8).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(start + 4..start + 8) {
            place.copy_from_slice(&len.to_le_bytes());
        }
        if self.bytes.len() >= PIECE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.going = self.going && (self.sink)(&self.bytes);
        self.bytes.clear();
    }

    pub(super) fn u16(&mut self, n: u16) {
        self.bytes(&n.to_le_bytes());
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.bytes(&n.to_le_bytes());
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.bytes(&n.to_le_bytes());
    }

    /// A length: none of State's is longer than a few messages.
    pub(super) fn len16(&mut self, len: usize) {
        self.u16(u16::try_from(len).unwrap_or(u16::MAX));
    }

    /// A length: what waits for one client fits in memory many times.
    pub(super) fn len32(&mut self, len: usize) {
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether all of it was taken.
    pub(super) fn finish(mut self) -> bool {
        self.record(kind::END, |_| {});
        self.flush();
        self.going
    }
}

/// What a record holds, read from its start.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (head, rest) = self.0.split_at_checked(len).ok_or("it is too short for what it says")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (head, rest) = self.0.split_first_chunk().ok_or("it is too short")?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, &'static str> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, &'static str> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn len32(&mut self) -> Result<usize, &'static str> {
        usize::try_from(self.u32()?).map_err(|_| "it is too long")
    }

    /// Bytes that end with a NUL, which `len` counts and the result does not have.
    pub(super) fn text(&mut self, len: u16) -> Result<&'a [u8], &'static str> {
        match self.bytes(len.into())?.split_last() {
            Some((0, text)) if !text.contains(&0) => Ok(text),
            _ => Err("a text does not end with its only NUL"),
        }
    }
}

impl<'a> Fields<'a> {
    /// All that is left: so many bytes strings that each end with a NUL. Padding follows.
    pub(super) fn texts(&mut self, count: usize) -> Result<Vec<&'a [u8]>, &'static str> {
        let mut texts = Vec::new();
        for _ in 0..count {
            let end = self.0.iter().position(|byte| *byte == 0).ok_or("it has fewer names than it says")?;
            texts.push(self.bytes(end)?);
            self.bytes(1)?;
        }
        Ok(texts)
    }
}

/// Takes a stream apart that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// The beginning of a record (or of the stream) whose rest has not come yet.
    rest: Vec<u8>,
    /// Where that is, bytes from the start of the stream.
    at: usize,
    begun: bool,
    ended: bool,
}

/// One record.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: u32,
    pub(super) offset: usize,
    pub(super) fields: Fields<'a>,
}

impl Records {
    /// Takes the next piece; calls `take` with each record that is whole now.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        mut take: impl FnMut(Record<'_>) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        let mut joined = core::mem::take(&mut self.rest);
        let bytes = if joined.is_empty() {
            piece
        } else {
            joined.extend_from_slice(piece);
            &joined
        };
        let used = self.walk(bytes, &mut take)?;
        let left = bytes.get(used..).unwrap_or_default();
        if self.ended && !left.is_empty() {
            return Err(StreamError::Length);
        }
        self.rest = Vec::from(left);
        Ok(())
    }

    /// Nothing follows.
    pub(super) fn finish(&self) -> Result<(), StreamError> {
        match (self.begun, self.ended) {
            (false, _) => Err(StreamError::NoStream),
            (true, false) => Err(StreamError::Length),
            (true, true) => Ok(()),
        }
    }

    /// Bytes that are dealt with.
    fn walk(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(Record<'_>) -> Result<(), StreamError>,
    ) -> Result<usize, StreamError> {
        let mut used = 0;
        if !self.begun {
            if bytes.len() < HEADER {
                return Ok(0);
            }
            open(bytes)?;
            (self.begun, self.at, used) = (true, HEADER, HEADER);
        }
        while !self.ended {
            let mut rest = Fields(bytes.get(used..).unwrap_or_default());
            let (Ok(kind), Ok(len)) = (rest.u32(), rest.len32()) else { break };
            if len > LONGEST {
                return Err(StreamError::Length);
            }
            // A length may count the padding (C xenstored) or not (its documentation).
            let padded = len.next_multiple_of(ALIGN);
            let Ok(mut body) = rest.bytes(padded).map(Fields) else { break };
            let fields = body.bytes(len).map(Fields).map_err(|_| StreamError::Length)?;
            if kind == kind::END {
                self.ended = true;
            } else {
                take(Record { kind, offset: self.at, fields })?;
            }
            used += 8 + padded;
            self.at += 8 + padded;
        }
        Ok(used)
    }
}

/// Whether it begins as a stream of ours.
fn open(bytes: &[u8]) -> Result<(), StreamError> {
    let header = |from: usize| {
        let word = bytes.get(from..)?.first_chunk()?;
        Some(u32::from_be_bytes(*word))
    };
    let (Some(version), Some(flags), true) = (header(8), header(12), bytes.starts_with(IDENT)) else {
        return Err(StreamError::NoStream);
    };
    if (version, flags) == (VERSION, 0) { Ok(()) } else { Err(StreamError::Version(version, flags)) }
}
