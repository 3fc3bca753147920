//! A stand-in for XenStore's two halves, for as long as the real ones do not run in VMs: one tree without permissions or
//! quotas, and transactions that are none.

use std::collections::BTreeMap;

use ennead_channel::{List, Protocol};
use ennead_manifest::Kind;
use ennead_xen::{Control, DomId, PAGE_SIZE};
use ennead_xs_wire::{Errno, Header, Message, Raw, Reply, Request, path};
use serde::{Deserialize, Serialize};

use crate::attempts::{self, Other};
use crate::matrix::Matrix;
use crate::options::{number, others};

/// The node that pciback writes when State, and after it Logic, shall try what they may not.
pub const DONE: &str = "probe/done";

/// What XenStore's halves need to try it; they have it from their start, before they drop their privileges.
#[derive(Debug)]
pub struct Prober {
    control: Control,
    kind: Kind,
    me: DomId,
    others: Vec<Other>,
}

impl Prober {
    /// Opens Xen's control interface, if the scenario asks for attempts.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(kind: Kind) -> anyhow::Result<Option<Self>> {
        let Ok(me) = number("domid") else { return Ok(None) };
        Ok(Some(Self { control: Control::open()?, kind, me: DomId(me.try_into()?), others: others()? }))
    }

    /// Tries everything that it may not. `mapped` are the VMs whose grants it may map.
    pub fn attempts(self, mapped: &[&str]) {
        let mut matrix = Matrix::new(self.kind.running_type());
        attempts::xenstore(&mut matrix, &self.control, self.me, &self.others, mapped);
        matrix.end();
    }
}

/// Whether a domain's message writes [`DONE`].
#[must_use]
pub fn is_done(message: &[u8]) -> bool {
    message.windows(DONE.len()).any(|part| part == DONE.as_bytes())
}

/// Longest XenStore message between the two.
pub const MAX: usize = 1000;

/// What the two say to each other.
#[derive(Debug)]
pub enum Relay {}

impl Protocol for Relay {
    const ID: u32 = u32::from_le_bytes(*b"XsRe");
    type Request = ToState;
    type Reply = ToLogic;
}

/// From Logic.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToState {
    /// Which rings are there?
    Hello,
    /// A whole message of a domain's.
    Message(u16, List<u8, MAX>),
}

/// Pages that State shares with Logic at its start.
pub const REGION: usize = 40;

/// Where word `n` of the shared pages lies, and what State writes there: one word of each page, and that across two pages.
pub fn region_words() -> impl Iterator<Item = (usize, u32)> {
    let words = (0..REGION).map(|page| page * PAGE_SIZE + 8);
    words.chain([PAGE_SIZE - 4, PAGE_SIZE]).zip(1..)
}

/// From State.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToLogic {
    /// Map these pages and look what is in them.
    Region(List<u32, REGION>),
    /// Serve this domain's ring, with this port of its.
    Connect(u16, u32),
    /// Let go of it.
    Disconnect(u16),
    /// A whole message for a domain.
    Message(u16, List<u8, MAX>),
}

#[derive(Debug)]
struct Watch {
    domid: u16,
    path: Vec<u8>,
    /// The path as the domain wrote it.
    named: Vec<u8>,
    token: Vec<u8>,
}

/// The tree, the watches, and what is to be sent.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<Vec<u8>, Vec<u8>>,
    watches: Vec<Watch>,
    /// Messages for domains.
    pub out: Vec<(u16, Vec<u8>)>,
}

impl Tree {
    /// Writes a node and its parents.
    pub fn write(&mut self, path: &[u8], value: &[u8]) {
        let mut parent = path::parent(path);
        while let Some(at) = parent {
            self.nodes.entry(at.to_vec()).or_default();
            parent = path::parent(at);
        }
        self.nodes.insert(path.to_vec(), value.to_vec());
        self.fire(path);
    }

    /// The value of a node.
    #[must_use]
    pub fn read(&self, path: &[u8]) -> Option<&Vec<u8>> {
        self.nodes.get(path)
    }

    /// Names of its children, each with a NUL.
    #[must_use]
    pub fn names(&self, of: &[u8]) -> Vec<u8> {
        let children = self.nodes.keys().filter(|at| path::parent(at) == Some(of) && at.as_slice() != of);
        children.flat_map(|at| [path::name(at).unwrap_or_default(), b"\0"].concat()).collect()
    }

    /// Removes a node and all below it.
    pub fn remove(&mut self, path: &[u8]) {
        self.nodes.retain(|at, _| at != path && !below(at, path));
        self.fire(path);
    }

    /// Forgets a connection.
    pub fn forget(&mut self, domid: u16) {
        self.watches.retain(|watch| watch.domid != domid);
        self.out.retain(|(of, _)| *of != domid);
    }

    fn fire(&mut self, changed: &[u8]) {
        for Watch { domid, path: at, named, token } in &self.watches {
            if at == changed || below(changed, at) || below(at, changed) {
                let rest = changed.strip_prefix(at.as_slice()).unwrap_or_default();
                let event = Message::Event { path: &[named, rest].concat(), token }.encode();
                self.out.push((*domid, event));
            }
        }
    }

    /// Answers a domain's message.
    pub fn answer(&mut self, domid: u16, message: &[u8]) {
        let Ok(Some((raw, _))) = Raw::split(message) else { return };
        let Header { op, request_id, tx_id, .. } = raw.header;
        let request = Request::decode(op, raw.payload);
        let place = self.out.len();
        let result = request.and_then(|request| self.carry_out(domid, &request));
        let bytes = match &result {
            Ok(Answer::Done) => Reply::Done,
            Ok(Answer::Bytes(bytes)) => Reply::Bytes(bytes),
            Ok(Answer::Transaction) => Reply::Transaction(1),
            Err(errno) => Reply::Error(*errno),
        };
        let reply = Message::Reply { op, request_id, tx_id, reply: bytes }.encode();
        self.out.insert(place, (domid, reply));
    }

    fn carry_out(&mut self, domid: u16, request: &Request<'_>) -> Result<Answer, Errno> {
        let whole = |at: &[u8]| {
            let mut out = Vec::new();
            path::canonical(at, domid, &mut out).map(|()| out)
        };
        Ok(match request {
            Request::Read { path } => Answer::Bytes(self.read(&whole(path)?).ok_or(Errno::Enoent)?.clone()),
            Request::Directory { path } => {
                let at = whole(path)?;
                self.read(&at).ok_or(Errno::Enoent)?;
                Answer::Bytes(self.names(&at))
            }
            Request::Write { path, value } => {
                self.write(&whole(path)?, value);
                Answer::Done
            }
            Request::Mkdir { path } => {
                self.write(&whole(path)?, b"");
                Answer::Done
            }
            Request::Rm { path } => {
                self.remove(&whole(path)?);
                Answer::Done
            }
            Request::Watch { path, token } => {
                let event = Message::Event { path, token }.encode();
                let (named, token) = (path.to_vec(), token.to_vec());
                self.watches.push(Watch { domid, path: whole(path)?, named, token });
                self.out.push((domid, event));
                Answer::Done
            }
            Request::TransactionStart => Answer::Transaction,
            Request::TransactionEnd { .. } | Request::Unwatch { .. } | Request::SetPerms { .. } => {
                Answer::Done
            }
            Request::ResetWatches => {
                self.watches.retain(|watch| watch.domid != domid);
                Answer::Done
            }
            _ => return Err(Errno::Enosys),
        })
    }
}

enum Answer {
    Done,
    Bytes(Vec<u8>),
    Transaction,
}

fn below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/") || above == b"/")
}
