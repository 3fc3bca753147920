//! How much of XenStore one domain may use.

/// Limits of one domain, with the meaning (and the off-by-one) that each has in C xenstored 4.17. The operator has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Nodes that a domain owns.
    pub nodes: usize,
    /// Bytes of one node must stay below this: 24, 8 per permission, the value, the children's names each with a NUL.
    pub node_size: usize,
    /// Watches; one more than this is accepted.
    pub watches: usize,
    /// Open transactions; one more than this is accepted.
    pub transactions: usize,
    /// Nodes that one transaction looks at or changes.
    pub transaction_nodes: usize,
    /// Permissions of one node.
    pub permissions: usize,
    /// Bytes of a path, without a leading `/local/domain/<domid>/`. For the operator too.
    pub path_max: usize,
    /// Bytes of nodes (with their paths), watches and transactions must stay below this.
    pub memory: usize,
    /// Events that wait for the client to read them; what comes then is merged (see `State::front`).
    pub events: usize,
}

impl Quotas {
    /// Xen 4.17's defaults for a guest.
    pub const GUEST: Self = Self {
        nodes: 1000,
        node_size: 2048,
        watches: 128,
        transactions: 10,
        transaction_nodes: 1024,
        permissions: 5,
        path_max: 2048,
        memory: 2_621_440,
        events: 256,
    };

    /// For a service VM, which has nodes and watches for each of its guests.
    pub const SERVICE: Self = Self {
        nodes: 16_000,
        node_size: 4096,
        watches: 8192,
        transactions: 64,
        transaction_nodes: 16_384,
        permissions: 16,
        path_max: 2048,
        memory: 8 * 1024 * 1024,
        events: 8192,
    };
}

impl Default for Quotas {
    fn default() -> Self {
        Self::GUEST
    }
}
