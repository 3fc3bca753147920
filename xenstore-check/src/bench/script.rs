//! What a connection of the load generator says, again and again.

use ennead_xs_wire::{Access, Perm, Request};

use crate::client::message;

/// One request of a script.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// The whole message; its transaction is filled in when it is sent.
    pub(super) bytes: Vec<u8>,
    /// It belongs to the transaction that the script has started.
    pub(super) in_transaction: bool,
    /// What its answer means.
    pub(super) kind: Kind,
}

/// What the answer to a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any error is a fault of the measurement.
    Plain,
    /// The answer is the transaction's number.
    Start,
    /// EAGAIN is an answer too.
    End,
}

/// Requests in order. Going through it once is one operation.
#[derive(Debug, Clone, Default)]
pub(super) struct Script(pub(super) Vec<Line>);

impl Script {
    pub(super) fn of(request: &Request<'_>) -> Self {
        Self::default().then(request)
    }

    /// One more request, outside the transaction.
    pub(super) fn then(self, request: &Request<'_>) -> Self {
        self.line(request, false, Kind::Plain)
    }

    /// One more request, in the transaction.
    pub(super) fn inside(self, request: &Request<'_>) -> Self {
        self.line(request, true, Kind::Plain)
    }

    pub(super) fn start(self) -> Self {
        self.line(&Request::TransactionStart, false, Kind::Start)
    }

    pub(super) fn commit(self) -> Self {
        self.line(&Request::TransactionEnd { commit: true }, true, Kind::End)
    }

    fn line(mut self, request: &Request<'_>, in_transaction: bool, kind: Kind) -> Self {
        let mut payload = Vec::new();
        request.encode(&mut payload);
        let bytes = message(request.op() as u32, 0, 0, &payload);
        self.0.push(Line { bytes, in_transaction, kind });
        self
    }
}

/// What the toolstack does with XenStore when it makes a guest, and then removes the guest's nodes.
pub(super) fn vm_creation(domid: u16, owner: u16) -> Script {
    let home = format!("/local/domain/{domid}");
    let vm = format!("/vm/{domid}");
    let vif = format!("/local/domain/0/backend/vif/{domid}/0");
    let keys = [
        ("name", "guest"),
        ("vm", &vm),
        ("domid", "7"),
        ("cpu/0/availability", "online"),
        ("memory/static-max", "524288"),
        ("memory/target", "524288"),
        ("memory/videoram", "0"),
        ("control/platform-feature-multiprocessor-suspend", "1"),
        ("console/ring-ref", "12345678"),
        ("console/port", "2"),
        ("console/limit", "1048576"),
        ("console/type", "xenconsoled"),
        ("store/ring-ref", "12345677"),
        ("store/port", "1"),
        ("device/vif/0/backend", &vif),
        ("device/vif/0/backend-id", "0"),
        ("device/vif/0/state", "1"),
        ("device/vif/0/mac", "00:16:3e:00:00:01"),
    ];
    let backend = ["frontend", "frontend-id", "online", "state", "script", "mac"];
    let mut script = Script::default().start();
    for (key, value) in keys {
        let path = format!("{home}/{key}");
        script = script.inside(&Request::Write { path: path.as_bytes(), value: value.as_bytes() });
    }
    for key in backend {
        let path = format!("{vif}/{key}");
        script =
            script.inside(&Request::Write { path: path.as_bytes(), value: b"/etc/xen/scripts/vif-bridge" });
    }
    let perms = vec![Perm { access: Access::None, domid: owner }, Perm { access: Access::Read, domid: 0 }];
    for key in ["", "/device", "/device/vif/0", "/control", "/memory", "/console"] {
        let path = format!("{home}{key}");
        script = script.inside(&Request::SetPerms { path: path.as_bytes(), perms: perms.clone() });
    }
    let (home, vif) = (home.as_bytes(), vif.as_bytes());
    script.commit().then(&Request::Rm { path: home }).then(&Request::Rm { path: vif })
}
