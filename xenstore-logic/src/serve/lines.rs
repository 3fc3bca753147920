//! The table of lines: what belongs to a line's number. State gives the numbers.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use ennead_xs_link::{MAX_LINES, Shared};

use crate::ring;

/// Most ports of a VM (the number is checked, not trusted).
const PORTS: usize = 1 << 16;
const NONE: u16 = u16::MAX;

/// A guest's ring.
#[derive(Debug)]
pub(super) struct Guest<P> {
    pub(super) page: P,
    pub(super) port: u32,
    /// How far requests are read, by State's word.
    pub(super) req_cons: u32,
    /// How far responses are written.
    pub(super) rsp_prod: u32,
    /// How far the guest had read them when State was told last.
    pub(super) told: u32,
    /// A call about it is under way.
    pub(super) busy: bool,
    /// It rang, and State was not asked since what it has for the guest: there may be room for it.
    pub(super) rang: bool,
    /// State holds the beginning of a message.
    pub(super) stashed: bool,
    /// State may hold another whole message behind the one that it was asked for last.
    pub(super) more: bool,
    /// Its guest has broken the protocol.
    pub(super) broken: bool,
}

impl<P: Shared> Guest<P> {
    pub(super) fn new(page: P, port: u32) -> Self {
        Self {
            page,
            port,
            req_cons: 0,
            rsp_prod: 0,
            told: 0,
            busy: true,
            rang: true,
            stashed: false,
            more: false,
            broken: false,
        }
    }

    /// Its ring of responses has no room. Then it gets no more requests answered: or State would have to keep replies without
    /// end for a guest that takes none (XSA-326). It rings when it has made room.
    pub(super) fn is_full(&self) -> bool {
        ring::is_full(&self.page, self.rsp_prod)
    }

    /// What State has given fills the room that it knew of: it may have more, and only we can see that there is room again. (The
    /// guest rings only if it finds the ring full, and it may have read something before it was.)
    pub(super) fn may_be_owed(&self) -> bool {
        self.rsp_prod.wrapping_sub(self.told) >= ring::RING
    }
}

/// A client on a socket.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) socket: u32,
    /// It does not take its replies; State holds them.
    pub(super) blocked: bool,
    /// State holds the beginning of a message.
    pub(super) stashed: bool,
}

#[derive(Debug)]
pub(super) enum Line<P> {
    Free,
    Socket(Socket),
    Guest(Guest<P>),
}

#[derive(Debug)]
pub(super) struct Lines<P> {
    lines: Box<[Line<P>]>,
    ports: Box<[u16]>,
    /// Rings to look at in the next round, each once.
    queue: VecDeque<u32>,
    queued: Box<[bool]>,
}

impl<P: Shared> Lines<P> {
    pub(super) fn new() -> Self {
        let lines: Vec<_> = (0..MAX_LINES).map(|_| Line::Free).collect();
        Self {
            queue: VecDeque::with_capacity(lines.len()),
            queued: alloc::vec![false; lines.len()].into(),
            lines: lines.into(),
            ports: alloc::vec![NONE; PORTS].into(),
        }
    }

    /// Looks at a ring in the next round.
    pub(super) fn queue(&mut self, line: u32) {
        if self.mark(line, true) == Some(false) {
            self.queue.push_back(line);
        }
    }

    /// The ring whose turn it is.
    pub(super) fn next(&mut self) -> Option<u32> {
        let line = self.queue.pop_front()?;
        self.mark(line, false);
        Some(line)
    }

    /// Rings whose turn it is in the next round.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether it was marked before.
    fn mark(&mut self, line: u32, queued: bool) -> Option<bool> {
        let mark = self.queued.get_mut(usize::try_from(line).ok()?)?;
        Some(core::mem::replace(mark, queued))
    }

    pub(super) fn get(&mut self, line: u32) -> Option<&mut Line<P>> {
        self.lines.get_mut(usize::try_from(line).ok()?)
    }

    pub(super) fn guest(&mut self, line: u32) -> Option<&mut Guest<P>> {
        match self.get(line)? {
            Line::Guest(guest) => Some(guest),
            _ => None,
        }
    }

    pub(super) fn socket(&mut self, line: u32) -> Option<&mut Socket> {
        match self.get(line)? {
            Line::Socket(socket) => Some(socket),
            _ => None,
        }
    }

    /// The line whose ring has our port `port`.
    pub(super) fn of_port(&self, port: u32) -> Option<u32> {
        let line = *self.ports.get(usize::try_from(port).ok()?)?;
        (line != NONE).then(|| u32::from(line))
    }

    /// Puts something on a line; gives what was there.
    pub(super) fn put(&mut self, line: u32, what: Line<P>) -> Line<P> {
        if let Line::Guest(guest) = &what {
            self.set_port(guest.port, u16::try_from(line).unwrap_or(NONE));
        }
        let Some(place) = self.get(line) else { return what };
        let old = core::mem::replace(place, what);
        if let Line::Guest(guest) = &old {
            let port = guest.port;
            if self.guest(line).is_none_or(|new| new.port != port) {
                self.set_port(port, NONE);
            }
        }
        old
    }

    fn set_port(&mut self, port: u32, line: u16) {
        if let Some(place) = usize::try_from(port).ok().and_then(|i| self.ports.get_mut(i)) {
            *place = line;
        }
    }

    /// `req_cons` and `rsp_cons` of a line's ring; 0 without one.
    pub(super) fn positions(&self, line: u32) -> (u32, u32) {
        match usize::try_from(line).ok().and_then(|i| self.lines.get(i)) {
            Some(Line::Guest(guest)) => (guest.req_cons, ring::rsp_cons(&guest.page)),
            _ => (0, 0),
        }
    }
}
