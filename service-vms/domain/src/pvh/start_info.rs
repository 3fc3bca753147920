//! The start info page of a PVH domain (`arch-x86/hvm/start_info.h`): one page with the structure and all it points to.

use super::Layout;
use crate::PAGE;
use crate::construction::MAX_CMDLINE;
use ennead_xen::MemoryRegion;

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The version with a memory map.
const VERSION: u32 = 1;
/// Bytes of `struct hvm_start_info`, `struct hvm_modlist_entry`, `struct hvm_memmap_table_entry`.
const INFO: u64 = 56;
const MODULE: u64 = 32;
const REGION: u64 = 24;

/// The page's contents. What of the command line does not fit is cut off.
pub(super) fn page(layout: &Layout, map: &[MemoryRegion], rsdp: u64, cmdline: &str) -> Vec<u8> {
    let modules = u32::from(layout.ramdisk_bytes > 0);
    let regions = u32::try_from(map.len()).unwrap_or(u32::MAX);
    let module_at = layout.start_info * PAGE + INFO;
    let map_at = module_at + MODULE;
    let cmdline_at = map_at + REGION * u64::from(regions);

    let mut page = Vec::new();
    let half = |page: &mut Vec<u8>, n: u32| page.extend(n.to_le_bytes());
    let word = |page: &mut Vec<u8>, n: u64| page.extend(n.to_le_bytes());
    for n in [MAGIC, VERSION, 0, modules] {
        half(&mut page, n);
    }
    for n in [if modules > 0 { module_at } else { 0 }, cmdline_at, rsdp, map_at] {
        word(&mut page, n);
    }
    for n in [regions, 0] {
        half(&mut page, n);
    }
    for n in [layout.ramdisk.start * PAGE, layout.ramdisk_bytes, 0, 0] {
        word(&mut page, if modules > 0 { n } else { 0 });
    }
    for region in map {
        word(&mut page, region.start);
        word(&mut page, region.size);
        half(&mut page, region.kind.number());
        half(&mut page, 0);
    }
    page.extend(cmdline.bytes().take(MAX_CMDLINE - 1));
    page.push(0);
    page
}
