//! A State with clients that speak in words: `write /a 1`, `chmod /a n0 r1`, `watch /a token`.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use ennead_xs_wire::{Access, Message, Perm, Request};

use crate::{Conn, Head, Identity, Notice, Settings, State};

pub(super) struct World {
    pub(super) state: State,
    pub(super) operator: Conn,
    /// Events that were read while waiting for a reply.
    events: BTreeMap<Conn, Vec<String>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        Self::of(State::new(settings))
    }

    pub(super) fn of(mut state: State) -> Self {
        let operator = state.open(Identity::Operator);
        Self { state, operator, events: BTreeMap::new() }
    }

    /// A domain with a ring and the directory that a toolstack gives it.
    pub(super) fn guest(&mut self, domid: u16) -> Conn {
        self.state.created(domid, None);
        self.expect(&format!("write /local/domain/{domid}"), "OK|");
        self.expect(&format!("chmod /local/domain/{domid} n{domid}"), "OK|");
        let conn = self.state.introduce(domid, 1, None).expect("it is a domain");
        assert_eq!(self.state.next_notice(), Some(Notice::Connect { conn, domid, port: 1 }));
        conn
    }

    /// What the operator is answered.
    pub(super) fn op(&mut self, request: &str) -> String {
        self.by(self.operator, request)
    }

    /// The operator is answered this.
    #[track_caller]
    pub(super) fn expect(&mut self, request: &str, answer: &str) {
        assert_eq!(self.op(request), answer, "{request}");
    }

    /// What this client is answered, with `|` for NUL.
    pub(super) fn by(&mut self, conn: Conn, request: &str) -> String {
        self.within(conn, 0, request)
    }

    /// The same in a transaction.
    pub(super) fn within(&mut self, conn: Conn, tx_id: u32, request: &str) -> String {
        let perms;
        let mut words = request.splitn(3, ' ');
        let mut next = || words.next().unwrap_or_default();
        let (op, path, rest) = (next(), next().as_bytes(), next());
        let domid = || core::str::from_utf8(path).ok().and_then(|path| path.parse().ok()).unwrap_or(u16::MAX);
        let request = match op {
            "read" => Request::Read { path },
            "ls" => Request::Directory { path },
            "part" => Request::DirectoryPart { path, offset: rest.parse().expect("a number") },
            "perms" => Request::GetPerms { path },
            "write" => Request::Write { path, value: rest.as_bytes() },
            "mkdir" => Request::Mkdir { path },
            "rm" => Request::Rm { path },
            "chmod" => {
                perms = rest.split(' ').map(perm).collect::<Vec<_>>();
                Request::SetPerms { path, perms }
            }
            "watch" => Request::Watch { path, token: rest.as_bytes() },
            "unwatch" => Request::Unwatch { path, token: rest.as_bytes() },
            "start" => Request::TransactionStart,
            "commit" => Request::TransactionEnd { commit: true },
            "abort" => Request::TransactionEnd { commit: false },
            "reset" => Request::ResetWatches,
            "introduce" => Request::Introduce { domid: domid(), gfn: 0, port: 1 },
            "release" => Request::Release { domid: domid() },
            "resume" => Request::Resume { domid: domid() },
            "introduced" => Request::IsDomainIntroduced { domid: domid() },
            "path" => Request::GetDomainPath { domid: domid() },
            "target" => Request::SetTarget { domid: domid(), target: rest.parse().expect("a domid") },
            "control" => Request::Control(path),
            other => panic!("{other}?"),
        };
        self.ask(conn, tx_id, &request)
    }

    /// What this client is answered to any request.
    pub(super) fn ask(&mut self, conn: Conn, tx_id: u32, request: &Request<'_>) -> String {
        self.state.request(conn, Head { op: request.op() as u32, request_id: 7, tx_id }, Ok(request));
        let mut reply = None;
        for message in self.drain(conn) {
            match message.strip_prefix("event ") {
                Some(event) => self.events.entry(conn).or_default().push(event.to_string()),
                None => assert_eq!(reply.replace(message), None, "one request, one reply"),
            }
        }
        reply.expect("each request is answered")
    }

    /// Starts a transaction.
    pub(super) fn start(&mut self, conn: Conn) -> u32 {
        let id = self.by(conn, "start");
        id.trim_end_matches('|').parse().expect("a transaction's number")
    }

    /// All that waits for this client, in order: replies as payload, events as `event <path> <token>`.
    pub(super) fn drain(&mut self, conn: Conn) -> Vec<String> {
        let mut messages = Vec::new();
        while let Some(item) = self.state.pop(conn) {
            messages.push(match item.message() {
                Message::Event { path, token } => {
                    format!("event {} {}", String::from_utf8_lossy(path), String::from_utf8_lossy(token))
                }
                reply @ Message::Reply { .. } => {
                    String::from_utf8_lossy(&reply.encode()[16..]).replace('\0', "|")
                }
            });
        }
        messages
    }

    /// The events for this client since the last call.
    pub(super) fn events(&mut self, conn: Conn) -> Vec<String> {
        let mut events = self.events.remove(&conn).unwrap_or_default();
        for message in self.drain(conn) {
            events.push(message.strip_prefix("event ").expect("no reply waits").to_string());
        }
        events
    }

    #[track_caller]
    pub(super) fn check(&self) {
        self.state.check().expect("all counts are right");
    }

    /// Nodes that a domain owns, as its quota counts them.
    pub(super) fn nodes_of(&mut self, domid: u16) -> usize {
        self.usage(domid, "nodes")
    }

    /// Of what a quota limits.
    pub(super) fn usage(&mut self, domid: u16, what: &str) -> usize {
        let answer = self.ask(self.operator, 0, &Request::Control(format!("quota\0{domid}\0").as_bytes()));
        let line = answer.lines().find_map(|line| line.strip_prefix(what)).expect("it is listed");
        line.trim_start_matches([' ', ':']).parse().expect("a number")
    }
}

fn perm(text: &str) -> Perm {
    let (letter, domid) = text.split_at(1);
    let access = Access::from_letter(letter.as_bytes()[0]).expect("n, r, w or b");
    Perm { access, domid: domid.parse().expect("a domid") }
}
