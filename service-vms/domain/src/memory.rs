//! A new domain's memory: given, mapped in bounded pieces, written.

use std::ops::Range;

use crate::construction::Spec;
use crate::{Error, Hypervisor, PAGE, Pages};
use ennead_xen::{DomainKind, GrantRef, Mfn, Port};

/// Pages in a 2 MiB superpage, and the order of one.
pub(crate) const SUPERPAGE: u64 = 512;
const SUPERPAGE_ORDER: u32 = 9;
/// Pages of a domain mapped at once: 1 MiB.
const CHUNK: u64 = 256;
/// Extents asked for in one call.
const BATCH: u64 = 512;
/// `GNTTAB_RESERVED_CONSOLE` (`grant_table.h`).
const GRANT_CONSOLE: GrantRef = GrantRef(0);
/// `GNTTAB_RESERVED_XENSTORE`.
const GRANT_XENSTORE: GrantRef = GrantRef(1);

/// The machine frame behind each pfn of a PV domain, in as little memory as Xen's superpages allow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct P2m {
    /// First mfn of each superpage, from pfn 0 on.
    pub(crate) superpages: Vec<Mfn>,
    /// The mfns of the pages after those.
    pub(crate) pages: Vec<Mfn>,
}

impl P2m {
    /// The machine frame of a pfn, if it has one.
    pub(crate) fn mfn(&self, pfn: u64) -> Option<Mfn> {
        let first = u64::try_from(self.superpages.len()).ok()? * SUPERPAGE;
        match pfn.checked_sub(first) {
            Some(n) => self.pages.get(usize::try_from(n).ok()?).copied(),
            None => {
                let base = self.superpages.get(usize::try_from(pfn / SUPERPAGE).ok()?)?;
                Some(Mfn(base.0 + pfn % SUPERPAGE))
            }
        }
    }
}

/// What a pfn is called in calls to Xen.
#[derive(Debug)]
pub(crate) enum Frames {
    /// The machine frame behind it (PV).
    Machine(P2m),
    /// Itself (PVH).
    Guest,
}

/// A ring: its frame and its port.
pub(crate) type Ring = (Mfn, Port);

/// A new domain, as far as it is built.
#[derive(Debug)]
pub(crate) struct Site<'a, H> {
    pub(crate) h: &'a H,
    pub(crate) spec: &'a Spec,
    pub(crate) frames: &'a Frames,
}

impl<H: Hypervisor> Site<'_, H> {
    pub(crate) fn xen<T>(&self, doing: &'static str, result: Result<T, H::Error>) -> Result<T, Error> {
        result.map_err(|e| Error::Xen { domid: self.spec.domid, doing, source: e.into() })
    }

    pub(crate) fn frame(&self, pfn: u64) -> Result<Mfn, Error> {
        match self.frames {
            Frames::Machine(p2m) => p2m.mfn(pfn).ok_or(Error::Nonsense(self.spec.domid)),
            Frames::Guest => Ok(Mfn(pfn)),
        }
    }

    /// The domain's pages from `pfns` on, mapped.
    pub(crate) fn map(&self, pfns: &[u64]) -> Result<H::Pages, Error> {
        let frames = pfns.iter().map(|pfn| self.frame(*pfn)).collect::<Result<Vec<_>, _>>()?;
        self.map_frames(&frames)
    }

    pub(crate) fn map_frames(&self, frames: &[Mfn]) -> Result<H::Pages, Error> {
        self.xen("map its memory", self.h.map(self.spec.domid, frames))
    }

    /// Fills pages of the domain with `data`, and zeros after it.
    pub(crate) fn fill(&self, pfns: Range<u64>, data: &[u8]) -> Result<(), Error> {
        let piece = usize::try_from(CHUNK * PAGE).unwrap_or(usize::MAX);
        let mut data = data.chunks(piece);
        for chunk in chunks(pfns) {
            let mut pages = self.map(&chunk.clone().collect::<Vec<_>>())?;
            self.write(&mut pages, size(chunk.end - chunk.start), data.next().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Writes `data` to the beginning of mapped pages, and zeros to the rest of their `len` bytes.
    pub(crate) fn write(&self, pages: &mut H::Pages, len: usize, data: &[u8]) -> Result<(), Error> {
        if !data.is_empty() {
            self.xen("write its memory", pages.write(0, data))?;
        }
        match len.saturating_sub(data.len()) {
            0 => Ok(()),
            rest => self.xen("clear its memory", pages.zero(data.len(), rest)),
        }
    }

    /// Grants the rings to who has their other ends.
    pub(crate) fn grant(&self, console: Option<Ring>, store: Option<Ring>) -> Result<(), Error> {
        let grants: Vec<_> =
            [(GRANT_CONSOLE, self.spec.console, console), (GRANT_XENSTORE, self.spec.xenstore, store)]
                .into_iter()
                .filter_map(|(gref, peer, ring)| Some((gref, peer?, ring?.0)))
                .collect();
        if grants.is_empty() {
            return Ok(());
        }
        self.xen("enter its first grants", self.h.seed_grants(self.spec.domid, &grants))
    }

    /// The rings at these pfns for which there is a peer: console and XenStore. XenStore's port is the first.
    pub(crate) fn rings(
        &self,
        console: Option<u64>,
        store: Option<u64>,
    ) -> Result<(Option<Ring>, Option<Ring>), Error> {
        let d = self.spec.domid;
        let ring = |pfn: Option<u64>, peer, doing| match (pfn, peer) {
            (Some(pfn), Some(peer)) => {
                let frame = self.frame(pfn)?;
                self.xen(doing, self.h.alloc_unbound_for(d, peer)).map(|port| Some((frame, port)))
            }
            _ => Ok(None),
        };
        let store = ring(store, self.spec.xenstore, "allocate its XenStore port")?;
        let console = ring(console, self.spec.console, "allocate its console port")?;
        Ok((console, store))
    }
}

/// Gives a domain its memory, in superpages as far as Xen has them.
pub(crate) fn populate<H: Hypervisor>(h: &H, spec: &Spec, ranges: &[Range<u64>]) -> Result<Frames, Error> {
    let domid = spec.domid;
    let mut p2m = P2m::default();
    let mut got = 0;
    for range in ranges {
        let mut next = range.start;
        for (order, size) in [(SUPERPAGE_ORDER, SUPERPAGE), (0, 1)] {
            while range.end - next >= size {
                let count = ((range.end - next) / size).min(BATCH);
                let pfns: Vec<u64> = (0..count).map(|i| next + i * size).collect();
                let doing = "give it memory";
                let mfns = h.populate(domid, order, &pfns).map_err(|e| Error::Xen {
                    domid,
                    doing,
                    source: e.into(),
                })?;
                let given = bytes(mfns.len());
                if given > count {
                    return Err(Error::Nonsense(domid));
                }
                next += given * size;
                got += given * size;
                match spec.kernel.mode.kind() {
                    DomainKind::Pv if size == 1 => p2m.pages.extend(mfns),
                    DomainKind::Pv => p2m.superpages.extend(mfns),
                    DomainKind::Pvh => {}
                }
                if given < count {
                    break;
                }
            }
        }
        if next < range.end {
            let wanted = ranges.iter().map(|r| r.end - r.start).sum();
            return Err(Error::Memory { domid, got, wanted });
        }
    }
    Ok(match spec.kernel.mode.kind() {
        DomainKind::Pv => Frames::Machine(p2m),
        DomainKind::Pvh => Frames::Guest,
    })
}

/// Pages that are loaded piece by piece. Memory from Xen holds anything, so what no piece covers is made zero: the rest
/// of a page when the first piece comes to it, whole pages at the end.
#[derive(Debug)]
pub(crate) struct Loaded {
    first: u64,
    written: Vec<bool>,
}

impl Loaded {
    /// None of the pages is loaded.
    pub(crate) fn new(pfns: &Range<u64>) -> Self {
        let count = usize::try_from(pfns.end.saturating_sub(pfns.start)).unwrap_or(0);
        Self { first: pfns.start, written: vec![false; count] }
    }

    /// Writes `data` from the address `at` on, which must be inside.
    pub(crate) fn load<H: Hypervisor>(
        &mut self,
        site: &Site<'_, H>,
        at: u64,
        data: &[u8],
    ) -> Result<(), Error> {
        let nonsense = || Error::Nonsense(site.spec.domid);
        let end = at + bytes(data.len());
        let mut left = data;
        for chunk in chunks(at / PAGE..end.div_ceil(PAGE)) {
            let from = at.max(chunk.start * PAGE);
            let to = end.min(chunk.end * PAGE);
            let mut pages = site.map(&chunk.clone().collect::<Vec<_>>())?;
            for pfn in chunk.clone() {
                let written = pfn.checked_sub(self.first).and_then(|n| usize::try_from(n).ok());
                let written = written.and_then(|n| self.written.get_mut(n)).ok_or_else(nonsense)?;
                let whole = from <= pfn * PAGE && (pfn + 1) * PAGE <= to;
                if !*written && !whole {
                    site.xen("clear its memory", pages.zero(size(pfn - chunk.start), size(1)))?;
                }
                *written = true;
            }
            let (piece, rest) = usize::try_from(to - from)
                .ok()
                .and_then(|len| left.split_at_checked(len))
                .ok_or_else(nonsense)?;
            left = rest;
            let offset = usize::try_from(from - chunk.start * PAGE).map_err(|_| nonsense())?;
            site.xen("write its memory", pages.write(offset, piece))?;
        }
        Ok(())
    }

    /// Makes zero what no piece came to.
    pub(crate) fn finish<H: Hypervisor>(&self, site: &Site<'_, H>) -> Result<(), Error> {
        let rest: Vec<u64> =
            (self.first..).zip(&self.written).filter(|(_, written)| !**written).map(|(pfn, _)| pfn).collect();
        for pfns in rest.chunks(usize::try_from(CHUNK).unwrap_or(1)) {
            let mut pages = site.map(pfns)?;
            site.xen("clear its memory", pages.zero(0, size(bytes(pfns.len()))))?;
        }
        Ok(())
    }
}

/// A length as Xen's 64-bit numbers have it.
pub(crate) fn bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Bytes of so many pages, which fit into this program's memory.
fn size(pages: u64) -> usize {
    usize::try_from(pages.saturating_mul(PAGE)).unwrap_or(usize::MAX)
}

/// A range in pieces of `CHUNK` pages.
pub(crate) fn chunks(pfns: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let Range { start, end } = pfns;
    (0..(end.saturating_sub(start)).div_ceil(CHUNK))
        .map(move |i| start + i * CHUNK..(start + (i + 1) * CHUNK).min(end))
}
