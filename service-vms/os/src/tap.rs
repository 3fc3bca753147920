//! Taps and bridges of this VM's own kernel.
//!
//! Source: Linux's include/uapi/linux/{if_tun,if,sockios}.h. All requests need `CAP_NET_ADMIN`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use self::batch::Batch;

mod batch;

/// Bytes of the header before each packet of a tap (`struct virtio_net_hdr`).
pub const VNET_HEADER: usize = 10;

/// Most bytes of an interface's name (`IFNAMSIZ`, without the zero at its end).
const MAX_NAME: usize = 15;

/// `struct ifreq`: a name and a union.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; MAX_NAME + 1],
    value: [u8; 24],
}

impl Request {
    fn new(name: &str, value: &[u8]) -> io::Result<Self> {
        let fine = |b: &u8| b.is_ascii_graphic() && !b"/:".contains(b);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.as_bytes().iter().all(fine) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no name of a network interface"));
        }
        let mut request = Self { name: [0; MAX_NAME + 1], value: [0; 24] };
        request.name.iter_mut().zip(name.as_bytes()).for_each(|(to, from)| *to = *from);
        request.value.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        Ok(request)
    }
}

/// Makes one of the requests below.
fn request<const NUMBER: Opcode>(fd: impl AsFd, argument: &mut Request) -> io::Result<()> {
    const { assert!(matches!(NUMBER, TUNSETIFF | SIOCGIFFLAGS | SIOCSIFFLAGS | SIOCBRADDBR | SIOCBRADDIF)) };
    // SAFETY: the argument of each of these requests is an ifreq or the name with which one begins.
    let request = unsafe { Updater::<NUMBER, _>::new(argument) };
    // SAFETY: as above; none of them changes anything else of this process.
    unsafe { ioctl(fd, request) }.map_err(io::Error::from)
}

/// `IFF_TUN_EXCL`: there is no such interface yet.
const EXCLUSIVE: u16 = 0x8000;

const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETOFFLOAD: Opcode = 0x4004_54d0;
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCBRADDBR: Opcode = 0x89a0;
const SIOCBRADDIF: Opcode = 0x89a2;

/// What Linux may leave undone in packets that it gives to a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Checksums of TCP and UDP. Without, large packets are cut too.
    pub checksum: bool,
    /// Large packets of TCP over IPv4.
    pub tcp4: bool,
    /// Large packets of TCP over IPv6.
    pub tcp6: bool,
}

impl Offload {
    /// `TUN_F_...`.
    fn bits(self) -> usize {
        usize::from(self.checksum) | usize::from(self.tcp4) << 1 | usize::from(self.tcp6) << 2
    }
}

/// A tap, or one queue of it: the other end of a network interface. The interface goes when the last of its queues does.
#[derive(Debug)]
pub struct TapDevice {
    file: OwnedFd,
    /// Where the kernel has it.
    batch: Option<Batch>,
}

impl TapDevice {
    /// Makes an interface of that name; it must not be there yet.
    ///
    /// # Errors
    /// `InvalidInput` if it is no name; the kernel's (`EBUSY`: there is one).
    pub fn create(name: &str) -> io::Result<Self> {
        Self::open(name, EXCLUSIVE)
    }

    /// The same with so many queues, at least 1: packets of one connection come from the queue where it last sent one.
    ///
    /// # Errors
    /// As [`TapDevice::create`].
    pub fn create_queues(name: &str, queues: usize) -> io::Result<Vec<Self>> {
        /// `IFF_MULTI_QUEUE`
        const MANY: u16 = 0x0100;
        if queues <= 1 {
            return Ok(vec![Self::create(name)?]);
        }
        let flags = |n| if n == 0 { MANY | EXCLUSIVE } else { MANY };
        (0..queues).map(|n| Self::open(name, flags(n))).collect()
    }

    fn open(name: &str, more: u16) -> io::Result<Self> {
        /// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`
        const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
        let mut argument = Request::new(name, &(FLAGS | more).to_ne_bytes())?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
        request::<TUNSETIFF>(&file, &mut argument)?;
        Ok(Self { file, batch: Batch::new().ok() })
    }

    /// Says what Linux may leave undone; nothing at first.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_offload(&self, offload: Offload) -> io::Result<()> {
        // SAFETY: the argument of this request is a number.
        let request = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(offload.bits()) };
        // SAFETY: as above; it changes nothing of this process.
        unsafe { ioctl(&self.file, request) }.map_err(io::Error::from)
    }

    /// Takes the next packet: the length that was read, or `None` if there is none. What does not fit is cut off.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive(&self, header: &mut [u8; VNET_HEADER], packet: &mut [u8]) -> io::Result<Option<usize>> {
        let mut both = [IoSliceMut::new(header), IoSliceMut::new(packet)];
        match rustix::io::readv(&self.file, &mut both) {
            Ok(length) => Ok(Some(length.saturating_sub(VNET_HEADER))),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends packets, in order; more than one in one system call, if the kernel lets us. Gives which of them were sent.
    pub fn send_many(&mut self, packets: &[([u8; VNET_HEADER], &[u8])]) -> Vec<bool> {
        match &mut self.batch {
            Some(batch) if packets.len() > 1 => batch.send(self.file.as_fd(), packets),
            _ => packets.iter().map(|(header, packet)| self.send(header, packet).is_ok()).collect(),
        }
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// The kernel's: the header does not fit the packet, the interface is not up, there is no memory.
    pub fn send(&self, header: &[u8; VNET_HEADER], packet: &[u8]) -> io::Result<()> {
        let both = [IoSlice::new(header), IoSlice::new(packet)];
        rustix::io::writev(&self.file, &both).map(drop).map_err(io::Error::from)
    }
}

impl AsFd for TapDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The network interfaces of this VM.
#[derive(Debug)]
pub struct Interfaces {
    socket: OwnedFd,
}

impl Interfaces {
    /// Any socket will do to ask for them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket })
    }

    /// Makes a bridge; nothing if it is there.
    ///
    /// # Errors
    /// `InvalidInput` if it is no name; the kernel's (`ENOPKG`: it has no bridges).
    pub fn create_bridge(&self, name: &str) -> io::Result<()> {
        match request::<SIOCBRADDBR>(&self.socket, &mut Request::new(name, &[])?) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Makes an interface a port of a bridge. (It must not be one already: `EBUSY`.)
    ///
    /// # Errors
    /// `InvalidInput` if one of them is no name; the kernel's.
    pub fn attach(&self, bridge: &str, port: &str) -> io::Result<()> {
        let index = name_to_index(&self.socket, port)?;
        request::<SIOCBRADDIF>(&self.socket, &mut Request::new(bridge, &index.to_ne_bytes())?)
    }

    /// Takes an interface into use.
    ///
    /// # Errors
    /// `InvalidInput` if it is no name; the kernel's.
    pub fn up(&self, name: &str) -> io::Result<()> {
        /// `IFF_UP`
        const UP: u8 = 1;
        let mut argument = Request::new(name, &[])?;
        request::<SIOCGIFFLAGS>(&self.socket, &mut argument)?;
        let [low, ..] = &mut argument.value;
        *low |= UP;
        request::<SIOCSIFFLAGS>(&self.socket, &mut argument)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused() {
        let interfaces = Interfaces::open().unwrap();
        for name in ["", "a/b", "a:b", "a b", "sixteen-letters-", "a\0b"] {
            let error = interfaces.up(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        assert!(Request::new("vif32751.65535", &[]).is_ok());
    }

    #[test]
    fn what_is_not_there_is_said() {
        let interfaces = Interfaces::open().unwrap();
        let error = interfaces.up("no-such-thing").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(19), "ENODEV");
        assert!(interfaces.attach("no-such-bridge", "lo").is_err());
    }

    /// Where the kernel and its owner let us.
    #[test]
    fn a_tap_is_an_interface() {
        let Ok(tap) = TapDevice::create("ennead-test%d") else { return };
        tap.set_offload(Offload { checksum: true, tcp4: true, tcp6: false }).unwrap();
        assert_eq!(tap.receive(&mut [0; VNET_HEADER], &mut [0; 100]).unwrap(), None);
        let error = tap.send(&[0; VNET_HEADER], &[0; 60]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "EIO: it is not up");
    }

    /// Where the kernel and its owner let us.
    #[test]
    fn a_tap_has_queues() {
        let Ok(queues) = TapDevice::create_queues("ennead-queues", 3) else { return };
        assert_eq!(queues.len(), 3);
        for queue in &queues {
            assert_eq!(queue.receive(&mut [0; VNET_HEADER], &mut [0; 100]).unwrap(), None);
        }
        let error = TapDevice::create_queues("ennead-queues", 2).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(16), "EBUSY: it is there");
    }

    #[test]
    fn the_bits_are_the_kernel_s() {
        let all = Offload { checksum: true, tcp4: true, tcp6: true };
        assert_eq!(all.bits(), 7);
        assert_eq!(Offload { tcp6: true, ..Offload::default() }.bits(), 4);
    }
}
