//! A device's rights, handed to another domain. The caller must have them itself (Xen's `xen/common/domctl.c`).

use std::io;

use xenctrl_sys as xc;

use super::libxc::{Libxc, check};
use super::{Control, domctl};
use crate::error::Result;
use crate::{DomId, Mfn};

impl Control {
    /// Gives a PCI function, by its machine_sbdf, to a domain: its memory is what the function reaches from now on
    /// (`XEN_DOMCTL_assign_device`). It goes back when the domain is destroyed.
    ///
    /// Xen does nothing, and says so to nobody, for a domain that was created without an IOMMU.
    ///
    /// # Errors
    /// `EINVAL` if another domain has it or the domain is dying; what else Xen says.
    pub fn assign_device(&self, d: DomId, sbdf: u32) -> Result<()> {
        self.xc.assign_device(d, sbdf).map_err(domctl("assign_device", d))
    }

    /// Lets a domain map `count` pages of a device's memory (`XEN_DOMCTL_iomem_permission`).
    ///
    /// # Errors
    /// `EPERM` if the caller may not itself; what else Xen says.
    pub fn allow_io_memory(&self, d: DomId, first: Mfn, count: u64) -> Result<()> {
        self.xc.allow_memory(d, first, count).map_err(domctl("iomem_permission", d))
    }

    /// Lets a domain use `count` I/O ports (`XEN_DOMCTL_ioport_permission`).
    ///
    /// # Errors
    /// As [`Control::allow_io_memory`].
    pub fn allow_io_ports(&self, d: DomId, first: u32, count: u32) -> Result<()> {
        self.xc.allow_ports(d, first, count).map_err(domctl("ioport_permission", d))
    }
}

impl Libxc {
    fn assign_device(&self, d: DomId, sbdf: u32) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_assign_device(self.raw(), u32::from(d.0), sbdf, 0) }).map(drop)
    }

    fn allow_memory(&self, d: DomId, first: Mfn, count: u64) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_iomem_permission(self.raw(), u32::from(d.0), first.0, count, 1) })
            .map(drop)
    }

    fn allow_ports(&self, d: DomId, first: u32, count: u32) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_ioport_permission(self.raw(), u32::from(d.0), first, count, 1) })
            .map(drop)
    }
}
