//! A request and its reply.

use alloc::{boxed::Box, vec::Vec};

use ennead_xs_wire::{Errno, Op, PAYLOAD_MAX, Request, path};

use crate::{
    Conn, Item, State, output::Body, rights::Who, transaction::Transaction, tree::NodeId, watches::WatchId,
};

/// A request's header, but for the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The operation, by number.
    pub op: u32,
    /// The client's number for the request.
    pub request_id: u32,
    /// The transaction, 0 for none.
    pub tx_id: u32,
}

/// What a request is carried out in.
#[derive(Debug)]
pub(crate) struct Cx {
    pub(crate) conn: Conn,
    pub(crate) who: Who,
    pub(crate) txn: Option<Transaction>,
}

/// A reply, and the watch whose first event follows it.
pub(crate) struct Answer {
    body: Body,
    then: Option<WatchId>,
}

impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        Self { body, then: None }
    }
}

impl Answer {
    pub(crate) const fn watching(id: WatchId) -> Self {
        Self { body: Body::Done, then: Some(id) }
    }
}

impl State {
    /// Carries out a request; the reply, and the events that it causes, go to the outboxes. `request` is an error if its
    /// form is wrong: that becomes the reply. Does nothing if the connection is closed.
    pub fn request(&mut self, conn: Conn, head: Head, request: Result<&Request<'_>, Errno>) {
        let Some(who) = self.who(conn) else { return };
        let answer = self.answer(conn, who, head, request).unwrap_or_else(|errno| {
            if let (false, Some(op)) = (who.operator, Op::from_u32(head.op)) {
                let path = request.map_or(&[][..], path_of);
                self.refusals.push(self.now_ms, who.domid, op, path, errno);
            }
            Body::Error(errno).into()
        });
        self.reply(conn, Item::reply(head.op, head.request_id, head.tx_id, answer.body));
        if let Some(watch) = answer.then {
            self.first_event(watch);
        }
        self.bound_snapshots();
    }

    /// The order of the checks is that of C xenstored.
    fn answer(
        &mut self,
        conn: Conn,
        who: Who,
        head: Head,
        request: Result<&Request<'_>, Errno>,
    ) -> Result<Answer, Errno> {
        let op = match request {
            Ok(request) => Some(request.op()),
            Err(_) => Op::from_u32(head.op).filter(|op| !matches!(op, Op::WatchEvent | Op::Error)),
        };
        let op = op.ok_or(Errno::Enosys)?;
        if !self.may_ask(who, op) {
            return Err(Errno::Eacces);
        }
        let txn = match head.tx_id {
            0 => None,
            _ if matches!(op, Op::Watch | Op::Unwatch) => None,
            id => {
                let connection = self.connections.get_mut(&conn);
                let transactions = &mut connection.ok_or(Errno::Enoent)?.transactions;
                Some(transactions.remove(&id).ok_or(Errno::Enoent)?)
            }
        };
        let mut cx = Cx { conn, who, txn };
        let answer = request.and_then(|request| self.carry_out(&mut cx, request));
        if let Some(txn) = cx.txn {
            match self.connections.get_mut(&conn) {
                Some(connection) => drop(connection.transactions.insert(head.tx_id, txn)),
                None => self.end(txn),
            }
        }
        answer
    }

    fn carry_out(&mut self, cx: &mut Cx, request: &Request<'_>) -> Result<Answer, Errno> {
        match request {
            Request::Control(command) => self.control(cx, command),
            Request::Directory { path } => self.directory(cx, path),
            Request::DirectoryPart { path, offset } => self.directory_part(cx, path, *offset),
            Request::Read { path } => self.read(cx, path),
            Request::GetPerms { path } => self.get_perms(cx, path),
            Request::Watch { path, token } => return self.watch(cx, path, token).map(Answer::watching),
            Request::Unwatch { path, token } => self.unwatch(cx, path, token),
            Request::TransactionStart => self.start(cx),
            Request::TransactionEnd { commit } => self.end_transaction(cx, *commit),
            Request::Introduce { domid, port, .. } => self.do_introduce(cx, *domid, *port),
            Request::Release { domid } => self.do_release(*domid),
            Request::GetDomainPath { domid } => {
                let mut path = Vec::new();
                path::push_domain(*domid, &mut path);
                Ok(Body::Path(path.into()))
            }
            Request::Write { path, value } => self.write(cx, path, value),
            Request::Mkdir { path } => self.mkdir(cx, path),
            Request::Rm { path } => self.rm(cx, path),
            Request::SetPerms { path, perms } => self.set_perms(cx, path, perms),
            Request::IsDomainIntroduced { domid } => Ok(Body::Flag(self.is_introduced(*domid))),
            Request::Resume { domid } => self.resume(*domid),
            Request::SetTarget { domid, target } => self.set_target(*domid, *target),
            Request::ResetWatches => {
                // In a transaction too: it goes with the others (XSA-484).
                if let Some(txn) = cx.txn.take() {
                    self.end(txn);
                }
                self.drop_watches(cx.conn);
                self.drop_transactions(cx.conn);
                Ok(Body::Done)
            }
        }
        .map(Answer::from)
    }

    fn reply(&mut self, conn: Conn, item: Item) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.outbox.reply(item);
            self.has_output(conn);
        }
    }

    pub(crate) fn has_output(&mut self, conn: Conn) {
        if let Some(connection) = self.connections.get_mut(&conn)
            && !core::mem::replace(&mut connection.queued, true)
        {
            self.with_output.push_back(conn);
        }
    }

    /// The absolute form of a path that a client wrote, if there can be such a node.
    pub(crate) fn node_path(&self, cx: &Cx, path: &[u8]) -> Result<Box<[u8]>, Errno> {
        let mut absolute = Vec::with_capacity(path.len());
        path::canonical(path, cx.who.domid, &mut absolute)?;
        let max =
            if cx.who.operator { self.settings.quotas.path_max } else { self.quotas(cx.who.domid).path_max };
        if path::is_special(&absolute) || path::counted_len(&absolute) > max {
            return Err(Errno::Einval);
        }
        Ok(absolute.into())
    }

    /// The tree that the request sees.
    pub(crate) fn root(&self, cx: &Cx) -> NodeId {
        cx.txn.as_ref().map_or(self.store.root, |txn| txn.root)
    }
}

/// E2BIG if a reply does not fit in one message (XSA-72).
pub(crate) fn fits(len: usize) -> Result<(), Errno> {
    if len > PAYLOAD_MAX { Err(Errno::E2big) } else { Ok(()) }
}

fn path_of<'a>(request: &'a Request<'_>) -> &'a [u8] {
    match request {
        Request::Directory { path }
        | Request::DirectoryPart { path, .. }
        | Request::Read { path }
        | Request::GetPerms { path }
        | Request::Watch { path, .. }
        | Request::Unwatch { path, .. }
        | Request::Write { path, .. }
        | Request::Mkdir { path }
        | Request::Rm { path }
        | Request::SetPerms { path, .. } => path,
        _ => &[],
    }
}
