//! From a message to its bytes.

use alloc::{vec, vec::Vec};
use core::mem;

use super::{Message, Reply};
use crate::{HEADER_LEN, Header, text::Decimal};

impl Message<'_> {
    /// Bytes of the whole message on the wire, header included. The sender answers for `PAYLOAD_MAX`.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a message has a header: it is never empty")]
    pub fn len(&self) -> usize {
        HEADER_LEN.saturating_add(self.payload_len())
    }

    /// Writes the whole message to the start of `out`, without the heap; says how many bytes, that is [`Self::len`], or
    /// None if they do not fit (then nothing is written).
    #[must_use]
    pub fn encode_into(&self, out: &mut [u8]) -> Option<usize> {
        let len = self.payload_len();
        let whole = HEADER_LEN.checked_add(len)?;
        let (head, mut rest) = out.get_mut(..whole)?.split_first_chunk_mut::<HEADER_LEN>()?;
        *head = self.header(len).encode();
        self.pieces(&mut |piece| {
            if let Some((room, after)) = mem::take(&mut rest).split_at_mut_checked(piece.len()) {
                room.copy_from_slice(piece);
                rest = after;
            }
        });
        Some(whole)
    }

    /// The whole message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; self.len()];
        let written = self.encode_into(&mut out).unwrap_or(0);
        out.truncate(written);
        out
    }

    fn header(&self, len: usize) -> Header {
        let (request_id, tx_id) = match self {
            Self::Reply { request_id, tx_id, .. } => (*request_id, *tx_id),
            Self::Event { .. } => (0, 0),
        };
        Header { op: self.op(), request_id, tx_id, len }
    }

    fn payload_len(&self) -> usize {
        let mut len = 0_usize;
        self.pieces(&mut |piece| len = len.saturating_add(piece.len()));
        len
    }

    /// The payload, piece by piece: measured and written from here, so the two agree.
    fn pieces(&self, put: &mut impl FnMut(&[u8])) {
        match self {
            Self::Reply { reply, .. } => reply.pieces(put),
            Self::Event { path, token } => {
                for text in [path, token] {
                    put(text);
                    put(b"\0");
                }
            }
        }
    }
}

impl Reply<'_> {
    fn pieces(&self, put: &mut impl FnMut(&[u8])) {
        match self {
            Self::Done => put(b"OK\0"),
            Self::Bytes(bytes) | Self::Names(bytes) => put(bytes),
            Self::Path(path) => {
                put(path);
                put(b"\0");
            }
            Self::Part { generation, names, last } => {
                put(Decimal::new(*generation).as_bytes());
                put(b"\0");
                put(names);
                if *last {
                    put(b"\0");
                }
            }
            Self::Perms(perms) => {
                for perm in perms {
                    put(&[perm.access.letter()]);
                    put(Decimal::new(u64::from(perm.domid)).as_bytes());
                    put(b"\0");
                }
            }
            Self::Transaction(id) => {
                put(Decimal::new(u64::from(*id)).as_bytes());
                put(b"\0");
            }
            Self::Flag(flag) => put(if *flag { b"T\0" } else { b"F\0" }),
            Self::Error(errno) => {
                put(errno.name().as_bytes());
                put(b"\0");
            }
        }
    }
}
