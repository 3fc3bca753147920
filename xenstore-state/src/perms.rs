//! Lists of permissions, each kept once however many nodes have it.

use alloc::{collections::BTreeMap, rc::Rc, vec::Vec};
use core::ops::BitOr;

use ennead_xs_wire::{Access, Perm};

use crate::slab::Slab;

/// What somebody may do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights(u8);

impl Rights {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READ: Self = Self(1);
    pub(crate) const WRITE: Self = Self(2);
    /// Change the permissions.
    pub(crate) const OWNER: Self = Self(4);
    pub(crate) const ALL: Self = Self(7);

    /// All of `need`.
    pub(crate) const fn has(self, need: Self) -> bool {
        self.0 & need.0 == need.0
    }

    /// Any of `need`.
    pub(crate) const fn has_any(self, need: Self) -> bool {
        self.0 & need.0 != 0
    }
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl From<Access> for Rights {
    fn from(access: Access) -> Self {
        match access {
            Access::None => Self::NONE,
            Access::Read => Self::READ,
            Access::Write => Self::WRITE,
            Access::Both => Self::READ | Self::WRITE,
        }
    }
}

/// One entry of a list. The first one names the owner and what everybody else may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) domid: u16,
    pub(crate) access: Access,
    /// Names a domain that did not exist, or another one than today's: listed, never honoured (XSA-322, XSA-417).
    pub(crate) ignored: bool,
}

impl From<Entry> for Perm {
    fn from(entry: Entry) -> Self {
        Self { access: entry.access, domid: entry.domid }
    }
}

/// Who asks: a domid, and that of the domain whose rights it has too (SET_TARGET).
pub(crate) type Asker = (u16, Option<u16>);

/// What the list gives to somebody without any privilege. `valid` says whether an entry's domain is still the one that
/// was meant.
pub(crate) fn rights(
    list: &[Entry],
    (domid, target): Asker,
    mut valid: impl FnMut(&Entry) -> bool,
) -> Rights {
    let is_meant = |entry: &Entry| entry.domid == domid || Some(entry.domid) == target;
    let Some((owner, others)) = list.split_first() else { return Rights::NONE };
    if is_meant(owner) {
        return Rights::ALL;
    }
    let named = others.iter().find(|entry| is_meant(entry) && !entry.ignored && valid(entry));
    named.unwrap_or(owner).access.into()
}

/// A list in the table. Whoever holds one holds a reference to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PermsId(u32);

#[derive(Debug)]
struct Interned {
    list: Rc<[Entry]>,
    refs: u32,
}

#[derive(Debug)]
pub(crate) struct PermTable {
    lists: Slab<Interned>,
    ids: BTreeMap<Rc<[Entry]>, u32>,
}

impl PermTable {
    pub(crate) const fn new() -> Self {
        Self { lists: Slab::new(), ids: BTreeMap::new() }
    }

    /// One more reference to this list, which must not be empty.
    pub(crate) fn intern(&mut self, list: &[Entry]) -> PermsId {
        if let Some(&id) = self.ids.get(list) {
            return self.retain(PermsId(id));
        }
        let list: Rc<[Entry]> = list.into();
        let id = self.lists.insert(Interned { list: Rc::clone(&list), refs: 1 });
        self.ids.insert(list, id);
        PermsId(id)
    }

    pub(crate) fn retain(&mut self, id: PermsId) -> PermsId {
        self.lists[id.0].refs += 1;
        id
    }

    pub(crate) fn release(&mut self, id: PermsId) {
        self.lists[id.0].refs -= 1;
        if self.lists[id.0].refs == 0 {
            let dead = self.lists.remove(id.0);
            self.ids.remove(&dead.list);
        }
    }

    pub(crate) fn get(&self, id: PermsId) -> &[Entry] {
        &self.lists[id.0].list
    }

    pub(crate) fn owner(&self, id: PermsId) -> u16 {
        self.get(id).first().map_or(0, |entry| entry.domid)
    }

    /// A reference to the same list with another owner.
    pub(crate) fn with_owner(&mut self, id: PermsId, owner: u16) -> PermsId {
        if self.owner(id) == owner {
            return self.retain(id);
        }
        let mut list = Vec::from(self.get(id));
        if let Some(first) = list.first_mut() {
            first.domid = owner;
        }
        self.intern(&list)
    }

    /// How often each list is held, for `check`.
    pub(crate) fn references(&self) -> impl Iterator<Item = (PermsId, u32)> {
        self.lists.iter().map(|(id, list)| (PermsId(id), list.refs))
    }

    /// The number as such, for `check`.
    pub(crate) const fn number(id: PermsId) -> u32 {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(access: Access, domid: u16) -> Entry {
        Entry { domid, access, ignored: false }
    }

    #[test]
    fn the_first_entry_that_names_somebody_counts() {
        let list =
            [entry(Access::Read, 1), entry(Access::None, 2), entry(Access::Both, 2), entry(Access::Write, 3)];
        let of = |asker| rights(&list, asker, |_| true);
        assert_eq!(of((1, None)), Rights::ALL);
        assert_eq!(of((2, None)), Rights::NONE);
        assert_eq!(of((3, None)), Rights::WRITE);
        assert_eq!(of((4, None)), Rights::READ);
        // A stub domain has its target's rights; the order of the list still decides.
        assert_eq!(of((4, Some(1))), Rights::ALL);
        assert_eq!(of((3, Some(2))), Rights::NONE);
    }

    #[test]
    fn entries_that_do_not_count_are_passed_over() {
        let mut list = [entry(Access::None, 1), entry(Access::Read, 2), entry(Access::Write, 2)];
        assert_eq!(rights(&list, (2, None), |entry| entry.access == Access::Write), Rights::WRITE);
        list[1].ignored = true;
        assert_eq!(rights(&list, (2, None), |_| true), Rights::WRITE);
        assert_eq!(rights(&list, (2, None), |_| false), Rights::NONE);
    }

    #[test]
    fn equal_lists_are_kept_once_and_go_with_their_last_holder() {
        let mut table = PermTable::new();
        let a = table.intern(&[entry(Access::None, 1)]);
        let b = table.intern(&[entry(Access::None, 1)]);
        let c = table.with_owner(a, 2);
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!((table.owner(c), table.with_owner(c, 2)), (2, c));
        for id in [a, b, c, c] {
            table.release(id);
        }
        assert_eq!(table.references().count(), 0);
    }
}
