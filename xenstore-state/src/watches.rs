//! Who watches what. A trie by path: a change looks only at the watches on its way, however many there are elsewhere.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    vec::Vec,
};

use ennead_xs_wire::path;

use crate::{Conn, slab::Slab, transaction::Reach};

/// Watches are numbered as they are registered; that is the order of their events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WatchId(u64);

#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) conn: Conn,
    /// Absolute or special.
    pub(crate) path: Rc<[u8]>,
    pub(crate) token: Rc<[u8]>,
    /// Bytes at the start of paths that a relative watch does not tell.
    pub(crate) skip: usize,
    /// An event that stands for all that did not fit waits to be read.
    pub(crate) overflowed: bool,
    /// Its place in the trie; None for a special path.
    place: Option<u32>,
}

/// A segment of watched paths.
#[derive(Debug)]
struct Step {
    name: Box<[u8]>,
    parent: u32,
    /// By name.
    below: Vec<u32>,
    here: BTreeSet<WatchId>,
}

#[derive(Debug)]
pub(crate) struct Watches {
    all: BTreeMap<WatchId, Watch>,
    steps: Slab<Step>,
    special: BTreeMap<Box<[u8]>, BTreeSet<WatchId>>,
    next: u64,
}

/// The step of `/`, which stays.
const ROOT: u32 = 0;

impl Watches {
    pub(crate) fn new() -> Self {
        let mut steps = Slab::new();
        steps.insert(Step { name: Box::default(), parent: ROOT, below: Vec::new(), here: BTreeSet::new() });
        Self { all: BTreeMap::new(), steps, special: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn get(&self, id: WatchId) -> Option<&Watch> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WatchId) -> Option<&mut Watch> {
        self.all.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WatchId, &Watch)> {
        self.all.iter().map(|(id, watch)| (*id, watch))
    }

    /// The watch of a connection on exactly this path with this token.
    pub(crate) fn find(&self, conn: Conn, path: &[u8], token: &[u8]) -> Option<WatchId> {
        let here = match path::is_special(path) {
            true => self.special.get(path)?,
            false => &self.steps[self.step(path)?].here,
        };
        let is_it =
            |id: &WatchId| self.all.get(id).is_some_and(|watch| watch.conn == conn && *watch.token == *token);
        here.iter().copied().find(is_it)
    }

    pub(crate) fn add(&mut self, conn: Conn, path: &[u8], token: &[u8], skip: usize) -> WatchId {
        let id = WatchId(self.next);
        self.next += 1;
        let place = if path::is_special(path) {
            self.special.entry(path.into()).or_default().insert(id);
            None
        } else {
            let step = self.make_step(path);
            self.steps[step].here.insert(id);
            Some(step)
        };
        let watch = Watch { conn, path: path.into(), token: token.into(), skip, overflowed: false, place };
        self.all.insert(id, watch);
        id
    }

    pub(crate) fn remove(&mut self, id: WatchId) -> Option<Watch> {
        let watch = self.all.remove(&id)?;
        match watch.place {
            Some(step) => {
                self.steps[step].here.remove(&id);
                self.prune(step);
            }
            None => {
                if let Some(here) = self.special.get_mut(&*watch.path) {
                    here.remove(&id);
                    if here.is_empty() {
                        self.special.remove(&*watch.path);
                    }
                }
            }
        }
        Some(watch)
    }

    /// The watches that a change of `path` reaches, by connection, and for each connection as they were registered.
    pub(crate) fn reached(&self, path: &[u8], reach: Reach) -> Vec<(Conn, WatchId)> {
        let mut found = Vec::new();
        let mut add = |here: &BTreeSet<WatchId>| {
            found.extend(here.iter().filter_map(|id| Some((self.all.get(id)?.conn, *id))));
        };
        if path::is_special(path) {
            self.special.get(path).into_iter().for_each(&mut add);
        } else if reach == Reach::Exact {
            self.step(path).into_iter().for_each(|step| add(&self.steps[step].here));
        } else {
            let mut at = ROOT;
            add(&self.steps[at].here);
            for name in path::segments(path) {
                let Some(next) = self.below(at, name) else { break };
                at = next;
                add(&self.steps[at].here);
            }
        }
        found.sort_unstable();
        found
    }

    /// The step of a path, if something there or below is watched.
    pub(crate) fn step(&self, path: &[u8]) -> Option<u32> {
        path::segments(path).try_fold(ROOT, |at, name| self.below(at, name))
    }

    /// The step of a child.
    pub(crate) fn below(&self, at: u32, name: &[u8]) -> Option<u32> {
        let place = self.place(at, name).ok()?;
        self.steps[at].below.get(place).copied()
    }

    /// Whether there is no step further down.
    pub(crate) fn is_leaf(&self, at: u32) -> bool {
        self.steps[at].below.is_empty()
    }

    fn place(&self, at: u32, name: &[u8]) -> Result<usize, usize> {
        self.steps[at].below.binary_search_by(|&step| (*self.steps[step].name).cmp(name))
    }

    fn make_step(&mut self, path: &[u8]) -> u32 {
        let mut at = ROOT;
        for name in path::segments(path) {
            at = match self.place(at, name) {
                Ok(place) => self.steps[at].below[place],
                Err(place) => {
                    let step =
                        Step { name: name.into(), parent: at, below: Vec::new(), here: BTreeSet::new() };
                    let step = self.steps.insert(step);
                    self.steps[at].below.insert(place, step);
                    step
                }
            };
        }
        at
    }

    /// Removes steps that lead to no watch any more.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT && self.steps[at].here.is_empty() && self.steps[at].below.is_empty() {
            let parent = self.steps[at].parent;
            if let Ok(place) = self.place(parent, &self.steps[at].name) {
                self.steps[parent].below.remove(place);
            }
            self.steps.remove(at);
            at = parent;
        }
    }

    /// Steps of the trie; 1 if nothing is watched.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Conn = Conn(1);
    const B: Conn = Conn(2);

    fn reached(watches: &Watches, path: &[u8], reach: Reach) -> Vec<(u32, u64)> {
        watches.reached(path, reach).into_iter().map(|(conn, id)| (conn.0, id.0)).collect()
    }

    #[test]
    fn a_change_reaches_watches_on_its_way() {
        let mut watches = Watches::new();
        watches.add(B, b"/", b"t", 0);
        watches.add(A, b"/a/b", b"t", 0);
        watches.add(A, b"/a", b"t", 0);
        watches.add(A, b"/a/bc", b"t", 0);
        watches.add(A, b"@releaseDomain", b"t", 0);
        assert_eq!(reached(&watches, b"/a/b/c", Reach::Above), [(1, 1), (1, 2), (2, 0)]);
        assert_eq!(reached(&watches, b"/a/b", Reach::Exact), [(1, 1)]);
        assert_eq!(reached(&watches, b"/x", Reach::Above), [(2, 0)]);
        assert_eq!(reached(&watches, b"/a/b/c", Reach::Exact), []);
        assert_eq!(reached(&watches, b"@releaseDomain", Reach::Exact), [(1, 4)]);
        assert_eq!(reached(&watches, b"@introduceDomain", Reach::Exact), []);
    }

    #[test]
    fn the_trie_goes_with_its_last_watch() {
        let mut watches = Watches::new();
        let deep = watches.add(A, b"/a/b/c", b"1", 0);
        let top = watches.add(A, b"/a", b"1", 0);
        let special = watches.add(A, b"@x", b"1", 0);
        assert_eq!(watches.find(A, b"/a/b/c", b"1"), Some(deep));
        assert_eq!(watches.find(A, b"/a/b", b"1"), None);
        assert_eq!(watches.find(A, b"/a", b"2"), None);
        assert_eq!(watches.find(B, b"/a", b"1"), None);
        assert_eq!(watches.find(A, b"@x", b"1"), Some(special));
        assert_eq!(watches.len(), 4);
        watches.remove(deep);
        assert_eq!(watches.len(), 2);
        watches.remove(top);
        watches.remove(special);
        assert!(watches.remove(special).is_none());
        assert_eq!((watches.len(), watches.special.len()), (1, 0));
    }
}
