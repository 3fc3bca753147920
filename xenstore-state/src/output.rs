//! What waits for a connection's client to read it.

use alloc::{boxed::Box, collections::VecDeque, rc::Rc, vec::Vec};

use ennead_xs_wire::{Errno, Header, Message, Op, PAYLOAD_MAX, Perm, Reply};

use crate::watches::{Watch, WatchId};

/// One message to a client.
#[derive(Debug)]
pub struct Item(Kind);

#[derive(Debug)]
enum Kind {
    Reply { op: u32, request_id: u32, tx_id: u32, body: Body },
    Event { path: Rc<[u8]>, skip: usize, token: Rc<[u8]>, overflow_of: Option<WatchId> },
}

/// What a reply says, owned.
#[derive(Debug)]
pub(crate) enum Body {
    Done,
    Bytes(Box<[u8]>),
    Path(Box<[u8]>),
    Names(Vec<u8>),
    Part { generation: u64, names: Box<[u8]>, last: bool },
    Perms(Box<[Perm]>),
    Transaction(u32),
    Flag(bool),
    Error(Errno),
}

impl Body {
    fn reply(&self) -> Reply<'_> {
        match self {
            Self::Done => Reply::Done,
            Self::Bytes(bytes) => Reply::Bytes(bytes),
            Self::Path(path) => Reply::Path(path),
            Self::Names(names) => Reply::Names(names),
            Self::Part { generation, names, last } => {
                Reply::Part { generation: *generation, names, last: *last }
            }
            Self::Perms(perms) => Reply::Perms(perms.to_vec()),
            Self::Transaction(id) => Reply::Transaction(*id),
            Self::Flag(flag) => Reply::Flag(*flag),
            Self::Error(errno) => Reply::Error(*errno),
        }
    }
}

impl Item {
    pub(crate) const fn reply(op: u32, request_id: u32, tx_id: u32, body: Body) -> Self {
        Self(Kind::Reply { op, request_id, tx_id, body })
    }

    /// What to send.
    #[must_use]
    pub fn message(&self) -> Message<'_> {
        match &self.0 {
            Kind::Reply { op, request_id, tx_id, body } => {
                Message::Reply { op: *op, request_id: *request_id, tx_id: *tx_id, reply: body.reply() }
            }
            Kind::Event { path, skip, token, .. } => {
                Message::Event { path: path.get(*skip..).unwrap_or_default(), token }
            }
        }
    }

    /// The message at the start of `bytes`, as it is on the wire, and what follows it. None if there is no whole message.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_first_chunk()?;
        let Header { op, request_id, tx_id, len } = Header::decode(header).ok()?;
        let (payload, rest) = rest.split_at_checked(len)?;
        if op != Op::WatchEvent as u32 {
            return Some((Self::reply(op, request_id, tx_id, Body::Bytes(payload.into())), rest));
        }
        let mut texts = payload.strip_suffix(&[0])?.splitn(2, |&byte| byte == 0);
        let (path, token) = (texts.next()?.into(), texts.next()?.into());
        Some((Self(Kind::Event { path, skip: 0, token, overflow_of: None }), rest))
    }

    const fn is_event(&self) -> bool {
        matches!(self.0, Kind::Event { .. })
    }

    const fn overflow_of(&self) -> Option<WatchId> {
        match self.0 {
            Kind::Event { overflow_of, .. } => overflow_of,
            Kind::Reply { .. } => None,
        }
    }
}

/// Messages in the order in which they are to be sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    items: VecDeque<Item>,
    events: usize,
}

impl Outbox {
    pub(crate) const fn new() -> Self {
        Self { items: VecDeque::new(), events: 0 }
    }

    pub(crate) fn reply(&mut self, item: Item) {
        self.items.push_back(item);
    }

    /// An event for a watch. If `limit` events wait already it becomes an overflow event: one with the watch's own path,
    /// which says that something there changed, and stands for all further ones until it is read. Returns whether
    /// something was added.
    pub(crate) fn event(&mut self, id: WatchId, watch: &mut Watch, path: &Rc<[u8]>, limit: usize) -> bool {
        let overflows = self.events >= limit;
        let path = if overflows { &watch.path } else { path };
        // Longer ones cannot be sent (XSA-324): a path below a watched one with a long token.
        if path.len() - watch.skip + watch.token.len() + 2 > PAYLOAD_MAX || (overflows && watch.overflowed) {
            return false;
        }
        watch.overflowed |= overflows;
        self.events += 1;
        self.items.push_back(Item(Kind::Event {
            path: Rc::clone(path),
            skip: watch.skip,
            token: Rc::clone(&watch.token),
            overflow_of: overflows.then_some(id),
        }));
        true
    }

    /// A message that waited for another State's client.
    pub(crate) fn restore(&mut self, item: Item) {
        self.events += usize::from(item.is_event());
        self.items.push_back(item);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(crate) fn front(&self) -> Option<&Item> {
        self.items.front()
    }

    /// The first message, and the watch whose overflow event it is.
    pub(crate) fn pop(&mut self) -> Option<(Item, Option<WatchId>)> {
        let item = self.items.pop_front()?;
        self.events -= usize::from(item.is_event());
        let overflow_of = item.overflow_of();
        Some((item, overflow_of))
    }

    /// Takes back the overflow event of a watch that is removed, or registering and removing watches would pile them up
    /// (XSA-512).
    pub(crate) fn forget(&mut self, id: WatchId) {
        let before = self.items.len();
        self.items.retain(|item| item.overflow_of() != Some(id));
        self.events -= before - self.items.len();
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Events as counted and as they are; for `check`.
    pub(crate) fn events(&self) -> (usize, usize) {
        (self.events, self.items.iter().filter(|item| item.is_event()).count())
    }
}
