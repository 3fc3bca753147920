//! Devices below `/dev/xen` and their requests.

use crate::error::{Error, Kind, Result};
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

/// Opens a device for reading and writing; `op` is the text for errors, `open PATH`.
pub(crate) fn open(op: &'static str, extra_flags: i32) -> Result<File> {
    let path = op.strip_prefix("open ").unwrap_or(op);
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(extra_flags)
        .open(path)
        .map_err(|e| Error::new(Kind::Open, op, None, e))
}

/// A request whose argument is a plain structure.
///
/// # Safety
/// The driver must read and write nothing but the structure itself, and must leave this process's mappings alone;
/// any bytes it writes must be valid for the type.
pub(crate) unsafe trait Request {
    /// The number of the request.
    const NUMBER: u64;
}

macro_rules! requests {
    ($($type:ident = $number:ident),* $(,)?) => { $(
        // SAFETY: the structure holds integers only, and Linux's drivers/xen/{evtchn,gntdev,gntalloc}.c copy it in
        // and out by its size (for one page) and touch nothing else of the caller.
        unsafe impl Request for sys::$type {
            const NUMBER: u64 = sys::$number;
        }
    )* };
}

requests! {
    EvtchnBindVirq = IOCTL_EVTCHN_BIND_VIRQ,
    EvtchnBindInterdomain = IOCTL_EVTCHN_BIND_INTERDOMAIN,
    EvtchnBindUnboundPort = IOCTL_EVTCHN_BIND_UNBOUND_PORT,
    EvtchnUnbind = IOCTL_EVTCHN_UNBIND,
    EvtchnNotify = IOCTL_EVTCHN_NOTIFY,
    EvtchnRestrictDomid = IOCTL_EVTCHN_RESTRICT_DOMID,
}

// SAFETY: as above; at its end is an array, of which gntalloc.c writes as many elements as `count` says, and the only maker
// of this structure (grants.rs) has `count` at most `N`. The number is that for one element, whatever `N` is.
unsafe impl<const N: usize> Request for sys::GntallocAllocGref<N> {
    const NUMBER: u64 = sys::IOCTL_GNTALLOC_ALLOC_GREF;
}

// SAFETY: likewise; gntdev.c reads as many elements of the array as `count` says, at most `N`.
unsafe impl<const N: usize> Request for sys::GntdevMapGrantRef<N> {
    const NUMBER: u64 = sys::IOCTL_GNTDEV_MAP_GRANT_REF;
}

/// Makes a request; the result is the driver's (for event channels: a port).
pub(crate) fn request<T: Request>(fd: impl AsFd, argument: &mut T) -> io::Result<u32> {
    // SAFETY: `Request` promises that the driver keeps to the structure.
    unsafe { request_raw(fd, T::NUMBER, argument) }
}

/// Makes a request whose argument names other memory.
///
/// # Safety
/// `number` must belong to `T`, and all memory that the driver (or Xen) reads or writes on behalf of `argument` must
/// be valid for that.
pub(crate) unsafe fn request_raw<T>(fd: impl AsFd, number: u64, argument: &mut T) -> io::Result<u32> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, `argument` is a valid exclusive pointer, and the caller vouches for the rest.
    let result = unsafe { libc::ioctl(fd, number, std::ptr::from_mut(argument)) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_keeps_the_error_number() {
        let file = File::open("/dev/null").unwrap();
        let error = request(&file, &mut sys::EvtchnNotify { port: 1 }).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn a_missing_device_is_named() {
        let error = open("open /dev/xen/nothing-of-the-kind", 0).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert!(error.to_string().contains("/dev/xen/nothing-of-the-kind"), "{error}");
    }
}
