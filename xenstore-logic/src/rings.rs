//! Guests' rings without Xen: files and datagrams in a directory. `domN` is there while domain N is; what it says (`shutdown`,
//! `dying`) is its state; `domN.ring` is its ring page. An event is a 4-byte little-endian port in a datagram: to `evtchn.sock`
//! for us (100+N: domain N's channel; 1: a domain has died), to `domN.evtchn` for domain N.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Cursor, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ennead_os::SharedMemory;
use ennead_xenstore_logic::serve::{EVENTS, Event};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix};

/// Our end of domain N's channel is port `PORTS` + N.
const PORTS: u32 = 100;
/// The port on which we hear that a domain has died.
const DIED: u32 = 1;
/// Most domains at once.
const DOMAINS: usize = 4096;
const PAGE: usize = 4096;

#[derive(Debug)]
pub(crate) struct Rings {
    dir: OwnedFd,
    path: PathBuf,
    channel: UnixDatagram,
    watch: OwnedFd,
    /// Domains that are there, as far as we have said.
    domains: Vec<u16>,
    fresh: bool,
    /// What was seen and not told yet. It never grows: nothing may allocate.
    waiting: VecDeque<Event>,
}

impl Rings {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("Cannot use {} for rings", path.display());
        let dir = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(context)?;
        let socket = path.join("evtchn.sock");
        // A predecessor's.
        let _ = std::fs::remove_file(&socket);
        let channel = UnixDatagram::bind(&socket).with_context(context)?;
        channel.set_nonblocking(true)?;
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, path, WatchFlags::CREATE | WatchFlags::MOVED_TO).with_context(context)?;
        let mut domains = Vec::with_capacity(DOMAINS);
        for entry in std::fs::read_dir(path).with_context(context)? {
            domains.extend(domain(entry?.file_name().as_encoded_bytes()));
        }
        // All domains at once: those that there are, those that come, and what has become of them.
        let waiting = VecDeque::with_capacity(3 * DOMAINS);
        Ok(Self { dir, path: path.to_owned(), channel, watch, domains, fresh: true, waiting })
    }

    pub(crate) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    pub(crate) fn domains(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// What has happened, a part of it if it is much: new domains first, then the channels' events.
    pub(crate) fn events(&mut self, events: &mut Vec<Event>) {
        if self.waiting.is_empty() {
            self.see();
        }
        let n = self.waiting.len().min(EVENTS / 2);
        events.extend(self.waiting.drain(..n));
    }

    /// Whether there is more to tell.
    pub(crate) fn has_more(&self) -> bool {
        self.fresh || !self.waiting.is_empty()
    }

    fn see(&mut self) {
        if std::mem::take(&mut self.fresh) {
            let known =
                self.domains.iter().map(|domid| Event::Domain { domid: *domid, state: 3, more: false });
            self.waiting.extend(known);
        }
        let mut space = [MaybeUninit::uninit(); 2048];
        let mut reader = inotify::Reader::new(&self.watch, &mut space);
        while self.waiting.len() < 2 * DOMAINS {
            let Ok(entry) = reader.next() else { break };
            if let Some(domid) = entry.file_name().and_then(|name| domain(name.to_bytes())) {
                if self.domains.len() < DOMAINS && !self.domains.contains(&domid) {
                    self.domains.push(domid);
                }
                self.waiting.push_back(Event::Domain { domid, state: 1, more: false });
            }
        }
        let mut port = [0; 4];
        while self.waiting.len() < EVENTS / 2 {
            match rustix::net::recv(&self.channel, &mut port, RecvFlags::DONTWAIT) {
                Ok((_, 4)) => match u32::from_le_bytes(port) {
                    DIED => self.look(),
                    port => self.waiting.push_back(Event::Port(port)),
                },
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Looks what has become of each domain. One that has shut down may have done so before: State knows.
    fn look(&mut self) {
        let Self { dir, domains, waiting, .. } = self;
        let before = waiting.len();
        domains.retain(|domid| {
            let state = state(dir, *domid);
            if state != 1 {
                waiting.push_back(Event::Domain { domid: *domid, state, more: true });
            }
            state != 0
        });
        if let Some(Event::Domain { more, .. }) = waiting.range_mut(before..).next_back() {
            *more = false;
        }
    }

    pub(crate) fn map(&self, domid: u16) -> Option<(SharedMemory, u32)> {
        let mut name = [0; 32];
        let name = text(&mut name, format_args!("dom{domid}.ring"))?;
        let fd = rustix::fs::openat(&self.dir, name, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some((SharedMemory::from_file(fd, PAGE).ok()?, PORTS + u32::from(domid)))
    }

    pub(crate) fn notify(&self, port: u32) {
        let Some(domid) = port.checked_sub(PORTS) else { return };
        let mut name = [0; 108];
        let name = text(&mut name, format_args!("{}/dom{domid}.evtchn", self.path.display()));
        if let Some(address) = name.and_then(|name| SocketAddrUnix::new(name).ok()) {
            // Nobody may listen, or not fast enough; as with a channel of Xen's, that is their loss.
            let _ = rustix::net::sendto(&self.channel, &port.to_le_bytes(), SendFlags::DONTWAIT, &address);
        }
    }
}

/// A text in a buffer: nothing may allocate.
fn text<'a>(buffer: &'a mut [u8], what: std::fmt::Arguments<'_>) -> Option<&'a str> {
    let mut cursor = Cursor::new(&mut *buffer);
    cursor.write_fmt(what).ok()?;
    let len = usize::try_from(cursor.position()).ok()?;
    std::str::from_utf8(buffer.get(..len)?).ok()
}

/// `domN` -> N.
fn domain(name: &[u8]) -> Option<u16> {
    std::str::from_utf8(name.strip_prefix(b"dom")?).ok()?.parse().ok()
}

/// 1: it is there, 2: it has shut down, 0: it is gone or dying.
fn state(dir: &OwnedFd, domid: u16) -> u32 {
    let mut name = [0; 32];
    let Some(name) = text(&mut name, format_args!("dom{domid}")) else { return 0 };
    let Ok(fd) = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return 0;
    };
    let mut word = [0; 64];
    let n = File::from(fd).read(&mut word).unwrap_or(0);
    let word = word.get(..n).unwrap_or_default();
    let says = |what: &[u8]| word.windows(what.len()).any(|w| w == what);
    if says(b"dying") {
        0
    } else if says(b"shutdown") || says(b"crashed") {
        2
    } else {
        1
    }
}
