//! The shared page: header, four indices, two byte rings. Everything in it is little-endian.
//!
//! ```text
//!    0  magic        "EnCh"; the server writes it last, so a client that sees it sees all of the header
//!    4  version      of this layout: 1
//!    8  generation   new at each start of the server, never 0
//!   12  port         the server's unbound event channel port, for the client's domid
//!   16  flags        0 in version 1
//!   20  protocol     what is spoken (`Protocol::ID`)
//!   64  producer index of the requests    (written by the client)
//!  128  consumer index of the requests    (written by the server)
//!  192  producer index of the replies     (written by the server)
//!  256  consumer index of the replies     (written by the client)
//!  512  ring of the requests, 1792 bytes  (written by the client)
//! 2304  ring of the replies, 1792 bytes   (written by the server)
//! ```
//!
//! A frame is a u16 length and that many bytes. A frame's bytes are written before the producer index moves over all of
//! it at once, so a writer that dies half-way leaves nothing behind. Indices run freely from 0 to `INDEX_LIMIT` (the
//! largest multiple of the ring's size in a u32) and then start again at 0.
//!
//! Either side can write anywhere in the page at any time. So each side keeps *its own* indices in private memory and
//! only publishes them, and copies each of the peer's values once before it checks and uses it.

use ennead_xen::{Port, SharedPage};

use crate::{Error, Protocol, Violation};

/// "EnCh", read as a little-endian u32.
pub const MAGIC: u32 = 0x6843_6e45;
/// Version of the layout above.
pub const VERSION: u32 = 1;
/// Longest message, bytes.
pub const MAX_MESSAGE: usize = 1024;
/// Size of one ring, bytes.
pub const RING_SIZE: u32 = 1792;
/// Indices are below this: the largest multiple of `RING_SIZE` that a u32 holds.
pub const INDEX_LIMIT: u32 = (u32::MAX / RING_SIZE) * RING_SIZE;

const OFF_MAGIC: usize = 0;
const OFF_VERSION: usize = 4;
const OFF_GENERATION: usize = 8;
const OFF_PORT: usize = 12;
const OFF_FLAGS: usize = 16;
const OFF_PROTOCOL: usize = 20;

/// Bytes of a frame's length field.
const PREFIX: u32 = 2;

/// Where one direction lives in the page.
#[derive(Debug, Clone, Copy)]
struct Place {
    producer: usize,
    consumer: usize,
    data: usize,
}

const REQUESTS: Place = Place { producer: 64, consumer: 128, data: 512 };
const REPLIES: Place = Place { producer: 192, consumer: 256, data: 2304 };

#[cfg(any(feature = "offer", test))]
mod publish;

/// The header, as the server wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// New at each start of the server.
    pub generation: u32,
    /// The server's unbound port.
    pub port: Port,
    /// `Protocol::ID` of what is spoken.
    pub protocol: u32,
}

impl Header {
    /// As [`Header::read`], of a page of this protocol.
    pub(crate) fn expect<R: Protocol>(page: &impl SharedPage) -> Result<Option<Self>, Error> {
        let header = Self::read(page)?;
        match header {
            Some(header) if header.protocol != R::ID => {
                Err(Violation::Protocol { expected: R::ID, found: header.protocol }.into())
            }
            header => Ok(header),
        }
    }

    /// Reads the header; `None` while the server has not written it.
    ///
    /// # Errors
    /// `PeerBroke` for another version, a flag, or a value that no server writes.
    pub fn read(page: &impl SharedPage) -> Result<Option<Self>, Error> {
        if page.load(OFF_MAGIC) != MAGIC {
            return Ok(None);
        }
        let version = page.load(OFF_VERSION);
        if version != VERSION {
            return Err(Violation::Version { version }.into());
        }
        let flags = page.load(OFF_FLAGS);
        let generation = page.load(OFF_GENERATION);
        let port = page.load(OFF_PORT);
        if flags != 0 || generation == 0 || port == 0 {
            return Err(Violation::Header { flags, generation, port }.into());
        }
        Ok(Some(Self { generation, port: Port(port), protocol: page.load(OFF_PROTOCOL) }))
    }
}

/// Bytes from `consumer` to `producer`, if the two can belong together.
fn distance(producer: u32, consumer: u32) -> Result<u32, Violation> {
    let wrong = Violation::Indices { producer, consumer };
    if producer >= INDEX_LIMIT || consumer >= INDEX_LIMIT {
        return Err(wrong);
    }
    let distance = if producer >= consumer { producer - consumer } else { INDEX_LIMIT - consumer + producer };
    if distance > RING_SIZE { Err(wrong) } else { Ok(distance) }
}

/// `index` moved by `by` (at most one ring) bytes.
fn advance(index: u32, by: u32) -> u32 {
    let room = INDEX_LIMIT - index;
    if by < room { index + by } else { by - room }
}

/// One direction of the channel, seen from one end.
#[derive(Debug, Clone, Copy)]
struct Ring {
    place: Place,
    /// This end's own index (producer or consumer); the page holds a copy for the peer.
    own: u32,
}

impl Ring {
    /// The two pieces of the ring that `len` bytes from index `at` occupy: offset in the page and length of each.
    fn pieces(&self, at: u32, len: usize) -> [(usize, usize); 2] {
        let position = usize_of(at % RING_SIZE);
        let first = len.min(usize_of(RING_SIZE) - position);
        [(self.place.data + position, first), (self.place.data, len - first)]
    }

    fn write(&self, page: &impl SharedPage, at: u32, data: &[u8]) {
        let [(first, len), (second, _)] = self.pieces(at, data.len());
        let (head, tail) = data.split_at(len);
        page.write(first, head);
        if !tail.is_empty() {
            page.write(second, tail);
        }
    }

    fn read(&self, page: &impl SharedPage, at: u32, buf: &mut [u8]) {
        let [(first, len), (second, _)] = self.pieces(at, buf.len());
        let (head, tail) = buf.split_at_mut(len);
        page.read(first, head);
        if !tail.is_empty() {
            page.read(second, tail);
        }
    }

    fn try_send(&mut self, page: &impl SharedPage, message: &[u8]) -> Result<bool, Error> {
        let too_long = Error::TooLong { len: message.len() };
        if message.len() > MAX_MESSAGE {
            return Err(too_long);
        }
        let Ok(len) = u16::try_from(message.len()) else { return Err(too_long) };
        let frame = PREFIX + u32::from(len);
        let used = distance(self.own, page.load(self.place.consumer))?;
        if RING_SIZE - used < frame {
            return Ok(false);
        }
        self.write(page, self.own, &len.to_le_bytes());
        self.write(page, advance(self.own, PREFIX), message);
        self.own = advance(self.own, frame);
        page.store(self.place.producer, self.own);
        Ok(true)
    }

    fn try_recv(&mut self, page: &impl SharedPage) -> Result<Option<Vec<u8>>, Error> {
        let available = distance(page.load(self.place.producer), self.own)?;
        if available == 0 {
            return Ok(None);
        }
        if available < PREFIX {
            return Err(Violation::Frame { len: 0, available }.into());
        }
        let mut prefix = [0; 2];
        self.read(page, self.own, &mut prefix);
        let len = u16::from_le_bytes(prefix);
        let frame = PREFIX + u32::from(len);
        if usize::from(len) > MAX_MESSAGE || frame > available {
            return Err(Violation::Frame { len, available }.into());
        }
        let mut message = vec![0; usize::from(len)];
        self.read(page, advance(self.own, PREFIX), &mut message);
        self.own = advance(self.own, frame);
        page.store(self.place.consumer, self.own);
        Ok(Some(message))
    }
}

/// u32 -> usize; Xen's x86 and Arm guests have at least 32 bits.
fn usize_of(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// One end of a channel, without I/O: what to write to and read from the page, but no events.
#[derive(Debug)]
pub struct Endpoint<P: SharedPage> {
    page: P,
    send: Ring,
    receive: Ring,
    broken: Option<Violation>,
}

impl<P: SharedPage> Endpoint<P> {
    /// The server's end of a page that `Header::publish` has just formatted.
    pub fn server(page: P) -> Self {
        Self {
            page,
            send: Ring { place: REPLIES, own: 0 },
            receive: Ring { place: REQUESTS, own: 0 },
            broken: None,
        }
    }

    /// The client's end of a page whose header it has checked.
    ///
    /// A rebuilt client finds the indices where its predecessor left them: it goes on after the requests already there
    /// and throws away the replies, whose requests it knows nothing of.
    ///
    /// # Errors
    /// `PeerBroke` if the indices cannot be.
    pub fn client(page: P) -> Result<Self, Error> {
        let requests = page.load(REQUESTS.producer);
        distance(requests, page.load(REQUESTS.consumer))?;
        let replies = page.load(REPLIES.producer);
        distance(replies, page.load(REPLIES.consumer))?;
        page.store(REPLIES.consumer, replies);
        Ok(Self {
            page,
            send: Ring { place: REQUESTS, own: requests },
            receive: Ring { place: REPLIES, own: replies },
            broken: None,
        })
    }

    /// Puts one message into the ring; `false` if there is no room for it now.
    ///
    /// # Errors
    /// `TooLong`; `PeerBroke` now and for ever after if the peer's index cannot be.
    pub fn try_send(&mut self, message: &[u8]) -> Result<bool, Error> {
        self.alive()?;
        let result = self.send.try_send(&self.page, message);
        self.remember(result)
    }

    /// Takes one message out of the ring; `None` if there is none now.
    ///
    /// # Errors
    /// `PeerBroke` now and for ever after if what the peer wrote cannot be.
    pub fn try_recv(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.alive()?;
        let result = self.receive.try_recv(&self.page);
        self.remember(result)
    }

    /// Declares the peer broken: all later calls fail with this violation.
    pub fn condemn(&mut self, violation: Violation) {
        self.broken.get_or_insert(violation);
    }

    fn alive(&self) -> Result<(), Error> {
        self.broken.map_or(Ok(()), |violation| Err(violation.into()))
    }

    fn remember<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::PeerBroke { violation }) = &result {
            self.condemn(*violation);
        }
        result
    }

    /// Moves all indices of a fresh channel, on this end and in the page, to test where they start again at 0.
    #[cfg(test)]
    pub(crate) fn start_at(&mut self, index: u32) {
        assert!(index < INDEX_LIMIT);
        self.send.own = index;
        self.receive.own = index;
        for place in [REQUESTS, REPLIES] {
            self.page.store(place.producer, index);
            self.page.store(place.consumer, index);
        }
    }
}
