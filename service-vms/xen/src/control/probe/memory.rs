//! Calls about another domain's memory, grants and events.

use super::Probe;
use crate::error::{Error, Kind, Result};
use crate::{DomId, GrantRef, Mfn};
use std::io;
use xenctrl_sys as xc;

/// A frame that no machine has.
const NO_FRAME: u64 = u64::MAX >> 16;

impl Probe<'_> {
    // Memory

    fn memory<T: Copy>(&self, name: &'static str, command: u32, op: T) -> Result<u32> {
        let command = u64::from(command);
        self.any(name, xc::__HYPERVISOR_memory_op, op, |at| [command, at, 0, 0, 0]).map(|(done, _)| done)
    }

    /// Gives a domain one page more (`XENMEM_increase_reservation`). Xen's refusal is not an error but the number 0 of pages.
    ///
    /// # Errors
    /// What Linux says.
    pub fn add_page(&self, d: DomId) -> Result<u32> {
        let extent_start = xc::__guest_handle_xen_pfn_t { p: self.data("increase_reservation", &[])? };
        let op = xc::xen_memory_reservation { extent_start, nr_extents: 1, domid: d.0, ..Default::default() };
        self.memory("increase_reservation", xc::XENMEM_increase_reservation, op)
    }

    /// Replaces a page of a domain, which it does not have, by another (`XENMEM_exchange`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn exchange_page(&self, d: DomId) -> Result<()> {
        let frames = self.data("exchange", &NO_FRAME.to_ne_bytes())?;
        let extent_start = xc::__guest_handle_xen_pfn_t { p: frames };
        let part =
            xc::xen_memory_reservation { extent_start, nr_extents: 1, domid: d.0, ..Default::default() };
        let op = xc::xen_memory_exchange { in_: part, out: part, nr_exchanged: 0 };
        self.memory("exchange", xc::XENMEM_exchange, op).map(drop)
    }

    /// Asks how much memory a domain may have (`XENMEM_maximum_reservation`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn memory_limit(&self, d: DomId) -> Result<()> {
        let op = xc::xen_memory_domain { domid: d.0 };
        self.memory("maximum_reservation", xc::XENMEM_maximum_reservation, op).map(drop)
    }

    /// Gives a domain an empty memory map (`XENMEM_set_memory_map`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn set_memory_map(&self, d: DomId) -> Result<()> {
        let op = xc::xen_foreign_memory_map { domid: d.0, ..Default::default() };
        self.memory("set_memory_map", xc::XENMEM_set_memory_map, op).map(drop)
    }

    /// Asks for the size of the machine's memory map (`XENMEM_machine_memory_map`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn machine_memory_map(&self) -> Result<()> {
        self.memory("machine_memory_map", xc::XENMEM_machine_memory_map, xc::xen_memory_map::default())
            .map(drop)
    }

    /// Puts a domain's frame into a page table entry of the caller's that does not exist
    /// (`HYPERVISOR_update_va_mapping_otherdomain`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn update_va_mapping(&self, d: DomId, mfn: Mfn) -> Result<()> {
        // Present, writable, user.
        let entry = mfn.0.wrapping_shl(12) | 7;
        let domid = u64::from(d.0);
        let number = xc::__HYPERVISOR_update_va_mapping_otherdomain;
        // The first page is in no address space.
        self.any("update_va_mapping", number, 0_u64, |_| [0, entry, 0, domid, 0]).map(drop)
    }

    /// Changes Xen's table from machine frames to those of a domain (`MMU_MACHPHYS_UPDATE`), for a frame that does not exist.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn update_machphys(&self, d: DomId) -> Result<()> {
        let op = xc::mmu_update { ptr: NO_FRAME << 12 | u64::from(xc::MMU_MACHPHYS_UPDATE), val: 0 };
        let domid = u64::from(d.0);
        self.any("mmu_update machphys", xc::__HYPERVISOR_mmu_update, op, |at| [at, 1, 0, domid, 0]).map(drop)
    }

    // Grants

    fn grant<T: Copy>(
        &self,
        name: &'static str,
        command: u32,
        op: T,
        status: impl Fn(&T) -> i16,
    ) -> Result<()> {
        let command = u64::from(command);
        let (_, op) = self.any(name, xc::__HYPERVISOR_grant_table_op, op, |at| [command, at, 1, 0, 0])?;
        let errno = match i32::from(status(&op)) {
            0 => return Ok(()),
            xc::GNTST_permission_denied => libc::EPERM,
            _ => libc::EINVAL,
        };
        Err(Error::new(Kind::Privcmd, name, None, io::Error::from_raw_os_error(errno)))
    }

    /// Maps a page of a domain by a grant (`GNTTABOP_map_grant_ref`).
    ///
    /// # Errors
    /// `EPERM` for `GNTST_permission_denied`, `EINVAL` for any other status.
    pub fn map_grant(&self, d: DomId, gref: GrantRef) -> Result<()> {
        // At an address that has no page: without the right grant it is not looked at.
        let op = xc::gnttab_map_grant_ref {
            flags: xc::GNTMAP_host_map,
            ref_: gref.0,
            dom: d.0,
            status: i16::MIN,
            ..Default::default()
        };
        self.grant("map_grant_ref", xc::GNTTABOP_map_grant_ref, op, |op| op.status)
    }

    /// Copies from a page of a domain by a grant (`GNTTABOP_copy`). FLASK's subject is the domain that is read.
    ///
    /// # Errors
    /// As [`Probe::map_grant`].
    pub fn copy_from_grant(&self, d: DomId, gref: GrantRef) -> Result<()> {
        self.copy(granted(d, gref), OWN_FRAME, xc::GNTCOPY_source_gref)
    }

    /// Copies to a page of a domain by a grant (`GNTTABOP_copy`).
    ///
    /// # Errors
    /// As [`Probe::map_grant`].
    pub fn copy_to_grant(&self, d: DomId, gref: GrantRef) -> Result<()> {
        self.copy(OWN_FRAME, granted(d, gref), xc::GNTCOPY_dest_gref)
    }

    fn copy(&self, source: Copied, dest: Copied, flags: u32) -> Result<()> {
        let flags = u16::try_from(flags).unwrap_or_default();
        let op = xc::gnttab_copy { source, dest, len: 8, flags, status: i16::MIN };
        self.grant("copy", xc::GNTTABOP_copy, op, |op| op.status)
    }

    /// Sets up a domain's grant table, of no pages (`GNTTABOP_setup_table`).
    ///
    /// # Errors
    /// As [`Probe::map_grant`].
    pub fn setup_grant_table(&self, d: DomId) -> Result<()> {
        let op = xc::gnttab_setup_table { dom: d.0, status: i16::MIN, ..Default::default() };
        self.grant("setup_table", xc::GNTTABOP_setup_table, op, |op| op.status)
    }

    // Events

    /// Closes all ports of a domain (`EVTCHNOP_reset`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn reset_events(&self, d: DomId) -> Result<()> {
        let command = u64::from(xc::EVTCHNOP_reset);
        let op = xc::evtchn_reset { dom: d.0 };
        self.any("evtchn reset", xc::__HYPERVISOR_event_channel_op, op, |at| [command, at, 0, 0, 0]).map(drop)
    }
}

/// One end of a copy.
type Copied = xc::gnttab_copy_gnttab_copy_ptr;

/// A frame of the caller's, which it does not have.
const OWN_FRAME: Copied = Copied {
    u: xc::gnttab_copy_gnttab_copy_ptr__bindgen_ty_1 { gmfn: NO_FRAME },
    domid: DomId::SELF.0,
    offset: 0,
};

fn granted(d: DomId, gref: GrantRef) -> Copied {
    Copied { u: xc::gnttab_copy_gnttab_copy_ptr__bindgen_ty_1 { ref_: gref.0 }, domid: d.0, offset: 0 }
}
