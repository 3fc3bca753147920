//! One client's connection.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::{output::Outbox, transaction::Transaction, watches::WatchId};

/// A connection's number; never used again while State lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u32);

/// Whose rights a connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// May do everything, without quotas. Permissions take it for domain 0.
    Operator,
    /// A domain.
    Domain(u16),
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) identity: Identity,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    /// The number that the next transaction gets, if it is free.
    pub(crate) next_transaction: u32,
    pub(crate) watches: BTreeSet<WatchId>,
    pub(crate) outbox: Outbox,
    /// `State::next_with_output` will name it.
    pub(crate) queued: bool,
    /// Commits in a row that ended with EAGAIN.
    pub(crate) lost: u32,
}

impl Connection {
    pub(crate) const fn new(identity: Identity) -> Self {
        Self {
            identity,
            transactions: BTreeMap::new(),
            next_transaction: 0,
            watches: BTreeSet::new(),
            outbox: Outbox::new(),
            queued: false,
            lost: 0,
        }
    }

    /// The domain that is charged; None for the operator.
    pub(crate) const fn payer(&self) -> Option<u16> {
        match self.identity {
            Identity::Operator => None,
            Identity::Domain(domid) => Some(domid),
        }
    }

    /// A number for a new transaction: counts up, never 0 and never one in use.
    pub(crate) fn new_transaction(&mut self, transaction: Transaction) -> u32 {
        loop {
            let id = self.next_transaction;
            self.next_transaction = id.wrapping_add(1);
            if id != 0 && !self.transactions.contains_key(&id) {
                self.transactions.insert(id, transaction);
                return id;
            }
        }
    }
}
