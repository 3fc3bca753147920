//! The client's side: messages of either direction as they come in, and what a daemon's message says.

use crate::{
    Errno, HEADER_LEN, Header, Message, Op, Perm, Reply, TooLong,
    text::{decimal, only_string, string},
};

/// A whole message whose payload nobody has looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    /// Its header.
    pub header: Header,
    /// As many bytes as the header says.
    pub payload: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The message at the start of `bytes` and its length, header included; None if it is not complete yet.
    ///
    /// # Errors
    /// `TooLong` if the header claims more than `PAYLOAD_MAX`: then no later message can be found either.
    pub fn split(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, TooLong> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::decode(head)?;
        let message = rest.get(..header.len).map(|payload| Self { header, payload });
        Ok(message.map(|message| (message, HEADER_LEN.saturating_add(header.len))))
    }

    /// Whether this is an error, known or not.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        self.header.op == Op::Error as u32
    }

    /// The error; None if this is none, or one that `Errno` does not list.
    #[must_use]
    pub fn error(&self) -> Option<Errno> {
        self.is_error().then(|| only_string(self.payload).and_then(Errno::from_name)).flatten()
    }

    /// Path and token if this is a watch event.
    #[must_use]
    pub fn event(&self) -> Option<(&'a [u8], &'a [u8])> {
        if self.header.op != Op::WatchEvent as u32 {
            return None;
        }
        let (path, rest) = string(self.payload)?;
        Some((path, only_string(rest)?))
    }

    /// What a daemon's message says; None if no daemon answers so. An error's operation reads as ERROR.
    #[must_use]
    pub fn message(&self) -> Option<Message<'a>> {
        let Header { op, request_id, tx_id, .. } = self.header;
        if let Some((path, token)) = self.event() {
            return Some(Message::Event { path, token });
        }
        Some(Message::Reply { op, request_id, tx_id, reply: reply(Op::from_u32(op)?, self.payload)? })
    }
}

fn reply(op: Op, payload: &[u8]) -> Option<Reply<'_>> {
    Some(match op {
        Op::WatchEvent => return None,
        Op::Error => Reply::Error(Errno::from_name(only_string(payload)?)?),
        Op::Control | Op::Read => Reply::Bytes(payload),
        Op::Directory => Reply::Names(are_names(payload).then_some(payload)?),
        Op::DirectoryPart => {
            let (generation, rest) = string(payload)?;
            // A name is never empty, so an empty string can only be the end's mark.
            let (names, last) = match rest {
                [names @ .., 0] if names.last().is_none_or(|&byte| byte == 0) => (names, true),
                names => (names, false),
            };
            Reply::Part { generation: decimal(generation)?, names: are_names(names).then_some(names)?, last }
        }
        Op::GetPerms => {
            let list = payload.strip_suffix(b"\0")?;
            Reply::Perms(list.split(|&byte| byte == 0).map(Perm::parse).collect::<Option<_>>()?)
        }
        Op::TransactionStart => Reply::Transaction(decimal(only_string(payload)?)?),
        Op::GetDomainPath => Reply::Path(only_string(payload)?),
        Op::IsDomainIntroduced => Reply::Flag(match payload {
            b"T\0" => true,
            b"F\0" => false,
            _ => return None,
        }),
        Op::Watch
        | Op::Unwatch
        | Op::TransactionEnd
        | Op::Introduce
        | Op::Release
        | Op::Write
        | Op::Mkdir
        | Op::Rm
        | Op::SetPerms
        | Op::Resume
        | Op::SetTarget
        | Op::ResetWatches => {
            if payload != b"OK\0" {
                return None;
            }
            Reply::Done
        }
    })
}

/// Names, each with its NUL: none at all, or a NUL at the end.
fn are_names(bytes: &[u8]) -> bool {
    bytes.last().is_none_or(|&byte| byte == 0)
}

#[cfg(test)]
mod tests;
