//! Where everything lies in a new domain, and its first page tables (`xen.h`, 'Start-of-day memory layout').
//!
//! All ranges are in pfns, that is in 4 KiB pages of the domain's pseudo-physical memory, which begins at 0.

use std::ops::Range;

use crate::{Kernel, MAX_INITIAL, PAGE};
use ennead_xen::Mfn;

/// Pages in a MiB.
pub const PAGES_PER_MIB: u64 = (1 << 20) / PAGE;
/// Most memory that a domain may have, in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u64 = 1 << 20;
/// Pages in a 2 MiB superpage.
pub const SUPERPAGE: u64 = 512;
/// `xen.h` rule 7: pages that are mapped and free after everything else (512 KiB).
const SPARE: u64 = 128;
/// `xen.h` rule 2: the mapped region ends on such a boundary, in bytes.
const END_ALIGN: u64 = 4 << 20;

/// Why a kernel and a ramdisk cannot be laid out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// More memory than a domain may have.
    #[error("Memory of {0} MiB: at most {MAX_MEMORY_MIB} MiB")]
    Memory(u64),
    /// Less memory than the domain's first pages take.
    #[error("Domain needs at least {needs} MiB, the manifest gives {gives}")]
    TooSmall {
        /// Least memory that would do, in MiB.
        needs: u64,
        /// What it has, in MiB.
        gives: u64,
    },
    /// The part that the first page tables cover is too large.
    #[error("Kernel and ramdisk take {0} MiB, the first page tables of a PV domain reach {max}", max = MAX_INITIAL >> 20)]
    TooLarge(u64),
    /// The kernel wants virtual addresses that it cannot have.
    #[error("Kernel wants {pages} pages mapped at {va:#x}, which is not free for a PV domain")]
    Address {
        /// Where.
        va: u64,
        /// How many pages.
        pages: u64,
    },
}

/// Which machine frame is behind each pfn, in as little memory as Xen's superpages allow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct P2m {
    /// First mfn of each superpage, from pfn 0 on.
    pub superpages: Vec<Mfn>,
    /// The mfns of the pages after those.
    pub pages: Vec<Mfn>,
}

impl P2m {
    /// The machine frame of a pfn, if it has one.
    #[must_use]
    pub fn mfn(&self, pfn: u64) -> Option<Mfn> {
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

/// Virtual pages that show a row of pfns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First virtual address.
    pub va: u64,
    /// The pfns.
    pub pfns: Range<u64>,
}

/// A page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// 4 for the root down to 1.
    pub level: u32,
    /// The bits of a virtual address (of 48) above those that this table resolves.
    pub prefix: u64,
    /// Where the table lies.
    pub pfn: u64,
}

/// A domain's memory at its first instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All its memory, in pages.
    pub pages: u64,
    /// Virtual address of pfn 0.
    pub virt_base: u64,
    /// The kernel.
    pub kernel: Range<u64>,
    /// The ramdisk; empty without one.
    pub ramdisk: Range<u64>,
    /// Bytes of the ramdisk.
    pub ramdisk_len: u64,
    /// The list of mfns by pfn.
    pub p2m: Range<u64>,
    /// Where the kernel finds that list.
    pub p2m_va: u64,
    /// Page tables that only that list needs; empty if it is in the region with the rest.
    pub p2m_tables: Range<u64>,
    /// The start info page.
    pub start_info: u64,
    /// The page of the XenStore ring.
    pub xenstore: Option<u64>,
    /// The page of the console ring.
    pub console: Option<u64>,
    /// The page tables, root first.
    pub page_tables: Range<u64>,
    /// The page below the first stack pointer.
    pub boot_stack: u64,
    /// What the page tables show: the region from `virt_base` on, then the p2m list if it lies elsewhere.
    pub mappings: Vec<Mapping>,
    /// Every page table, by pfn.
    pub tables: Vec<Table>,
}

impl Layout {
    /// Plans a domain with `memory_mib` of memory.
    ///
    /// # Errors
    /// When it does not fit, with the size that would do.
    pub fn new(
        kernel: &Kernel<'_>,
        ramdisk_len: u64,
        memory_mib: u64,
        xenstore: bool,
        console: bool,
    ) -> Result<Self, LayoutError> {
        if memory_mib > MAX_MEMORY_MIB {
            return Err(LayoutError::Memory(memory_mib));
        }
        let mut mib = memory_mib;
        loop {
            let (layout, used) = Self::plan(kernel, ramdisk_len, mib * PAGES_PER_MIB, xenstore, console)?;
            if used <= layout.pages {
                return match mib == memory_mib {
                    true => Ok(layout),
                    false => Err(LayoutError::TooSmall { needs: mib, gives: memory_mib }),
                };
            }
            // More memory has a longer p2m list, so try again; 1 MiB adds half a page and its table at most.
            mib = used.div_ceil(PAGES_PER_MIB);
        }
    }

    /// The layout for so many pages, and how many it takes, which may be more.
    fn plan(
        kernel: &Kernel<'_>,
        ramdisk_len: u64,
        pages: u64,
        xenstore: bool,
        console: bool,
    ) -> Result<(Self, u64), LayoutError> {
        let virt_base = kernel.virt_base;
        let too_large = |pages: u64| LayoutError::TooLarge(pages.div_ceil(PAGES_PER_MIB));
        if ramdisk_len > MAX_INITIAL {
            return Err(too_large(ramdisk_len / PAGE));
        }
        let p2m_pages = (pages * 8).div_ceil(PAGE);

        let kernel_range = kernel.start() / PAGE..kernel.end.div_ceil(PAGE);
        let mut next = kernel_range.end;
        let mut take = |n: u64| {
            next += n;
            next - n..next
        };
        let ramdisk = take(ramdisk_len.div_ceil(PAGE));
        let mut p2m = take(if kernel.init_p2m.is_some() { 0 } else { p2m_pages });
        let start_info = take(1).start;
        let xenstore = xenstore.then(|| take(1).start);
        let console = console.then(|| take(1).start);

        // Page tables cover themselves: more of them until nothing changes.
        let (mut tables, mut initial, mut end);
        let mut count = 4;
        loop {
            // Then the boot stack and the spare pages.
            let top = next.saturating_add(count + 1 + SPARE);
            end = top
                .checked_mul(PAGE)
                .and_then(|b| virt_base.checked_add(b)?.checked_next_multiple_of(END_ALIGN))
                // The very last page of the address space stays out: its end has no address.
                .ok_or(LayoutError::Address { va: virt_base, pages: top })
                .map(|va| (va - virt_base) / PAGE)?;
            if end > MAX_INITIAL / PAGE {
                return Err(too_large(end));
            }
            initial = Mapping { va: virt_base, pfns: 0..end };
            tables = Vec::new();
            add_tables(&mut tables, &initial, next)?;
            let wanted = u64::try_from(tables.len()).unwrap_or(u64::MAX);
            if wanted <= count {
                break;
            }
            count = wanted;
        }
        let page_tables = next..next + u64::try_from(tables.len()).unwrap_or(u64::MAX);
        let boot_stack = page_tables.end;

        let mut used = end;
        let mut mappings = vec![initial];
        let mut p2m_va = virt_base + p2m.start * PAGE;
        let mut p2m_tables = used..used;
        if let Some(va) = kernel.init_p2m {
            p2m = used..used + p2m_pages;
            p2m_va = va;
            let mapping = Mapping { va, pfns: p2m.clone() };
            let before = tables.len();
            if va.checked_add(p2m_pages * PAGE).is_none_or(|end| end > virt_base) {
                return Err(LayoutError::Address { va, pages: p2m_pages });
            }
            add_tables(&mut tables, &mapping, p2m.end)?;
            p2m_tables = p2m.end..p2m.end + u64::try_from(tables.len() - before).unwrap_or(u64::MAX);
            used = p2m_tables.end;
            mappings.push(mapping);
        }
        let layout = Layout {
            pages,
            virt_base,
            kernel: kernel_range,
            ramdisk,
            ramdisk_len,
            p2m,
            p2m_va,
            p2m_tables,
            start_info,
            xenstore,
            console,
            page_tables,
            boot_stack,
            mappings,
            tables,
        };
        Ok((layout, used))
    }

    /// Virtual address of a pfn in the region at `virt_base`.
    #[must_use]
    pub fn va(&self, pfn: u64) -> u64 {
        self.virt_base.wrapping_add(pfn.wrapping_mul(PAGE))
    }

    /// What `start_info` calls the frames of the p2m list: where they begin and how many, with the page tables that
    /// only they need. Zeros if the list is in the region with the rest.
    #[must_use]
    pub fn p2m_frames(&self) -> (u64, u64) {
        match self.mappings.len() {
            1 => (0, 0),
            _ => (self.p2m.start, self.p2m_tables.end - self.p2m.start),
        }
    }

    /// The 512 entries of a page table; `None` if `p2m` lacks a page that the table shows.
    #[must_use]
    pub fn entries(&self, table: &Table, p2m: &P2m) -> Option<Vec<u64>> {
        /// Present, accessed; Xen adds what it needs.
        const READ: u64 = 0x21;
        /// And writable.
        const WRITE: u64 = 0x23;
        /// And user and dirty, for the tables above the lowest.
        const TABLE: u64 = 0x67;
        let mut out = vec![0; 512];
        let mut set = |index: u64, pfn: u64, flags: u64| {
            *out.get_mut(usize::try_from(index % 512).ok()?)? = p2m.mfn(pfn)?.0 << 12 | flags;
            Some(())
        };
        if table.level > 1 {
            for t in
                self.tables.iter().filter(|t| t.level + 1 == table.level && t.prefix / 512 == table.prefix)
            {
                set(t.prefix, t.pfn, TABLE)?;
            }
            return Some(out);
        }
        for m in &self.mappings {
            let first = page_of(m.va);
            let shown = (first..first + (m.pfns.end - m.pfns.start)).start.max(table.prefix * 512)
                ..(first + (m.pfns.end - m.pfns.start)).min((table.prefix + 1) * 512);
            for page in shown {
                let pfn = m.pfns.start + (page - first);
                let read_only = self.page_tables.contains(&pfn) || self.p2m_tables.contains(&pfn);
                set(page, pfn, if read_only { READ } else { WRITE })?;
            }
        }
        Some(out)
    }
}

/// Number of a virtual page among the 2^36 that four levels resolve.
fn page_of(va: u64) -> u64 {
    (va & ((1 << 48) - 1)) / PAGE
}

/// Appends the tables that a mapping needs and that are not there yet, root first; they lie from `pfn` on.
fn add_tables(tables: &mut Vec<Table>, mapping: &Mapping, mut pfn: u64) -> Result<(), LayoutError> {
    let pages = mapping.pfns.end - mapping.pfns.start;
    let Some(last) = pages.checked_sub(1) else { return Ok(()) };
    let refused = LayoutError::Address { va: mapping.va, pages };
    // Halves of the address space; Xen has the 16 root slots from 256 on (`HYPERVISOR_VIRT_START` to `_END`).
    let end = last.checked_mul(PAGE).and_then(|b| mapping.va.checked_add(b)).ok_or(refused)?;
    let allowed = [0..1 << 47, 0xffff_8800_0000_0000..u64::MAX];
    if !allowed.iter().any(|r| r.contains(&mapping.va) && r.contains(&end)) {
        return Err(LayoutError::Address { va: mapping.va, pages });
    }
    for level in (1..=4).rev() {
        for prefix in page_of(mapping.va) >> (9 * level)..=page_of(end) >> (9 * level) {
            if !tables.iter().any(|t| t.level == level && t.prefix == prefix) {
                tables.push(Table { level, prefix, pfn });
                pfn += 1;
            }
        }
    }
    Ok(())
}
