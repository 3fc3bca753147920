//! Building a domain step by step: begun, its kernel and ramdisk loaded in pieces, finished. What can fail without Xen is
//! checked first, and nothing is left behind on errors.

use std::fmt;
use std::ops::Deref;

use crate::layout::Layout;
use crate::memory::{Frames, Loaded, P2m, Site, bytes, populate};
use crate::{Error, Hypervisor, KernelPlan, Limits, NewDomain, pv, pvh};
use ennead_xen::{DomId, DomainKind, Mfn, Port, Sid};

/// Bytes of a command line, with the zero at its end (`MAX_GUEST_CMDLINE` of `xen.h`; PVH domains have the same here).
pub const MAX_CMDLINE: usize = 1024;
/// Most vCPUs of a domain (`HVM_MAX_VCPUS`; PV domains could have more).
pub const MAX_VCPUS: u32 = 128;

/// Whoever has the other end of a ring.
pub type Peer = DomId;

/// A domain to build.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its number, which must be free.
    pub domid: DomId,
    /// Its label while it is built.
    pub sid: Sid,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its vCPUs, 1 to [`MAX_VCPUS`]. Only the first is set up; the kernel starts the others.
    pub vcpus: u32,
    /// What its kernel asks for. It decides whether the domain is PV or PVH.
    pub kernel: KernelPlan,
    /// Bytes of its ramdisk; 0 for none.
    pub ramdisk_bytes: u64,
    /// Its kernel's command line: with what is added, less than [`MAX_CMDLINE`] bytes.
    pub cmdline: String,
    /// Bytes kept free for what [`Construction::finish`] adds to the command line, with a space before it.
    pub extra_bytes: usize,
    /// Whether its kernel is told that it drives the machine (`SIF_PRIVILEGED`, `SIF_INITDOMAIN`). Only for PV.
    pub hardware_domain: bool,
    /// Whether devices can be assigned to it.
    pub iommu: bool,
    /// Who serves XenStore to it.
    pub xenstore: Option<Peer>,
    /// Who reads its console; `None` for the hardware domain, whose console is Xen's.
    pub console: Option<Peer>,
    /// Limits.
    pub limits: Limits,
}

impl Spec {
    fn check(&self) -> Result<Layout, Error> {
        let domid = self.domid;
        // A space before the addition, a zero after it.
        let space = usize::from(self.extra_bytes > 0);
        let len = self.cmdline.len().saturating_add(space).saturating_add(self.extra_bytes);
        if len >= MAX_CMDLINE {
            return Err(Error::CommandLine { len: self.cmdline.len(), extra: self.extra_bytes });
        }
        if self.cmdline.contains('\0') {
            return Err(Error::Zero);
        }
        if self.hardware_domain && self.console.is_some() {
            return Err(Error::Console(domid));
        }
        if self.hardware_domain && self.kernel.mode.kind() != DomainKind::Pv {
            return Err(Error::HardwarePvh(domid));
        }
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(Error::Vcpus { domid, vcpus: self.vcpus });
        }
        self.kernel.check()?;
        Ok(Layout::new(self)?)
    }

    fn cmdline_with(&self, extra: &str) -> Result<String, Error> {
        if extra.len() > self.extra_bytes {
            return Err(Error::Extra { len: extra.len(), max: self.extra_bytes });
        }
        if extra.contains('\0') {
            return Err(Error::Zero);
        }
        let space = if extra.is_empty() || self.cmdline.is_empty() { "" } else { " " };
        Ok(format!("{}{space}{extra}", self.cmdline))
    }
}

/// A domain that was built: paused, with the label of [`Spec::sid`], and none of it mapped here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Its number.
    pub domid: DomId,
    /// XenStore's ring (for PVH a guest frame) and port.
    pub store: Option<(Mfn, Port)>,
    /// The console's ring (for PVH a guest frame) and port.
    pub console: Option<(Mfn, Port)>,
    /// Its memory, in pages.
    pub pages: u64,
    /// What it takes from the host, in KiB: its own memory and, for PVH, what Xen has for its page tables.
    pub used_kib: u64,
}

/// A domain being built. It holds all that is known of it, so there can be any time between two steps.
///
/// When a step fails, or this is dropped before the end, the domain is destroyed. The hardware domain is the exception: Xen
/// 4.17 keeps a pointer to it for good, so a half-built one is left, and its builder has to stop the host.
pub struct Construction<R>
where
    R: Deref<Target: Hypervisor>,
{
    h: R,
    spec: Spec,
    layout: Layout,
    frames: Frames,
    loaded: Loaded,
    /// Whether the domain is there and not finished.
    open: bool,
}

impl<R> fmt::Debug for Construction<R>
where
    R: Deref<Target: Hypervisor>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Construction {{ {:?}, open: {} }}", self.spec, self.open)
    }
}

impl<R> Construction<R>
where
    R: Deref<Target: Hypervisor>,
{
    /// Checks all that needs no Xen, then creates the domain and gives it its memory. `h` is how Xen is reached: a
    /// reference or an `Rc`, as long as this lives.
    ///
    /// # Errors
    /// Says what is wrong; nothing is left then, unless it says so.
    pub fn begin(h: R, spec: Spec) -> Result<Self, Error> {
        let layout = spec.check()?;
        let domid = spec.domid;
        let new = NewDomain {
            domid,
            sid: spec.sid,
            kind: spec.kernel.mode.kind(),
            vcpus: spec.vcpus,
            iommu: spec.iommu,
            limits: spec.limits,
        };
        h.create_domain(&new).map_err(|e| Error::Xen { domid, doing: "create it", source: e.into() })?;
        let loaded = Loaded::new(&layout.loaded());
        let frames = Frames::Machine(P2m::default());
        let mut this = Self { h, spec, layout, frames, loaded, open: true };
        this.step(Self::give_memory)?;
        Ok(this)
    }

    /// The domain's number.
    #[must_use]
    pub fn domid(&self) -> DomId {
        self.spec.domid
    }

    /// Writes bytes of the kernel's file: those from `offset` on of its plan's segment `index`. In any order, in pieces of any
    /// size; what never comes is zero.
    ///
    /// # Errors
    /// When they are not inside the segment, or Xen refuses. The domain is destroyed then.
    pub fn load_kernel(&mut self, index: usize, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.step(|this| {
            let domid = this.spec.domid;
            let segment = this.spec.kernel.segments.get(index).ok_or(Error::NoSegment { domid, index })?;
            let (start, size) = (segment.paddr, segment.file_bytes);
            this.load(start, size, offset, data)
        })
    }

    /// Writes bytes of the ramdisk: those from `offset` on. In any order, in pieces of any size; what never comes is zero.
    ///
    /// # Errors
    /// When they are not inside the ramdisk, or Xen refuses. The domain is destroyed then.
    pub fn load_ramdisk(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.step(|this| this.load(this.layout.ramdisk(), this.spec.ramdisk_bytes, offset, data))
    }

    /// Finishes the domain. `extra` goes to the end of its command line: what became known only when the domain was there, at
    /// most [`Spec::extra_bytes`].
    ///
    /// # Errors
    /// When `extra` is too long, or Xen refuses. The domain is destroyed then.
    pub fn finish(mut self, extra: &str) -> Result<Built, Error> {
        let built = self.step(|this| {
            let cmdline = this.spec.cmdline_with(extra)?;
            let site = this.site();
            this.loaded.finish(&site)?;
            match &this.layout {
                Layout::Pv(layout) => pv::finish(&site, layout, &cmdline),
                Layout::Pvh(layout) => pvh::finish(&site, layout, &cmdline),
            }
        })?;
        self.open = false;
        Ok(built)
    }

    fn site(&self) -> Site<'_, R::Target> {
        Site { h: &*self.h, spec: &self.spec, frames: &self.frames }
    }

    /// One step; an error is the end of the domain.
    pub(crate) fn step<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let domid = self.spec.domid;
        if !self.open {
            return Err(Error::Over(domid));
        }
        step(self).map_err(|source| {
            self.open = false;
            let source = Box::new(source);
            if self.spec.hardware_domain {
                return Error::Hardware { domid, source };
            }
            match self.h.destroy_domain(domid) {
                Ok(()) => *source,
                Err(e) => Error::Left { domid, destroy: e.into(), source },
            }
        })
    }

    fn give_memory(&mut self) -> Result<(), Error> {
        let site = self.site();
        let domid = self.spec.domid;
        let ranges = self.layout.populated();
        if let Layout::Pvh(_) = &self.layout {
            let kib = pvh::pool_kib(&self.spec);
            site.xen("give it memory for page tables", self.h.set_paging_pool_kib(domid, kib))?;
        }
        // Exactly its memory: the pages that Xen itself adds to a domain (shared info, grant table) are from Xen's heap and
        // not counted (`assign_pages`, `share_xen_page_with_guest`), and exchanges count as nothing.
        let pages: u64 = ranges.iter().map(|r| r.end - r.start).sum();
        site.xen("limit its memory", self.h.set_max_mem_kib(domid, pages * crate::PAGE_KIB))?;
        self.frames = populate(&*self.h, &self.spec, &ranges)?;
        Ok(())
    }

    fn load(&mut self, start: u64, size: u64, offset: u64, data: &[u8]) -> Result<(), Error> {
        let end = offset.checked_add(bytes(data.len()));
        if end.is_none_or(|end| end > size) {
            let domid = self.spec.domid;
            return Err(Error::Outside { domid, offset, len: data.len(), size });
        }
        let site = Site { h: &*self.h, spec: &self.spec, frames: &self.frames };
        self.loaded.load(&site, start + offset, data)
    }
}

impl<R> Drop for Construction<R>
where
    R: Deref<Target: Hypervisor>,
{
    fn drop(&mut self) {
        if self.open && !self.spec.hardware_domain {
            // There is nobody to tell.
            let _ = self.h.destroy_domain(self.spec.domid);
        }
    }
}

#[cfg(test)]
mod tests;
