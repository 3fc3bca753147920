//! Logic killed at any point, between any two accesses to shared memory, and State handing over to its successor between any two
//! calls: guests get the same bytes as without.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use ennead_xenstore_logic::handler::Forgetful;
use ennead_xenstore_logic::serve::{Event, Moved, Serve, Stop, World};
use ennead_xenstore_state::service::{Mode, Service};
use ennead_xenstore_state::{Head, Identity, Settings, State};
use ennead_xs_link::{Answerer, Caller, LocalMemory, MAX_BODY, RecordWriter, Shared, region_len};
use ennead_xs_wire::{Access, Op, Perm, Request};
use proptest::prelude::*;

const GUESTS: u16 = 3;
const RING: u32 = 1024;

/// What ends Logic's life.
struct Killed;

/// Accesses to shared memory that Logic has left to live.
#[derive(Clone)]
struct Life(Rc<Cell<Option<u64>>>);

impl Life {
    fn step(&self) {
        match self.0.get() {
            Some(0) => std::panic::panic_any(Killed),
            Some(n) => self.0.set(Some(n - 1)),
            None => {}
        }
    }
}

/// Memory as Logic sees it.
struct Mortal(LocalMemory, Life);

impl Shared for Mortal {
    fn load(&self, offset: usize) -> u32 {
        self.1.step();
        self.0.load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        self.1.step();
        self.0.store(offset, value);
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.1.step();
        self.0.read(offset, out);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        // Killed in the middle of a copy, too.
        let half = data.len() / 2;
        self.1.step();
        self.0.write(offset, &data[..half]);
        self.1.step();
        self.0.write(offset + half, &data[half..]);
    }
    fn size(&self) -> usize {
        self.0.size()
    }
}

/// State, as Logic reaches it.
struct StateSide {
    service: Service,
    answerer: Answerer<LocalMemory>,
    body: Box<[u8; MAX_BODY]>,
    records: RecordWriter,
    /// Calls that each State answers before it hands over; the last one answers all.
    terms: VecDeque<u64>,
}

impl StateSide {
    fn pump(&mut self) {
        loop {
            match self.terms.front_mut() {
                Some(0) => return self.answerer.send_to(4, 8),
                Some(term) if self.answerer.has_call() => *term -= 1,
                _ => {}
            }
            let Some((call, body)) = self.answerer.next_call(&mut self.body).expect("Logic is honest") else {
                return;
            };
            let more = self.service.handle(&call, body, &mut self.records);
            self.answerer.answer(self.records.bytes(), more);
        }
    }

    /// The successor, and its memory.
    fn succeed(&mut self) -> LocalMemory {
        let bytes = self.service.save();
        self.service = Service::load(Settings::default(), Mode::Xen, &bytes).expect("whole");
        self.service.state.check().expect("all counts are right");
        assert!(self.service.save() == bytes, "it is the same");
        let region = LocalMemory::new(region_len(8));
        self.answerer = Answerer::create(region.clone());
        self.terms.pop_front();
        region
    }
}

struct TestWorld {
    pages: Rc<BTreeMap<u16, LocalMemory>>,
    state: Rc<RefCell<StateSide>>,
    guests: Rc<RefCell<Guests>>,
    rung: Rc<RefCell<VecDeque<u32>>>,
    life: Life,
}

impl World for TestWorld {
    type Page = Mortal;
    fn wait(&mut self, events: &mut Vec<Event>, block: bool) -> Result<(), Stop> {
        assert!(!block);
        events.extend(self.rung.borrow_mut().drain(..).map(Event::Port));
        Ok(())
    }
    fn wait_for_state(&mut self) -> Result<(), Stop> {
        // Between Logic's last look at the rings and what State makes of it.
        for (domid, guest) in self.guests.borrow_mut().iter_mut() {
            if guest.receive(guest.meanwhile).1 {
                self.rung.borrow_mut().push_back((*domid).into());
            }
        }
        self.state.borrow_mut().pump();
        Ok(())
    }
    fn wake_state(&mut self) {}
    fn spin(&mut self, _round: u32) -> bool {
        false
    }
    fn map(&mut self, domid: u16, _port: u32) -> Option<(Mortal, u32)> {
        Some((Mortal(self.pages[&domid].clone(), self.life.clone()), domid.into()))
    }
    fn unbind(&mut self, _port: u32) {}
    fn hush(&mut self, _port: u32, _hushed: bool) {}

    fn notify(&mut self, _port: u32) {}
    fn adopt(&mut self, _socket: u32, _line: u32) -> bool {
        unreachable!("no sockets")
    }
    fn read(&mut self, _socket: u32, _out: &mut [u8]) -> Moved {
        Moved::Closed
    }
    fn write(&mut self, _socket: u32, _data: &[u8]) -> Moved {
        Moved::Closed
    }
    fn choose(&mut self, _socket: u32, _line: u32, _blocked: bool) {}
    fn close(&mut self, _socket: u32) {}
}

struct Plain;

impl Forgetful for Plain {
    fn run(&mut self, handler: fn(&[u8], &mut [u8]) -> usize, input: &[u8], output: &mut [u8]) -> usize {
        handler(input, output)
    }
}

fn offset(position: u32) -> usize {
    usize::try_from(position % RING).expect("small")
}

type Guests = BTreeMap<u16, Guest>;

/// A guest's end of its ring.
struct Guest {
    page: LocalMemory,
    to_send: VecDeque<u8>,
    received: Vec<u8>,
    /// Bytes that it reads whenever Logic waits for State.
    meanwhile: u32,
}

impl Guest {
    /// Writes at most `most` bytes of its requests; says whether there were any, and whether it rings: as Linux does, only if
    /// everything before was read already.
    fn send(&mut self, most: u32) -> (bool, bool) {
        let (cons, prod) = (self.page.load(2048), self.page.load(2052));
        let n =
            (RING - prod.wrapping_sub(cons)).min(most).min(u32::try_from(self.to_send.len()).expect("short"));
        for i in 0..n {
            let at = offset(prod.wrapping_add(i));
            let byte = self.to_send.pop_front().expect("n is at most its length");
            self.page.write(at, &[byte]);
        }
        self.page.store(2052, prod.wrapping_add(n));
        (n > 0, n > 0 && self.page.load(2048) == prod)
    }

    /// Reads at most `most` bytes of responses; says whether there were any, and whether it rings: only if the ring was full.
    fn receive(&mut self, most: u32) -> (bool, bool) {
        let (cons, prod) = (self.page.load(2056), self.page.load(2060));
        let there = prod.wrapping_sub(cons);
        assert!(there <= RING, "responses overrun the ring");
        let n = there.min(most);
        for i in 0..n {
            let at = offset(cons.wrapping_add(i));
            let mut byte = [0];
            self.page.read(1024 + at, &mut byte);
            self.received.extend(byte);
        }
        self.page.store(2056, cons.wrapping_add(n));
        (n > 0, n > 0 && there == RING)
    }
}

/// One turn: which guest, how many bytes it sends and reads.
type Turn = (u16, u32, u32);

/// Runs the guests' requests; Logic dies whenever its lives (numbers of accesses) are over, State hands over when its terms
/// (numbers of calls) are. Gives what each guest received.
fn run(requests: &[(u16, Vec<u8>)], turns: &[Turn], lives: &[u64], terms: &[u64]) -> Vec<Vec<u8>> {
    run_reading(0, requests, turns, lives, terms)
}

/// The same with guests that read so many bytes whenever Logic waits for State.
fn run_reading(
    meanwhile: u32,
    requests: &[(u16, Vec<u8>)],
    turns: &[Turn],
    lives: &[u64],
    terms: &[u64],
) -> Vec<Vec<u8>> {
    let region = LocalMemory::new(region_len(8));
    let mut service = Service::new(State::new(Settings::default()), Mode::Xen);
    let pages: BTreeMap<u16, LocalMemory> = (1..=GUESTS).map(|d| (d, LocalMemory::new(4096))).collect();
    for domid in 1..=GUESTS {
        service.state.created(domid, None);
        service.state.introduce(domid, 1, None).expect("a new domain");
    }
    prepare(&mut service.state);
    service.gather();
    let guest = |page: &LocalMemory| Guest {
        page: page.clone(),
        to_send: VecDeque::new(),
        received: Vec::new(),
        meanwhile,
    };
    let mut all: Guests = pages.iter().map(|(d, page)| (*d, guest(page))).collect();
    for (guest, bytes) in requests {
        all.get_mut(guest).expect("it exists").to_send.extend(bytes);
    }
    let guests = Rc::new(RefCell::new(all));
    let mut logic = Logic {
        state: Rc::new(RefCell::new(StateSide {
            service,
            answerer: Answerer::create(region.clone()),
            body: Box::new([0; MAX_BODY]),
            records: RecordWriter::default(),
            terms: terms.iter().copied().collect(),
        })),
        region,
        pages: Rc::new(pages),
        guests: guests.clone(),
        rung: Rc::new(RefCell::new(VecDeque::new())),
        life: Life(Rc::new(Cell::new(None))),
        lives: lives.iter().copied().collect(),
        serve: None,
        attached: false,
    };
    logic.work();
    logic.life.0.set(logic.lives.pop_front());
    let mut idle = 0;
    let mut turns = turns.iter().cycle();
    while idle < 100 {
        let (guest, sends, reads) = *turns.next().expect("endless");
        let ((sent, ring_sent), (received, ring_received)) = {
            let mut guests = guests.borrow_mut();
            let guest = guests.get_mut(&guest).expect("it exists");
            (guest.send(sends), guest.receive(reads))
        };
        let moved = sent || received;
        if ring_sent || ring_received {
            logic.rung.borrow_mut().push_back(guest.into());
        }
        logic.work();
        idle = if moved { 0 } else { idle + 1 };
    }
    for guest in guests.borrow().values() {
        assert!(guest.to_send.is_empty(), "Logic stopped reading");
    }
    guests.take().into_values().map(|guest| guest.received).collect()
}

/// Logic over all its lives.
struct Logic {
    state: Rc<RefCell<StateSide>>,
    region: LocalMemory,
    pages: Rc<BTreeMap<u16, LocalMemory>>,
    guests: Rc<RefCell<Guests>>,
    rung: Rc<RefCell<VecDeque<u32>>>,
    life: Life,
    lives: VecDeque<u64>,
    serve: Option<Serve<Mortal, TestWorld, Plain>>,
    attached: bool,
}

impl Logic {
    /// Does what there is to do, however often it dies over it.
    fn work(&mut self) {
        loop {
            let result = catch_unwind(AssertUnwindSafe(|| {
                if self.serve.is_none() {
                    (self.serve, self.attached) = (Some(self.start()), false);
                }
                while !self.go_on() {}
            }));
            match result {
                Ok(()) => return,
                Err(panic) if panic.is::<Killed>() => {
                    self.life.0.set(self.lives.pop_front());
                    self.serve = None;
                    ring(&self.rung);
                }
                Err(panic) => resume_unwind(panic),
            }
        }
    }

    /// Attaches, or does what there is to do, or follows State to its successor; says whether there is nothing more to do.
    fn go_on(&mut self) -> bool {
        let serve = self.serve.as_mut().expect("it was made");
        let done = if self.attached { serve.poll() } else { serve.attach() };
        match done {
            Ok(()) => std::mem::replace(&mut self.attached, true),
            Err(Stop::Moved(4, 8)) => {
                self.region = self.state.borrow_mut().succeed();
                self.attached = false;
                ring(&self.rung);
                let caller = Caller::attach(Mortal(self.region.clone(), self.life.clone())).expect("a link");
                match serve.move_to(caller) {
                    Ok(before) => before.leave(),
                    Err(Stop::Moved(..)) => return false,
                    Err(stop) => panic!("{stop:?}"),
                }
                self.attached = true;
                false
            }
            Err(stop) => panic!("{stop:?}"),
        }
    }

    fn start(&self) -> Serve<Mortal, TestWorld, Plain> {
        self.state.borrow_mut().pump();
        let world = TestWorld {
            pages: self.pages.clone(),
            state: self.state.clone(),
            guests: self.guests.clone(),
            rung: self.rung.clone(),
            life: self.life.clone(),
        };
        let caller = Caller::attach(Mortal(self.region.clone(), self.life.clone())).expect("a link");
        Serve::new(caller, world, || Ok::<_, ()>(Plain)).expect("nothing fails")
    }
}

/// What Xen does: ports fire once when they are bound.
fn ring(rung: &RefCell<VecDeque<u32>>) {
    rung.borrow_mut().extend((1..=GUESTS).map(u32::from));
}

/// A node that all guests may write.
fn prepare(state: &mut State) {
    let operator = state.open(Identity::Operator);
    let head = |op: Op| Head { op: op as u32, request_id: 0, tx_id: 0 };
    let path = b"/shared";
    state.request(operator, head(Op::Mkdir), Ok(&Request::Mkdir { path }));
    let perms = vec![Perm { access: Access::Both, domid: 0 }];
    state.request(operator, head(Op::SetPerms), Ok(&Request::SetPerms { path, perms }));
    state.close(operator);
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let path = prop::sample::select(vec![
        &b"/shared"[..],
        b"/shared/a",
        b"/shared/b",
        b"/nothing",
        b"data",
        b"bad//path",
    ]);
    let value =
        prop_oneof![prop::collection::vec(any::<u8>(), 0..40), (0..1700_usize).prop_map(|n| vec![b'v'; n])];
    (path, value, 0..10_u8, 0..3_u32).prop_map(|(path, value, what, tx)| {
        let request = match what {
            0 | 1 => Request::Write { path, value: &value },
            2 | 3 => Request::Read { path },
            4 => Request::Watch { path, token: b"token" },
            5 => Request::Directory { path },
            6 => Request::TransactionStart,
            7 => return Request::TransactionEnd { commit: true }.message(7, tx),
            8 => Request::Rm { path },
            _ => Request::GetPerms { path },
        };
        request.message(u32::from(what), if what < 4 { tx } else { 0 })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn guests_notice_neither_that_logic_was_killed_nor_that_state_has_a_successor(
        requests in prop::collection::vec((1..=GUESTS, request()), 1..40),
        turns in prop::collection::vec((1..=GUESTS, 1..1100_u32, prop_oneof![Just(0), 1..1100_u32]), 3..12),
        lives in prop::collection::vec(1..400_u64, 1..40),
        terms in prop::collection::vec(0..30_u64, 1..12),
    ) {
        // A guest of which no turn is would never be heard.
        let turns: Vec<Turn> = (1..=GUESTS).map(|d| (d, 300, 300)).chain(turns).collect();
        quiet();
        let undisturbed = run(&requests, &turns, &[], &[]);
        let killed = run(&requests, &turns, &lives, &[]);
        let text = |all: &[Vec<u8>]| all.iter().map(|b| b.escape_ascii().to_string()).collect::<Vec<_>>();
        prop_assert_eq!(text(&undisturbed), text(&killed));
        let handed_over = run(&requests, &turns, &[], &terms);
        prop_assert_eq!(text(&undisturbed), text(&handed_over));
        let both = run(&requests, &turns, &lives, &terms);
        prop_assert_eq!(text(&undisturbed), text(&both));
    }

    #[test]
    fn a_guest_gets_everything_whenever_it_reads(
        requests in prop::collection::vec((Just(1_u16), request()), 1..40),
        turn in (Just(1_u16), 1..1100_u32, 1..1100_u32),
        meanwhile in 1..1100_u32,
        lives in prop::collection::vec(1..400_u64, 0..10),
    ) {
        quiet();
        let undisturbed = run(&requests, &[(1, 300, 300)], &[], &[]);
        prop_assert_eq!(run_reading(meanwhile, &requests, &[turn], &lives, &[]), undisturbed);
    }
}

/// Linux rings for room in the ring only if it has found it full. What State takes for a full ring may be none by then.
#[test]
fn a_reply_longer_than_the_ring_comes_whole_to_a_guest_that_has_read_in_the_meantime() {
    let write = Request::Write { path: b"/shared/a", value: &[b'v'; 1500] }.message(1, 0);
    let read = |id| Request::Read { path: b"/shared/a" }.message(id, 0);
    let requests: Vec<_> = [write, read(2), read(3)].into_iter().map(|bytes| (1, bytes)).collect();
    let undisturbed = run(&requests, &[(1, 300, 300)], &[], &[]);
    for meanwhile in 1..=RING {
        let received = run_reading(meanwhile, &requests, &[(1, 300, 300)], &[], &[]);
        assert!(received == undisturbed, "reading {meanwhile} bytes in the meantime");
    }
}

/// Being killed is no news here.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Killed>() {
                usual(info);
            }
        }));
    });
}

#[test]
fn logic_can_be_killed_at_every_single_access() {
    quiet();
    let write = |value: &[u8]| Request::Write { path: b"/shared/a", value }.message(1, 0);
    let read = Request::Read { path: b"/shared/a" }.message(2, 0);
    let long = write(&[b'v'; 1500]);
    let requests: Vec<_> = [write(b"v"), long, read].into_iter().map(|bytes| (1, bytes)).collect();
    let turns = [(1, 300, 300), (2, 300, 300), (3, 300, 300)];
    let undisturbed = run(&requests, &turns, &[], &[]);
    for life in 1..600 {
        assert_eq!(run(&requests, &turns, &[life], &[]), undisturbed, "killed at access {life}");
    }
}

#[test]
fn state_can_hand_over_between_any_two_calls() {
    let write = |value: &[u8]| Request::Write { path: b"/shared/a", value }.message(1, 0);
    let read = Request::Read { path: b"/shared/a" }.message(2, 0);
    let requests: Vec<_> = [write(&[b'v'; 1500]), read].into_iter().map(|bytes| (1, bytes)).collect();
    let turns = [(1, 300, 300), (2, 300, 300), (3, 300, 300)];
    let undisturbed = run(&requests, &turns, &[], &[]);
    for term in 0..60 {
        assert_eq!(run(&requests, &turns, &[], &[term, 1]), undisturbed, "after {term} calls");
    }
}
