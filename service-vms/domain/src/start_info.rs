//! The start info and shared info pages (`xen.h`, `arch-x86/xen-x86_64.h`).

use crate::{Layout, PAGE};
use ennead_xen::{Mfn, Port};

/// Bytes of the command line in the start info, with the zero at its end (`MAX_GUEST_CMDLINE`).
pub const MAX_CMDLINE: usize = 1024;
/// `SIF_PRIVILEGED | SIF_INITDOMAIN`.
const HARDWARE_DOMAIN: u32 = 0x3;

/// What the start info says and the layout does not.
#[derive(Debug, Clone, Copy)]
pub struct StartInfo<'a> {
    /// The domain's shared info page.
    pub shared_info: Mfn,
    /// Flags of the initial domain, and no console union.
    pub hardware_domain: bool,
    /// XenStore's ring and port.
    pub store: Option<(Mfn, Port)>,
    /// The console's ring and port; not for the hardware domain, where these bytes mean something else.
    pub console: Option<(Mfn, Port)>,
    /// The kernel's command line; what does not fit is cut off.
    pub cmdline: &'a str,
}

impl StartInfo<'_> {
    /// The page's contents.
    #[must_use]
    pub fn page(&self, layout: &Layout) -> Vec<u8> {
        fn place(pair: Option<(Mfn, Port)>) -> [u64; 2] {
            pair.map_or([0, 0], |(mfn, port)| [mfn.0, u64::from(port.0)])
        }
        let flags = if self.hardware_domain { HARDWARE_DOMAIN } else { 0 };
        let [store_mfn, store_port] = place(self.store);
        let [console_mfn, console_port] = place(self.console.filter(|_| !self.hardware_domain));
        let (first_p2m_pfn, p2m_frames) = layout.p2m_frames();
        let mod_start = if layout.ramdisk_len == 0 { 0 } else { layout.va(layout.ramdisk.start) };

        // 32-bit fields that padding follows are written as 64 bits.
        let mut page = b"xen-3.0-x86_64\0".to_vec();
        page.resize(32, 0);
        for n in [
            layout.pages,
            self.shared_info.0 * PAGE,
            u64::from(flags),
            store_mfn,
            store_port,
            console_mfn,
            console_port,
            layout.va(layout.page_tables.start),
            layout.page_tables.end - layout.page_tables.start,
            layout.p2m_va,
            mod_start,
            layout.ramdisk_len,
        ] {
            page.extend(n.to_le_bytes());
        }
        let cmdline_at = page.len();
        page.extend(self.cmdline.bytes().take(MAX_CMDLINE - 1));
        page.resize(cmdline_at + MAX_CMDLINE, 0);
        page.extend(first_p2m_pfn.to_le_bytes());
        page.extend(p2m_frames.to_le_bytes());
        page.resize(4096, 0);
        page
    }
}

/// The shared info page: all zero but for the event mask of each of the 32 vCPUs that have a slot in it.
#[must_use]
pub fn shared_info() -> Vec<u8> {
    // `struct vcpu_info` has 64 bytes; the second is `evtchn_upcall_mask`.
    let mut page: Vec<u8> = (0..32 * 64).map(|i| u8::from(i % 64 == 1)).collect();
    page.resize(4096, 0);
    page
}
