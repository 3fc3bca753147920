//! The domains that XenStore knows: what they own and use.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::Conn;

/// A domain that exists in Xen, as far as State was told.
#[derive(Debug, Default)]
pub(crate) struct Domain {
    /// Entries of nodes that did not change since then mean another domain (XSA-322).
    pub(crate) generation: u64,
    /// `State::created` told of it; else something else did that implies it.
    pub(crate) announced: bool,
    /// The toolstack that manages it.
    pub(crate) manager: Option<u16>,
    /// It has, or had until its restart, a ring.
    pub(crate) introduced: bool,
    /// `@releaseDomain` told already that it shut down.
    pub(crate) shutdown: bool,
    /// Builder replaces it; what it owns is kept.
    pub(crate) restarting: bool,
    /// Whose rights it has besides its own.
    pub(crate) target: Option<u16>,
    /// The connection of its ring.
    pub(crate) ring: Option<(Conn, u32)>,
    /// All its connections.
    pub(crate) connections: Vec<Conn>,
    /// Nodes that it owns.
    pub(crate) nodes: usize,
    /// Bytes of its nodes, watches and transactions.
    pub(crate) memory: usize,
    pub(crate) watches: usize,
    pub(crate) transactions: usize,
}

#[derive(Debug)]
pub(crate) struct Domains(BTreeMap<u16, Domain>);

impl Domains {
    /// Domain 0 always exists: the operator's nodes are its.
    pub(crate) fn new() -> Self {
        let zero = Domain { announced: true, introduced: true, ..Domain::default() };
        Self(BTreeMap::from([(0, zero)]))
    }

    pub(crate) fn get(&self, domid: u16) -> Option<&Domain> {
        self.0.get(&domid)
    }

    pub(crate) fn get_mut(&mut self, domid: u16) -> Option<&mut Domain> {
        self.0.get_mut(&domid)
    }

    /// The domain, made up as existing since `generation` if nobody told of it.
    pub(crate) fn get_or_add(&mut self, domid: u16, generation: u64) -> &mut Domain {
        self.0.entry(domid).or_insert_with(|| Domain { generation, ..Domain::default() })
    }

    pub(crate) fn remove(&mut self, domid: u16) {
        self.0.remove(&domid);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Domain)> {
        self.0.iter().map(|(domid, domain)| (*domid, domain))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Domain> {
        self.0.values_mut()
    }

    /// Whether an entry for this domain in a node that last changed at `generation` means today's domain.
    pub(crate) fn is_meant(&self, domid: u16, generation: u64) -> bool {
        self.get(domid).is_some_and(|domain| domain.generation <= generation)
    }

    /// Charges the owner of nodes, or gives back.
    pub(crate) fn account(&mut self, owner: u16, nodes: isize, bytes: isize) {
        if let Some(domain) = self.get_mut(owner) {
            domain.nodes = domain.nodes.saturating_add_signed(nodes);
            domain.memory = domain.memory.saturating_add_signed(bytes);
        }
    }
}
