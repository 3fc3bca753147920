//! From a payload to a request.

use alloc::vec::Vec;

use super::Request;
use crate::{
    Errno, Op, Perm,
    text::{decimal, only_string, string},
};

impl<'a> Request<'a> {
    /// Reads the payload of a request, as the daemon got it. What follows the last NUL is ignored where C ignores it;
    /// TRANSACTION_START and RESET_WATCHES take any payload.
    ///
    /// # Errors
    /// ENOSYS if `op` is unknown or the daemon's alone (WATCH_EVENT, ERROR); EINVAL if the form is wrong.
    pub fn decode(op: u32, payload: &'a [u8]) -> Result<Self, Errno> {
        match Op::from_u32(op) {
            None | Some(Op::WatchEvent | Op::Error) => Err(Errno::Enosys),
            Some(op) => parse(op, payload).ok_or(Errno::Einval),
        }
    }
}

fn parse(op: Op, payload: &[u8]) -> Option<Request<'_>> {
    Some(match op {
        Op::WatchEvent | Op::Error => return None,
        Op::Control => Request::Control(up_to_last_nul(payload)?),
        Op::Directory => Request::Directory { path: only_string(payload)? },
        Op::Read => Request::Read { path: only_string(payload)? },
        Op::GetPerms => Request::GetPerms { path: only_string(payload)? },
        Op::Mkdir => Request::Mkdir { path: only_string(payload)? },
        Op::Rm => Request::Rm { path: only_string(payload)? },
        Op::Write => {
            let (path, value) = string(payload)?;
            Request::Write { path, value }
        }
        Op::SetPerms => {
            let (path, list) = string(payload)?;
            Request::SetPerms { path, perms: perms(list)? }
        }
        Op::DirectoryPart => {
            let (path, offset) = two_strings(payload)?;
            Request::DirectoryPart { path, offset: offset_of(offset) }
        }
        Op::Watch => {
            let (path, token) = two_strings(payload)?;
            Request::Watch { path, token }
        }
        Op::Unwatch => {
            let (path, token) = two_strings(payload)?;
            Request::Unwatch { path, token }
        }
        Op::TransactionStart => Request::TransactionStart,
        Op::TransactionEnd => Request::TransactionEnd {
            commit: match only_string(payload)? {
                b"T" => true,
                b"F" => false,
                _ => return None,
            },
        },
        Op::Introduce => {
            let (domid, rest) = string(payload)?;
            let (gfn, rest) = string(rest)?;
            let (port, _) = string(rest)?;
            let port = decimal(port).filter(|port| *port > 0)?;
            // Nobody uses the frame number, so nobody checks it; the specification writes it as a signed decimal.
            Request::Introduce { domid: decimal(domid)?, gfn: decimal(gfn).unwrap_or(0), port }
        }
        Op::SetTarget => {
            let (domid, rest) = string(payload)?;
            let (target, _) = string(rest)?;
            Request::SetTarget { domid: decimal(domid)?, target: decimal(target)? }
        }
        Op::Release => Request::Release { domid: only_domid(payload)? },
        Op::Resume => Request::Resume { domid: only_domid(payload)? },
        Op::GetDomainPath => Request::GetDomainPath { domid: only_domid(payload)? },
        Op::IsDomainIntroduced => Request::IsDomainIntroduced { domid: only_domid(payload)? },
        Op::ResetWatches => Request::ResetWatches,
    })
}

fn only_domid(payload: &[u8]) -> Option<u16> {
    decimal(only_string(payload)?)
}

/// Exactly two strings: a third one is an error, bytes without a NUL after them are not.
fn two_strings(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = string(payload)?;
    let (second, rest) = string(rest)?;
    string(rest).is_none().then_some((first, second))
}

fn up_to_last_nul(payload: &[u8]) -> Option<&[u8]> {
    let nul = payload.iter().rposition(|&byte| byte == 0)?;
    payload.get(..=nul)
}

/// One entry or more, each with its NUL.
fn perms(mut list: &[u8]) -> Option<Vec<Perm>> {
    let mut perms = Vec::new();
    while let Some((entry, rest)) = string(list) {
        perms.push(Perm::parse(entry)?);
        list = rest;
    }
    (!perms.is_empty()).then_some(perms)
}

/// C reads the offset with `atoi`: as many digits as there are, 0 if there are none; a negative one is past every end.
fn offset_of(text: &[u8]) -> u32 {
    let text = text.trim_ascii_start();
    let (negative, unsigned) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let digits = unsigned.iter().take_while(|byte| byte.is_ascii_digit());
    let number =
        digits.fold(0_u32, |number, byte| number.saturating_mul(10).saturating_add(u32::from(byte - b'0')));
    if negative && number > 0 { u32::MAX } else { number }
}
