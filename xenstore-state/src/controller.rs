//! Who builds VMs (bootstrapper, Builder) tells State of them through a channel of its own, and keeps the trees of service VMs.

use ennead_channel::List;
use ennead_channel::xenstore::{self, Device, Reply, Request, part};
use ennead_xenstore_state::{Backend, Conn, DeviceKind, Head, Identity, Role, State};
use ennead_xs_wire::{self as wire, Errno, Message, Op};

/// One such client.
#[derive(Debug)]
pub(crate) struct Controller {
    conn: Conn,
}

/// What XenStore answered.
enum Answer {
    Done,
    Bytes(Vec<u8>),
    Refused(Errno),
}

impl Controller {
    /// The VM `domid` builds VMs.
    pub(crate) fn new(state: &mut State, domid: u16) -> Self {
        state.set_role(domid, Role::Builder);
        Self { conn: state.open(Identity::Domain(domid)) }
    }

    /// Does what is asked.
    pub(crate) fn obey(&self, state: &mut State, request: Request) -> Reply {
        let done = |result: Result<Conn, Errno>| result.map_or_else(Reply::Refused, |_| Reply::Done);
        match request {
            Request::Created { domid, manager } => {
                if manager.is_none() && !state.has_role(domid) {
                    state.set_role(domid, Role::Service);
                }
                state.created(domid, manager);
                Reply::Done
            }
            Request::Toolstack { domid, backends } => {
                let backends = backends.iter().map(|&one| served(one)).collect();
                state.set_role(domid, Role::Toolstack { backends });
                Reply::Done
            }
            Request::Introduce { domid, port, manager } => done(state.introduce(domid, port, manager)),
            Request::Rebound { domid, port } => done(state.rebound(domid, port)),
            Request::Release { domid } => state.release(domid).map_or_else(Reply::Refused, |()| Reply::Done),
            Request::ShutDown { domid } => {
                state.domain_shut_down(domid);
                Reply::Done
            }
            Request::Died { domid } => {
                state.died(domid);
                Reply::Done
            }
            Request::Restarting { domid } => {
                state.restarting(domid);
                Reply::Done
            }
            Request::Write { path, value, perms } => {
                let path = path.as_bytes();
                let written = self.ask(state, &wire::Request::Write { path, value: &value });
                if perms.is_empty() || matches!(written, Answer::Refused(_)) {
                    return written.into();
                }
                self.ask(state, &wire::Request::SetPerms { path, perms: perms.to_vec() }).into()
            }
            // It is more than the contents: `vm` does it.
            Request::HandOver { .. } => Reply::Refused(Errno::Einval),
            Request::Count => Reply::Count(u32::try_from(state.nodes()).unwrap_or(u32::MAX)),
            Request::Remove { path } => self.ask(state, &wire::Request::Rm { path: path.as_bytes() }).into(),
            Request::Read { path, offset } => {
                self.ask(state, &wire::Request::Read { path: path.as_bytes() }).part(offset)
            }
            Request::List { path, offset } => {
                self.ask(state, &wire::Request::Directory { path: path.as_bytes() }).part(offset)
            }
        }
    }

    /// One request as this client, with its rights.
    fn ask(&self, state: &mut State, request: &wire::Request<'_>) -> Answer {
        let op: Op = request.op();
        state.request(self.conn, Head { op: op as u32, request_id: 0, tx_id: 0 }, Ok(request));
        let mut answer = Answer::Done;
        // It has no watches, so there is nothing but the reply.
        while let Some(item) = state.pop(self.conn) {
            if let Message::Reply { reply, .. } = item.message() {
                answer = match reply {
                    wire::Reply::Bytes(bytes) | wire::Reply::Names(bytes) => Answer::Bytes(bytes.to_vec()),
                    wire::Reply::Error(errno) => Answer::Refused(errno),
                    _ => Answer::Done,
                };
            }
        }
        answer
    }
}

fn served(backend: xenstore::Backend) -> Backend {
    let kind = match backend.device {
        Device::Vbd => DeviceKind::Vbd,
        Device::Vif => DeviceKind::Vif,
    };
    Backend { domid: backend.domid, kind }
}

impl Answer {
    fn part(self, offset: u32) -> Reply {
        match self {
            Self::Bytes(whole) => part(&whole, offset),
            Self::Done => Reply::Part { bytes: List::default(), last: true },
            Self::Refused(errno) => Reply::Refused(errno),
        }
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Refused(errno) => Self::Refused(errno),
            _ => Self::Done,
        }
    }
}
