//! Serving consoles, without I/O: requests and events in, answers out; Xen is behind a trait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ennead_channel::{List, Text};
use ennead_xen::{Port, SharedPage};

use super::protocol::{MAX_DATA, Reply, Request};
use super::ring::Ring;
use super::scrollback::Scrollback;

/// Bytes for a guest that wait until it reads.
const MAX_INPUT: usize = 4096;
/// Most consoles at once: Xen's domids.
const MAX_CONSOLES: usize = 32_752;
/// How often a ring is read before others get their turn.
const READS: usize = 8;

/// What serving consoles needs of Xen.
pub trait Xen {
    /// A page shared with a guest; it is let go when dropped.
    type Page: SharedPage;

    /// Maps a guest's console and binds its port.
    ///
    /// # Errors
    /// Xen's.
    fn open(&mut self, domid: u16, port: u32) -> Result<(Self::Page, Port), ennead_xen::Error>;
    /// Tells a guest that there is something to do.
    fn notify(&mut self, port: Port);
    /// Lets a port go.
    fn close(&mut self, port: Port);
}

/// All consoles.
#[derive(Debug)]
pub struct Consoles<X: Xen> {
    xen: X,
    consoles: BTreeMap<u32, Console<X::Page>>,
    /// Consoles to look at.
    ready: BTreeSet<u32>,
    /// Somebody waits for more.
    waiting: bool,
    grown: bool,
    printed: u64,
    given: u64,
    impossible: u64,
}

#[derive(Debug)]
struct Console<P> {
    line: Option<Line<P>>,
    input: VecDeque<u8>,
    scrollback: Scrollback,
    /// A read found nothing: more of it is news.
    watched: bool,
}

#[derive(Debug)]
struct Line<P> {
    ring: Ring<P>,
    port: Port,
}

impl<X: Xen> Consoles<X> {
    /// None yet.
    pub fn new(xen: X) -> Self {
        Self {
            xen,
            consoles: BTreeMap::new(),
            ready: BTreeSet::new(),
            waiting: false,
            grown: false,
            printed: 0,
            given: 0,
            impossible: 0,
        }
    }

    /// What was given to `new`.
    pub fn xen(&self) -> &X {
        &self.xen
    }

    /// The answer to a request; `None` to one that is answered later.
    pub fn answer(&mut self, request: Request) -> Option<Reply> {
        Some(match request {
            Request::Seal => Reply::Done,
            Request::Open { console, domid, port } => match self.open(console, domid, port) {
                Ok(()) => Reply::Done,
                Err(why) => Reply::Failed(Text::new(&why)),
            },
            Request::Close { console } => {
                self.close(console);
                Reply::Done
            }
            Request::Forget { console } => {
                self.close(console);
                // Whoever waits for more hears that there will be none.
                self.grown |= self.consoles.remove(&console).is_some_and(|console| console.watched);
                Reply::Done
            }
            Request::Input { console, bytes } => Reply::Taken(self.input(console, &bytes)),
            Request::Read { console, from } => {
                let Some(console) = self.consoles.get_mut(&console) else {
                    return Some(Reply::Printed { from, bytes: List::default() });
                };
                let (from, bytes) = console.scrollback.read(from, MAX_DATA);
                console.watched |= bytes.is_empty();
                Reply::Printed { from, bytes: List::new(bytes).unwrap_or_default() }
            }
            Request::Wait => {
                self.waiting = true;
                return None;
            }
            Request::Count => {
                Reply::Counted { printed: self.printed, given: self.given, impossible: self.impossible }
            }
        })
    }

    /// Whether the one who waits is to be told; it waits no longer then.
    pub fn news(&mut self) -> bool {
        let news = self.waiting && self.grown;
        if news {
            (self.waiting, self.grown) = (false, false);
        }
        news
    }

    /// A guest has sent an event.
    pub fn event(&mut self, port: Port) {
        let is_its = |console: &Console<X::Page>| console.line.as_ref().is_some_and(|line| line.port == port);
        self.ready.extend(self.consoles.iter().filter(|(_, console)| is_its(console)).map(|(id, _)| *id));
    }

    /// Moves bytes of all consoles that had events; `true` if there may be more at once.
    pub fn work(&mut self) -> bool {
        for id in std::mem::take(&mut self.ready) {
            if self.serve(id) {
                self.ready.insert(id);
            }
        }
        !self.ready.is_empty()
    }

    fn open(&mut self, id: u32, domid: u16, port: u32) -> Result<(), String> {
        self.close(id);
        if self.consoles.len() >= MAX_CONSOLES {
            return Err(format!("there are {MAX_CONSOLES} consoles"));
        }
        let (page, port) = self.xen.open(domid, port).map_err(|e| e.to_string())?;
        let console = self.consoles.entry(id).or_insert_with(|| Console {
            line: None,
            input: VecDeque::new(),
            scrollback: Scrollback::default(),
            watched: false,
        });
        console.line = Some(Line { ring: Ring::new(page), port });
        // What was meant for its former self is not for this one.
        console.input.clear();
        // It may have printed before its port was bound.
        self.ready.insert(id);
        Ok(())
    }

    fn close(&mut self, id: u32) {
        // Its last words.
        self.serve(id);
        self.ready.remove(&id);
        if let Some(line) = self.consoles.get_mut(&id).and_then(|console| console.line.take()) {
            self.xen.close(line.port);
        }
    }

    /// How many of the bytes are taken.
    fn input(&mut self, id: u32, bytes: &[u8]) -> u16 {
        let Some(console) = self.consoles.get_mut(&id).filter(|console| console.line.is_some()) else {
            // Nobody will read them.
            return u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        };
        let room = MAX_INPUT.saturating_sub(console.input.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        console.input.extend(taken);
        self.ready.insert(id);
        u16::try_from(taken.len()).unwrap_or(u16::MAX)
    }

    /// Moves one console's bytes; `true` if the guest was as fast as we are.
    fn serve(&mut self, id: u32) -> bool {
        let Some(console) = self.consoles.get_mut(&id) else { return false };
        let Some(line) = &mut console.line else { return false };
        let (mut moved, mut reads) = (false, 0);
        for _ in 0..READS {
            let scrollback = &mut console.scrollback;
            match line.ring.take(|bytes| scrollback.push(bytes)) {
                Ok(0) => break,
                Ok(count) => {
                    self.printed = self.printed.saturating_add(u64::try_from(count).unwrap_or(0));
                    moved = true;
                    // At once: the guest may wait for room.
                    self.xen.notify(line.port);
                }
                Err(_) => {
                    self.impossible = self.impossible.saturating_add(1);
                    break;
                }
            }
            reads += 1;
        }
        self.grown |= moved && std::mem::take(&mut console.watched);
        match line.ring.give(console.input.make_contiguous()) {
            Ok(0) => {}
            Ok(count) => {
                console.input.drain(..count);
                self.given = self.given.saturating_add(u64::try_from(count).unwrap_or(0));
                self.xen.notify(line.port);
            }
            Err(_) => self.impossible = self.impossible.saturating_add(1),
        }
        reads == READS
    }
}

#[cfg(test)]
mod tests;
