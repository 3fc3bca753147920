//! The start info and shared info pages (`xen.h`, `arch-x86/xen-x86_64.h`).

use super::Layout;
use crate::PAGE;
use crate::construction::MAX_CMDLINE;
use crate::memory::Ring;
use ennead_xen::Mfn;

/// `SIF_PRIVILEGED | SIF_INITDOMAIN`.
const HARDWARE_DOMAIN: u32 = 0x3;

/// What the start info says and the layout does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartInfo<'a> {
    /// The domain's shared info page.
    pub(crate) shared_info: Mfn,
    /// Flags of the initial domain, and no console union.
    pub(crate) hardware_domain: bool,
    /// XenStore's ring and port.
    pub(crate) store: Option<Ring>,
    /// The console's ring and port; not for the hardware domain, where these bytes mean something else.
    pub(crate) console: Option<Ring>,
    /// The kernel's command line; what does not fit is cut off.
    pub(crate) cmdline: &'a str,
}

impl StartInfo<'_> {
    /// The page's contents.
    pub(crate) fn page(&self, layout: &Layout) -> Vec<u8> {
        fn place(pair: Option<Ring>) -> [u64; 2] {
            pair.map_or([0, 0], |(mfn, port)| [mfn.0, u64::from(port.0)])
        }
        let flags = if self.hardware_domain { HARDWARE_DOMAIN } else { 0 };
        let [store_mfn, store_port] = place(self.store);
        let [console_mfn, console_port] = place(self.console.filter(|_| !self.hardware_domain));
        let (first_p2m_pfn, p2m_frames) = layout.p2m_frames();
        let mod_start = if layout.ramdisk_bytes == 0 { 0 } else { layout.va(layout.ramdisk.start) };

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
            layout.ramdisk_bytes,
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
pub(crate) fn shared_info() -> Vec<u8> {
    // `struct vcpu_info` has 64 bytes; the second is `evtchn_upcall_mask`.
    let mut page: Vec<u8> = (0..32 * 64).map(|i| u8::from(i % 64 == 1)).collect();
    page.resize(4096, 0);
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PvEntry;
    use ennead_xen::Port;

    #[test]
    fn the_union_stays_zero_even_when_asked_otherwise() {
        let entry = PvEntry { entry: 0, virt_base: 0, hypercall_page: None, init_p2m: None };
        let layout = Layout::new(&entry, 1..2, 0, 32, (false, true)).unwrap();
        let ring = Some((Mfn(0x1234), Port(5)));
        let mut info =
            StartInfo { shared_info: Mfn(1), hardware_domain: true, store: None, console: ring, cmdline: "" };
        assert_eq!(info.page(&layout)[72..88], [0; 16]);
        info.hardware_domain = false;
        assert_eq!(info.page(&layout)[72..88], [0x34, 0x12, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }
}
