//! The real XenStore-State in a thread, with a toolstack on a socket instead of a ring.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ennead_runtime::boot::BackendVm;
use ennead_xenstore_state::{Backend, Conn, DeviceKind, Head, Identity, Role, Settings, State};
use ennead_xs_wire::{Access, Errno, Message, Perm, Raw, Reply, Request};

use super::{TOOLSTACK, backends};

type Job = Box<dyn FnOnce(&mut Served) + Send>;

/// The way to the thread.
#[derive(Clone)]
pub(crate) struct XenStore(Sender<Job>);

struct Served {
    state: State,
    operator: Conn,
    toolstack: Option<(UnixStream, Conn)>,
}

impl XenStore {
    /// As Builder leaves it for a toolstack.
    pub(crate) fn start() -> Self {
        let (jobs, waiting) = channel();
        std::thread::spawn(move || Served::new().run(&waiting));
        Self(jobs)
    }

    /// A new connection of the toolstack; an older one ends.
    pub(crate) fn connect(&self) -> ennead_xs_client::XenStore {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        self.cut();
        self.run(move |served| {
            served.toolstack = Some((theirs, served.state.open(Identity::Domain(TOOLSTACK))));
        });
        ennead_xs_client::XenStore::new(File::from(OwnedFd::from(ours)), Duration::from_secs(20))
    }

    /// The toolstack's connection ends.
    pub(crate) fn cut(&self) {
        self.run(|served| {
            if let Some((_, conn)) = served.toolstack.take() {
                served.state.close(conn);
            }
        });
    }

    pub(crate) fn created(&self, domid: u16) {
        self.run(move |served| served.state.created(domid, Some(TOOLSTACK)));
    }

    pub(crate) fn died(&self, domid: u16) {
        self.run(move |served| served.state.died(domid));
    }

    /// What the operator reads; `None` if there is nothing.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let path = path.to_owned();
        self.run(move |served| served.read(served.operator, &path))
    }

    /// What a guest may do: writes a node of its own directory, and says whether it could.
    pub(crate) fn guest_writes(&self, domid: u16, path: &str) -> bool {
        let path = path.to_owned();
        self.run(move |served| {
            let guest = served.state.open(Identity::Domain(domid));
            let request = Request::Write { path: path.as_bytes(), value: b"x" };
            let done = served.ask(guest, &request).is_ok();
            served.state.close(guest);
            done
        })
    }

    /// What the VM that serves a guest's device does: writes a node of it.
    pub(crate) fn backend_writes(&self, domid: u16, path: &str, value: &'static [u8]) -> bool {
        let path = path.to_owned();
        self.run(move |served| {
            let backend = served.state.open(Identity::Domain(domid));
            let done = served.ask(backend, &Request::Write { path: path.as_bytes(), value }).is_ok();
            served.state.close(backend);
            done
        })
    }

    /// What a guest reads in its own directory.
    pub(crate) fn guest_reads(&self, domid: u16, path: &str) -> Option<String> {
        let path = path.to_owned();
        self.run(move |served| {
            let guest = served.state.open(Identity::Domain(domid));
            let value = served.read(guest, &path);
            served.state.close(guest);
            value
        })
    }

    /// All nodes that a toolstack makes for guests.
    pub(crate) fn nodes_of_guests(&self) -> Vec<String> {
        self.run(|served| {
            served.state.check().expect("all counts are right");
            let mut found = Vec::new();
            let mut open: Vec<String> = vec![
                "/vm".into(),
                format!("/local/domain/{TOOLSTACK}/guests"),
                format!("/local/domain/{TOOLSTACK}/backend/console"),
            ];
            open.extend(
                backends()
                    .iter()
                    .map(|vm| format!("/local/domain/{}/backend/{}", vm.domid.0, vm.device.as_str())),
            );
            let domains = served.list("/local/domain");
            let of_guests =
                domains.into_iter().filter(|name| name.parse().is_ok_and(|domid: u16| domid > 1000));
            found.extend(of_guests.map(|name| format!("/local/domain/{name}")));
            while let Some(path) = open.pop() {
                for name in served.list(&path) {
                    let child = format!("{path}/{name}");
                    found.push(child.clone());
                    open.push(child);
                }
            }
            found
        })
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Served) -> T + Send + 'static) -> T {
        let (answer, done) = channel();
        let job: Job = Box::new(move |served| drop(answer.send(job(served))));
        self.0.send(job).unwrap();
        done.recv().unwrap()
    }
}

impl Served {
    fn new() -> Self {
        let backend = |vm: &BackendVm| Backend {
            domid: vm.domid.0,
            kind: if vm.device.as_str() == "vbd" { DeviceKind::Vbd } else { DeviceKind::Vif },
        };
        let backends = backends();
        let of_toolstack = Role::Toolstack { backends: backends.iter().map(backend).collect() };
        let mut roles = BTreeMap::from([(1, Role::Builder), (TOOLSTACK, of_toolstack)]);
        roles.extend(backends.iter().map(|vm| (vm.domid.0, Role::Service)));
        let mut state = State::new(Settings { roles, ..Settings::default() });
        let operator = state.open(Identity::Operator);
        let builder = state.open(Identity::Domain(1));
        state.created(TOOLSTACK, None);
        let mut served = Self { state, operator, toolstack: None };
        let home = format!("/local/domain/{TOOLSTACK}");
        let mut nodes = vec![(TOOLSTACK, home.clone(), ""), (TOOLSTACK, format!("{home}/domid"), "8")];
        for vm in backends {
            let (domid, home) = (vm.domid.0, format!("/local/domain/{}", vm.domid.0));
            served.state.created(domid, None);
            nodes.push((domid, home.clone(), ""));
            nodes.push((domid, format!("{home}/backend"), ""));
            nodes.push((domid, format!("{home}/backend/{}", vm.device.as_str()), ""));
        }
        for (owner, path, value) in nodes {
            let path = path.as_bytes();
            let perms = vec![Perm { access: Access::None, domid: owner }];
            served.ask(builder, &Request::Write { path, value: value.as_bytes() }).unwrap();
            served.ask(builder, &Request::SetPerms { path, perms }).unwrap();
        }
        served
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        let mut bytes = Vec::new();
        loop {
            loop {
                match jobs.try_recv() {
                    Ok(job) => job(&mut self),
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
            let Some((stream, conn)) = &mut self.toolstack else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let (conn, mut buffer) = (*conn, [0; 8192]);
            match stream.read(&mut buffer) {
                Ok(0) => {
                    let (_, conn) = self.toolstack.take().expect("it was there");
                    self.state.close(conn);
                    bytes.clear();
                }
                Ok(count) => {
                    bytes.extend_from_slice(&buffer[..count]);
                    self.serve(conn, &mut bytes);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn serve(&mut self, conn: Conn, bytes: &mut Vec<u8>) {
        while let Some((raw, length)) = Raw::split(bytes).unwrap() {
            let head = Head { op: raw.header.op, request_id: raw.header.request_id, tx_id: raw.header.tx_id };
            let request = Request::decode(raw.header.op, raw.payload);
            self.state.request(conn, head, request.as_ref().map_err(|errno| *errno));
            bytes.drain(..length);
            while let Some(item) = self.state.pop(conn) {
                let (stream, _) = self.toolstack.as_mut().expect("it is there");
                stream.write_all(&item.message().encode()).unwrap();
            }
        }
    }

    fn ask(&mut self, conn: Conn, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        self.state.request(conn, Head { op: request.op() as u32, request_id: 1, tx_id: 0 }, Ok(request));
        let item = self.state.pop(conn).expect("an answer");
        match item.message() {
            Message::Reply { reply: Reply::Error(errno), .. } => Err(errno),
            message => Ok(message.encode()[16..].to_vec()),
        }
    }

    fn read(&mut self, conn: Conn, path: &str) -> Option<String> {
        let value = self.ask(conn, &Request::Read { path: path.as_bytes() }).ok()?;
        Some(String::from_utf8(value).unwrap())
    }

    fn list(&mut self, path: &str) -> Vec<String> {
        let names =
            self.ask(self.operator, &Request::Directory { path: path.as_bytes() }).unwrap_or_default();
        let names = names.split(|b| *b == 0).filter(|name| !name.is_empty());
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }
}
