//! Logic as an ordinary process: sockets by epoll, State by a link over a memfd, rings (if any) as files.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use ennead_os::{Link, SharedMemory, Spin, listen};
use ennead_xenstore_logic::serve::{Actor, EVENTS, Event, Moved, Stop, World};
use ennead_xs_link::MAX_LINES;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use crate::rings::Rings;

/// What an epoll event is about: lines by their number, the rest above.
const LISTENER: u64 = 1 << 32;
const BELL: u64 = 2 << 32;
const PEER: u64 = 3 << 32;
const CHANNEL: u64 = 4 << 32;
const DOMAINS: u64 = 5 << 32;

#[derive(Debug)]
pub(crate) struct Process {
    link: Link,
    epoll: OwnedFd,
    listeners: Vec<(Actor, UnixListener)>,
    sockets: Vec<Option<OwnedFd>>,
    free: Vec<u32>,
    rings: Option<Rings>,
    spin: Spin,
}

impl Process {
    /// Listens on all sockets.
    pub(crate) fn new(
        link: Link,
        sockets: &[(Actor, PathBuf)],
        rings: Option<&Path>,
        spin: Duration,
    ) -> anyhow::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let add = |fd: &dyn std::os::fd::AsFd, data| {
            epoll::add(&epoll, fd.as_fd(), EventData::new_u64(data), EventFlags::IN)
        };
        add(&link.bell(), BELL)?;
        add(&link.peer, PEER)?;
        let mut listeners = Vec::new();
        for (data, (actor, path)) in (LISTENER..).zip(sockets) {
            let listener = listen(path).with_context(|| format!("Cannot listen on {}", path.display()))?;
            add(&listener, data)?;
            listeners.push((*actor, listener));
        }
        let rings = rings.map(Rings::open).transpose()?;
        if let Some(rings) = &rings {
            add(&rings.channel(), CHANNEL)?;
            add(&rings.domains(), DOMAINS)?;
        }
        let sockets = (0..MAX_LINES).map(|_| None).collect();
        let free = (0..MAX_LINES).rev().collect();
        Ok(Self { link, epoll, listeners, sockets, free, rings, spin: Spin::new(spin) })
    }

    fn socket(&self, number: u32) -> Option<&OwnedFd> {
        self.sockets.get(usize::try_from(number).ok()?)?.as_ref()
    }

    fn accept(&mut self, listener: u64) -> Option<Event> {
        let (actor, listener) = self.listeners.get(usize::try_from(listener).ok()?)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::accept_with(listener, flags).ok()?;
        let socket = self.free.pop()?;
        *self.sockets.get_mut(usize::try_from(socket).ok()?)? = Some(fd);
        Some(Event::Connected { socket, actor: *actor })
    }

    fn ready(&mut self, data: u64, flags: EventFlags, events: &mut Vec<Event>) -> Result<(), Stop> {
        let number = data & u64::from(u32::MAX);
        match data - number {
            0 => {
                let line = u32::try_from(number).unwrap_or(u32::MAX);
                if flags.intersects(EventFlags::OUT) {
                    events.push(Event::Writable(line));
                } else {
                    events.push(Event::Readable(line));
                }
            }
            LISTENER => events.extend(self.accept(number)),
            BELL => {
                self.link.answer();
                events.push(Event::State);
            }
            CHANNEL | DOMAINS => {}
            _ => return Err(Stop::StateGone),
        }
        Ok(())
    }
}

impl World for Process {
    type Page = SharedMemory;

    fn wait(&mut self, events: &mut Vec<Event>, block: bool) -> Result<(), Stop> {
        // Domains before everything else: what a client says about a domain comes after what happened to it.
        let mut space = [MaybeUninit::uninit(); EVENTS / 2];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let more = self.rings.as_ref().is_some_and(Rings::has_more);
        let timeout = if block && !more { None } else { Some(&at_once) };
        let ready = match epoll::wait(&self.epoll, &mut space, timeout) {
            Ok((ready, _)) => &*ready,
            Err(Errno::INTR) => return Ok(()),
            Err(_) => return Err(Stop::World("epoll failed")),
        };
        if let (Some(rings), true) = (&mut self.rings, more || ready.iter().any(|e| e.data.u64() >= CHANNEL))
        {
            rings.events(events);
            if rings.has_more() {
                return Ok(());
            }
        }
        for event in ready {
            let (data, flags) = (event.data.u64(), event.flags);
            self.ready(data, flags, events)?;
        }
        Ok(())
    }

    fn wait_for_state(&mut self) -> Result<(), Stop> {
        let bell = self.link.bell();
        let mut fds = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&self.link.peer, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Err(Stop::World("poll failed")),
        }
        let gone = fds.last().is_some_and(|peer| !peer.revents().is_empty());
        self.link.answer();
        if gone { Err(Stop::StateGone) } else { Ok(()) }
    }

    fn wake_state(&mut self) {
        self.link.wake();
    }

    fn spin(&mut self, round: u32) -> bool {
        self.spin.again(round)
    }

    fn map(&mut self, domid: u16, _port: u32) -> Option<(SharedMemory, u32)> {
        self.rings.as_ref()?.map(domid)
    }

    fn unbind(&mut self, _port: u32) {}

    fn hush(&mut self, _port: u32, _hushed: bool) {}

    fn notify(&mut self, port: u32) {
        if let Some(rings) = &self.rings {
            rings.notify(port);
        }
    }

    fn adopt(&mut self, socket: u32, line: u32) -> bool {
        self.socket(socket).is_some_and(|fd| {
            epoll::add(&self.epoll, fd, EventData::new_u64(line.into()), EventFlags::IN).is_ok()
        })
    }

    fn read(&mut self, socket: u32, out: &mut [u8]) -> Moved {
        let Some(fd) = self.socket(socket) else { return Moved::Closed };
        match rustix::net::recv(fd, out, RecvFlags::empty()) {
            Ok((_, 0)) => Moved::Closed,
            Ok((_, n)) => Moved::Bytes(n),
            Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
            Err(_) => Moved::Closed,
        }
    }

    fn write(&mut self, socket: u32, data: &[u8]) -> Moved {
        let Some(fd) = self.socket(socket) else { return Moved::Closed };
        match rustix::net::send(fd, data, SendFlags::NOSIGNAL) {
            Ok(n) => Moved::Bytes(n),
            Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
            Err(_) => Moved::Closed,
        }
    }

    fn choose(&mut self, socket: u32, line: u32, blocked: bool) {
        let flags = if blocked { EventFlags::OUT } else { EventFlags::IN };
        if let Some(fd) = self.socket(socket) {
            // It was added by `adopt`.
            let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(line.into()), flags);
        }
    }

    fn close(&mut self, socket: u32) {
        let place = usize::try_from(socket).ok().and_then(|i| self.sockets.get_mut(i));
        if place.is_some_and(|place| place.take().is_some()) {
            self.free.push(socket);
        }
    }
}
