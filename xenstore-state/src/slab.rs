//! Things with small numbers that are used again: what the tree and the trie are made of. A number costs four bytes
//! where a pointer costs eight, and counting references by hand lets a snapshot share what it did not change.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// No slot: the end of the list of free ones.
const END: u32 = u32::MAX;

#[derive(Debug)]
enum Slot<T> {
    Used(T),
    Free { next: u32 },
}

/// Indexing with the number of a removed thing panics: that is a fault of ours, no request leads there.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: END, len: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, item: T) -> u32 {
        self.len += 1;
        if let Some(slot) = self.slots.get_mut(self.free as usize)
            && let Slot::Free { next } = *slot
        {
            *slot = Slot::Used(item);
            return core::mem::replace(&mut self.free, next);
        }
        self.slots.push(Slot::Used(item));
        u32::try_from(self.slots.len() - 1).expect("2^32 slots do not fit in memory")
    }

    pub(crate) fn remove(&mut self, at: u32) -> T {
        match core::mem::replace(&mut self.slots[at as usize], Slot::Free { next: self.free }) {
            Slot::Used(item) => {
                self.free = at;
                self.len -= 1;
                item
            }
            Slot::Free { .. } => panic!("slot {at} is removed twice"),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().zip(0u32..).filter_map(|(slot, at)| match slot {
            Slot::Used(item) => Some((at, item)),
            Slot::Free { .. } => None,
        })
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        match &self.slots[at as usize] {
            Slot::Used(item) => item,
            Slot::Free { .. } => panic!("slot {at} is free"),
        }
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        match &mut self.slots[at as usize] {
            Slot::Used(item) => item,
            Slot::Free { .. } => panic!("slot {at} is free"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Slab;

    #[test]
    fn numbers_are_used_again() {
        let mut slab = Slab::new();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!((slab[a], slab[b], slab.len()), ('a', 'b', 2));
        assert_eq!(slab.remove(a), 'a');
        assert_eq!(slab.iter().collect::<alloc::vec::Vec<_>>(), [(b, &'b')]);
        assert_eq!(slab.insert('c'), a);
        assert_eq!(slab.insert('d'), 2);
        assert_eq!(slab.len(), 3);
    }

    #[test]
    #[should_panic(expected = "free")]
    fn a_removed_number_is_not_read() {
        let mut slab = Slab::new();
        let a = slab.insert(1);
        slab.remove(a);
        let _ = slab[a];
    }
}
