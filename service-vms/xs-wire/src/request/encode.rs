//! From a request to its bytes, for clients and tests.

use alloc::vec::Vec;

use super::Request;
use crate::{HEADER_LEN, Header, text::Decimal};

impl Request<'_> {
    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Control(words) => out.extend_from_slice(words),
            Self::Directory { path }
            | Self::Read { path }
            | Self::GetPerms { path }
            | Self::Mkdir { path }
            | Self::Rm { path } => push_string(out, path),
            Self::DirectoryPart { path, offset } => {
                push_string(out, path);
                push_number(out, *offset);
            }
            Self::Watch { path, token } | Self::Unwatch { path, token } => {
                push_string(out, path);
                push_string(out, token);
            }
            Self::TransactionStart | Self::ResetWatches => push_string(out, b""),
            Self::TransactionEnd { commit } => push_string(out, if *commit { b"T" } else { b"F" }),
            Self::Introduce { domid, gfn, port } => {
                push_number(out, *domid);
                push_number(out, *gfn);
                push_number(out, *port);
            }
            Self::Release { domid }
            | Self::Resume { domid }
            | Self::GetDomainPath { domid }
            | Self::IsDomainIntroduced { domid } => push_number(out, *domid),
            Self::Write { path, value } => {
                push_string(out, path);
                out.extend_from_slice(value);
            }
            Self::SetPerms { path, perms } => {
                push_string(out, path);
                for perm in perms {
                    out.push(perm.access.letter());
                    push_number(out, perm.domid);
                }
            }
            Self::SetTarget { domid, target } => {
                push_number(out, *domid);
                push_number(out, *target);
            }
        }
    }

    /// The whole message.
    #[must_use]
    pub fn message(&self, request_id: u32, tx_id: u32) -> Vec<u8> {
        let mut payload = Vec::new();
        self.encode(&mut payload);
        let header = Header { op: self.op() as u32, request_id, tx_id, len: payload.len() };
        let mut message = Vec::with_capacity(HEADER_LEN.saturating_add(payload.len()));
        message.extend_from_slice(&header.encode());
        message.append(&mut payload);
        message
    }
}

fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

fn push_number(out: &mut Vec<u8>, number: impl Into<u64>) {
    push_string(out, Decimal::new(number.into()).as_bytes());
}
