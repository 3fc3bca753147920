//! What is particular to a PVH domain: memory around the hole below 4 GiB, start info, ACPI tables, first vCPU.

mod acpi;
mod start_info;

use std::ops::Range;

use crate::construction::Spec;
use crate::layout::{LayoutError, PAGES_PER_MIB};
use crate::memory::Site;
use crate::plan::Mode;
use crate::{Built, Error, Hypervisor, MAX_INITIAL, PAGE, PAGE_KIB};
use ennead_xen::{HvmParam, MemoryKind, MemoryRegion, PvhStart};

/// The hole for devices below 4 GiB, in pfns. The local APIC and the special pages are in it.
const HOLE: Range<u64> = 0xf_0000..0x10_0000;
/// Pages that are not part of the memory that the domain was promised: ACPI tables, a page directory, the rings.
const SPECIAL: Range<u64> = 0xf_effc..0xf_f000;
const ACPI: u64 = SPECIAL.start;
const IDENTITY: u64 = SPECIAL.start + 1;
const CONSOLE: u64 = SPECIAL.start + 2;
const XENSTORE: u64 = SPECIAL.start + 3;

/// What Xen needs for the nested page tables of a PVH domain, in KiB, besides the domain's memory: 1 MiB for each vCPU and
/// a page for each MiB of memory, as xl reckons.
#[must_use]
pub fn paging_pool_kib(memory_mib: u32, vcpus: u32) -> u64 {
    1024 * u64::from(vcpus) + PAGE_KIB * u64::from(memory_mib)
}

/// Where everything lies, in pfns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// All the memory that its kernel may use, in pages.
    pub(crate) pages: u64,
    /// The kernel.
    pub(crate) kernel: Range<u64>,
    /// The ramdisk; empty without one.
    pub(crate) ramdisk: Range<u64>,
    /// Bytes of the ramdisk.
    pub(crate) ramdisk_bytes: u64,
    /// The page of the start info.
    pub(crate) start_info: u64,
}

impl Layout {
    /// Plans a domain with `memory_mib` of memory, for a kernel whose plan has been checked and that has these pages.
    ///
    /// # Errors
    /// When it does not fit, with the size that would do.
    pub(crate) fn new(kernel: Range<u64>, ramdisk_bytes: u64, memory_mib: u64) -> Result<Self, LayoutError> {
        let ramdisk = kernel.end..kernel.end + ramdisk_bytes.div_ceil(PAGE);
        let start_info = ramdisk.end;
        let used = start_info + 1;
        if used > MAX_INITIAL / PAGE {
            return Err(LayoutError::too_large(used));
        }
        let pages = memory_mib * PAGES_PER_MIB;
        if used > pages {
            return Err(LayoutError::TooSmall { needs: used.div_ceil(PAGES_PER_MIB), gives: memory_mib });
        }
        Ok(Self { pages, kernel, ramdisk, ramdisk_bytes, start_info })
    }

    /// The memory that its kernel may use: below the hole, and above it what does not fit below.
    fn ram(&self) -> [Range<u64>; 2] {
        let low = self.pages.min(HOLE.start);
        [0..low, HOLE.end..HOLE.end + (self.pages - low)]
    }

    /// Where it has pages.
    pub(crate) fn populated(&self) -> Vec<Range<u64>> {
        let [low, high] = self.ram();
        vec![low, high, SPECIAL]
    }

    /// What its kernel is told of all that, by address.
    fn memory_map(&self) -> Vec<MemoryRegion> {
        let [low, high] = self.ram();
        let region = |pfns: Range<u64>, kind| MemoryRegion {
            start: pfns.start * PAGE,
            size: (pfns.end - pfns.start) * PAGE,
            kind,
        };
        [
            region(low, MemoryKind::Ram),
            region(ACPI..ACPI + 1, MemoryKind::Acpi),
            region(ACPI + 1..SPECIAL.end, MemoryKind::Reserved),
            region(high, MemoryKind::Ram),
        ]
        .into_iter()
        .filter(|r| r.size > 0)
        .collect()
    }
}

/// Writes all but kernel and ramdisk, and sets the first vCPU up.
pub(crate) fn finish<H: Hypervisor>(
    site: &Site<'_, H>,
    layout: &Layout,
    cmdline: &str,
) -> Result<Built, Error> {
    let (h, spec, d) = (site.h, site.spec, site.spec.domid);
    let Mode::Pvh { entry } = spec.kernel.mode else { return Err(Error::Nonsense(d)) };
    let map = layout.memory_map();
    site.xen("tell it its memory", h.set_memory_map(d, &map))?;
    let rsdp = ACPI * PAGE;
    let info = start_info::page(layout, &map, rsdp, cmdline);
    site.fill(layout.start_info..layout.start_info + 1, &info)?;
    site.fill(ACPI..ACPI + 1, &acpi::tables(rsdp, spec.vcpus))?;
    site.fill(IDENTITY..IDENTITY + 1, &identity_table())?;
    // A ring of zeros is one that nobody has used; XenStore's says by that that it is connected.
    site.fill(CONSOLE..SPECIAL.end, &[])?;

    let set = |param, value| site.xen("set its parameters", h.set_hvm_param(d, param, value));
    set(HvmParam::IdentityTable, IDENTITY * PAGE)?;
    let (console, store) = site.rings(Some(CONSOLE), Some(XENSTORE))?;
    for (ring, pfn, port) in [
        (store, HvmParam::StorePfn, HvmParam::StorePort),
        (console, HvmParam::ConsolePfn, HvmParam::ConsolePort),
    ] {
        if let Some((frame, number)) = ring {
            set(pfn, frame.0)?;
            set(port, u64::from(number.0))?;
        }
    }
    site.grant(console, store)?;
    let start_info = u32::try_from(layout.start_info * PAGE).map_err(|_| Error::Nonsense(d))?;
    site.xen("set its first vCPU up", h.start_pvh(d, &PvhStart { entry, start_info }))?;
    let used_kib = own_kib(layout) + pool_kib(spec);
    Ok(Built { domid: d, store, console, pages: layout.pages, used_kib })
}

fn own_kib(layout: &Layout) -> u64 {
    (layout.pages + (SPECIAL.end - SPECIAL.start)) * PAGE_KIB
}

pub(crate) fn pool_kib(spec: &Spec) -> u64 {
    paging_pool_kib(spec.memory_mib, spec.vcpus)
}

/// A 32-bit page directory of 4 MiB pages that maps the first 4 GiB to themselves.
fn identity_table() -> Vec<u8> {
    /// Present, writable, user, accessed, dirty, large.
    const FLAGS: u32 = 0xe7;
    (0..1024u32).flat_map(|index| (index << 22 | FLAGS).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests;
