//! Control interfaces: what Builder, pciback and the bootstrapper ask of Xen.
//!
//! Every operation is one hypercall unless it says otherwise, named in its documentation as in Xen's public headers.
//! Which of them the calling domain may use is FLASK's decision; each refusal comes back as an [`Error`] with Xen's
//! number.

#[cfg(feature = "lend")]
mod device;
mod flask;
mod hypercall;
mod info;
mod libxc;
mod lifecycle;
mod memory;
#[cfg(feature = "probe")]
pub(crate) mod probe;
mod pvh;
mod start;

pub use info::{DomainInfo, DomainState, HostInfo, ShutdownReason};
pub use lifecycle::{CreateDomain, DomainGuard};
pub use memory::{ForeignPages, GrantEntries};
pub use start::VcpuStart;

use crate::error::{Error, Kind, Result};
use crate::{DomId, Mfn, Port, Virq, ioctl};
use hypercall::Privcmd;
use libxc::Libxc;
use std::io;

/// The control interfaces of Xen, through `/dev/xen/privcmd`.
///
/// Outside the initial domain Linux passes on control calls only with `xen_privcmd.unrestricted` on its command line.
#[derive(Debug)]
pub struct Control {
    privcmd: Privcmd,
    xc: Libxc,
}

impl Control {
    /// Opens `/dev/xen/privcmd` and libxenctrl.
    ///
    /// # Errors
    /// The device is missing or may not be opened.
    pub fn open() -> Result<Self> {
        // Ours first: its error is clean, libxenctrl's is not.
        let device = ioctl::open("open /dev/xen/privcmd", 0)?;
        let local = |e| Error::new(Kind::Local, "set up hypercalls", None, e);
        Ok(Self { privcmd: Privcmd::new(device).map_err(local)?, xc: Libxc::open().map_err(local)? })
    }

    /// Lets Xen fill a page of the domain with its hypercall stubs (`XEN_DOMCTL_hypercall_init`).
    ///
    /// # Errors
    /// What Xen says.
    pub fn hypercall_page(&self, d: DomId, mfn: Mfn) -> Result<()> {
        self.privcmd.hypercall_init(d, mfn).map_err(domctl("hypercall_init", d))
    }

    /// Allocates, in the domain `d`, a port that `remote` may bind to (`EVTCHNOP_alloc_unbound` with `dom`).
    ///
    /// # Errors
    /// What Xen says; under FLASK also `EPERM` if `remote` does not exist.
    pub fn alloc_unbound_for(&self, d: DomId, remote: DomId) -> Result<Port> {
        let port = self.xc.evtchn_alloc_unbound(d, remote);
        port.map(Port).map_err(privcmd("alloc_unbound", d))
    }

    /// Sends one of Xen's own interrupts to the domain `d` (`XEN_DOMCTL_set_virq_handler`). When that domain dies it
    /// goes back to the hardware domain.
    ///
    /// # Errors
    /// What Xen says.
    pub fn set_virq_handler(&self, virq: Virq, d: DomId) -> Result<()> {
        let result = self.xc.set_virq_handler(d, virq.number());
        result.map_err(domctl("set_virq_handler", d))
    }

    /// Takes what was typed on Xen's console, at most 4096 bytes (`CONSOLEIO_read`). Does not wait; see
    /// [`Virq::Console`].
    ///
    /// # Errors
    /// What Xen says.
    pub fn console_read(&self, buf: &mut [u8]) -> Result<usize> {
        self.privcmd.console_read(buf).map_err(|e| Error::new(Kind::Privcmd, "console_io read", None, e))
    }
}

/// The error of a call that is wrong whatever Xen may think of it.
fn invalid(op: &'static str, d: Option<DomId>) -> Error {
    Error::local(op, d, libc::EINVAL)
}

fn domctl(op: &'static str, d: DomId) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::new(Kind::Domctl, op, Some(d), e)
}

fn privcmd(op: &'static str, d: DomId) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::new(Kind::Privcmd, op, Some(d), e)
}
