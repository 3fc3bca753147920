//! Where everything lies in a new PV domain, and its first page tables (`xen.h`, 'Start-of-day memory layout').
//!
//! All ranges are in pfns, that is in 4 KiB pages of the domain's pseudo-physical memory, which begins at 0.

use std::ops::Range;

use crate::layout::{LayoutError, PAGES_PER_MIB};
use crate::plan::PvEntry;
use crate::{MAX_INITIAL, PAGE};
use ennead_xen::Mfn;

/// `xen.h` rule 7: pages that are mapped and free after everything else (512 KiB).
const SPARE: u64 = 128;
/// `xen.h` rule 2: the mapped region ends on such a boundary, in bytes.
const END_ALIGN: u64 = 4 << 20;

/// Virtual pages that show a row of pfns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// First virtual address.
    pub(crate) va: u64,
    /// The pfns.
    pub(crate) pfns: Range<u64>,
}

/// A page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    /// 4 for the root down to 1.
    pub(crate) level: u32,
    /// The bits of a virtual address (of 48) above those that this table resolves.
    pub(crate) prefix: u64,
    /// Where the table lies.
    pub(crate) pfn: u64,
}

/// A domain's memory at its first instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// All its memory, in pages.
    pub(crate) pages: u64,
    /// Virtual address of pfn 0.
    pub(crate) virt_base: u64,
    /// The kernel.
    pub(crate) kernel: Range<u64>,
    /// The ramdisk; empty without one.
    pub(crate) ramdisk: Range<u64>,
    /// Bytes of the ramdisk.
    pub(crate) ramdisk_bytes: u64,
    /// The list of mfns by pfn.
    pub(crate) p2m: Range<u64>,
    /// Where the kernel finds that list.
    pub(crate) p2m_va: u64,
    /// Page tables that only that list needs; empty if it is in the region with the rest.
    pub(crate) p2m_tables: Range<u64>,
    /// The start info page.
    pub(crate) start_info: u64,
    /// The page of the XenStore ring.
    pub(crate) xenstore: Option<u64>,
    /// The page of the console ring.
    pub(crate) console: Option<u64>,
    /// The page tables, root first.
    pub(crate) page_tables: Range<u64>,
    /// The page below the first stack pointer.
    pub(crate) boot_stack: u64,
    /// What the page tables show: the region from `virt_base` on, then the p2m list if it lies elsewhere.
    pub(crate) mappings: Vec<Mapping>,
    /// Every page table, by pfn.
    pub(crate) tables: Vec<Table>,
}

impl Layout {
    /// Plans a domain with `memory_mib` of memory, for a kernel whose plan has been checked and that has these pages.
    /// `rings`: whether it has XenStore's, and the console's.
    ///
    /// # Errors
    /// When it does not fit, with the size that would do.
    pub(crate) fn new(
        entry: &PvEntry,
        kernel: Range<u64>,
        ramdisk_bytes: u64,
        memory_mib: u64,
        rings: (bool, bool),
    ) -> Result<Self, LayoutError> {
        let mut mib = memory_mib;
        loop {
            let (layout, used) =
                Self::plan(entry, kernel.clone(), ramdisk_bytes, mib * PAGES_PER_MIB, rings)?;
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
        entry: &PvEntry,
        kernel: Range<u64>,
        ramdisk_bytes: u64,
        pages: u64,
        (xenstore, console): (bool, bool),
    ) -> Result<(Self, u64), LayoutError> {
        let virt_base = entry.virt_base;
        let p2m_pages = (pages * 8).div_ceil(PAGE);

        let mut next = kernel.end;
        let mut take = |n: u64| {
            next += n;
            next - n..next
        };
        let ramdisk = take(ramdisk_bytes.div_ceil(PAGE));
        let mut p2m = take(if entry.init_p2m.is_some() { 0 } else { p2m_pages });
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
                return Err(LayoutError::too_large(end));
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
        if let Some(va) = entry.init_p2m {
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
            kernel,
            ramdisk,
            ramdisk_bytes,
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
    pub(crate) fn va(&self, pfn: u64) -> u64 {
        self.virt_base.wrapping_add(pfn.wrapping_mul(PAGE))
    }

    /// What `start_info` calls the frames of the p2m list: where they begin and how many, with the page tables that
    /// only they need. Zeros if the list is in the region with the rest.
    pub(crate) fn p2m_frames(&self) -> (u64, u64) {
        match self.mappings.len() {
            1 => (0, 0),
            _ => (self.p2m.start, self.p2m_tables.end - self.p2m.start),
        }
    }

    /// The 512 entries of a page table; `mfn` gives the frame of a pfn.
    pub(crate) fn entries<E>(
        &self,
        table: &Table,
        mfn: impl Fn(u64) -> Result<Mfn, E>,
    ) -> Result<Vec<u64>, E> {
        /// Present, accessed; Xen adds what it needs.
        const READ: u64 = 0x21;
        /// And writable.
        const WRITE: u64 = 0x23;
        /// And user and dirty, for the tables above the lowest.
        const TABLE: u64 = 0x67;
        let mut out = vec![0; 512];
        let mut set = |index: u64, pfn: u64, flags: u64| {
            let entry = mfn(pfn)?.0 << 12 | flags;
            out.iter_mut().skip(usize::try_from(index % 512).unwrap_or(0)).take(1).for_each(|e| *e = entry);
            Ok(())
        };
        if table.level > 1 {
            for t in
                self.tables.iter().filter(|t| t.level + 1 == table.level && t.prefix / 512 == table.prefix)
            {
                set(t.prefix, t.pfn, TABLE)?;
            }
            return Ok(out);
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
        Ok(out)
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
