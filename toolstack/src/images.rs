//! Kernels and ramdisks, by what they are: bounded, in memory, lost with this VM.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ennead_api::Sha256;
use ennead_guest::Kind;
use ennead_xen::DomainKind;
use sha2::Digest as _;

use crate::kernel::Kernel;
use crate::loader::Loaders;

/// Bytes that all images together may have, whatever memory there is.
pub const MAX_TOTAL: usize = 24 << 20;
/// Bytes of memory that are not for images: one block of a packed kernel (8 MiB), what is on its way to Builder, connections.
const WORKING: usize = 16 << 20;
/// The least total.
const MIN_TOTAL: usize = 4 << 20;

/// Why an image is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It alone is more than fits.
    #[error("The image has {bytes} bytes, and the host keeps {limit} of all images together")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Guests need what is there.
    #[error(
        "The host keeps {limit} bytes of images, {used} of which its guests need: no room for {bytes} more"
    )]
    Full {
        /// Its length.
        bytes: usize,
        /// What is needed, or on its way.
        used: usize,
        /// The limit.
        limit: usize,
    },
    /// It is another one, or shorter or longer than was said.
    #[error("What was sent is {0}")]
    Other(Sha256),
}

/// The images.
#[derive(Debug)]
pub struct Images {
    limit: usize,
    kept: BTreeMap<Sha256, Image>,
    /// Bytes that are on their way.
    coming: Rc<Cell<usize>>,
    clock: u64,
    loaders: Loaders,
    /// Those of guests that start with the host.
    own: BTreeMap<Sha256, Rc<Vec<u8>>>,
    /// What was found in those that are kernels, started as a kind of domain; as long as they are here.
    analysed: Vec<(Sha256, DomainKind, Rc<Kernel>)>,
}

#[derive(Debug)]
struct Image {
    bytes: Rc<Vec<u8>>,
    used: u64,
}

impl Images {
    /// Room for this many bytes. The boot loaders are always there and do not count, nor does what is [added](Self::add_own).
    #[must_use]
    pub fn new(limit: usize, loaders: Loaders) -> Self {
        let (kept, own, analysed) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { limit, kept, coming: Rc::default(), clock: 0, loaders, own, analysed }
    }

    /// Adds an image that came with this VM, and stays as long.
    pub fn add_own(&mut self, id: Sha256, bytes: Rc<Vec<u8>>) {
        self.own.insert(id, bytes);
    }

    /// What boots guests of this kind from their disks.
    #[must_use]
    pub fn loader(&self, kind: Kind) -> Option<Rc<Vec<u8>>> {
        self.loaders.of(kind)
    }

    /// How many bytes this VM has room for, of which so many are available.
    #[must_use]
    pub fn limit_for(available: usize) -> usize {
        available.saturating_sub(WORKING).clamp(MIN_TOTAL, MAX_TOTAL)
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes of all that is kept or on its way.
    #[must_use]
    pub fn used(&self) -> usize {
        let kept: usize = self.kept.values().map(|image| image.bytes.len()).sum();
        kept.saturating_add(self.coming.get())
    }

    /// All images and their lengths.
    pub fn list(&self) -> impl Iterator<Item = (Sha256, usize)> {
        let kept = self.kept.iter().map(|(id, image)| (*id, image.bytes.len()));
        self.own.iter().map(|(id, bytes)| (*id, bytes.len())).chain(kept)
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(&self, id: Sha256) -> bool {
        self.kept.contains_key(&id) || self.own.contains_key(&id)
    }

    /// An image; it counts as used now.
    pub fn get(&mut self, id: Sha256) -> Option<Rc<Vec<u8>>> {
        if let Some(bytes) = self.own.get(&id) {
            return Some(Rc::clone(bytes));
        }
        self.clock = self.clock.saturating_add(1);
        let image = self.kept.get_mut(&id)?;
        image.used = self.clock;
        Some(Rc::clone(&image.bytes))
    }

    /// What an image asks for as the kernel of such a domain, if that is known.
    #[must_use]
    pub fn analysed(&self, id: Sha256, kind: DomainKind) -> Option<Rc<Kernel>> {
        let known = self.analysed.iter().find(|(of, to, _)| (*of, *to) == (id, kind));
        known.map(|(.., kernel)| Rc::clone(kernel))
    }

    /// Remembers it, if the image is here.
    pub fn set_analysed(&mut self, id: Sha256, kind: DomainKind, kernel: Rc<Kernel>) {
        if self.has(id) && self.analysed(id, kind).is_none() {
            self.analysed.push((id, kind, kernel));
        }
    }

    /// Makes room for an image of a length. What is not in `needed` goes, the longest unused first.
    ///
    /// # Errors
    /// `TooLarge`, `Full`; nothing has gone then.
    pub fn expect(
        &mut self,
        id: Sha256,
        bytes: usize,
        needed: &BTreeSet<Sha256>,
    ) -> Result<Incoming, Refused> {
        let limit = self.limit;
        if bytes > limit {
            return Err(Refused::TooLarge { bytes, limit });
        }
        let mut spare: Vec<_> =
            self.kept.iter().filter(|(id, _)| !needed.contains(*id)).map(|(id, i)| (i.used, *id)).collect();
        spare.sort_unstable();
        let spare_bytes: usize =
            spare.iter().filter_map(|(_, id)| Some(self.kept.get(id)?.bytes.len())).sum();
        let used = self.used().saturating_sub(spare_bytes);
        if used.saturating_add(bytes) > limit {
            return Err(Refused::Full { bytes, used, limit });
        }
        for (_, id) in spare {
            if self.used().saturating_add(bytes) <= limit {
                break;
            }
            self.kept.remove(&id);
            self.analysed.retain(|(of, ..)| *of != id);
        }
        self.coming.set(self.coming.get().saturating_add(bytes));
        let room = Room { bytes, coming: Rc::clone(&self.coming) };
        // Never grown: that would take twice the memory for a moment.
        Ok(Incoming { id, data: Vec::with_capacity(bytes), hash: sha2::Sha256::new(), room })
    }

    /// Keeps an image that has come whole.
    ///
    /// # Errors
    /// `Other`.
    pub fn keep(&mut self, incoming: Incoming) -> Result<(), Refused> {
        let Incoming { id, data, hash, room } = incoming;
        let found = Sha256(hash.finalize().into());
        if found != id || data.len() != room.bytes {
            return Err(Refused::Other(found));
        }
        drop(room);
        self.clock = self.clock.saturating_add(1);
        self.kept.insert(id, Image { bytes: Rc::new(data), used: self.clock });
        Ok(())
    }
}

/// An image on its way; its room is given back if it does not arrive.
#[derive(Debug)]
pub struct Incoming {
    id: Sha256,
    data: Vec<u8>,
    hash: sha2::Sha256,
    room: Room,
}

#[derive(Debug)]
struct Room {
    bytes: usize,
    coming: Rc<Cell<usize>>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.coming.set(self.coming.get().saturating_sub(self.bytes));
    }
}

impl Incoming {
    /// Takes the next bytes; `false` if they are more than was said.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if self.data.len().saturating_add(bytes.len()) > self.room.bytes {
            return false;
        }
        self.hash.update(bytes);
        self.data.extend_from_slice(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bytes: &[u8]) -> Sha256 {
        Sha256(sha2::Sha256::digest(bytes).into())
    }

    fn put(images: &mut Images, bytes: &[u8], needed: &[Sha256]) -> Result<(), Refused> {
        let mut incoming = images.expect(id(bytes), bytes.len(), &needed.iter().copied().collect())?;
        for piece in bytes.chunks(3) {
            assert!(incoming.push(piece));
        }
        images.keep(incoming)
    }

    #[test]
    fn an_image_is_kept_under_its_hash() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut images = Images::new(100, Loaders::default());
        put(&mut images, b"abc", &[]).unwrap();
        let id = abc.parse().unwrap();
        assert_eq!(*images.get(id).unwrap(), b"abc");
        assert_eq!(images.list().collect::<Vec<_>>(), [(id, 3)]);
    }

    #[test]
    fn what_is_another_or_too_long_or_too_short_is_not_kept() {
        let mut images = Images::new(100, Loaders::default());
        let needed = BTreeSet::new();
        let mut other = images.expect(id(b"abc"), 3, &needed).unwrap();
        assert!(other.push(b"abd"));
        assert_eq!(images.keep(other), Err(Refused::Other(id(b"abd"))));
        let mut long = images.expect(id(b"abc"), 3, &needed).unwrap();
        assert!(!long.push(b"abcd"));
        let short = images.expect(id(b""), 3, &needed).unwrap();
        assert_eq!(images.used(), 6);
        assert!(images.keep(short).is_err());
        drop(long);
        assert_eq!((images.used(), images.list().count()), (0, 0));
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_guests_need_stays() {
        let mut images = Images::new(10, Loaders::default());
        let [a, b, c] = [b"aaaa", b"bbbb", b"cccc"];
        put(&mut images, a, &[]).unwrap();
        put(&mut images, b, &[]).unwrap();
        images.get(id(a));
        put(&mut images, c, &[]).unwrap();
        assert_eq!((images.has(id(a)), images.has(id(b)), images.has(id(c))), (true, false, true));
        let refused = put(&mut images, b, &[id(a), id(c)]);
        assert_eq!(refused, Err(Refused::Full { bytes: 4, used: 8, limit: 10 }));
        assert!(images.has(id(a)) && images.has(id(c)));
        put(&mut images, b, &[id(a)]).unwrap();
        assert!(images.has(id(a)) && !images.has(id(c)));
        assert_eq!(put(&mut images, &[0; 11], &[]), Err(Refused::TooLarge { bytes: 11, limit: 10 }));
    }

    #[test]
    fn what_is_known_of_an_image_goes_with_it() {
        let file = crate::kernel::tests::elf(&[(0x20_0000, 9000, &[1; 3000])]);
        let kernel = Rc::new(Kernel::analyse(&file, DomainKind::Pvh).unwrap());
        let mut images = Images::new(file.len(), Loaders::default());
        images.set_analysed(id(&file), DomainKind::Pvh, Rc::clone(&kernel));
        assert_eq!(images.analysed(id(&file), DomainKind::Pvh), None, "it is not here");
        put(&mut images, &file, &[]).unwrap();
        images.set_analysed(id(&file), DomainKind::Pvh, Rc::clone(&kernel));
        assert_eq!(images.analysed(id(&file), DomainKind::Pvh), Some(kernel));
        assert_eq!(images.analysed(id(&file), DomainKind::Pv), None);
        put(&mut images, b"another", &[]).unwrap();
        put(&mut images, &file, &[]).unwrap();
        assert_eq!(images.analysed(id(&file), DomainKind::Pvh), None);
    }

    #[test]
    fn what_is_on_its_way_has_its_room() {
        let mut images = Images::new(10, Loaders::default());
        let needed = BTreeSet::new();
        let first = images.expect(id(b"x"), 6, &needed).unwrap();
        assert!(images.expect(id(b"y"), 5, &needed).is_err());
        drop(first);
        assert!(images.expect(id(b"y"), 5, &needed).is_ok());
    }

    #[test]
    fn the_room_goes_by_the_memory() {
        assert_eq!(Images::limit_for(64 << 20), MAX_TOTAL);
        assert_eq!(Images::limit_for(30 << 20), 14 << 20);
        assert_eq!(Images::limit_for(0), MIN_TOTAL);
    }
}
