//! Counts again what the tree counts as it goes.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use super::{NodeId, Tree};
use crate::perms::{PermTable, PermsId};

impl Tree {
    /// Holds the references, the order of children and the sums against what is there. `roots` are all holders of trees,
    /// `perms` all holders of lists besides the nodes.
    ///
    /// # Errors
    /// What is wrong first.
    pub(crate) fn verify(
        &self,
        roots: impl Iterator<Item = NodeId>,
        perms: impl Iterator<Item = PermsId>,
    ) -> Result<(), String> {
        let mut holders: BTreeMap<u32, u32> = BTreeMap::new();
        let mut lists: BTreeMap<u32, u32> = BTreeMap::new();
        let mut hold = |id: NodeId| *holders.entry(id.0).or_default() += 1;
        let mut hold_list = |id: PermsId| *lists.entry(PermTable::number(id)).or_default() += 1;
        roots.for_each(&mut hold);
        perms.for_each(&mut hold_list);
        let mut bytes = 0;
        for (number, node) in self.nodes.iter() {
            let id = NodeId(number);
            bytes += self.size(id);
            hold_list(node.perms);
            let Some(kids) = &node.kids else { continue };
            kids.order.iter().copied().for_each(&mut hold);
            let mut by_name = kids.order.clone();
            by_name.sort_by(|&a, &b| self.name(a).cmp(self.name(b)));
            let unique = by_name.windows(2).all(
                |pair| matches!(pair, [a, b] if self.name(*a) != self.name(*b) && !self.name(*a).is_empty()),
            );
            if by_name != kids.sorted || kids.order.is_empty() || !unique {
                return Err(format!("children of node {number} are out of order"));
            }
            if kids.listing != self.listing(id).len() {
                return Err(format!("node {number} counts its listing as {}", kids.listing));
            }
        }
        if bytes != self.bytes {
            return Err(format!("{} bytes are counted, {bytes} are there", self.bytes));
        }
        let counted: Vec<_> = self.nodes.iter().map(|(number, node)| (number, node.refs)).collect();
        if let Some((number, refs)) =
            counted.iter().find(|(number, refs)| holders.get(number).copied().unwrap_or(0) != *refs)
        {
            return Err(format!("node {number} counts {refs} holders"));
        }
        if let Some((id, refs)) = self
            .perms
            .references()
            .find(|(id, refs)| lists.get(&PermTable::number(*id)).copied().unwrap_or(0) != *refs)
        {
            return Err(format!("{id:?} counts {refs} holders"));
        }
        Ok(())
    }
}
