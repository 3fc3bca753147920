//! The building itself: everything that can fail without Xen first, then Xen, and nothing left behind on errors.

use std::fmt;
use std::ops::Range;

use crate::image::ImageError;
use crate::layout::{LayoutError, SUPERPAGE};
use crate::start_info::{MAX_CMDLINE, StartInfo, shared_info};
use crate::{Kernel, Layout, P2m, PAGE};
use ennead_xen::{DomId, GrantRef, Mfn, Port, Sid};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of the command line kept free for what [`Spec::prepare`] returns, which may not be longer.
pub const EXTRA_CMDLINE: usize = 128;
/// Pages of a domain mapped or written at once: 1 MiB.
const CHUNK: u64 = 256;
/// Extents asked for in one call.
const BATCH: u64 = 512;
/// `GNTTAB_RESERVED_CONSOLE` (`grant_table.h`).
const GRANT_CONSOLE: GrantRef = GrantRef(0);
/// `GNTTAB_RESERVED_XENSTORE`.
const GRANT_XENSTORE: GrantRef = GrantRef(1);

/// What `XEN_DOMCTL_createdomain` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDomain {
    /// Its number, which must be free.
    pub domid: DomId,
    /// Its label.
    pub sid: Sid,
    /// Most vCPUs.
    pub vcpus: u32,
    /// Whether devices can be assigned to it; without, Xen accepts an assignment and does nothing.
    pub iommu: bool,
    /// Xen's limits.
    pub limits: Limits,
}

/// Limits for a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most event channels.
    pub event_channels: u32,
    /// Most frames of its grant table; each has 512 grants of version 1.
    pub grant_frames: u32,
    /// Most frames for what it maps of others' grants.
    pub maptrack_frames: u32,
    /// Most that its kernel may unpack to, in bytes: this much of the builder's own memory.
    pub kernel_bytes: usize,
}

impl Default for Limits {
    /// What is known to do for a Linux VM.
    fn default() -> Self {
        Limits { event_channels: 1023, grant_frames: 64, maptrack_frames: 1024, kernel_bytes: 128 << 20 }
    }
}

/// Registers of the first vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpu0 {
    /// First instruction.
    pub rip: u64,
    /// Top of the boot stack.
    pub rsp: u64,
    /// Virtual address of the start info.
    pub rsi: u64,
    /// Root page table.
    pub cr3: Mfn,
}

/// Pages of another domain, mapped here until dropped.
pub trait Pages {
    /// What the calls fail with.
    type Error: std::error::Error + Send + Sync + 'static;
    /// Copies `bytes` to `offset` (in bytes) from the first page on.
    ///
    /// # Errors
    /// When that is not inside.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Self::Error>;
    /// Makes it all zero.
    ///
    /// # Errors
    /// As the mapping has it.
    fn zero(&mut self) -> Result<(), Self::Error>;
}

/// The calls to Xen that building a domain takes. `d` is always the new domain.
#[expect(clippy::missing_errors_doc, reason = "they fail as Xen does")]
pub trait Hypervisor {
    /// What they fail with.
    type Error: std::error::Error + Send + Sync + 'static;
    /// A mapping.
    type Pages: Pages<Error = Self::Error>;

    /// Creates a 64-bit PV domain, paused.
    fn create_domain(&self, new: &NewDomain) -> Result<(), Self::Error>;
    /// Destroys it.
    fn destroy_domain(&self, d: DomId) -> Result<(), Self::Error>;
    /// Limits its memory, in KiB.
    fn set_max_mem_kib(&self, d: DomId, kib: u64) -> Result<(), Self::Error>;
    /// Gives it memory: for each pfn 2^order pages from there on. May give fewer extents than asked for.
    fn populate(&self, d: DomId, order: u32, pfns: &[u64]) -> Result<Vec<Mfn>, Self::Error>;
    /// The frame of its shared info page.
    fn shared_info(&self, d: DomId) -> Result<Mfn, Self::Error>;
    /// A port of it that `remote` can bind.
    fn alloc_unbound_for(&self, d: DomId, remote: DomId) -> Result<Port, Self::Error>;
    /// Maps pages of it, writable.
    fn map(&self, d: DomId, mfns: &[Mfn]) -> Result<Self::Pages, Self::Error>;
    /// Writes the hypercall page.
    fn hypercall_page(&self, d: DomId, mfn: Mfn) -> Result<(), Self::Error>;
    /// Pins its root page table.
    fn pin_l4(&self, d: DomId, mfn: Mfn) -> Result<(), Self::Error>;
    /// Enters grants into its grant table: reference, who may map, which frame.
    fn seed_grants(&self, d: DomId, grants: &[(GrantRef, DomId, Mfn)]) -> Result<(), Self::Error>;
    /// Sets vCPU 0 up.
    fn start_vcpu0(&self, d: DomId, vcpu: &Vcpu0) -> Result<(), Self::Error>;
}

/// Whoever has the other end of a ring.
pub type Peer = DomId;

/// A domain to build.
pub struct Spec<'a> {
    /// Its number, which must be free.
    pub domid: DomId,
    /// Its label while it is built.
    pub sid: Sid,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its vCPUs, 1 or more. Only the first is set up; the kernel starts the others.
    pub vcpus: u32,
    /// Its kernel: an ELF file or a bzImage.
    pub kernel: &'a [u8],
    /// Its ramdisk in parts, each padded to 4 bytes and put one after the other. Linux reads such rows of archives.
    pub ramdisk: &'a [&'a [u8]],
    /// Its kernel's command line, [`EXTRA_CMDLINE`] and a space shorter than 1023 bytes.
    pub cmdline: &'a str,
    /// Whether its kernel is told that it drives the machine (`SIF_PRIVILEGED`, `SIF_INITDOMAIN`).
    pub hardware_domain: bool,
    /// Whether devices can be assigned to it.
    pub iommu: bool,
    /// Who serves XenStore to it.
    pub xenstore: Option<Peer>,
    /// Who reads its console; `None` for the hardware domain, whose console is Xen's.
    pub console: Option<Peer>,
    /// Limits.
    pub limits: Limits,
    /// Called as soon as the domain exists, for what needs its number, such as a port bound for it. What it returns
    /// goes to the end of the command line: at most [`EXTRA_CMDLINE`] bytes. What it made is the caller's to undo if
    /// the domain is not built after all.
    pub prepare: &'a mut dyn FnMut(DomId) -> Result<String, BoxError>,
}

impl fmt::Debug for Spec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spec { domid, memory_mib, vcpus, cmdline, .. } = self;
        write!(f, "Spec {{ {domid:?}, {memory_mib} MiB, {vcpus} vCPUs, {cmdline:?}, .. }}")
    }
}

/// A domain that was built: paused, with the label of [`Spec::sid`], and none of it mapped here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Its number.
    pub domid: DomId,
    /// Its start info page.
    pub start_info: Mfn,
    /// XenStore's ring and port.
    pub store: Option<(Mfn, Port)>,
    /// The console's ring and port.
    pub console: Option<(Mfn, Port)>,
    /// Its memory, in pages.
    pub pages: u64,
    /// Its memory, in KiB: also the most that Xen lets it have.
    pub used_kib: u64,
}

/// Why a domain was not built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its kernel is none.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It does not fit.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its command line does not fit.
    #[error(
        "Command line of {len} bytes: at most {max}, as {EXTRA_CMDLINE} are kept for what is added while building"
    )]
    CommandLine {
        /// Its length.
        len: usize,
        /// Most.
        max: usize,
    },
    /// What is added to the command line while building is too long.
    #[error("Addition to the command line of {0} bytes: at most {EXTRA_CMDLINE}")]
    Extra(usize),
    /// The command line holds a zero byte.
    #[error("Command line holds a zero byte")]
    Zero,
    /// The hardware domain has no console ring.
    #[error("{0} is the hardware domain: its console is Xen's, it cannot have another")]
    Console(DomId),
    /// A domain needs a vCPU.
    #[error("{0} has no vCPU")]
    NoVcpu(DomId),
    /// Xen refused something.
    #[error("{domid}: cannot {doing}")]
    Xen {
        /// The domain.
        domid: DomId,
        /// What was asked of Xen.
        doing: &'static str,
        /// Why not.
        source: BoxError,
    },
    /// The caller's part failed.
    #[error("{domid}: cannot prepare what it needs")]
    Prepare {
        /// The domain.
        domid: DomId,
        /// Why not.
        source: BoxError,
    },
    /// Xen has too little memory left.
    #[error("{domid}: Xen has only {got} of its {wanted} pages of memory")]
    Memory {
        /// The domain.
        domid: DomId,
        /// What it got before it was destroyed.
        got: u64,
        /// What it needs.
        wanted: u64,
    },
    /// Xen gave more pages than were asked for, or a page is missing that was given.
    #[error("{0}: what Xen says of its memory makes no sense")]
    Nonsense(DomId),
    /// A half-built hardware domain, which is not destroyed: Xen has given it the hardware and goes on pointing at it.
    #[error(
        "{domid} is left half built: Xen has made it the hardware domain, so the host must be stopped through it"
    )]
    Hardware {
        /// The domain.
        domid: DomId,
        /// Why it was not finished.
        source: Box<Error>,
    },
    /// It could not be destroyed after an error either.
    #[error("{domid} is left half built, it cannot be destroyed ({destroy})")]
    Left {
        /// The domain.
        domid: DomId,
        /// Why it could not be destroyed.
        destroy: BoxError,
        /// Why it should have been.
        source: Box<Error>,
    },
}

/// Destroys the domain unless told to keep it; on drop too, should `prepare` panic.
struct HalfBuilt<'h, H: Hypervisor> {
    h: &'h H,
    domid: Option<DomId>,
}

impl<H: Hypervisor> HalfBuilt<'_, H> {
    fn destroy(&mut self) -> Result<(), H::Error> {
        self.domid.take().map_or(Ok(()), |d| self.h.destroy_domain(d))
    }
}

impl<H: Hypervisor> Drop for HalfBuilt<'_, H> {
    fn drop(&mut self) {
        // Only on a panic is there still something to do, and nobody to tell.
        let _ = self.destroy();
    }
}

/// Builds a domain. What needs no Xen is checked before anything is created; if something fails later, the domain is
/// destroyed before this returns. The hardware domain is the exception: Xen 4.17 keeps a pointer to it for good, so a
/// half-built one is left, and its caller has to stop the host.
///
/// # Errors
/// Says what could not be done and why.
pub fn build<H: Hypervisor>(h: &H, spec: &mut Spec<'_>) -> Result<Built, Error> {
    let domid = spec.domid;
    // A space before the addition, a zero after it.
    let max = MAX_CMDLINE - EXTRA_CMDLINE - 2;
    if spec.cmdline.len() > max {
        return Err(Error::CommandLine { len: spec.cmdline.len(), max });
    }
    if spec.cmdline.contains('\0') {
        return Err(Error::Zero);
    }
    if spec.hardware_domain && spec.console.is_some() {
        return Err(Error::Console(domid));
    }
    if spec.vcpus == 0 {
        return Err(Error::NoVcpu(domid));
    }
    let kernel = Kernel::parse(spec.kernel, spec.limits.kernel_bytes)?;
    let ramdisk_len = spec.ramdisk.iter().map(|p| bytes(p.len()).next_multiple_of(4)).sum();
    let (store, console) = (spec.xenstore.is_some(), spec.console.is_some());
    let layout = Layout::new(&kernel, ramdisk_len, spec.memory_mib.into(), store, console)?;

    let new = NewDomain { domid, sid: spec.sid, vcpus: spec.vcpus, iommu: spec.iommu, limits: spec.limits };
    h.create_domain(&new).map_err(|e| Error::Xen { domid, doing: "create it", source: e.into() })?;
    let mut guard = HalfBuilt { h, domid: Some(domid) };
    let extra = (spec.prepare)(domid).map_err(|source| Error::Prepare { domid, source });
    match extra.and_then(|extra| Builder { h, spec, kernel, layout }.run(&extra)) {
        Ok(built) => {
            guard.domid = None;
            Ok(built)
        }
        Err(source) if spec.hardware_domain => {
            guard.domid = None;
            Err(Error::Hardware { domid, source: Box::new(source) })
        }
        Err(source) => Err(match guard.destroy() {
            Ok(()) => source,
            Err(e) => Error::Left { domid, destroy: e.into(), source: Box::new(source) },
        }),
    }
}

struct Builder<'a, 's, H> {
    h: &'a H,
    spec: &'a Spec<'s>,
    kernel: Kernel<'s>,
    layout: Layout,
}

impl<H: Hypervisor> Builder<'_, '_, H> {
    fn xen<T>(&self, doing: &'static str, result: Result<T, H::Error>) -> Result<T, Error> {
        result.map_err(|e| Error::Xen { domid: self.spec.domid, doing, source: e.into() })
    }

    fn run(&self, extra: &str) -> Result<Built, Error> {
        let (h, spec, layout, d) = (self.h, self.spec, &self.layout, self.spec.domid);
        if extra.len() > EXTRA_CMDLINE {
            return Err(Error::Extra(extra.len()));
        }
        if extra.contains('\0') {
            return Err(Error::Zero);
        }
        let space = if extra.is_empty() || spec.cmdline.is_empty() { "" } else { " " };
        let cmdline = format!("{}{space}{extra}", spec.cmdline);

        // Exactly its memory: the pages that Xen itself adds to a PV domain (shared info, grant table) are from Xen's
        // heap and not counted (`assign_pages`, `share_xen_page_with_guest`), and exchanges count as nothing.
        let used_kib = layout.pages * (PAGE / 1024);
        self.xen("limit its memory", h.set_max_mem_kib(d, used_kib))?;
        let p2m = self.populate()?;
        let mfn = |pfn| p2m.mfn(pfn).ok_or(Error::Nonsense(d));
        let shared = self.xen("find its shared info page", h.shared_info(d))?;
        let ring = |pfn: Option<u64>, peer: Option<Peer>, doing| match (pfn, peer) {
            (Some(pfn), Some(peer)) => {
                let mfn = mfn(pfn)?;
                self.xen(doing, h.alloc_unbound_for(d, peer)).map(|port| Some((mfn, port)))
            }
            _ => Ok(None),
        };
        let store = ring(layout.xenstore, spec.xenstore, "allocate its XenStore port")?;
        let console = ring(layout.console, spec.console, "allocate its console port")?;

        let info = StartInfo {
            shared_info: shared,
            hardware_domain: spec.hardware_domain,
            store,
            console,
            cmdline: &cmdline,
        };
        self.load(&p2m, &info.page(layout))?;

        if let Some(va) = self.kernel.hypercall_page {
            let page = mfn(va.wrapping_sub(layout.virt_base) / PAGE)?;
            self.xen("write its hypercall page", h.hypercall_page(d, page))?;
        }
        let root = mfn(layout.page_tables.start)?;
        self.xen("pin its page tables", h.pin_l4(d, root))?;
        self.write(&[shared], &[(0, &shared_info())])?;

        let grants: Vec<_> = [(GRANT_CONSOLE, spec.console, console), (GRANT_XENSTORE, spec.xenstore, store)]
            .into_iter()
            .filter_map(|(gref, peer, ring)| Some((gref, peer?, ring?.0)))
            .collect();
        if !grants.is_empty() {
            self.xen("enter its first grants", h.seed_grants(d, &grants))?;
        }
        // Last: this is where Xen writes the wall clock into the shared info.
        let vcpu = Vcpu0 {
            rip: self.kernel.entry,
            rsp: layout.va(layout.boot_stack + 1),
            rsi: layout.va(layout.start_info),
            cr3: root,
        };
        self.xen("set its first vCPU up", h.start_vcpu0(d, &vcpu))?;
        let start_info = mfn(layout.start_info)?;
        Ok(Built { domid: d, start_info, store, console, pages: layout.pages, used_kib })
    }

    /// Gives the domain its memory, in superpages as far as Xen has them.
    fn populate(&self) -> Result<P2m, Error> {
        let wanted = self.layout.pages;
        let mut p2m = P2m::default();
        let mut got = 0;
        for (order, size) in [(9, SUPERPAGE), (0, 1)] {
            while wanted - got >= size {
                let count = ((wanted - got) / size).min(BATCH);
                let pfns: Vec<u64> = (0..count).map(|i| got + i * size).collect();
                let mfns = self.xen("give it memory", self.h.populate(self.spec.domid, order, &pfns))?;
                let given = bytes(mfns.len());
                if given > count {
                    return Err(Error::Nonsense(self.spec.domid));
                }
                got += given * size;
                if size == 1 {
                    p2m.pages.extend(mfns);
                } else {
                    p2m.superpages.extend(mfns);
                }
                if given < count {
                    break;
                }
            }
        }
        match got == wanted {
            true => Ok(p2m),
            false => Err(Error::Memory { domid: self.spec.domid, got, wanted }),
        }
    }

    /// Writes everything but the shared info, which is not in the domain's own memory.
    fn load(&self, p2m: &P2m, start_info: &[u8]) -> Result<(), Error> {
        let (layout, kernel) = (&self.layout, &self.kernel);
        let segments: Vec<_> = kernel.segments.iter().map(|s| (s.paddr, kernel.data(s))).collect();
        self.write_range(p2m, &layout.kernel, &segments)?;

        let mut at = layout.ramdisk.start * PAGE;
        let mut parts = Vec::new();
        for part in self.spec.ramdisk {
            parts.push((at, *part));
            at += bytes(part.len()).next_multiple_of(4);
        }
        self.write_range(p2m, &layout.ramdisk, &parts)?;

        self.write_range(
            p2m,
            &(layout.start_info..layout.start_info + 1),
            &[(layout.start_info * PAGE, start_info)],
        )?;
        for pfn in [layout.xenstore, layout.console, Some(layout.boot_stack)].into_iter().flatten() {
            self.write_range(p2m, &(pfn..pfn + 1), &[])?;
        }

        let nonsense = || Error::Nonsense(self.spec.domid);
        for chunk in chunks(&layout.p2m) {
            let first = (chunk.start - layout.p2m.start) * (PAGE / 8);
            let last = (first + (chunk.end - chunk.start) * (PAGE / 8)).min(layout.pages);
            let mut list = Vec::new();
            for pfn in first..last {
                list.extend(p2m.mfn(pfn).ok_or_else(nonsense)?.0.to_le_bytes());
            }
            self.write_range(p2m, &chunk, &[(chunk.start * PAGE, &list)])?;
        }
        for table in &layout.tables {
            let entries = layout.entries(table, p2m).ok_or_else(nonsense)?;
            let page: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
            self.write_range(p2m, &(table.pfn..table.pfn + 1), &[(table.pfn * PAGE, &page)])?;
        }
        Ok(())
    }

    /// Makes the pages zero but for the pieces, each with its pseudo-physical address in bytes.
    fn write_range(&self, p2m: &P2m, pfns: &Range<u64>, pieces: &[(u64, &[u8])]) -> Result<(), Error> {
        for chunk in chunks(pfns) {
            let mfns: Option<Vec<Mfn>> = chunk.clone().map(|pfn| p2m.mfn(pfn)).collect();
            let mfns = mfns.ok_or(Error::Nonsense(self.spec.domid))?;
            let (start, end) = (chunk.start * PAGE, chunk.end * PAGE);
            let inside: Vec<_> = pieces
                .iter()
                .filter_map(|&(at, data)| {
                    let skip = usize::try_from(start.saturating_sub(at)).ok()?;
                    let room = usize::try_from(end.saturating_sub(at.max(start))).ok()?;
                    let data = data.get(skip..)?;
                    let data = data.get(..room).unwrap_or(data);
                    Some((usize::try_from(at.max(start) - start).ok()?, data)).filter(|(_, d)| !d.is_empty())
                })
                .collect();
            self.write(&mfns, &inside)?;
        }
        Ok(())
    }

    /// Makes the pages zero but for the pieces, each with its offset in bytes.
    fn write(&self, mfns: &[Mfn], pieces: &[(usize, &[u8])]) -> Result<(), Error> {
        let mut pages = self.xen("map its memory", self.h.map(self.spec.domid, mfns))?;
        // Memory from Xen holds anything.
        if !matches!(pieces, [(0, data)] if bytes(data.len()) == bytes(mfns.len()) * PAGE) {
            self.xen("clear its memory", pages.zero())?;
        }
        for (offset, data) in pieces {
            self.xen("write its memory", pages.write(*offset, data))?;
        }
        Ok(())
    }
}

/// A length as Xen's 64-bit numbers have it.
fn bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A range in pieces of `CHUNK` pages.
fn chunks(pfns: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let Range { start, end } = *pfns;
    (0..(end - start).div_ceil(CHUNK)).map(move |i| start + i * CHUNK..(start + (i + 1) * CHUNK).min(end))
}
