//! One step of a test: what somebody does, to either daemon.

use std::fmt;

use ennead_xs_wire::{Op, Request};

use crate::client::show;
use crate::daemon::DomainState;
use crate::universe::REGIONS;

/// Who.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// A socket connection, by number: domain 0's rights.
    Operator(u8),
    /// A domain with its ring.
    Guest(u16),
}

/// In which transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tx {
    /// In none.
    None,
    /// In the one that the connection's START with this number in the sequence gave. Daemons may choose different ids.
    Slot(u16),
    /// This id, which was never given out.
    Bad(u32),
}

/// What.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A request.
    Request {
        /// Of whom.
        who: Who,
        /// In which transaction.
        tx: Tx,
        /// Its operation, by number.
        op: u32,
        /// Its payload.
        payload: Vec<u8>,
        /// The number of the transaction that it starts, if it is a START.
        opens: Option<u16>,
    },
    /// WRITEs of new children, to reach a quota.
    Fill {
        /// Of whom.
        who: Who,
        /// In which transaction.
        tx: Tx,
        /// The path of their parent.
        under: Vec<u8>,
        /// How many.
        count: u16,
    },
    /// WATCHes with tokens of their own, to reach a quota.
    Watches {
        /// Of whom.
        who: Who,
        /// On which path.
        path: Vec<u8>,
        /// How many.
        count: u16,
    },
    /// A socket connection is closed and made anew.
    Reconnect(u8),
    /// A socket connection claims a payload beyond the protocol's limit.
    Oversize(u8),
    /// Xen has a new domain, or one that was released; operator 0 introduces it.
    Create(u16),
    /// Xen changes a domain's state.
    State(u16, DomainState),
}

impl Action {
    /// A well-formed request outside transactions.
    #[must_use]
    pub fn request(who: Who, request: &Request<'_>) -> Self {
        Self::in_transaction(who, Tx::None, request)
    }

    /// A well-formed request.
    #[must_use]
    pub fn in_transaction(who: Who, tx: Tx, request: &Request<'_>) -> Self {
        let mut payload = Vec::new();
        request.encode(&mut payload);
        Self::Request { who, tx, op: request.op() as u32, payload, opens: None }
    }

    /// Others may rely on what this does: that a domain, and the root of a region, is there.
    #[must_use]
    pub fn is_ground(&self) -> bool {
        let is_root = |path: &[u8]| REGIONS.iter().any(|region| region.root() == path);
        match self {
            Self::Create(_) => true,
            Self::Request { tx: Tx::None, op, payload, .. } if *op == Op::Mkdir as u32 => {
                payload.strip_suffix(&[0]).is_some_and(is_root)
            }
            _ => false,
        }
    }

    /// Who asks for which operation, if this is one or more requests.
    #[must_use]
    pub fn request_of(&self) -> Option<(Who, u32)> {
        match self {
            Self::Request { who, op, .. } => Some((*who, *op)),
            Self::Fill { who, .. } => Some((*who, Op::Write as u32)),
            Self::Watches { who, .. } => Some((*who, Op::Watch as u32)),
            Self::Create(_) => Some((Who::Operator(0), Op::Introduce as u32)),
            Self::Reconnect(_) | Self::Oversize(_) | Self::State(..) => None,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(number) => write!(f, "operator {number}"),
            Self::Guest(domid) => write!(f, "guest {domid}"),
        }
    }
}

impl fmt::Display for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Slot(number) => write!(f, " in tx#{number}"),
            Self::Bad(id) => write!(f, " in unknown tx {id}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { who, tx, op, payload, opens } => {
                let name = Op::from_u32(*op).map_or_else(|| format!("op {op}"), |op| format!("{op:?}"));
                write!(f, "{who}{tx}: {name} {}", show(payload))?;
                opens.map_or(Ok(()), |slot| write!(f, " -> tx#{slot}"))
            }
            Self::Fill { who, tx, under, count } => {
                write!(f, "{who}{tx}: {count} writes under {}", show(under))
            }
            Self::Watches { who, path, count } => write!(f, "{who}: {count} watches on {}", show(path)),
            Self::Reconnect(number) => write!(f, "operator {number}: reconnects"),
            Self::Oversize(number) => write!(f, "operator {number}: sends a header with too long a length"),
            Self::Create(domid) => write!(f, "domain {domid} is created and introduced"),
            Self::State(domid, state) => write!(f, "domain {domid}: {state:?}"),
        }
    }
}
