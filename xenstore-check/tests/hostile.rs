//! A guest that floods, stalls or corrupts its ring hurts only itself.
//!
//! What counts is what Logic and State do for the hostile guest; its own processor time is none of theirs. So they have one
//! processor, and the guests another one, of which the hostile guest gets what the good one leaves. Logic and State are built as
//! they run in their VMs: without optimisation a request costs so much that waiting for another guest's shows.
#![allow(missing_docs, reason = "a test")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ennead_xenstore_check::client::{Client, Packet, SocketClient, message};
use ennead_xenstore_check::daemon::{Daemon, Ours};
use ennead_xenstore_check::ours::Profile;
use ennead_xenstore_check::ring::RingClient;
use ennead_xs_wire::Op;
use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

const GOOD: u16 = 1;
const HOSTILE: u16 = 2;
/// How often the good guest is measured without and with its neighbour, in turn.
const ROUNDS: u32 = 10;
/// Reads in each.
const READS: usize = 100;
/// How long the neighbour acts before the good guest is measured beside it.
const HEAD_START: Duration = Duration::from_millis(30);
/// How many times longer a read may take.
const LIMIT: f64 = 1.5;
/// How long even the slowest may take, beside whatever else runs on this machine.
const SLOWEST: Duration = Duration::from_millis(250);
/// Bytes by which State may grow because of a neighbour that only ever has small quotas.
const GROWTH: u64 = 8 << 20;

/// Bytes of each of the two rings.
const RING: u32 = 1024;
const REQ_CONS: u64 = 2048;
const REQ_PROD: u64 = 2052;
const RSP_CONS: u64 = 2056;
const RSP_PROD: u64 = 2060;
const CONNECTION: u64 = 2068;

/// The hostile guest's ring page, without the manners of a [`RingClient`].
struct Page {
    file: File,
    bell: UnixDatagram,
    daemon: PathBuf,
}

impl Page {
    fn open(dir: &Path) -> Self {
        let file = File::options().read(true).write(true).open(dir.join(format!("dom{HOSTILE}.ring")));
        let bell = UnixDatagram::unbound().unwrap();
        bell.set_nonblocking(true).unwrap();
        Self { file: file.unwrap(), bell, daemon: dir.join("evtchn.sock") }
    }

    fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn set_word(&self, at: u64, word: u32) {
        self.file.write_all_at(&word.to_le_bytes(), at).unwrap();
    }

    fn ring(&self) {
        let port = 100 + u32::from(HOSTILE);
        // The daemon's queue may be full.
        let _ = self.bell.send_to(&port.to_le_bytes(), &self.daemon);
    }

    /// Puts requests into the ring, if there is room.
    fn push(&self, bytes: &[u8]) -> bool {
        let (cons, prod) = (self.word(REQ_CONS), self.word(REQ_PROD));
        let len = u32::try_from(bytes.len()).unwrap();
        if prod.wrapping_sub(cons) + len > RING {
            return false;
        }
        let (start, first) = (prod % RING, bytes.len().min(usize::try_from(RING - prod % RING).unwrap()));
        let (head, tail) = bytes.split_at(first);
        self.file.write_all_at(head, start.into()).unwrap();
        self.file.write_all_at(tail, 0).unwrap();
        self.set_word(REQ_PROD, prod.wrapping_add(len));
        true
    }

    /// Asks for a new start of the ring, as `xenstore-ring.txt` has it, and waits for it.
    fn restart(&self) {
        self.set_word(CONNECTION, 1);
        wait_for("a new start", || {
            self.ring();
            (self.word(CONNECTION) == 0).then_some(())
        });
        assert_eq!([REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD].map(|at| self.word(at)), [0; 4]);
    }
}

/// What a hostile guest does for as long as it may: called again and again.
type Hostility = fn(&Page, &mut Rng);

/// Requests as fast as they are answered, so that there is always another one.
fn flood(page: &Page, rng: &mut Rng) {
    let requests = [
        message(Op::Read as u32, 1, 0, b"data\0"),
        message(Op::Write as u32, 2, 0, b"data/x\0value"),
        message(Op::Directory as u32, 3, 0, b"/local\0"),
        message(Op::TransactionStart as u32, 4, 0, b"\0"),
        message(0xffff, 5, 0, b""),
    ];
    while page.push(&requests[rng.usize(..requests.len())]) {}
    page.set_word(RSP_CONS, page.word(RSP_PROD));
    page.ring();
}

/// Asks for large replies and for events, and never takes a byte.
fn stall(page: &Page, _rng: &mut Rng) {
    if page.word(REQ_PROD) == 0 {
        for token in 0..20 {
            let watch = format!("/shared\0token {token}\0");
            page.push(&message(Op::Watch as u32, 1, 0, watch.as_bytes()));
        }
        page.ring();
    }
    while page.push(&message(Op::Read as u32, 2, 0, b"data/large\0")) {}
    page.ring();
}

/// Everything in the page that it may write, and what it may not.
fn corrupt(page: &Page, rng: &mut Rng) {
    let index = [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD][rng.usize(..4)];
    let near = page.word(index).wrapping_add(rng.u32(..2048)).wrapping_sub(1024);
    page.set_word(index, if rng.bool() { near } else { rng.u32(..) });
    let mut bytes = [0; 256];
    rng.fill(&mut bytes);
    if rng.bool() {
        // Something that may be a request.
        let request = message(rng.u32(..24), rng.u32(..), 0, b"data\0token\0");
        bytes[..request.len()].copy_from_slice(&request);
    }
    page.file.write_all_at(&bytes[..rng.usize(..256)], rng.u64(..2048 - 256)).unwrap();
    if rng.u8(..) < 16 {
        // Served again, to be corrupted again.
        page.set_word(CONNECTION, 1);
    }
    page.ring();
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{what} does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The answer to a request; events are left out.
fn ask(client: &mut dyn Client, op: Op, payload: &[u8]) -> Packet {
    client.send(&message(op as u32, 1, 0, payload)).expect("Logic takes it");
    loop {
        while let Some(packet) = client.take().expect("it is a message") {
            if !packet.is_event() {
                return packet;
            }
        }
        let mut files = [PollFd::from_borrowed_fd(client.events(), PollFlags::IN)];
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert!(poll(&mut files, Some(&limit)).unwrap() > 0, "{op:?} is not answered");
        client.pump().expect("Logic is there");
    }
}

fn ok(client: &mut dyn Client, op: Op, payload: &str) {
    assert_eq!(ask(client, op, payload.as_bytes()).payload, b"OK\0", "{op:?} {payload:?}");
}

/// Both guests with what they own.
struct Host {
    daemon: Daemon,
    operator: SocketClient,
    good: RingClient,
    page: Page,
}

impl Host {
    fn new(ours: &Ours) -> Self {
        let daemon = Daemon::ours(ours).unwrap();
        let mut operator = SocketClient::connect(&daemon.socket()).unwrap();
        ok(&mut operator, Op::Write, "/shared\0");
        ok(&mut operator, Op::SetPerms, "/shared\0r0\0");
        for domid in [GOOD, HOSTILE] {
            daemon.create_domain(domid).unwrap();
            ok(&mut operator, Op::Introduce, &format!("{domid}\x001\x007\0"));
            let large = "l".repeat(1900);
            for (node, value) in [("data", "mine"), ("data/large", &large)] {
                ok(&mut operator, Op::Write, &format!("/local/domain/{domid}/{node}\0{value}"));
                ok(&mut operator, Op::SetPerms, &format!("/local/domain/{domid}/{node}\0n{domid}\0"));
            }
        }
        let good = daemon.guest(GOOD).unwrap();
        let page = Page::open(daemon.dir());
        Self { daemon, operator, good, page }
    }

    /// The good guest reads its node; how long each read takes. In between the operator changes what the hostile one may watch.
    fn measure(&mut self, times: &mut Vec<Duration>) {
        for _ in 0..READS {
            ok(&mut self.operator, Op::Write, "/shared/x\0news");
            let start = Instant::now();
            let answer = ask(&mut self.good, Op::Read, b"data\0");
            times.push(start.elapsed());
            assert_eq!(answer.payload, b"mine");
        }
    }

    /// Resident bytes of State.
    fn memory(&self) -> u64 {
        let pids = self.daemon.pids();
        let (_, pid) = pids.iter().find(|(name, _)| *name == "xenstore-state").unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The hostile guest has had enough, and is served like anybody.
    fn serves_the_hostile_one(&mut self) {
        let mut guest = self.daemon.guest(HOSTILE).unwrap();
        // It may have removed what it had.
        ok(&mut self.operator, Op::Write, &format!("/local/domain/{HOSTILE}/new\0mine"));
        ok(&mut self.operator, Op::SetPerms, &format!("/local/domain/{HOSTILE}/new\0n{HOSTILE}\0"));
        assert_eq!(ask(&mut guest, Op::Read, b"new\0").payload, b"mine");
        ok(&mut self.operator, Op::Introduce, &format!("{HOSTILE}\x001\x007\0"));
        guest.reset();
        assert_eq!(ask(&mut guest, Op::Read, b"new\0").payload, b"mine");
    }
}

/// In turn: the hostile guest is quiet, its ring new; it does what it does.
const QUIET: u32 = 0;
const ACT: u32 = 1;
const END: u32 = 2;

/// Keeps this thread, and what it starts, on the first processor (0) or the last (1) of all.
fn go_to_processor(number: usize) {
    static ALL: LazyLock<CpuSet> = LazyLock::new(|| sched_getaffinity(None).unwrap());
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| ALL.is_set(*cpu)).collect();
    let mut set = CpuSet::new();
    set.set(all[number * (all.len() - 1)]);
    sched_setaffinity(None, &set).unwrap();
}

/// What the hostile guest does, when it is told to.
fn obey(page: &Page, hostility: Hostility, told: &AtomicU32, heard: &AtomicU32) {
    setpriority_process(Some(gettid()), 19).expect("everybody may lower a priority");
    let mut rng = Rng::with_seed(1);
    loop {
        let what = told.load(Ordering::SeqCst);
        heard.store(what, Ordering::SeqCst);
        match what {
            ACT => hostility(page, &mut rng),
            QUIET => thread::sleep(Duration::from_millis(1)),
            _ => return,
        }
    }
}

/// Ends the hostile thread also when an assertion fails.
struct End<'a>(&'a AtomicU32);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(END, Ordering::SeqCst);
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn hurts_only_itself(hostility: Hostility) {
    /// One measurement at a time.
    static MACHINE: Mutex<()> = Mutex::new(());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let ours = Ours::build(Profile::Release).unwrap();
    go_to_processor(0);
    let mut host = Host::new(&ours);
    go_to_processor(1);
    let (told, heard) = (AtomicU32::new(QUIET), AtomicU32::new(QUIET));
    let page = Page::open(host.daemon.dir());
    let (mut without, mut beside) = (Vec::new(), Vec::new());
    host.measure(&mut Vec::new());
    let before = host.memory();
    thread::scope(|scope| {
        scope.spawn(|| obey(&page, hostility, &told, &heard));
        let _end = End(&told);
        let tell = |what| {
            told.store(what, Ordering::SeqCst);
            wait_for("the hostile thread", || (heard.load(Ordering::SeqCst) == what).then_some(()));
        };
        for _ in 0..ROUNDS {
            host.page.restart();
            host.measure(&mut without);
            tell(ACT);
            thread::sleep(HEAD_START);
            host.measure(&mut beside);
            tell(QUIET);
        }
    });
    let grown = host.memory().saturating_sub(before);
    host.page.restart();
    host.daemon.check().unwrap();
    host.serves_the_hostile_one();
    let slowest = beside.iter().copied().max().unwrap_or_default();
    let (without, beside) = (median(without), median(beside));
    println!(
        "{without:.0} us without, {beside:.0} us (at most {slowest:?}) beside it; {grown} bytes more in State"
    );
    assert!(slowest <= SLOWEST, "{slowest:?} for a read");
    assert!(beside <= LIMIT * without, "{without:.0} us without, {beside:.0} us beside it");
    assert!(grown <= GROWTH, "State has grown by {grown} bytes");
}

#[test]
fn a_guest_that_floods() {
    hurts_only_itself(flood);
}

#[test]
fn a_guest_that_stalls() {
    hurts_only_itself(stall);
}

#[test]
fn a_guest_that_corrupts_its_ring() {
    hurts_only_itself(corrupt);
}
