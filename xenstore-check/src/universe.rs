//! What generated requests speak of: few paths, so that they collide, and values around every limit.

use ennead_xs_wire::{Access, Perm};
use fastrand::Rng;

/// Domids of the guests.
pub const GUESTS: [u16; 3] = [1, 2, 3];
/// No test creates this domain.
const NO_DOMAIN: u16 = 7;

/// A part of the tree that a transaction may look at without looking at another: its root stays as long as no domain
/// dies. Everything else is `Top`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// `/t/a`, `/t/b`, `/t/c`.
    Shared(u8),
    /// `/local/domain/N`.
    Home(u16),
    /// What holds the others together.
    Top,
}

/// All regions.
pub const REGIONS: [Region; 7] = [
    Region::Shared(b'a'),
    Region::Shared(b'b'),
    Region::Shared(b'c'),
    Region::Home(1),
    Region::Home(2),
    Region::Home(3),
    Region::Top,
];

impl Region {
    /// The path of its root.
    #[must_use]
    pub fn root(self) -> Vec<u8> {
        match self {
            Self::Shared(name) => [b"/t/".as_slice(), &[name]].concat(),
            Self::Home(domid) => format!("/local/domain/{domid}").into_bytes(),
            Self::Top => b"/".to_vec(),
        }
    }

    /// A path in it; its root only when `root` allows it.
    #[must_use]
    pub fn path(self, rng: &mut Rng, root: bool) -> Vec<u8> {
        if self == Self::Top {
            let paths: [&[u8]; 8] = [
                b"/",
                b"/nope/x",
                b"/nope",
                b"/local/domain/7/x",
                b"/t",
                b"/local",
                b"/tool",
                b"/local/domain",
            ];
            // The first four may be removed without taking a region's root along.
            let count = if root { paths.len() } else { 4 };
            return pick(rng, paths.get(..count).unwrap_or_default()).unwrap_or(b"/").to_vec();
        }
        let mut path = self.root();
        if matches!(self, Self::Home(_)) {
            path.extend_from_slice(b"/data");
        }
        let depth = if root { rng.u8(0..=3) } else { rng.u8(1..=3) };
        for _ in 0..depth {
            path.push(b'/');
            path.push(pick(rng, b"xxxyyz").unwrap_or(b'x'));
        }
        if rng.u8(..) < 2 {
            path.extend_from_slice(&b"/deep".repeat(60));
        }
        if rng.u8(..) < 3 {
            let lengths = [1020, 1030, 2020, 2047, 2048, 2049, 2070, 2090, 3071, 3072, 3073];
            path.push(b'/');
            path.resize(pick(rng, &lengths).unwrap_or(2048), b'l');
        }
        path
    }
}

/// A path that no node can have, or that is a special or unusual one.
#[must_use]
pub fn odd_path(rng: &mut Rng) -> Vec<u8> {
    let paths: [&[u8]; 17] = [
        b"",
        b"//",
        b"/t/a/",
        b"/t//a",
        b"/t/a b",
        b"/t/a\x01",
        b"/t/\xc3\xa4",
        b"/t/a/../b",
        b"t/a/",
        b"@introduceDomain",
        b"@releaseDomain",
        b"@other",
        b"@",
        b"/@releaseDomain",
        b"/local/domain/1/",
        b"/local/domain/99999/x",
        b"relative//x",
    ];
    pick(rng, &paths).unwrap_or(b"/").to_vec()
}

/// One of the items.
pub fn pick<T: Copy>(rng: &mut Rng, items: &[T]) -> Option<T> {
    items.get(rng.usize(0..items.len().max(1))).copied()
}

/// A value: mostly short, sometimes around a limit, sometimes with NULs. It leaves room for a path of this length.
#[must_use]
pub fn value(rng: &mut Rng, path: usize) -> Vec<u8> {
    let lengths = [0, 1, 3, 8, 30];
    let large = [900, 1008, 1024, 1900, 2000, 2030, 2048, 2049, 3000, 4095];
    let length = if rng.u8(..) < 12 { pick(rng, &large) } else { pick(rng, &lengths) }.unwrap_or(0);
    let byte = pick(rng, b"abc\0\xff").unwrap_or(b'a');
    vec![byte; length.min(4095_usize.saturating_sub(path))]
}

/// A list of permissions; `who` is the likely owner.
#[must_use]
pub fn perms(rng: &mut Rng, who: u16) -> Vec<Perm> {
    let domids = [0, 1, 2, 3, 1, 2, 3, NO_DOMAIN];
    let letters = [Access::None, Access::Read, Access::Write, Access::Both];
    let owner = if rng.u8(..) < 200 { who } else { pick(rng, &domids).unwrap_or(0) };
    let entries = if rng.u8(..) < 6 { rng.usize(4..8) } else { rng.usize(0..3) };
    let domids =
        std::iter::once(owner).chain((0..entries).filter_map(|_| pick(rng, &domids)).collect::<Vec<_>>());
    domids.map(|domid| Perm { access: pick(rng, &letters).unwrap_or(Access::None), domid }).collect()
}

/// A domid: mostly a guest's.
#[must_use]
pub fn domid(rng: &mut Rng) -> u16 {
    pick(rng, &[1, 1, 2, 2, 3, 3, NO_DOMAIN, 0x7ff0]).unwrap_or(1)
}
