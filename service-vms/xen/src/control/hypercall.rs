//! Hypercalls that libxenctrl has no function for, or none that keeps quiet: straight through `/dev/xen/privcmd`.

use crate::mapping::Mapping;
use crate::page::PAGE_SIZE;
use crate::{DomId, Mfn, ioctl, sys};
use std::ffi::c_char;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use xenctrl_sys as xc;

/// Where in the buffer the operation's structure stands, and where the data it points to.
const OPERATION: usize = 0;
const DATA: usize = PAGE_SIZE;
const BUFFER_SIZE: usize = 2 * PAGE_SIZE;

const _: () = assert!(size_of::<xc::xen_domctl>() <= PAGE_SIZE && size_of::<xc::xen_flask_op>() <= PAGE_SIZE);

/// The device, and two pages that Xen can always reach.
#[derive(Debug)]
pub(super) struct Privcmd {
    device: File,
    buffer: Mapping,
}

impl Privcmd {
    pub(super) fn new(device: File) -> io::Result<Self> {
        // Pages of /dev/xen/hypercall never fault; locked ones may while the kernel moves them, but that is the best
        // a kernel without the device offers.
        let buffer = match OpenOptions::new().read(true).write(true).open("/dev/xen/hypercall") {
            Ok(file) => Mapping::device(file.as_fd(), BUFFER_SIZE, 0)?,
            Err(_) => Mapping::locked(BUFFER_SIZE)?,
        };
        Ok(Self { device, buffer })
    }

    pub(super) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// `XEN_DOMCTL_hypercall_init`, which libxenctrl keeps to libxenguest.
    pub(super) fn hypercall_init(&self, d: DomId, mfn: Mfn) -> io::Result<()> {
        let mut op = xc::xen_domctl {
            cmd: xc::XEN_DOMCTL_hypercall_init,
            interface_version: xc::XEN_DOMCTL_INTERFACE_VERSION,
            domain: d.0,
            ..Default::default()
        };
        op.u.hypercall_init = xc::xen_domctl_hypercall_init { gmfn: mfn.0 };
        self.place(op)?;
        // SAFETY: the structure stands in the buffer, and this operation reaches no other memory of ours.
        unsafe { self.call(xc::__HYPERVISOR_domctl, [self.address(OPERATION), 0, 0]) }.map(drop)
    }

    /// A FLASK operation; the closure gets the address of the data page, which starts with `data`.
    ///
    /// # Safety
    /// The operation must reach no memory besides its structure and the data page, whose size is [`PAGE_SIZE`].
    pub(super) unsafe fn flask(
        &self,
        data: &[u8],
        op: impl FnOnce(*mut c_char) -> xc::xen_flask_op,
    ) -> io::Result<(u32, xc::xen_flask_op)> {
        self.put_data(data)?;
        let address = self.buffer.start().as_ptr().wrapping_add(DATA).cast();
        let at = self.place(op(address))?;
        // SAFETY: the structure stands in the buffer; the caller vouches for what it points to.
        let result = unsafe { self.call(xc::__HYPERVISOR_xsm_op, [self.address(OPERATION), 0, 0]) }?;
        // SAFETY: `place` wrote a valid structure there; Xen changes only integers in it.
        Ok((result, unsafe { at.read() }))
    }

    /// The data page's first bytes after an operation.
    pub(super) fn data(&self, out: &mut [u8]) -> io::Result<()> {
        self.buffer.read(DATA, out).ok_or_else(too_big)
    }

    /// Any hypercall with a structure; the closure gets its address and gives all five arguments. Gives Xen's number and
    /// the structure as Xen left it.
    ///
    /// # Safety
    /// Xen must reach no memory of ours besides the structure and the data page, and whatever it writes to the structure
    /// must be valid for its type.
    #[cfg(feature = "probe")]
    pub(super) unsafe fn any<T: Copy>(
        &self,
        number: u32,
        op: T,
        arguments: impl FnOnce(u64) -> [u64; 5],
    ) -> io::Result<(u32, T)> {
        let at = self.place(op)?;
        let mut request =
            sys::PrivcmdHypercall { op: u64::from(number), arg: arguments(self.address(OPERATION)) };
        // SAFETY: the number belongs to the structure; the caller vouches for the addresses.
        let result = unsafe { ioctl::request_raw(&self.device, sys::IOCTL_PRIVCMD_HYPERCALL, &mut request) }?;
        // SAFETY: `place` wrote a valid structure there; the caller vouches for what Xen did to it.
        Ok((result, unsafe { at.read() }))
    }

    /// Puts bytes into the data page, zeros behind them; its address.
    #[cfg(feature = "probe")]
    pub(super) fn data_page<T>(&self, data: &[u8]) -> io::Result<*mut T> {
        self.put_data(data)?;
        Ok(self.buffer.start().as_ptr().wrapping_add(DATA).cast())
    }

    pub(super) fn console_read(&self, out: &mut [u8]) -> io::Result<usize> {
        let room = out.len().min(BUFFER_SIZE - DATA);
        let arguments = [u64::from(xc::CONSOLEIO_read), room as u64, self.address(DATA)];
        // SAFETY: Xen writes at most `room` bytes to the data page.
        let count = unsafe { self.call(xc::__HYPERVISOR_console_io, arguments) }?;
        let count = usize::try_from(count).unwrap_or(room).min(room);
        self.data(out.get_mut(..count).unwrap_or_default())?;
        Ok(count)
    }

    fn put_data(&self, data: &[u8]) -> io::Result<()> {
        self.buffer.fill(DATA, PAGE_SIZE, 0).ok_or_else(too_big)?;
        self.buffer.write(DATA, data).ok_or_else(too_big)
    }

    fn address(&self, offset: usize) -> u64 {
        self.buffer.address() + offset as u64
    }

    /// Puts an operation's structure into the first page.
    fn place<T: Copy>(&self, op: T) -> io::Result<*mut T> {
        if size_of::<T>() > PAGE_SIZE {
            return Err(too_big());
        }
        let at = self.buffer.start().cast::<T>().as_ptr();
        // SAFETY: the page is mapped, large enough and aligned, and nobody else uses it now.
        unsafe { at.write(op) };
        Ok(at)
    }

    /// # Safety
    /// Every address among the arguments must be valid for what the hypercall does with it.
    unsafe fn call(&self, number: u32, [a, b, c]: [u64; 3]) -> io::Result<u32> {
        let mut request = sys::PrivcmdHypercall { op: u64::from(number), arg: [a, b, c, 0, 0] };
        // SAFETY: the number belongs to the structure; the caller vouches for the addresses.
        unsafe { ioctl::request_raw(&self.device, sys::IOCTL_PRIVCMD_HYPERCALL, &mut request) }
    }
}

fn too_big() -> io::Error {
    io::Error::from_raw_os_error(libc::E2BIG)
}

#[cfg(test)]
impl Privcmd {
    /// One whose device takes no requests.
    pub(super) fn dummy() -> Self {
        let device = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        Self { device, buffer: Mapping::locked(BUFFER_SIZE).unwrap() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stays_in_its_page() {
        let privcmd = Privcmd::dummy();
        assert!(privcmd.put_data(&[1; PAGE_SIZE + 1]).is_err());
        privcmd.put_data(&[1; PAGE_SIZE]).unwrap();
        privcmd.put_data(b"abc").unwrap();
        let mut out = [7; 5];
        privcmd.data(&mut out).unwrap();
        assert_eq!(&out, b"abc\0\0", "an earlier operation's bytes must not show");
        assert!(privcmd.data(&mut [0; PAGE_SIZE + 1]).is_err());
    }

    #[test]
    fn a_refused_call_keeps_its_error_number() {
        let error = Privcmd::dummy().console_read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
