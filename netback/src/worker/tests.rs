use std::sync::Mutex;
use std::thread::{sleep, yield_now};

use ennead_backend::device::TestReports;
use ennead_backend::testing::{TestGuest, TestPages};
use ennead_xen::{DomId, SharedPage as _};
use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::config::{Frontend, Vif};
use crate::filter::{Filter, Mac};
use crate::inbox::Inbox;
use crate::model::{Front, Layout, TestTap};
use crate::neighbours::{Member, Neighbours};
use crate::queue::Rules;
use crate::queue::tests::{ALL, attach_to, packet, vif};
use crate::rate::Credit;
use crate::samples::MAC;

const PLAIN: Layout = Layout { cuts: Vec::new(), offset: 0, flags: 0, gso: None };
/// Much longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

type TestWorker = Worker<Line<TestPages, TestGuest, TestTap, Channel>>;

/// An event channel, and how the kernel hides it while it is masked.
#[derive(Debug, Clone)]
struct Channel {
    file: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    masked: bool,
    pending: bool,
    /// Times that it came through, and that the guest was sent one.
    fired: u32,
    sent: u32,
    /// When the guest was sent the last.
    last: Option<Instant>,
}

impl Channel {
    fn new() -> Self {
        let file = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        Self { file, state: Arc::default() }
    }

    fn fire(&self, state: &mut State) {
        if state.masked {
            state.pending = true;
        } else {
            *state = State { masked: true, pending: false, fired: state.fired + 1, ..*state };
            rustix::io::write(&self.file, &1_u64.to_ne_bytes()).unwrap();
        }
    }

    /// As the guest does.
    fn ring(&self) {
        self.fire(&mut self.state.lock().unwrap());
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Events for Channel {
    fn notify(&self, tx: bool, rx: bool) -> ennead_xen::Result<()> {
        if tx || rx {
            let mut state = self.state.lock().unwrap();
            state.sent += 1;
            state.last = Some(Instant::now());
        }
        Ok(())
    }

    fn take(&self) -> ennead_xen::Result<Few<Port>> {
        rustix::io::read(&self.file, &mut [0; 8]).expect("an event is there");
        Ok([Port(1)].into_iter().collect())
    }

    fn unmask(&self, _: Port) -> ennead_xen::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.masked = false;
        if state.pending {
            self.fire(&mut state);
        }
        Ok(())
    }
}

/// A guest whose vif a worker serves.
struct Guest {
    front: Front,
    tap: TestTap,
    channel: Channel,
    device: Device,
    _member: Member,
}

fn mac(n: u16) -> Mac {
    Mac([0, 0x16, 0x3e, 9, 9, u8::try_from(n).unwrap()])
}

impl Guest {
    fn new(n: u16, worker: &TestWorker, all: &Neighbours, reports: &TestReports) -> Self {
        Self::with_rate(n, worker, all, reports, None)
    }

    fn with_rate(
        n: u16,
        worker: &TestWorker,
        all: &Neighbours,
        reports: &TestReports,
        rate: Option<Credit>,
    ) -> Self {
        let (mut front, tap, channel) = (Front::new(), TestTap::default(), Channel::new());
        front.post(200);
        let inbox = Arc::new(Inbox::new(Arc::clone(worker.bell())).unwrap());
        let vif = Vif { mac: mac(n), filter: Filter::new(Mac(MAC), Vec::new()), ..vif("a", None) };
        let frontend = Frontend { queues: Vec::new(), chains: true, offloads: ALL };
        let member = all.join(&vif, &frontend, &[Arc::clone(&inbox)]);
        let (filter, way) = (vif.filter.clone(), all.way(&vif, 0));
        let rules = Rules { filter, vlan: None, rate, chains: true, offloads: ALL, way };
        let queue = attach_to(inbox, &front.tx, &front.rx, &front, tap.clone(), rules);
        let device = Device { domid: DomId(n), handle: 0 };
        worker.serve(Line::new(queue, channel.clone(), reports.reporter(device), Arc::default()));
        Self { front, tap, channel, device, _member: member }
    }

    /// How many more slots it must fill until it sends an event.
    fn is_asked_for(&self) -> u32 {
        self.front.tx.load(4).wrapping_sub(self.front.tx.load(0))
    }

    /// Sends it, with an event if the backend has asked for one.
    fn send(&mut self, to: u16, length: usize) {
        let before = self.front.tx.load(0);
        let mut packet = packet(length, 1);
        packet[..6].copy_from_slice(&mac(to).0);
        self.front.send(&packet, &PLAIN);
        let (now, asked) = (self.front.tx.load(0), self.front.tx.load(4));
        if now.wrapping_sub(asked) < now.wrapping_sub(before) {
            self.channel.ring();
        }
    }

    /// The lengths of what comes, until it is so much.
    fn receive(&mut self, count: usize) -> Vec<usize> {
        let (start, mut lengths) = (Instant::now(), Vec::new());
        while lengths.len() < count && start.elapsed() < PATIENCE {
            lengths.extend(self.front.receive().iter().map(|p| p.bytes.len()));
            self.front.post(200);
            yield_now();
        }
        lengths
    }
}

fn until(mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if is_so() {
            return true;
        }
        yield_now();
    }
    false
}

/// So long that a worker has fallen asleep.
fn rest() {
    sleep(Duration::from_millis(20));
}

#[test]
fn packets_go_from_guest_to_guest_and_to_the_bridge_and_back() {
    let (all, reports) = (Neighbours::default(), TestReports::new().unwrap());
    let workers = [TestWorker::start().unwrap(), TestWorker::start().unwrap()];
    for second in 0..2 {
        let mut one = Guest::new(1, &workers[0], &all, &reports);
        let mut two = Guest::new(2, &workers[second], &all, &reports);
        for n in 0..200 {
            if n % 50 == 0 {
                rest();
            }
            one.send(2, 60 + n);
            assert_eq!(two.receive(1), [60 + n], "packet {n} with worker {second}");
            two.send(1, 1000 + n);
            assert_eq!(one.receive(1), [1000 + n]);
            one.front.collect();
            two.front.collect();
        }
        rest();
        one.send(9, 70);
        assert!(until(|| !one.tap.sent().is_empty()), "nobody has that address here");
        rest();
        one.tap.give([0; 10], &packet(80, 3));
        one.tap.give([0; 10], &packet(81, 3));
        assert_eq!(one.receive(2), [80, 81]);
        assert!(one.channel.state.lock().unwrap().sent > 0);
        let counts = [(workers[0].end(one.device)), (workers[second].end(two.device))];
        assert_eq!(counts.map(|(from, to)| (from.packets, to.packets)), [(201, 202), (200, 200)]);
        assert!(reports.ends().is_empty());
    }
}

#[test]
fn who_waits_for_a_packet_is_told_before_who_sent_it() {
    let (all, reports) = (Neighbours::default(), TestReports::new().unwrap());
    let worker = TestWorker::start().unwrap();
    let mut one = Guest::new(1, &worker, &all, &reports);
    let two = Guest::new(2, &worker, &all, &reports);
    rest();
    let sent = |guest: &Guest| guest.channel.state.lock().unwrap().sent;
    let before = [sent(&one), sent(&two)];
    one.send(2, 60);
    assert!(until(|| sent(&one) > before[0] && sent(&two) > before[1]));
    let last = |guest: &Guest| guest.channel.state.lock().unwrap().last;
    assert!(last(&two) < last(&one));
}

#[test]
fn more_of_a_stream_is_waited_for_but_not_for_long() {
    let (all, reports) = (Neighbours::default(), TestReports::new().unwrap());
    let worker = TestWorker::start().unwrap();
    let mut one = Guest::new(1, &worker, &all, &reports);
    let mut two = Guest::new(2, &worker, &all, &reports);
    let mut waits = || {
        (0..STREAM).for_each(|_| one.send(2, 60));
        let count = STREAM.try_into().unwrap();
        assert_eq!(two.receive(count), vec![60; count], "also those without an event");
        one.front.collect();
        (2..=GATHERED).contains(&one.is_asked_for())
    };
    assert!(until(&mut waits), "no event for each packet");
    assert!(until(|| one.is_asked_for() == 1), "an event for the next one that comes alone");
}

#[test]
fn a_queue_that_breaks_ends_alone() {
    let (all, reports) = (Neighbours::default(), TestReports::new().unwrap());
    let worker = TestWorker::start().unwrap();
    let bad = Guest::new(1, &worker, &all, &reports);
    let (mut one, mut two) = (Guest::new(2, &worker, &all, &reports), Guest::new(3, &worker, &all, &reports));
    rest();
    bad.front.tx.store(0, 1 << 31);
    bad.channel.ring();
    let mut ends = Vec::new();
    assert!(until(|| {
        ends.extend(reports.ends());
        !ends.is_empty()
    }));
    assert!(ends[0].0 == bad.device && ends[0].1.contains("req_prod"), "{ends:?}");
    one.send(3, 60);
    assert_eq!(two.receive(1), [60]);
    assert_eq!(worker.end(bad.device).0, Counts::default());
    let held = Arc::strong_count(&two.channel.state);
    assert_eq!((worker.end(two.device).1.packets, Arc::strong_count(&two.channel.state)), (1, held - 1));
}

#[test]
fn events_without_anything_to_do_are_heard_now_and_then() {
    let (all, reports) = (Neighbours::default(), TestReports::new().unwrap());
    let worker = TestWorker::start().unwrap();
    let mut storm = Guest::new(1, &worker, &all, &reports);
    let mut other = Guest::new(2, &worker, &all, &reports);
    rest();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(100) {
        storm.channel.ring();
        yield_now();
    }
    let (fired, time) = (storm.channel.state.lock().unwrap().fired, start.elapsed());
    let most = u128::from(VAIN) + time.as_micros() / DEAF.as_micros() + 2;
    assert!(fired > VAIN && u128::from(fired) <= most, "{fired} in {time:?}");
    storm.send(2, 60);
    assert_eq!(other.receive(1), [60], "it is heard again");
}

#[test]
fn a_guest_without_credit_goes_on_when_it_has_some() {
    let (all, reports) = (Neighbours::default(), TestReports::new().unwrap());
    let worker = TestWorker::start().unwrap();
    let start = Instant::now();
    // The longest packet's bytes at once, and 10,000 each 20 milliseconds.
    let rate = Credit::new("10000,20000".parse().unwrap(), start);
    let mut slow = Guest::with_rate(1, &worker, &all, &reports, Some(rate));
    let mut other = Guest::new(2, &worker, &all, &reports);
    for _ in 0..60 {
        slow.send(2, 1500);
    }
    assert_eq!(other.receive(60), [1500; 60]);
    assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
}
