//! blkif's requests and responses (xen/include/public/io/blkif.h), as 64-bit and 32-bit guests lay them out.
//!
//! A 64-bit compiler aligns the request's id to 8 bytes, a 32-bit one to 4; from the id on, both have the same bytes, and both the
//! same response. So a slot's size says where everything is.
//!
//! What a request says is the guest's word: every number is checked before anything is done with it, and a request that is wrong
//! is answered with an error. Only a broken ring ends the connection.

use ennead_xen::{GrantRef, PAGE_SIZE};

/// Bytes of a slot, the larger of request and response, in a ring of a 64-bit guest (`x86_64-abi`).
pub const SLOT_64: usize = 112;
/// Bytes of a slot in a ring of a 32-bit guest (`x86_32-abi`).
pub const SLOT_32: usize = 108;
/// Bytes of a slot from the request's id on.
const FROM_ID: usize = 104;
/// Bytes of a response.
pub const RESPONSE: usize = 16;
/// blkif's unit, whatever the disk's is.
pub const SECTOR: u64 = 512;
/// Most segments of an indirect request: what is offered.
pub const MAX_SEGMENTS: usize = 256;
/// Bytes of a segment's description.
pub const SEGMENT: usize = 8;
/// Most segments within the slot.
const MAX_HERE: usize = 11;
/// Sectors of a page.
const PAGE_SECTORS: u8 = 8;

/// `BLKIF_OP_*`.
const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 3;
const DISCARD: u8 = 5;
const INDIRECT: u8 = 6;

/// `BLKIF_RSP_OKAY`.
pub const OKAY: i16 = 0;
/// `BLKIF_RSP_ERROR`.
pub const ERROR: i16 = -1;
/// `BLKIF_RSP_EOPNOTSUPP`.
const NOT_SUPPORTED: i16 = -2;

/// A part of a guest's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The page.
    pub gref: GrantRef,
    /// First byte in it.
    pub offset: usize,
    /// How many.
    pub len: usize,
}

/// A request, as far as its slot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The guest's own number for it.
    pub id: u64,
    /// What the response must name: of an indirect request, the inner operation.
    pub operation: u8,
    /// What is asked for.
    pub body: Body,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// To read or write. The segments stand in the slot.
    Transfer(Transfer, Vec<[u8; SEGMENT]>),
    /// The same; `count` segments stand in the page `gref`.
    Indirect {
        /// What to do with them.
        transfer: Transfer,
        /// The page.
        gref: GrantRef,
        /// At most [`MAX_SEGMENTS`].
        count: usize,
    },
    /// All that was written and answered is to be durable.
    Flush,
    /// A range is not needed any more.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// Nothing that can be done.
    Wrong(Refusal),
}

/// Where on the disk, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// To the disk.
    pub write: bool,
    /// First sector.
    pub sector: u64,
}

/// What the disk allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its size.
    pub sectors: u64,
    /// Bytes of its smallest unit.
    pub block: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether it can discard.
    pub discard: bool,
}

/// A transfer that can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// To the disk.
    pub write: bool,
    /// First byte on the disk.
    pub offset: u64,
    /// How many: the sum of the pieces, at most a mebibyte.
    pub len: usize,
    /// The guest's side, in order.
    pub pieces: Vec<Piece>,
}

/// Why a request is answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An operation that was not offered.
    #[error("an operation that is not offered")]
    Operation,
    /// No segments, or more than there may be.
    #[error("a wrong number of segments")]
    Segments,
    /// A segment that does not lie within a page.
    #[error("a segment that is not within its page")]
    Segment,
    /// It does not lie within the disk.
    #[error("sectors behind the end")]
    Outside,
    /// Not whole blocks of the disk.
    #[error("not whole blocks of the disk")]
    Unaligned,
    /// It changes a disk that is read-only.
    #[error("a write to a read-only disk")]
    ReadOnly,
    /// The segments' page is not granted.
    #[error("a page that is not granted")]
    Grant,
}

impl Refusal {
    /// What the guest is told.
    #[must_use]
    pub const fn status(self) -> i16 {
        match self {
            Self::Operation => NOT_SUPPORTED,
            _ => ERROR,
        }
    }
}

/// The fields of a slot from the request's id on. All lie within it.
struct Fields([u8; FROM_ID]);

impl Fields {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().unwrap_or([0; N])
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

impl Request {
    /// Reads a slot of [`SLOT_64`] or [`SLOT_32`] bytes.
    #[must_use]
    pub fn parse<const SLOT: usize>(slot: &[u8; SLOT]) -> Self {
        let [operation, second, low, high] = slot.first_chunk().copied().unwrap_or_default();
        let fields = Fields(slot.last_chunk().copied().unwrap_or([0; FROM_ID]));
        let (id, sector) = (fields.u64(0), fields.u64(8));
        let wrong = |refusal| Self { id, operation, body: Body::Wrong(refusal) };
        let body = match operation {
            READ | WRITE => {
                let count = usize::from(second);
                if !(1..=MAX_HERE).contains(&count) {
                    return wrong(Refusal::Segments);
                }
                let segments = (0..count).map(|n| fields.bytes(16 + n * SEGMENT)).collect();
                Body::Transfer(Transfer { write: operation == WRITE, sector }, segments)
            }
            INDIRECT => {
                let inner = second;
                let count = usize::from(u16::from_le_bytes([low, high]));
                let transfer = Transfer { write: inner == WRITE, sector };
                let gref = GrantRef(u32::from_le_bytes(fields.bytes(20)));
                let body = match (inner, count) {
                    (READ | WRITE, 1..=MAX_SEGMENTS) => Body::Indirect { transfer, gref, count },
                    (READ | WRITE, _) => Body::Wrong(Refusal::Segments),
                    _ => Body::Wrong(Refusal::Operation),
                };
                return Self { id, operation: inner, body };
            }
            // Linux's frontend sends a flush without segments.
            FLUSH if second == 0 => Body::Flush,
            FLUSH => return wrong(Refusal::Segments),
            DISCARD => Body::Discard { sector, count: fields.u64(16) },
            _ => return wrong(Refusal::Operation),
        };
        Self { id, operation, body }
    }
}

impl Transfer {
    /// Checks a transfer with its segments.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn plan<'a>(
        self,
        segments: impl IntoIterator<Item = &'a [u8; SEGMENT]>,
        limits: &Limits,
    ) -> Result<Plan, Refusal> {
        if self.write && !limits.writable {
            return Err(Refusal::ReadOnly);
        }
        let pieces: Vec<Piece> = segments.into_iter().map(piece).collect::<Result<_, _>>()?;
        if pieces.is_empty() || pieces.len() > MAX_SEGMENTS {
            return Err(Refusal::Segments);
        }
        let len: usize = pieces.iter().map(|piece| piece.len).sum();
        let sectors = len as u64 / SECTOR;
        let offset = range(self.sector, sectors, limits)?;
        Ok(Plan { write: self.write, offset, len, pieces })
    }
}

/// The first byte of a range of the disk.
fn range(sector: u64, count: u64, limits: &Limits) -> Result<u64, Refusal> {
    let end = sector.checked_add(count).ok_or(Refusal::Outside)?;
    if end > limits.sectors {
        return Err(Refusal::Outside);
    }
    let offset = sector.checked_mul(SECTOR).ok_or(Refusal::Outside)?;
    let behind = end.checked_mul(SECTOR).ok_or(Refusal::Outside)?;
    let is_whole = |bytes: u64| bytes.checked_rem(limits.block) == Some(0);
    if is_whole(offset) && is_whole(behind) { Ok(offset) } else { Err(Refusal::Unaligned) }
}

/// The bytes of a discard: offset and length.
///
/// # Errors
/// Why it cannot be done.
pub fn discard(sector: u64, count: u64, limits: &Limits) -> Result<(u64, u64), Refusal> {
    if !limits.discard {
        return Err(Refusal::Operation);
    }
    if !limits.writable {
        return Err(Refusal::ReadOnly);
    }
    if count == 0 {
        return Err(Refusal::Outside);
    }
    let offset = range(sector, count, limits)?;
    Ok((offset, count.checked_mul(SECTOR).ok_or(Refusal::Outside)?))
}

fn piece(segment: &[u8; SEGMENT]) -> Result<Piece, Refusal> {
    let [a, b, c, d, first, last, _, _] = *segment;
    if first > last || last >= PAGE_SECTORS {
        return Err(Refusal::Segment);
    }
    let sector = PAGE_SIZE / usize::from(PAGE_SECTORS);
    Ok(Piece {
        gref: GrantRef(u32::from_le_bytes([a, b, c, d])),
        offset: usize::from(first) * sector,
        len: usize::from(last - first + 1) * sector,
    })
}

/// A response.
#[must_use]
pub fn response(id: u64, operation: u8, status: i16) -> [u8; RESPONSE] {
    let mut bytes = [0; RESPONSE];
    let (id_bytes, rest) = bytes.split_at_mut(8);
    id_bytes.copy_from_slice(&id.to_le_bytes());
    let [low, high] = status.to_le_bytes();
    rest.copy_from_slice(&[operation, 0, low, high, 0, 0, 0, 0]);
    bytes
}

#[cfg(test)]
mod tests;
