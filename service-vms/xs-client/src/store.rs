//! The connection: requests out, answers and events in.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ennead_xs_wire::{Errno, PAYLOAD_MAX, Raw, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::access::{Access, describe};
use crate::error::Error;
use crate::events::{Event, Queue};

/// Linux's way to this VM's ring.
const DEVICE: &str = "/dev/xen/xenbus";
/// How often a transaction is tried. C xenstored needs some 130 tries against a guest that floods it (XSA-206).
const TRIES: u32 = 1000;

/// A connection to XenStore.
#[derive(Debug)]
pub struct XenStore<S = File> {
    stream: S,
    /// What has come and is not yet a whole message.
    inbox: Vec<u8>,
    events: Queue,
    last_id: u32,
    patience: Duration,
}

impl XenStore {
    /// Opens /dev/xen/xenbus. Each answer may take as long as `patience`: XenStore may be restarting.
    ///
    /// # Errors
    /// Linux's.
    pub fn open(patience: Duration) -> Result<Self, Error> {
        let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(Error::Open)?;
        Ok(Self::new(device, patience))
    }
}

impl<S: Read + Write + AsFd> XenStore<S> {
    /// Over any stream, such as a daemon's socket.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, inbox: Vec::new(), events: Queue::default(), last_id: 0, patience }
    }

    /// Asks for an event, now and whenever something at or below a node changes.
    ///
    /// # Errors
    /// As all requests.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), Error> {
        self.ask(&Request::Watch { path: path.as_bytes(), token: token.as_bytes() }).map(drop)
    }

    /// Takes a watch back. Events that were under way may still come.
    ///
    /// # Errors
    /// As all requests.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<(), Error> {
        self.ask(&Request::Unwatch { path: path.as_bytes(), token: token.as_bytes() }).map(drop)
    }

    /// The next event; `None` if none came within `timeout`.
    ///
    /// # Errors
    /// `EventsLost`, once, if too many came; when XenStore cannot be reached.
    pub fn event(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            // What is no event answers nobody: it came too late.
            while self.take(|_| Some(()))?.is_some() {}
            if let Some(event) = self.events.pop()? {
                return Ok(Some(event));
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Does `body` in a transaction: all of it or nothing. Others' changes in its way make it start anew.
    ///
    /// # Errors
    /// `body`'s, and then nothing is changed; `Conflicts`; as all requests.
    pub fn transaction<T>(
        &mut self,
        mut body: impl FnMut(&mut Transaction<'_, S>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 0..TRIES {
            let id = self.ask(&Request::TransactionStart)?;
            let id = std::str::from_utf8(&id).ok().and_then(|id| id.strip_suffix('\0')?.parse().ok());
            let id = id.ok_or_else(|| Error::Nonsense { asked: "to start a transaction".to_owned() })?;
            let done = body(&mut Transaction { store: self, id });
            let commit = done.is_ok();
            let ended = self.ask_in(id, &Request::TransactionEnd { commit });
            match (done, ended) {
                // A request within it can meet the others' changes too.
                (Err(e), _) if e.errno() == Some(Errno::Eagain) => {}
                (Err(e), _) => return Err(e),
                (Ok(value), Ok(_)) => return Ok(value),
                (Ok(_), Err(e)) if e.errno() == Some(Errno::Eagain) => {}
                (Ok(_), Err(e)) => return Err(e),
            }
        }
        Err(Error::Conflicts(TRIES))
    }

    /// One request at a time: Linux sends it from the one buffer that each open file has (`xenbus_file_write`), which the next would
    /// overwrite.
    fn ask_in(&mut self, tx_id: u32, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        self.last_id = self.last_id.wrapping_add(1);
        let id = self.last_id;
        let deadline = Instant::now() + self.patience;
        self.stream.write_all(&request.message(id, tx_id))?;
        let nonsense = || Error::Nonsense { asked: describe(request) };
        loop {
            // An answer with another number is to a request that nobody waits for any more.
            let answer = self.take(|raw| {
                (raw.header.request_id == id).then(|| {
                    if raw.is_error() {
                        let errno = raw.error().ok_or_else(nonsense)?;
                        return Err(Error::Refused { asked: describe(request), errno });
                    }
                    let is_answer = raw.header.op == request.op() as u32;
                    if is_answer { Ok(raw.payload.to_vec()) } else { Err(nonsense()) }
                })
            })?;
            match answer {
                Some(Some(answer)) => return answer,
                Some(None) => {}
                None if self.fill(deadline)? => {}
                None => {
                    return Err(Error::Silent { asked: describe(request), patience: self.patience });
                }
            }
        }
    }

    /// Takes the next whole message that is no event, and gives what `look` says of it; events go into the queue.
    fn take<T>(&mut self, look: impl Fn(&Raw<'_>) -> Option<T>) -> Result<Option<Option<T>>, Error> {
        loop {
            let Some((raw, length)) = Raw::split(&self.inbox).map_err(io::Error::other)? else {
                return Ok(None);
            };
            let found = match raw.event() {
                Some((path, token)) => {
                    self.events.push(path, token);
                    None
                }
                None => Some(look(&raw)),
            };
            self.inbox.drain(..length);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Waits for bytes and reads them; `false` if none came before the deadline.
    fn fill(&mut self, deadline: Instant) -> Result<bool, Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        let mut buffer = [0; PAYLOAD_MAX];
        let count = self.stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.inbox.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(true)
    }
}

/// To wait for other files as well: when it can be read, call [`event`](XenStore::event) with a timeout of zero until there is
/// none. Do so before the first wait too: an event may have come along with an answer.
impl<S: AsFd> AsFd for XenStore<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<S: Read + Write + AsFd> Access for XenStore<S> {
    fn ask(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        self.ask_in(0, request)
    }
}

/// A transaction that has begun.
#[derive(Debug)]
pub struct Transaction<'a, S> {
    store: &'a mut XenStore<S>,
    id: u32,
}

impl<S: Read + Write + AsFd> Access for Transaction<'_, S> {
    fn ask(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        self.store.ask_in(self.id, request)
    }
}
