//! The functions of libxenctrl that are used, each safe to call.

use crate::{DomId, Mfn};
use std::ffi::{c_char, c_int, c_ulong};
use std::io;
use std::ptr::NonNull;
use xenctrl_sys as xc;

/// An open libxenctrl, which says nothing to anybody but its caller.
#[derive(Debug)]
pub(super) struct Libxc {
    handle: NonNull<xc::xc_interface>,
}

// SAFETY: libxenctrl keeps no thread-local state with a handle; only concurrent use is not allowed, and `Libxc` is
// not `Sync`.
unsafe impl Send for Libxc {}

/// Without a logger libxenctrl writes to standard error; this one drops everything.
static SILENT: xc::xentoollog_logger =
    xc::xentoollog_logger { vmessage: Some(drop_message), progress: None, destroy: None };

extern "C" fn drop_message(
    _logger: *mut xc::xentoollog_logger,
    _level: xc::xentoollog_level,
    _errno: c_int,
    _context: *const c_char,
    _format: *const c_char,
    _arguments: *mut xc::__va_list_tag,
) {
}

/// libxenctrl's convention: negative is failure, with `errno`.
pub(super) fn check(result: c_int) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn too_many<E>(_: E) -> io::Error {
    io::Error::from_raw_os_error(libc::E2BIG)
}

impl Libxc {
    pub(super) fn open() -> io::Result<Self> {
        let logger = (&raw const SILENT).cast_mut();
        // SAFETY: the logger is valid for good; libxenctrl only calls its functions and does not write to it.
        let handle = unsafe { xc::xc_interface_open(logger, logger, 0) };
        NonNull::new(handle).map(|handle| Self { handle }).ok_or_else(io::Error::last_os_error)
    }

    pub(super) const fn raw(&self) -> *mut xc::xc_interface {
        self.handle.as_ptr()
    }

    /// Creates a domain; the result is the number that Xen gave it.
    pub(super) fn create(&self, d: DomId, mut config: xc::xen_domctl_createdomain) -> io::Result<DomId> {
        let mut domid = u32::from(d.0);
        // SAFETY: valid handle, valid exclusive pointers.
        check(unsafe { xc::xc_domain_create(self.raw(), &raw mut domid, &raw mut config) })?;
        u16::try_from(domid).map(DomId).map_err(too_many)
    }

    pub(super) fn max_vcpus(&self, d: DomId, max: u32) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_max_vcpus(self.raw(), u32::from(d.0), max) }).map(drop)
    }

    pub(super) fn destroy(&self, d: DomId) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_destroy(self.raw(), u32::from(d.0)) }).map(drop)
    }

    pub(super) fn pause(&self, d: DomId) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_pause(self.raw(), u32::from(d.0)) }).map(drop)
    }

    pub(super) fn unpause(&self, d: DomId) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_unpause(self.raw(), u32::from(d.0)) }).map(drop)
    }

    pub(super) fn shutdown(&self, d: DomId, reason: u32) -> io::Result<()> {
        let reason = c_int::try_from(reason).map_err(too_many)?;
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_shutdown(self.raw(), u32::from(d.0), reason) }).map(drop)
    }

    pub(super) fn set_max_mem(&self, d: DomId, kib: u64) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_setmaxmem(self.raw(), u32::from(d.0), kib) }).map(drop)
    }

    /// Takes the first frame number of each extent, and leaves its machine frame number there.
    pub(super) fn populate(&self, d: DomId, order: u32, extents: &mut [u64]) -> io::Result<()> {
        let count = c_ulong::try_from(extents.len()).map_err(too_many)?;
        let first = extents.as_mut_ptr();
        // SAFETY: valid handle; libxenctrl reads and writes `count` numbers from `first` on, which is the slice.
        check(unsafe {
            xc::xc_domain_populate_physmap_exact(self.raw(), u32::from(d.0), count, order, 0, first)
        })
        .map(drop)
    }

    pub(super) fn set_vcpu(
        &self,
        d: DomId,
        vcpu: u32,
        mut context: xc::vcpu_guest_context_any_t,
    ) -> io::Result<()> {
        // SAFETY: valid handle; the structure is valid and as large as libxenctrl copies.
        check(unsafe { xc::xc_vcpu_setcontext(self.raw(), u32::from(d.0), vcpu, &raw mut context) }).map(drop)
    }

    pub(super) fn pin_l4(&self, d: DomId, mfn: Mfn) -> io::Result<()> {
        let mut op = xc::mmuext_op { cmd: xc::MMUEXT_PIN_L4_TABLE, ..Default::default() };
        op.arg1.mfn = mfn.0;
        // SAFETY: valid handle; one valid operation, as the count says.
        check(unsafe { xc::xc_mmuext_op(self.raw(), &raw mut op, 1, u32::from(d.0)) }).map(drop)
    }

    pub(super) fn set_paging_mempool_size(&self, d: DomId, bytes: u64) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_set_paging_mempool_size(self.raw(), u32::from(d.0), bytes) }).map(drop)
    }

    pub(super) fn set_memory_map(&self, d: DomId, map: &mut [xc::e820entry]) -> io::Result<()> {
        let count = u32::try_from(map.len()).map_err(too_many)?;
        // SAFETY: valid handle; libxenctrl reads `count` entries, which is the slice.
        check(unsafe { xc::xc_domain_set_memory_map(self.raw(), u32::from(d.0), map.as_mut_ptr(), count) })
            .map(drop)
    }

    pub(super) fn hvm_param_set(&self, d: DomId, param: u32, value: u64) -> io::Result<()> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_hvm_param_set(self.raw(), u32::from(d.0), param, value) }).map(drop)
    }

    /// All that Xen saves of a domain in a hardware container.
    pub(super) fn hvm_context(&self, d: DomId) -> io::Result<Vec<u8>> {
        // SAFETY: valid handle; without a buffer Xen only says how large it must be.
        let room = check(unsafe {
            xc::xc_domain_hvm_getcontext(self.raw(), u32::from(d.0), std::ptr::null_mut(), 0)
        })?;
        let mut context = vec![0; usize::try_from(room).map_err(too_many)?];
        // SAFETY: valid handle; libxenctrl writes at most `room` bytes, which is the buffer.
        let used = check(unsafe {
            xc::xc_domain_hvm_getcontext(self.raw(), u32::from(d.0), context.as_mut_ptr(), room)
        })?;
        context.truncate(usize::try_from(used).map_err(too_many)?);
        Ok(context)
    }

    pub(super) fn set_hvm_context(&self, d: DomId, context: &mut [u8]) -> io::Result<()> {
        let size = u32::try_from(context.len()).map_err(too_many)?;
        // SAFETY: valid handle; libxenctrl reads `size` bytes, which is the slice.
        check(unsafe { xc::xc_domain_hvm_setcontext(self.raw(), u32::from(d.0), context.as_mut_ptr(), size) })
            .map(drop)
    }

    /// The domains from `first` on, in order, at most `out.len()`; how many there were.
    pub(super) fn list(&self, first: u32, out: &mut [xc::xc_domaininfo_t]) -> io::Result<usize> {
        let max = u32::try_from(out.len()).map_err(too_many)?;
        // SAFETY: valid handle; libxenctrl writes at most `max` entries, which is the slice.
        let count = check(unsafe { xc::xc_domain_getinfolist(self.raw(), first, max, out.as_mut_ptr()) })?;
        usize::try_from(count).map_err(too_many)
    }

    pub(super) fn physinfo(&self) -> io::Result<xc::xc_physinfo_t> {
        let mut info = xc::xc_physinfo_t::default();
        // SAFETY: valid handle, valid exclusive pointer.
        check(unsafe { xc::xc_physinfo(self.raw(), &raw mut info) })?;
        Ok(info)
    }

    pub(super) fn evtchn_alloc_unbound(&self, d: DomId, remote: DomId) -> io::Result<u32> {
        // SAFETY: valid handle.
        check(unsafe { xc::xc_evtchn_alloc_unbound(self.raw(), u32::from(d.0), u32::from(remote.0)) })
    }

    pub(super) fn set_virq_handler(&self, d: DomId, virq: u32) -> io::Result<()> {
        let virq = c_int::try_from(virq).map_err(too_many)?;
        // SAFETY: valid handle.
        check(unsafe { xc::xc_domain_set_virq_handler(self.raw(), u32::from(d.0), virq) }).map(drop)
    }

    /// A handle that cannot call Xen, to test what happens before and after.
    #[cfg(test)]
    pub(super) fn dummy() -> Self {
        let logger = (&raw const SILENT).cast_mut();
        let flags = xc::xc_open_flags::XC_OPENFLAG_DUMMY as u32;
        // SAFETY: as in `open`.
        let handle = unsafe { xc::xc_interface_open(logger, std::ptr::null_mut(), flags) };
        Self { handle: NonNull::new(handle).unwrap() }
    }
}

impl Drop for Libxc {
    fn drop(&mut self) {
        // SAFETY: valid handle, not used again.
        unsafe { xc::xc_interface_close(self.raw()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_and_closes_without_xen() {
        drop(Libxc::dummy());
    }

    #[test]
    fn failure_is_the_system_error() {
        assert_eq!(check(5).unwrap(), 5);
        assert!(check(-1).is_err());
    }
}
