//! Against the real XenStore-State.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ennead_xenstore_state::{Conn, Head, Identity, Role, Settings, State};
use ennead_xs_wire::{Access as Right, Message, Perm, Raw, Reply, Request};

use super::*;
use crate::device::number;

const ME: u16 = 8;
const GUEST: u16 = 1001;
const HOME: &str = "/local/domain/8/backend/vbd/1001/51712";
const FRONT: &str = "/local/domain/1001/device/vbd/51712";
const DEVICE: Device = Device { domid: DomId(GUEST), handle: 51712 };

type Job = Box<dyn FnOnce(&mut Served) + Send>;

/// State in a thread, which serves one connection of the backend.
struct World(Sender<Job>);

struct Served {
    state: State,
    backend: Option<(UnixStream, Conn)>,
}

impl World {
    fn new() -> Self {
        let (jobs, waiting) = channel::<Job>();
        std::thread::spawn(move || {
            let mut state =
                State::new(Settings { roles: BTreeMap::from([(ME, Role::Service)]), ..Settings::default() });
            state.created(ME, None);
            state.created(GUEST, None);
            Served { state, backend: None }.run(&waiting);
        });
        let world = Self(jobs);
        let own = |domid| vec![Perm { access: Right::None, domid }];
        world.write("/local/domain/8", "");
        world.perms("/local/domain/8", own(ME));
        world
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Served) -> T + Send + 'static) -> T {
        let (answer, done) = channel();
        self.0.send(Box::new(move |served| drop(answer.send(job(served))))).unwrap();
        done.recv().unwrap()
    }

    /// A new process of the backend.
    fn connect(&self) -> XenStore<UnixStream> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        self.run(move |served| {
            if let Some((_, conn)) = served.backend.take() {
                served.state.close(conn);
            }
            served.backend = Some((theirs, served.state.open(Identity::Domain(ME))));
        });
        XenStore::new(ours, Duration::from_secs(20))
    }

    fn write(&self, path: &str, value: &str) {
        let (path, value) = (path.to_owned(), value.to_owned());
        self.run(move |served| {
            served.ask(&Request::Write { path: path.as_bytes(), value: value.as_bytes() }).unwrap();
        });
    }

    fn perms(&self, path: &str, perms: Vec<Perm>) {
        let path = path.to_owned();
        self.run(move |served| served.ask(&Request::SetPerms { path: path.as_bytes(), perms }).unwrap());
    }

    fn rm(&self, path: &str) {
        let path = path.to_owned();
        self.run(move |served| served.ask(&Request::Rm { path: path.as_bytes() }).unwrap());
    }

    fn read(&self, path: &str) -> Option<String> {
        let path = path.to_owned();
        self.run(move |served| {
            let value = served.ask(&Request::Read { path: path.as_bytes() })?;
            Some(String::from_utf8(value).unwrap())
        })
    }

    /// As the toolstack does it.
    fn plug(&self) {
        let both = |owner, reader| {
            vec![Perm { access: Right::None, domid: owner }, Perm { access: Right::Read, domid: reader }]
        };
        self.write(HOME, "");
        self.perms(HOME, both(ME, GUEST));
        self.write(FRONT, "");
        self.perms(FRONT, both(GUEST, ME));
        for (path, value) in [
            (format!("{HOME}/frontend-id"), "1001"),
            (format!("{HOME}/online"), "1"),
            (format!("{HOME}/state"), "1"),
            (format!("{FRONT}/state"), "1"),
        ] {
            self.write(&path, value);
        }
    }

    fn frontend(&self, key: &str, value: &str) {
        self.write(&format!("{FRONT}/{key}"), value);
    }

    fn states(&self) -> (String, String) {
        let read = |path| self.read(&format!("{path}/state")).unwrap_or_default();
        (read(HOME), read(FRONT))
    }
}

impl Served {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut bytes = Vec::new();
        loop {
            loop {
                match jobs.try_recv() {
                    Ok(job) => job(&mut self),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let Some((stream, conn)) = &mut self.backend else { continue };
            let (conn, mut buffer) = (*conn, [0; 8192]);
            match stream.read(&mut buffer) {
                Ok(0) => {
                    self.state.close(conn);
                    self.backend = None;
                    bytes.clear();
                    continue;
                }
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => panic!("{e}"),
            }
            while let Some((raw, length)) = Raw::split(&bytes).unwrap() {
                let head =
                    Head { op: raw.header.op, request_id: raw.header.request_id, tx_id: raw.header.tx_id };
                let request = Request::decode(raw.header.op, raw.payload);
                self.state.request(conn, head, request.as_ref().map_err(|errno| *errno));
                bytes.drain(..length);
            }
            while let Some(item) = self.state.pop(conn) {
                let bytes = item.message().encode();
                let _ = self.backend.as_mut().map(|(stream, _)| stream.write_all(&bytes));
            }
        }
    }

    fn ask(&mut self, request: &Request<'_>) -> Option<Vec<u8>> {
        let conn = self.state.open(Identity::Operator);
        self.state.request(conn, Head { op: request.op() as u32, request_id: 1, tx_id: 0 }, Ok(request));
        let answer = match self.state.pop(conn).expect("an answer").message() {
            Message::Reply { reply: Reply::Error(_), .. } => None,
            message => Some(message.encode()[16..].to_vec()),
        };
        self.state.close(conn);
        answer
    }
}

/// Serves whoever has a ring-ref; not before it is `ready`.
#[derive(Debug, Clone, Default)]
struct Vbd {
    reporters: Arc<Mutex<Vec<Reporter>>>,
    not_ready: bool,
    sectors: Arc<Mutex<Option<&'static str>>>,
}

impl Backend for Vbd {
    const KIND: &'static str = "vbd";
    type Served = u32;

    fn offer(&mut self, device: Device, _own: &mut dyn Nodes) -> Result<Vec<(String, String)>, Failure> {
        assert_eq!(device, DEVICE);
        if std::mem::take(&mut self.not_ready) {
            return Err(Failure::NotYet("no such volume".to_owned()));
        }
        Ok(vec![("feature".to_owned(), "1".to_owned())])
    }

    fn serve(
        &mut self,
        _device: Device,
        own: &mut dyn Nodes,
        frontend: &mut dyn Nodes,
        reporter: Reporter,
    ) -> Result<(u32, Vec<(String, String)>), Failure> {
        assert_eq!(number(own, "feature", 9)?, Some(1));
        let gref = number(frontend, "ring-ref", 1 << 20)?.ok_or(Failure::refused("no ring-ref"))?;
        self.reporters.lock().unwrap().push(reporter);
        Ok((gref, vec![("sectors".to_owned(), "8".to_owned())]))
    }

    fn refresh(&mut self, _: Device, _: &mut dyn Nodes, served: &u32) -> Result<NewNodes, Failure> {
        assert_eq!(*served, 8);
        let sectors = self.sectors.lock().unwrap().take();
        Ok(sectors.map(|sectors| ("sectors".to_owned(), sectors.to_owned())).into_iter().collect())
    }
}

type TestDriver = Driver<Vbd, UnixStream>;

/// Turns until `done`.
fn until(driver: &mut TestDriver, done: impl Fn(&TestDriver) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done(driver) {
        assert!(Instant::now() < deadline, "{driver:?}");
        driver.turn(Some(Duration::from_millis(5))).unwrap();
    }
}

fn until_state(driver: &mut TestDriver, world: &World, ours: &str) {
    until(driver, |_| world.states().0 == ours);
}

fn connected(world: &World, backend: Vbd) -> TestDriver {
    world.plug();
    let mut driver = Driver::start(world.connect(), backend).unwrap();
    until_state(&mut driver, world, "2");
    world.frontend("ring-ref", "8");
    world.frontend("state", "3");
    until_state(&mut driver, world, "4");
    world.frontend("state", "4");
    driver
}

#[test]
fn a_device_is_offered_served_and_ended() {
    let world = World::new();
    let mut driver = Driver::start(world.connect(), Vbd::default()).unwrap();
    world.write("/local/domain/8/backend/vbd/x/1/state", "1");
    world.write("/local/domain/8/backend/vbd/07/1/state", "1");
    world.plug();
    until_state(&mut driver, &world, "2");
    assert_eq!(world.read(&format!("{HOME}/feature")).as_deref(), Some("1"));
    assert_eq!(driver.served().count(), 0);
    world.frontend("ring-ref", "8");
    world.frontend("state", "3");
    until_state(&mut driver, &world, "4");
    assert_eq!(world.read(&format!("{HOME}/sectors")).as_deref(), Some("8"));
    assert_eq!(driver.served().collect::<Vec<_>>(), [(DEVICE, &8)]);
    world.frontend("state", "5");
    until_state(&mut driver, &world, "5");
    assert_eq!(driver.served().count(), 0);
    world.frontend("state", "6");
    until_state(&mut driver, &world, "6");
    world.frontend("state", "1");
    until_state(&mut driver, &world, "2");
}

#[test]
fn a_new_process_serves_on_and_changes_no_node() {
    let world = World::new();
    drop(connected(&world, Vbd::default()));
    let nodes = |path: &str| world.read(&format!("{HOME}/{path}"));
    world.write(&format!("{HOME}/sectors"), "untouched");
    let driver = Driver::start(world.connect(), Vbd::default()).unwrap();
    assert_eq!(driver.served().collect::<Vec<_>>(), [(DEVICE, &8)]);
    assert_eq!((nodes("state").as_deref(), nodes("sectors").as_deref()), (Some("4"), Some("untouched")));
}

#[test]
fn when_builder_wishes_it_nothing_is_served_any_more_and_a_successor_goes_on() {
    const WISH: &str = "/local/domain/8/control/drain";
    let world = World::new();
    let mut driver = connected(&world, Vbd::default());
    world.write(WISH, "something else");
    driver.turn(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(driver.served().count(), 1);
    world.write(WISH, "wish");
    until(&mut driver, |driver| driver.served().count() == 0);
    assert_eq!(world.read(WISH).as_deref(), Some("done"));
    // Whatever happens now is the successor's.
    world.frontend("state", "4");
    world.write("/local/domain/8/backend/vbd/1002/1/state", "1");
    driver.turn(Some(Duration::from_millis(20))).unwrap();
    assert_eq!((driver.served().count(), world.states().0.as_str()), (0, "4"));
    world.rm("/local/domain/8/backend/vbd/1002");
    drop(driver);
    let driver = Driver::start(world.connect(), Vbd::default()).unwrap();
    assert_eq!(driver.served().collect::<Vec<_>>(), [(DEVICE, &8)]);
    assert_eq!(world.read(WISH), None, "the wish was not for it");
}

#[test]
fn a_frontend_that_cannot_be_served_is_told_why() {
    let world = World::new();
    world.plug();
    let mut driver = Driver::start(world.connect(), Vbd::default()).unwrap();
    world.frontend("ring-ref", "-8");
    world.frontend("state", "3");
    until_state(&mut driver, &world, "6");
    let why = world.read(&format!("{HOME}/error"));
    assert_eq!(why.as_deref(), Some("ring-ref is no number up to 1048576"));
    assert_eq!(driver.served().count(), 0);
}

#[test]
fn what_a_frontend_hides_is_not_there() {
    let world = World::new();
    let mut driver = connected(&world, Vbd::default());
    world.perms(&format!("{FRONT}/state"), vec![Perm { access: Right::None, domid: GUEST }]);
    world.frontend("state", "4");
    until_state(&mut driver, &world, "6");
    assert_eq!(driver.served().count(), 0);
}

#[test]
fn a_broken_frontend_is_disconnected_once() {
    let world = World::new();
    let backend = Vbd::default();
    let mut driver = connected(&world, backend.clone());
    let first = backend.reporters.lock().unwrap().remove(0);
    assert_eq!(first.device(), DEVICE);
    first.odd("a request");
    driver.turn(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(driver.served().count(), 1);
    first.broken("req_prod");
    // It has not followed yet, but the rings are let go.
    until(&mut driver, |driver| driver.served().count() == 0);
    until_state(&mut driver, &world, "6");
    assert_eq!(world.read(&format!("{HOME}/error")).as_deref(), Some("req_prod"));
    world.frontend("state", "6");
    world.frontend("state", "1");
    until_state(&mut driver, &world, "2");
    world.frontend("state", "3");
    until_state(&mut driver, &world, "4");
    // Its threads are those of the first connection: too late.
    first.broken("again");
    driver.turn(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(driver.served().count(), 1);
}

#[test]
fn one_that_begins_anew_all_the_time_rests() {
    let world = World::new();
    world.plug();
    let start = Instant::now();
    let mut driver = Driver::start(world.connect(), Vbd::default()).unwrap();
    for _ in 0..BEGINNINGS {
        until_state(&mut driver, &world, "2");
        world.frontend("state", "6");
        until_state(&mut driver, &world, "6");
        world.frontend("state", "1");
    }
    until_state(&mut driver, &world, "2");
    assert!(start.elapsed() >= REST);
    // While it rests it can be taken away.
    world.frontend("state", "6");
    until_state(&mut driver, &world, "6");
    world.frontend("state", "1");
    world.rm("/local/domain/8/backend/vbd/1001");
    until(&mut driver, |driver| driver.devices.is_empty());
}

#[test]
fn what_is_not_ready_is_tried_again() {
    let world = World::new();
    world.plug();
    let mut driver = Driver::start(world.connect(), Vbd { not_ready: true, ..Vbd::default() }).unwrap();
    assert_eq!(world.states().0, "1");
    let error = || world.read(&format!("{HOME}/error"));
    assert_eq!(error().as_deref(), Some("no such volume"), "for the toolstack");
    until_state(&mut driver, &world, "2");
    assert_eq!(error(), None);
}

#[test]
fn a_frontend_hears_what_has_changed() {
    let world = World::new();
    let backend = Vbd::default();
    let mut driver = connected(&world, backend.clone());
    let changes = driver.changes();
    let sectors = || world.read(&format!("{HOME}/sectors")).unwrap();
    let change = |to| *backend.sectors.lock().unwrap() = Some(to);
    change("16");
    driver.turn(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(sectors(), "8", "nobody has said so");
    std::thread::spawn(move || changes.tell()).join().unwrap();
    until(&mut driver, |_| sectors() == "16");
    assert_eq!(world.states().0, "4");
    // One that the toolstack wants back does not begin anew.
    change("24");
    world.write(&format!("{HOME}/state"), "5");
    driver.changes().tell();
    until(&mut driver, |_| backend.sectors.lock().unwrap().is_none());
    assert_eq!((sectors().as_str(), world.states().0.as_str()), ("16", "5"));
    world.write(&format!("{HOME}/state"), "4");
    drop(driver);
    // Nor is what nobody could tell lost.
    change("32");
    let driver = Driver::start(world.connect(), backend.clone()).unwrap();
    assert_eq!((driver.served().count(), sectors().as_str()), (1, "32"));
}

#[test]
fn what_the_toolstack_removed_does_not_come_back() {
    let world = World::new();
    let mut driver = connected(&world, Vbd::default());
    world.rm("/local/domain/8/backend/vbd/1001");
    until(&mut driver, |driver| driver.served().count() == 0);
    world.rm(FRONT);
    driver.turn(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(world.read(HOME), None);
    world.plug();
    until_state(&mut driver, &world, "2");
}
