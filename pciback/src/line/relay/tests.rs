//! A relay between a socket and a channel in a page of this program's own.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ennead_channel::line::MAX_DATA;
use ennead_channel::proto::{decode, encode};
use ennead_channel::{Endpoint, Header, Line, Protocol as _};
use ennead_xen::{LocalPage, Port, SharedPage as _};
use proptest::prelude::*;

use super::*;
use crate::line::run;

const LONG: Duration = Duration::from_secs(20);
/// Where the toolstack says how far it has written.
const REQUESTS_PRODUCER: usize = 64;

/// The port.
struct Socket {
    stream: UnixStream,
    reads: Arc<AtomicUsize>,
    /// The kernel has not heard yet that somebody is there, though bytes may have come.
    unheard: bool,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match self.stream.read(buffer) {
            Err(e) if self.unheard && e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            read => read,
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A port to which nobody listens takes nothing.
        if self.unheard {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.stream.write(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => io::ErrorKind::WouldBlock.into(),
            _ => e,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// pciback's end of the channel, or the toolstack's. The socket stands for the event channel.
struct End {
    endpoint: Endpoint<LocalPage>,
    bell: UnixStream,
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Inside for End {
    fn receive(&mut self) -> anyhow::Result<Option<Bytes>> {
        let Some(bytes) = self.endpoint.try_recv()? else { return Ok(None) };
        let message: Tagged<Bytes> = decode(&bytes)?;
        self.ring();
        Ok(Some(message.body))
    }

    fn send(&mut self, message: &Tagged<Bytes>) -> anyhow::Result<bool> {
        let sent = self.endpoint.try_send(&encode(message)?)?;
        self.ring();
        Ok(sent)
    }

    fn hush(&self) -> anyhow::Result<()> {
        let mut buffer = [0; 64];
        while (&self.bell).read(&mut buffer).is_ok_and(|count| count > 0) {}
        Ok(())
    }
}

impl End {
    fn ring(&self) {
        // If there is no room it rings already.
        let _ = (&self.bell).write(&[1]);
    }
}

struct World {
    page: LocalPage,
    relay: Relay<Socket, End>,
    operator: UnixStream,
    toolstack: End,
}

fn sockets() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().expect("a pair of sockets");
    for socket in [&a, &b] {
        socket.set_nonblocking(true).expect("a socket");
    }
    (a, b)
}

fn world() -> World {
    let page = LocalPage::new();
    Header { generation: 1, port: Port(5), protocol: Line::ID }.publish(&page);
    let (stream, operator) = sockets();
    let (bell, toolstack_bell) = sockets();
    let inside = End { endpoint: Endpoint::server(page.clone()), bell };
    let endpoint = Endpoint::client(page.clone()).expect("a new page");
    let relay = Relay::new(Socket { stream, reads: Arc::default(), unheard: false }, inside);
    World { page, relay, operator, toolstack: End { endpoint, bell: toolstack_bell } }
}

/// What an end has said or heard; neighbouring data as one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Data(Vec<u8>),
    Reset,
}

fn say(so_far: &mut Vec<Said>, data: &[u8]) {
    match so_far.last_mut() {
        _ if data.is_empty() => {}
        Some(Said::Data(before)) => before.extend(data),
        _ => so_far.push(Said::Data(data.to_vec())),
    }
}

fn data(data: &[u8]) -> Tagged<Bytes> {
    message(Bytes::Data(List::new(data.to_vec()).expect("it fits")))
}

impl World {
    /// What the toolstack gets.
    fn inside(&mut self, heard: &mut Vec<Said>) {
        while let Some(bytes) = self.toolstack.receive().expect("a message") {
            match bytes {
                Bytes::Data(data) => say(heard, &data),
                Bytes::Reset => heard.push(Said::Reset),
            }
        }
    }

    /// What the operator gets, as often as there is some.
    fn outside(&mut self, framer: &mut Framer, heard: &mut Vec<Said>) {
        let mut buffer = [0; 1500];
        while let Ok(count @ 1..) = self.operator.read(&mut buffer) {
            let mut input = &buffer[..count];
            while let Some(piece) = framer.next(&mut input) {
                match piece {
                    Piece::Data(data) => say(heard, data),
                    Piece::Reset => heard.push(Said::Reset),
                }
            }
        }
    }

    fn pass_on(&mut self) {
        self.relay.pass_on().expect("the line holds");
    }

    /// All that both ends get until nothing comes any more.
    fn both(&mut self) -> [Vec<Said>; 2] {
        let (mut inside, mut outside, mut framer) = (Vec::new(), Vec::new(), Framer::new());
        for _ in 0..40 {
            self.pass_on();
            self.inside(&mut inside);
            self.outside(&mut framer, &mut outside);
        }
        [inside, outside]
    }

    fn reset(&mut self) {
        let mut frame = Vec::new();
        Framer::reset(&mut frame);
        self.operator.write_all(&frame).expect("room");
    }

    fn operator_says(&mut self, bytes: &[u8]) {
        let mut frame = Vec::new();
        Framer::data(bytes, &mut frame);
        self.operator.write_all(&frame).expect("room");
    }

    /// The operator's side goes, and comes again.
    fn reconnect(&mut self) {
        let (stream, operator) = sockets();
        self.operator = operator;
        self.pass_on();
        self.relay.outside.stream = stream;
    }
}

#[test]
fn frames_and_messages_become_each_other() {
    let mut world = world();
    world.reset();
    world.operator_says(&[7; 2000]);
    for message in [data(b"one"), data(b""), reset(), data(b"two")] {
        assert!(world.toolstack.send(&message).expect("it is sent"));
    }
    let [inside, outside] = world.both();
    assert_eq!(inside, [Said::Reset, Said::Data(vec![7; 2000])]);
    assert_eq!(outside, [Said::Data(b"one".into()), Said::Reset, Said::Data(b"two".into())]);
}

#[test]
fn two_messages_are_under_way() {
    let mut world = world();
    world.operator_says(&[7; 2000]);
    world.pass_on();
    let mut heard = Vec::new();
    world.inside(&mut heard);
    // The first is shorter by the frame's length.
    assert!(matches!(&heard[..], [Said::Data(data)] if data.len() == 2 * DATA - 2));
}

#[test]
fn a_flood_is_held_back_and_holds_nobody_else() {
    let mut world = world();
    let mut frame = Vec::new();
    Framer::data(&[1; 4096], &mut frame);
    let mut taken = 0;
    for _ in 0..10_000 {
        taken += world.operator.write(&frame).unwrap_or(0);
        world.pass_on();
    }
    assert!(taken < 2 << 20, "{taken}");
    assert!(world.toolstack.send(&data(b"through")).expect("it is sent"));
    world.pass_on();
    let (mut framer, mut heard) = (Framer::new(), Vec::new());
    world.outside(&mut framer, &mut heard);
    assert_eq!(heard, [Said::Data(b"through".into())], "the other direction goes on");

    let mut sent = 0;
    for _ in 0..10_000 {
        sent += usize::from(world.toolstack.send(&data(&[2; MAX_DATA])).expect("the ring holds"));
        sent += usize::from(world.toolstack.send(&reset()).expect("the ring holds"));
        world.pass_on();
        assert!(world.relay.output.len() < 3 * PIECE);
    }
    assert!(sent < 2000, "{sent}");
    let mut heard = Vec::new();
    for _ in 0..20 {
        world.inside(&mut heard);
        world.pass_on();
    }
    assert!(matches!(&heard[..], [Said::Data(data)] if data.len() > 5 * MAX_DATA), "and here");
}

#[test]
fn an_operator_that_goes_resets_the_toolstack_once() {
    let mut world = world();
    world.operator_says(b"a");
    assert_eq!(world.both()[0], [Said::Data(b"a".into())]);
    // It goes in the middle of a frame.
    world.operator.write_all(&[100, 0, 1, 2, 3]).expect("room");
    world.reconnect();
    for _ in 0..10 {
        world.pass_on();
    }
    let mut inside = Vec::new();
    world.inside(&mut inside);
    assert_eq!(inside, [Said::Data(vec![1, 2, 3]), Said::Reset]);
    // The toolstack answers, maybe before the kernel has noticed that there is another one.
    world.toolstack.send(&reset()).expect("it is sent");
    world.reset();
    world.operator_says(b"b");
    let [inside, outside] = world.both();
    // What was left of the frame may come before, as if it were data.
    assert_eq!(inside[inside.len() - 2..], [Said::Reset, Said::Data(b"b".into())]);
    assert_eq!(outside, [Said::Reset]);
}

#[test]
fn an_operator_whose_bytes_come_before_the_kernel_knows_of_it_has_not_gone() {
    let mut world = world();
    world.relay.outside.unheard = true;
    world.toolstack.send(&reset()).expect("it is sent");
    world.pass_on();
    world.reset();
    world.operator_says(b"a");
    let [inside, outside] = world.both();
    assert_eq!((inside, outside), (vec![Said::Reset, Said::Data(b"a".into())], vec![]));
    world.toolstack.send(&data(b"to it")).expect("it is sent");
    world.pass_on();
    world.relay.outside.unheard = false;
    world.operator_says(b"b");
    let [inside, outside] = world.both();
    assert_eq!(inside, [Said::Data(b"b".into())]);
    assert_eq!(outside, [Said::Reset, Said::Data(b"to it".into())]);
}

#[test]
fn what_the_toolstack_says_to_nobody_waits_within_bounds() {
    let mut world = world();
    world.pass_on();
    let (stream, operator) = sockets();
    world.operator = sockets().0;
    let mut sent = Vec::new();
    for n in 0..100 {
        if world.toolstack.send(&data(&[n; MAX_DATA])).expect("the ring holds") {
            sent.extend([n; MAX_DATA]);
        }
        world.pass_on();
    }
    assert!((1..10).contains(&(sent.len() / MAX_DATA)), "{}", sent.len());
    world.relay.outside.stream = stream;
    world.operator = operator;
    assert_eq!(world.both()[1], [Said::Data(sent)]);
}

#[test]
fn a_toolstack_that_is_built_anew_finds_the_line() {
    let mut world = world();
    world.toolstack.send(&data(b"last words")).expect("it is sent");
    // More than the ring holds, so that the relay has something in its hands.
    world.operator_says(&[3; 4000]);
    world.pass_on();
    world.toolstack.endpoint = Endpoint::client(world.page.clone()).expect("the page is whole");
    world.toolstack.send(&reset()).expect("it is sent");
    let [_, outside] = world.both();
    assert_eq!(outside, [Said::Data(b"last words".into()), Said::Reset]);
    world.reset();
    world.operator_says(b"anew");
    world.toolstack.send(&data(b"anew")).expect("it is sent");
    let [inside, outside] = world.both();
    assert_eq!(inside, [Said::Reset, Said::Data(b"anew".into())]);
    assert_eq!(outside, [Said::Data(b"anew".into())]);
}

#[test]
fn a_toolstack_that_breaks_the_ring_ends_its_line() {
    let mut world = world();
    world.page.store(REQUESTS_PRODUCER, u32::MAX);
    let e = world.relay.pass_on().expect_err("no index");
    assert!(format!("{e:#}").contains("Peer broke the channel"), "{e:#}");
    assert!(world.relay.pass_on().is_err(), "for good");
}

#[test]
fn a_thread_carries_a_line_and_sleeps_when_there_is_nothing() {
    let World { page, relay, mut operator, mut toolstack } = world();
    let reads = Arc::clone(&relay.outside.reads);
    let running = thread::spawn(move || run(relay).expect_err("it ends with the ring"));
    let echo = thread::spawn(move || {
        let deadline = Instant::now() + LONG;
        let mut echoed = 0;
        while echoed < 300_000 && Instant::now() < deadline {
            match toolstack.receive().expect("a message") {
                Some(Bytes::Data(bytes)) => {
                    while !toolstack.send(&data(&bytes)).expect("the ring holds") {
                        thread::yield_now();
                    }
                    echoed += bytes.len();
                }
                Some(Bytes::Reset) => panic!("nobody sent one"),
                None => thread::yield_now(),
            }
        }
        toolstack
    });
    operator.set_nonblocking(false).expect("a socket");
    operator.set_read_timeout(Some(LONG)).expect("a socket");
    let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut writer = operator.try_clone().expect("a socket");
    let mut frames = Vec::new();
    Framer::data(&sent, &mut frames);
    let writing = thread::spawn(move || writer.write_all(&frames).expect("it is taken"));
    let (mut framer, mut heard, mut buffer) = (Framer::new(), Vec::<u8>::new(), [0; 4096]);
    while heard.len() < sent.len() {
        let count = operator.read(&mut buffer).expect("it comes");
        let mut input = &buffer[..count];
        while let Some(Piece::Data(data)) = framer.next(&mut input) {
            heard.extend(data);
        }
    }
    assert!(heard == sent);
    writing.join().expect("it is written");
    let toolstack = echo.join().expect("it has echoed");
    drop(operator);
    thread::sleep(Duration::from_millis(50));
    let before = reads.load(Ordering::Relaxed);
    thread::sleep(Duration::from_millis(100));
    assert!(reads.load(Ordering::Relaxed) - before < 5, "nobody is there, and it tries all the time");
    page.store(REQUESTS_PRODUCER, u32::MAX);
    toolstack.ring();
    assert!(format!("{:#}", running.join().expect("no panic")).contains("Peer broke the channel"));
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Operator(Said),
    Toolstack(Said),
    PassOn,
    ReadInside,
    ReadOutside,
}

fn step() -> impl Strategy<Value = Step> {
    let said = || {
        prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 1..=MAX_DATA).prop_map(Said::Data),
            1 => Just(Said::Reset)
        ]
    };
    prop_oneof![
        2 => said().prop_map(Step::Operator),
        2 => said().prop_map(Step::Toolstack),
        2 => Just(Step::PassOn),
        1 => Just(Step::ReadInside),
        1 => Just(Step::ReadOutside),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    /// Whatever the order of things and wherever the bytes are cut, each end hears what the other said, and nothing else.
    #[test]
    fn nothing_is_lost_or_made_up(steps in prop::collection::vec(step(), 0..60), cut in 1_usize..5000) {
        let mut world = world();
        let (mut from_operator, mut from_toolstack) = (Vec::new(), Vec::new());
        let (mut inside, mut outside, mut framer) = (Vec::new(), Vec::new(), Framer::new());
        for step in steps {
            match step {
                Step::Operator(said) => {
                    let mut frame = Vec::new();
                    match &said {
                        Said::Data(data) => { Framer::data(data, &mut frame); say(&mut from_operator, data) }
                        Said::Reset => { Framer::reset(&mut frame); from_operator.push(Said::Reset) }
                    }
                    for mut part in frame.chunks(cut) {
                        while !part.is_empty() {
                            match world.operator.write(part) {
                                Ok(count) => part = &part[count..],
                                // Held back: it is the toolstack's turn.
                                Err(_) => world.inside(&mut inside),
                            }
                            world.pass_on();
                        }
                    }
                }
                Step::Toolstack(said) => {
                    let next = match &said { Said::Data(bytes) => data(bytes), Said::Reset => reset() };
                    if world.toolstack.send(&next).expect("the ring holds") {
                        match said {
                            Said::Data(data) => say(&mut from_toolstack, &data),
                            Said::Reset => from_toolstack.push(Said::Reset),
                        }
                    }
                }
                Step::PassOn => world.pass_on(),
                Step::ReadInside => world.inside(&mut inside),
                Step::ReadOutside => world.outside(&mut framer, &mut outside),
            }
        }
        for _ in 0..400 {
            world.pass_on();
            world.inside(&mut inside);
            world.outside(&mut framer, &mut outside);
        }
        prop_assert_eq!(inside, from_operator);
        prop_assert_eq!(outside, from_toolstack);
    }
}
