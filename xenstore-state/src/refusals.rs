//! What was refused to domains, for the audit log.

use alloc::{boxed::Box, collections::BTreeMap, collections::VecDeque};

use ennead_xs_wire::{Errno, Op};

/// Most refusals that wait to be fetched.
const QUEUE: usize = 64;
/// Most refusals of one domain that are told in one `WINDOW_MS`.
const PER_DOMAIN: u32 = 8;
const WINDOW_MS: u64 = 1000;
/// Most bytes of a path that are told.
const PATH: usize = 256;

/// A request that was denied or would have exceeded a quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whose.
    pub domid: u16,
    /// For what.
    pub op: Op,
    /// The path as the client wrote it, its first 256 bytes; empty if the request has none.
    pub path: Box<[u8]>,
    /// EACCES or EPERM: denied; else a quota.
    pub errno: Errno,
}

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    queue: VecDeque<Refusal>,
    /// Per domain: start of the window, refusals in it.
    recent: BTreeMap<u16, (u64, u32)>,
    dropped: u64,
}

impl Refusals {
    pub(crate) fn push(&mut self, now_ms: u64, domid: u16, op: Op, path: &[u8], errno: Errno) {
        let told = match errno {
            Errno::Eacces | Errno::Eperm | Errno::Enospc | Errno::Enomem | Errno::Eio => true,
            // Else a listing is too long.
            Errno::E2big => op == Op::Watch,
            _ => false,
        };
        if !told {
            return;
        }
        let (since, count) = self.recent.entry(domid).or_insert((now_ms, 0));
        if now_ms.saturating_sub(*since) >= WINDOW_MS {
            (*since, *count) = (now_ms, 0);
        }
        *count = count.saturating_add(1);
        if *count > PER_DOMAIN || self.queue.len() >= QUEUE {
            self.dropped += 1;
            return;
        }
        let path = path.get(..PATH).unwrap_or(path).into();
        self.queue.push_back(Refusal { domid, op, path, errno });
    }

    pub(crate) fn pop(&mut self) -> Option<Refusal> {
        self.queue.pop_front()
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn forget(&mut self, domid: u16) {
        self.recent.remove(&domid);
    }
}
