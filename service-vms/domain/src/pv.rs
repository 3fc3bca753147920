//! What is particular to a PV domain: start info, list of frames, page tables, first vCPU (`xen.h`, 'Start-of-day memory
//! layout').

mod layout;
mod start_info;

#[cfg(test)]
mod properties;

pub(crate) use layout::Layout;

use crate::memory::Site;
use crate::plan::Mode;
use crate::{Built, Error, Hypervisor, PAGE, PAGE_KIB, Vcpu0};
use start_info::{StartInfo, shared_info};

/// Entries of a list of frames in a page, and pages of the list written at once.
const ENTRIES: u64 = PAGE / 8;
const LIST_CHUNK: u64 = 256;

/// Writes all but kernel and ramdisk, and sets the first vCPU up.
pub(crate) fn finish<H: Hypervisor>(
    site: &Site<'_, H>,
    layout: &Layout,
    cmdline: &str,
) -> Result<Built, Error> {
    let (h, spec, d) = (site.h, site.spec, site.spec.domid);
    let Mode::Pv(entry) = &spec.kernel.mode else { return Err(Error::Nonsense(d)) };
    let shared = site.xen("find its shared info page", h.shared_info(d))?;
    let (console, store) = site.rings(layout.console, layout.xenstore)?;

    let info =
        StartInfo { shared_info: shared, hardware_domain: spec.hardware_domain, store, console, cmdline };
    site.fill(layout.start_info..layout.start_info + 1, &info.page(layout))?;
    for pfn in [layout.xenstore, layout.console, Some(layout.boot_stack)].into_iter().flatten() {
        site.fill(pfn..pfn + 1, &[])?;
    }
    write_list(site, layout)?;
    for table in &layout.tables {
        let entries = layout.entries(table, |pfn| site.frame(pfn))?;
        let page: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
        site.fill(table.pfn..table.pfn + 1, &page)?;
    }

    if let Some(va) = entry.hypercall_page {
        let page = site.frame(va.wrapping_sub(layout.virt_base) / PAGE)?;
        site.xen("write its hypercall page", h.hypercall_page(d, page))?;
    }
    let root = site.frame(layout.page_tables.start)?;
    site.xen("pin its page tables", h.pin_l4(d, root))?;
    let shared_info = shared_info();
    site.write(&mut site.map_frames(&[shared])?, shared_info.len(), &shared_info)?;
    site.grant(console, store)?;
    // Last: this is where Xen writes the wall clock into the shared info.
    let vcpu = Vcpu0 {
        rip: entry.entry,
        rsp: layout.va(layout.boot_stack + 1),
        rsi: layout.va(layout.start_info),
        cr3: root,
    };
    site.xen("set its first vCPU up", h.start_vcpu0(d, &vcpu))?;
    Ok(Built { domid: d, store, console, pages: layout.pages, used_kib: layout.pages * PAGE_KIB })
}

/// Writes the list of the domain's frames.
fn write_list<H: Hypervisor>(site: &Site<'_, H>, layout: &Layout) -> Result<(), Error> {
    let mut pfn = layout.p2m.start;
    while pfn < layout.p2m.end {
        let end = (pfn + LIST_CHUNK).min(layout.p2m.end);
        let first = (pfn - layout.p2m.start) * ENTRIES;
        let last = (first + (end - pfn) * ENTRIES).min(layout.pages);
        let mut list = Vec::new();
        for listed in first..last {
            list.extend(site.frame(listed)?.0.to_le_bytes());
        }
        site.fill(pfn..end, &list)?;
        pfn = end;
    }
    Ok(())
}
