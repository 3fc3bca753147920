//! Counts everything again.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
};
use core::fmt;

use ennead_xs_wire::path;

use crate::{State, connection::Connection, transaction::Transaction};

/// State counted something wrong: a fault of State itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inconsistency(String);

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Inconsistency {}

/// What one domain uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usage {
    nodes: usize,
    memory: usize,
    watches: usize,
    transactions: usize,
}

impl State {
    /// Holds every count against what is there: references, owners, quotas, watches, queues. Takes time in proportion to
    /// the number of nodes.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check(&self) -> Result<(), Inconsistency> {
        self.check_with(None)
    }

    /// `current`: the transaction of the request that asks.
    pub(crate) fn check_with(&self, current: Option<&Transaction>) -> Result<(), Inconsistency> {
        self.check_trees(current)
            .and_then(|()| self.check_accounts(current))
            .and_then(|()| self.check_watches())
            .map_err(Inconsistency)
    }

    fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.connections.values().flat_map(|connection| connection.transactions.values())
    }

    fn check_trees(&self, current: Option<&Transaction>) -> Result<(), String> {
        let roots = self.transactions().chain(current).map(|txn| txn.root);
        let touched = self.transactions().chain(current).flat_map(|txn| txn.touched.values());
        let lists = touched.filter_map(|touch| Some(touch.before?.0));
        self.store.tree.verify(roots.chain([self.store.root]), lists)?;
        let (mut nodes, mut bytes) = (0, 0);
        self.store.tree.walk(self.store.root, path::ROOT, |id, _| {
            nodes += 1;
            bytes += self.store.tree.size(id);
            true
        });
        match self.store.totals() == (nodes, bytes) {
            true => Ok(()),
            false => Err(format!("{:?} is not {nodes} nodes of {bytes} bytes", self.store.totals())),
        }
    }

    fn check_accounts(&self, current: Option<&Transaction>) -> Result<(), String> {
        let mut usage: BTreeMap<u16, Usage> = BTreeMap::new();
        self.store.tree.walk(self.store.root, path::ROOT, |id, path| {
            let owner = usage.entry(self.store.tree.owner(id)).or_default();
            owner.nodes += 1;
            owner.memory += self.store.tree.size(id) + path.len();
            true
        });
        for txn in self.transactions().chain(current) {
            let (counted, memory) = txn.memory();
            if counted != memory {
                return Err(format!("a transaction counts {counted} bytes, not {memory}"));
            }
            if let Some(domid) = txn.payer() {
                let payer = usage.entry(domid).or_default();
                payer.transactions += 1;
                payer.memory += memory;
            }
        }
        for (_, watch) in self.watches.iter() {
            if let Some(domid) = self.connections.get(&watch.conn).and_then(Connection::payer) {
                let payer = usage.entry(domid).or_default();
                payer.watches += 1;
                payer.memory += watch.path.len() + watch.token.len();
            }
        }
        for (domid, domain) in self.store.domains.iter() {
            let counted = Usage {
                nodes: domain.nodes,
                memory: domain.memory,
                watches: domain.watches,
                transactions: domain.transactions,
            };
            let used = usage.remove(&domid).unwrap_or_default();
            if counted != used {
                return Err(format!("domain {domid} uses {used:?}, not {counted:?}"));
            }
        }
        match usage.first_key_value() {
            None => Ok(()),
            Some((domid, used)) => Err(format!("domain {domid}, which does not exist, uses {used:?}")),
        }
    }

    fn check_watches(&self) -> Result<(), String> {
        let mut steps = BTreeSet::from([path::ROOT]);
        for (id, watch) in self.watches.iter() {
            let connection = self.connections.get(&watch.conn);
            let is_known = connection.is_some_and(|connection| connection.watches.contains(&id));
            if !is_known || self.watches.find(watch.conn, &watch.path, &watch.token) != Some(id) {
                return Err(format!("{id:?} is lost"));
            }
            let mut at = (!path::is_special(&watch.path)).then_some(&*watch.path);
            while let Some(path) = at {
                steps.insert(path);
                at = path::parent(path);
            }
        }
        if steps.len() != self.watches.len() {
            return Err(format!("the trie has {} steps, not {}", self.watches.len(), steps.len()));
        }
        let watches: usize = self.connections.values().map(|connection| connection.watches.len()).sum();
        if watches != self.watches.iter().count() {
            return Err(format!("connections have {watches} watches"));
        }
        for (conn, connection) in &self.connections {
            let (counted, waiting) = connection.outbox.events();
            if counted != waiting {
                return Err(format!("{conn:?} counts {counted} events, not {waiting}"));
            }
        }
        Ok(())
    }
}
