//! All that State knows as a stream of bytes, and back: how State is restarted or upgraded.
//!
//! The form is that of Xen (`docs/designs/xenstore-migration.md`, version 1, little-endian), so that tools for it can read
//! ours, and State can take over from C xenstored. Some kinds of records are ours; a changed one gets a new number.
//!
//! Not carried: clients without a ring (sockets, channels) with their watches; refusals not yet told; who starves. Open
//! transactions of rings go on; those of another daemon end with EAGAIN, for nobody knows what they saw.
//! Roles: service VMs and toolstacks stay what they are; who builds VMs comes from `Settings` and `State::set_role` only.

use alloc::vec::Vec;
use core::fmt;

use crate::{Conn, Settings, State};

mod load;
mod record;
mod save;
mod transactions;

pub(crate) use load::Loader;

/// Kinds of records.
mod kind {
    pub(super) const END: u32 = 0;
    pub(super) const GLOBAL: u32 = 1;
    pub(super) const CONNECTION: u32 = 2;
    pub(super) const WATCH: u32 = 3;
    pub(super) const TRANSACTION: u32 = 4;
    pub(super) const NODE: u32 = 5;
    /// Ours: a domain as Builder told of it. u16 domid, u16 flags (`domain`), u16 manager, u16 target; `NO_DOMAIN` for none.
    pub(super) const DOMAIN: u32 = 0x8000_0001;
    /// Ours: a ring's positions, before its CONNECTION. u32 conn-id, flags (`line`), req_cons, rsp_prod, rsp_cons,
    /// held-len; u16 sent-len, u16 number of pieces; the bytes of the message partly written that are written already; the
    /// request that is held, as Logic gave it; the pieces written last: u32 at, u16 skip, u16 take, u32 len, the message.
    pub(super) const LINE: u32 = 0x8000_0002;
    /// Ours: how many changes there were, u64. Before all nodes, each of which then has its GENERATION.
    pub(super) const COUNTER: u32 = 0x8000_0003;
    /// Ours: of the last change of the NODE that follows, u64.
    pub(super) const GENERATION: u32 = 0x8000_0004;
    /// Ours: a toolstack. u16 domid, u16 number of backends; each: u16 domid, u16 kind (0 vbd, 1 vif).
    pub(super) const TOOLSTACK: u32 = 0x8000_0005;
    /// Ours: an open transaction, after all nodes. u32 conn-id, tx-id; u64 generation at its start; u32 flags
    /// (`transaction`), nodes created, number of owners; each: u32 domid, i32 nodes more.
    pub(super) const SNAPSHOT: u32 = 0x8000_0006;
    /// Ours: a node that the SNAPSHOT before looked at. u64 generation then; u32 order, place among the created (or
    /// `NOT_CREATED`), bytes; u16 flags (`touch`), path-len, number of permissions, 0; permissions; path.
    pub(super) const TOUCH: u32 = 0x8000_0007;
    /// Ours: a node of the SNAPSHOT's tree where it differs from the main tree, parents first. u64 generation; u32
    /// number of children; u16 path-len, value-len, number of permissions, 0; permissions; path; value; children's names.
    pub(super) const CHANGE: u32 = 0x8000_0008;
    /// Ours: the number that a ring's next transaction gets, after all SNAPSHOTs. u32 conn-id, number.
    pub(super) const NEXT: u32 = 0x8000_0009;
}

/// Flags of a domain.
mod domain {
    pub(super) const ANNOUNCED: u16 = 1;
    pub(super) const INTRODUCED: u16 = 2;
    pub(super) const SHUT_DOWN: u16 = 4;
    pub(super) const RESTARTING: u16 = 8;
    pub(super) const SERVICE: u16 = 16;
}

/// Flags of a line.
mod line {
    pub(super) const KNOWN: u32 = 1;
    pub(super) const FRESH: u32 = 2;
    pub(super) const HELD: u32 = 4;
}

/// Flags of a transaction.
mod transaction {
    pub(super) const CHECKS_QUOTA: u32 = 1;
    pub(super) const FAILED: u32 = 2;
    pub(super) const STALE: u32 = 4;
}

/// Flags of a node that a transaction looked at.
mod touch {
    pub(super) const EXISTED: u16 = 1;
    pub(super) const MODIFIED: u16 = 2;
    pub(super) const EVENT: u16 = 4;
    pub(super) const EVENT_ABOVE: u16 = 8;
}

/// A node that a transaction did not create.
const NOT_CREATED: u32 = u32::MAX;

/// `DOMID_INVALID` (xen/include/public/xen.h).
const NO_DOMAIN: u16 = 0x7ff4;
/// A permission that is not honoured (`XS_STATE_NODE_PERM_IGNORE`).
const IGNORED: u8 = 1;

/// Why a stream was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// It does not begin as one.
    NoStream,
    /// It is of this version, or of the other byte order (flag 1): (version, flags).
    Version(u32, u32),
    /// It ends before its last record does, or goes on after it.
    Length,
    /// A record says what cannot be.
    Record {
        /// Its kind.
        kind: u32,
        /// Where it starts, bytes from the start of the stream.
        offset: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// What a client sent and State did not take yet are no messages.
    Unread(Conn),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStream => f.write_str("it is no stream of XenStore's contents"),
            Self::Version(version, flags) => {
                write!(f, "its version {version} (flags {flags:#x}) is not known")
            }
            Self::Length => f.write_str("it does not end with its last record"),
            Self::Record { kind, offset, why } => write!(f, "record {kind:#x} at byte {offset}: {why}"),
            Self::Unread(Conn(conn)) => write!(f, "what connection {conn} sent are no messages"),
        }
    }
}

impl core::error::Error for StreamError {}

/// What belongs to a ring and is not State's own: `Service` keeps it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Read from the ring, but no complete message yet.
    pub(crate) unread: Vec<u8>,
    /// Bytes of the first message that waits which are in the ring already.
    pub(crate) sent: usize,
    /// How far the ring is read and written; None: not known yet.
    pub(crate) positions: Option<Positions>,
    /// The pieces written last.
    pub(crate) last: Vec<Piece>,
    /// Logic is known to have written them.
    pub(crate) fresh: bool,
    /// A request whose time has not come.
    pub(crate) held: Option<Vec<u8>>,
}

/// How far a ring is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Positions {
    pub(crate) req_cons: u32,
    pub(crate) rsp_prod: u32,
    pub(crate) rsp_cons: u32,
}

/// A part of a message that was given to Logic to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: u32,
    pub(crate) skip: u16,
    pub(crate) take: u16,
    /// The whole message as it is on the wire.
    pub(crate) message: Vec<u8>,
}

impl State {
    /// All that State knows, but for what `stream` says is not carried.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut all = Vec::new();
        self.save_with(|_| Carried::default(), &mut |piece| {
            all.extend_from_slice(piece);
            true
        });
        all
    }

    /// State as it was saved, also by C xenstored. Rings are told as new (`State::next_notice`); `settings` are today's.
    ///
    /// # Errors
    /// `StreamError` if the stream is not whole or contradicts itself.
    pub fn load(settings: Settings, bytes: &[u8]) -> Result<Self, StreamError> {
        let mut loader = Loader::new(settings);
        loader.push(bytes)?;
        Ok(loader.finish()?.0)
    }
}
