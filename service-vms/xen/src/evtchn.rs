//! Event channels, through `/dev/xen/evtchn`.
//!
//! Source: xen/include/public/event_channel.h; tools' xen/sys/evtchn.h.

use crate::error::{Error, Kind, Result};
use crate::ioctl::{self, Request};
use crate::{DomId, Port, Virq, sys};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Most events taken from the device at once.
const MOST_AT_ONCE: usize = 64;

/// One open event channel device. Its ports are closed when it is dropped.
#[derive(Debug)]
pub struct EventChannels {
    file: File,
}

impl EventChannels {
    /// Opens `/dev/xen/evtchn`.
    ///
    /// # Errors
    /// The device is missing or may not be opened.
    pub fn open() -> Result<Self> {
        Ok(Self { file: ioctl::open("open /dev/xen/evtchn", libc::O_NONBLOCK)? })
    }

    /// A new port that `remote` may bind to (`EVTCHNOP_alloc_unbound`).
    ///
    /// # Errors
    /// Under FLASK, `EPERM` if `remote` does not exist.
    pub fn bind_unbound(&self, remote: DomId) -> Result<Port> {
        let mut request = sys::EvtchnBindUnboundPort { remote_domain: u32::from(remote.0) };
        self.request("alloc_unbound", Some(remote), &mut request).map(Port)
    }

    /// A new port connected to `remote_port` of `remote`, which must be unbound and meant for us
    /// (`EVTCHNOP_bind_interdomain`).
    ///
    /// # Errors
    /// What Xen says.
    pub fn bind_interdomain(&self, remote: DomId, remote_port: Port) -> Result<Port> {
        let mut request =
            sys::EvtchnBindInterdomain { remote_domain: u32::from(remote.0), remote_port: remote_port.0 };
        self.request("bind_interdomain", Some(remote), &mut request).map(Port)
    }

    /// A new port for one of Xen's own interrupts, on vCPU 0 (`EVTCHNOP_bind_virq`).
    ///
    /// # Errors
    /// `EEXIST` if the domain has it bound already (Linux's own hvc0 binds [`Virq::Console`] in the initial domain); what
    /// else Xen says.
    pub fn bind_virq(&self, virq: Virq) -> Result<Port> {
        self.request("bind_virq", None, &mut sys::EvtchnBindVirq { virq: virq.number() }).map(Port)
    }

    /// Closes a port (`EVTCHNOP_close`).
    ///
    /// # Errors
    /// `ENOTCONN` if the port is not one of this device's.
    pub fn unbind(&self, port: Port) -> Result<()> {
        self.request("unbind", None, &mut sys::EvtchnUnbind { port: port.0 }).map(drop)
    }

    /// Sends an event (`EVTCHNOP_send`). To an unbound port it goes nowhere, without an error.
    ///
    /// # Errors
    /// `ENOTCONN` if the port is not one of this device's.
    pub fn notify(&self, port: Port) -> Result<()> {
        self.request("notify", None, &mut sys::EvtchnNotify { port: port.0 }).map(drop)
    }

    /// Allows this device nothing but connected ports to `domain` from now on (`IOCTL_EVTCHN_RESTRICT_DOMID`); what is
    /// open stays, but no unbound port can be made any more.
    ///
    /// # Errors
    /// `EACCES` if it is restricted to another domain already.
    pub fn restrict(&self, domain: DomId) -> Result<()> {
        self.request("restrict", Some(domain), &mut sys::EvtchnRestrictDomid { domid: domain.0 }).map(drop)
    }

    /// Waits for the next event; `None` when `timeout` passed without one. Without a timeout, waits for good.
    ///
    /// The port can fire again as soon as this returns, so an event that comes while this one is handled is not lost.
    ///
    /// # Errors
    /// `EFBIG` if Linux's buffer of events overflowed.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Option<Port>> {
        let mut port = [Port(0)];
        let count = self.wait_many(&mut port, timeout)?;
        Ok(port.first().copied().filter(|_| count > 0))
    }

    /// Waits for events; puts as many as there are, and fit, into `ports` (at most 64 at once), each port once, and gives
    /// their number: 0 when `timeout` passed without one. Without a timeout, waits for good. With an empty `ports`, 0 at
    /// once. To wait for other files as well, poll this for reading, and call with a timeout of zero.
    ///
    /// # Errors
    /// As [`EventChannels::wait`].
    pub fn wait_many(&self, ports: &mut [Port], timeout: Option<Duration>) -> Result<usize> {
        self.wait_many_but(ports, timeout, |_| false)
    }

    /// The same, but ports that `hushed` picks cannot fire again until they are [unmasked](Self::unmask): so their peer's events
    /// cost nothing meanwhile.
    ///
    /// # Errors
    /// As [`EventChannels::wait`].
    pub fn wait_many_but(
        &self,
        ports: &mut [Port],
        timeout: Option<Duration>,
        hushed: impl Fn(Port) -> bool,
    ) -> Result<usize> {
        let error = |e| Error::new(Kind::Local, "wait for an event", None, e);
        // The time is asked for only where it matters: in a PV domain it mostly is a system call.
        let ends = timeout.filter(|t| !t.is_zero()).and_then(|t| Instant::now().checked_add(t));
        let mut left = timeout;
        while !ports.is_empty() {
            let at_once = left.is_some_and(|l| l.is_zero());
            if !at_once {
                poll_in(&self.file, left).map_err(error)?;
            }
            let count = self.take(ports, &hushed).map_err(error)?;
            if count > 0 || at_once {
                return Ok(count);
            }
            left = ends.map(|end| end.saturating_duration_since(Instant::now()));
        }
        Ok(0)
    }

    /// Lets a port fire again; what its peer has sent meanwhile is one event.
    ///
    /// # Errors
    /// What Linux says.
    pub fn unmask(&self, port: Port) -> Result<()> {
        let written = (&self.file).write_all(&port.0.to_ne_bytes());
        written.map_err(|e| Error::new(Kind::Local, "unmask a port", None, e))
    }

    /// Takes the events that there are, up to so many, and unmasks their ports but those that are hushed.
    fn take(&self, ports: &mut [Port], hushed: &impl Fn(Port) -> bool) -> io::Result<usize> {
        const WORD: usize = size_of::<u32>();
        let mut buffer = [0; MOST_AT_ONCE * WORD];
        let wanted = ports.len().min(MOST_AT_ONCE) * WORD;
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let read = match (&self.file).read(buffer) {
            Ok(n) if n % WORD == 0 && (n > 0 || wanted == 0) => n,
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(e) => return Err(e),
        };
        let taken = buffer.get(..read).unwrap_or_default();
        let mut unmasked = [0; MOST_AT_ONCE * WORD];
        let mut end = 0;
        for (port, word) in ports.iter_mut().zip(taken.chunks_exact(WORD)) {
            *port = Port(word.try_into().map_or(0, u32::from_ne_bytes));
            if !hushed(*port) {
                if let Some(place) = unmasked.get_mut(end..end + WORD) {
                    place.copy_from_slice(word);
                    end += WORD;
                }
            }
        }
        if end > 0 {
            (&self.file).write_all(unmasked.get(..end).unwrap_or_default())?;
        }
        Ok(read / WORD)
    }

    fn request<T: Request>(&self, op: &'static str, domid: Option<DomId>, request: &mut T) -> Result<u32> {
        ioctl::request(&self.file, request).map_err(|e| Error::new(Kind::Driver, op, domid, e))
    }
}

impl AsFd for EventChannels {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Waits until `file` is readable, `timeout` passed, or a signal came.
fn poll_in(file: &File, timeout: Option<Duration>) -> io::Result<()> {
    // Round up, or the last fraction of a millisecond would be spent spinning.
    let millis = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid structure, as the count says.
    let result = unsafe { libc::poll(&raw mut poll, 1, millis) };
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// A device whose other end is ours: events are read from it, unmasked ports written to it.
    fn device() -> (EventChannels, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (EventChannels { file: File::from(OwnedFd::from(ours)) }, theirs)
    }

    #[test]
    fn an_event_is_taken_once_and_its_port_unmasked() {
        let (events, mut kernel) = device();
        kernel.write_all(&[7_u32.to_ne_bytes(), 9_u32.to_ne_bytes()].concat()).unwrap();
        assert_eq!(events.wait(None).unwrap(), Some(Port(7)));
        assert_eq!(events.wait(Some(Duration::ZERO)).unwrap(), Some(Port(9)));
        assert_eq!(events.wait(Some(Duration::ZERO)).unwrap(), None);
        let mut unmasked = [0; 8];
        kernel.read_exact(&mut unmasked).unwrap();
        assert_eq!(unmasked, [7_u32.to_ne_bytes(), 9_u32.to_ne_bytes()].concat()[..]);
    }

    #[test]
    fn many_events_are_taken_at_once_and_none_is_lost() {
        let (events, mut kernel) = device();
        let fired: Vec<u32> = (1..=100).collect();
        let bytes: Vec<u8> = fired.iter().flat_map(|port| port.to_ne_bytes()).collect();
        kernel.write_all(&bytes).unwrap();
        let mut taken = Vec::new();
        let mut ports = [Port(0); 90];
        for expected in [64, 36, 0] {
            let count = events.wait_many(&mut ports, Some(Duration::ZERO)).unwrap();
            assert_eq!(count, expected);
            taken.extend(ports[..count].iter().map(|port| port.0));
        }
        assert_eq!(taken, fired);
        let mut unmasked = vec![0; bytes.len()];
        kernel.read_exact(&mut unmasked).unwrap();
        assert_eq!(unmasked, bytes);
        kernel.write_all(&bytes).unwrap();
        assert_eq!(events.wait_many(&mut [], None).unwrap(), 0, "no room, no event taken");
        assert_eq!(events.wait_many(&mut ports[..2], None).unwrap(), 2);
        assert_eq!(ports[..2], [Port(1), Port(2)]);
    }

    #[test]
    fn a_hushed_port_is_taken_and_stays_masked() {
        let (events, mut kernel) = device();
        kernel.write_all(&[7_u32, 8, 9].map(u32::to_ne_bytes).concat()).unwrap();
        let mut ports = [Port(0); 4];
        let count = events.wait_many_but(&mut ports, None, |port| port == Port(8)).unwrap();
        assert_eq!(ports[..count], [Port(7), Port(8), Port(9)]);
        events.unmask(Port(8)).unwrap();
        let mut unmasked = [0; 12];
        kernel.read_exact(&mut unmasked).unwrap();
        assert_eq!(unmasked, [7_u32, 9, 8].map(u32::to_ne_bytes).concat()[..]);
    }

    #[test]
    fn a_timeout_is_kept() {
        let (events, _kernel) = device();
        let start = Instant::now();
        assert_eq!(events.wait(Some(Duration::from_millis(30))).unwrap(), None);
        assert!(start.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn an_event_ends_the_wait() {
        let (events, mut kernel) = device();
        let sender = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            kernel.write_all(&5_u32.to_ne_bytes()).unwrap();
            kernel
        });
        assert_eq!(events.wait(Some(Duration::from_secs(60))).unwrap(), Some(Port(5)));
        drop(sender.join().unwrap());
    }

    #[test]
    fn a_dead_device_is_an_error() {
        let (events, kernel) = device();
        drop(kernel);
        assert!(events.wait(None).is_err());
    }
}
