//! Records as bytes.

use alloc::vec::Vec;

use super::{StreamError, kind};

const IDENT: &[u8; 8] = b"xenstore";
const VERSION: u32 = 1;
/// Records start at multiples of this.
const ALIGN: usize = 8;

#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// The header, whose numbers are big-endian. Flags are 0: all others are little-endian.
    pub(super) fn new() -> Self {
        let mut bytes = Vec::from(IDENT);
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        Self(bytes)
    }

    pub(super) fn record(&mut self, kind: u32, fill: impl FnOnce(&mut Self)) {
        self.u32(kind);
        let at = self.0.len();
        self.u32(0);
        fill(self);
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        let len = u32::try_from(self.0.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }

    pub(super) fn u16(&mut self, n: u16) {
        self.bytes(&n.to_le_bytes());
    }

    pub(super) fn u32(&mut self, n: u32) {
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
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.record(kind::END, |_| {});
        self.0
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

/// The records of a stream.
#[derive(Debug)]
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: u32,
    pub(super) offset: usize,
    pub(super) fields: Fields<'a>,
}

impl<'a> Records<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, StreamError> {
        let header = |from: usize| {
            let word = bytes.get(from..)?.first_chunk()?;
            Some(u32::from_be_bytes(*word))
        };
        let ident = bytes.starts_with(IDENT);
        let (Some(version), Some(flags), true) = (header(8), header(12), ident) else {
            return Err(StreamError::NoStream);
        };
        if (version, flags) != (VERSION, 0) {
            return Err(StreamError::Version(version, flags));
        }
        Ok(Self { bytes, at: 16 })
    }

    /// The next record, None for the end. A length may count the padding (C xenstored) or not (its documentation).
    pub(super) fn next(&mut self) -> Result<Option<Record<'a>>, StreamError> {
        let offset = self.at;
        let mut rest = Fields(self.bytes.get(offset..).unwrap_or_default());
        let (kind, len) = (rest.u32(), rest.len32());
        let (Ok(kind), Ok(len)) = (kind, len) else { return Err(StreamError::Length) };
        let fields = rest.bytes(len).map(Fields).map_err(|_| StreamError::Length)?;
        self.at = offset.saturating_add(8).saturating_add(len.next_multiple_of(ALIGN));
        match kind {
            kind::END if self.at == self.bytes.len() => Ok(None),
            kind::END => Err(StreamError::Length),
            _ => Ok(Some(Record { kind, offset, fields })),
        }
    }
}
