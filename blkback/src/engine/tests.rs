use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use ennead_backend::testing::{TestGuest, TestPages};
use ennead_os::Completion;
use ennead_xen::PAGE_SIZE;
use proptest::prelude::*;

use super::*;
use crate::protocol::{RESPONSE, SECTOR, SLOT_32, SLOT_64};

const SECTORS: u64 = 256;
const LIMITS: Limits = Limits { sectors: SECTORS, block: 512, writable: true, discard: true };

/// A disk whose operations end in another order, and not at all once its backend has been killed.
#[derive(Debug)]
struct TestDisk {
    bytes: Arc<Mutex<Vec<u8>>>,
    under_way: Vec<(Operation, u64)>,
    ring: TestPages,
    order: Order,
    /// How many operations may end until it is asked to go on.
    allowed: usize,
    syncs: usize,
    reads: usize,
    /// From this byte on it cannot be read.
    bad: usize,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    First,
    Last,
    Random(usize),
}

impl TestDisk {
    fn new(bytes: &Arc<Mutex<Vec<u8>>>, ring: &TestPages, order: Order) -> Self {
        let (bytes, ring) = (Arc::clone(bytes), ring.clone());
        Self {
            bytes,
            under_way: Vec::new(),
            ring,
            order,
            allowed: usize::MAX,
            syncs: 0,
            reads: 0,
            bad: usize::MAX,
        }
    }

    fn perform(&mut self, operation: Operation) -> (io::Result<usize>, Option<Buffer>) {
        let mut bytes = self.bytes.lock().unwrap();
        let place = |offset: u64, len: usize| {
            let start = usize::try_from(offset).unwrap();
            start..start + len
        };
        match operation {
            Operation::Read(offset, mut buffer) => {
                let place = place(offset, buffer.len());
                self.reads += 1;
                if place.end > self.bad {
                    return (Err(io::ErrorKind::Other.into()), Some(buffer));
                }
                buffer.copy_from_slice(&bytes[place]);
                (Ok(buffer.len()), Some(buffer))
            }
            Operation::Write(offset, buffer) => {
                bytes[place(offset, buffer.len())].copy_from_slice(&buffer);
                (Ok(buffer.len()), Some(buffer))
            }
            Operation::Sync => {
                self.syncs += 1;
                (Ok(0), None)
            }
            Operation::Discard { offset, len } => {
                bytes[place(offset, usize::try_from(len).unwrap())].fill(0);
                (Ok(0), None)
            }
        }
    }
}

impl Storage for TestDisk {
    fn start(&mut self, operation: Operation, token: u64) -> io::Result<()> {
        self.under_way.push((operation, token));
        Ok(())
    }

    fn completed(&mut self) -> Option<Completion> {
        if self.under_way.is_empty() || self.allowed == 0 || self.ring.is_cut() {
            return None;
        }
        self.allowed -= 1;
        let count = self.under_way.len();
        let place = match &mut self.order {
            Order::First => 0,
            Order::Last => count - 1,
            Order::Random(seed) => {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (*seed >> 33) % count
            }
        };
        let (operation, token) = self.under_way.remove(place);
        let (result, buffer) = self.perform(operation);
        Some(Completion { token, result, buffer })
    }
}

/// A guest's memory that a killed backend does not reach any more.
#[derive(Debug, Clone)]
struct Memory(TestGuest, TestPages);

impl GuestMemory for Memory {
    fn copy(&mut self, ops: &mut [CopyOp<'_>]) -> ennead_xen::Result<()> {
        if self.1.is_cut() { Ok(()) } else { self.0.copy(ops) }
    }
}

type TestEngine<const SLOT: usize> = Engine<TestPages, Memory, TestDisk, SLOT>;

/// A guest with a ring and its pages, and what it expects.
#[derive(Debug, Clone)]
struct Guest<const SLOT: usize> {
    ring: TestPages,
    slots: u32,
    memory: TestGuest,
    disk: Arc<Mutex<Vec<u8>>>,
    req_prod: u32,
    rsp_cons: u32,
    next_id: u64,
    next_gref: u32,
    /// By id: operation, status.
    expected: BTreeMap<u64, (u8, i16)>,
    answered: BTreeSet<u64>,
}

impl<const SLOT: usize> Guest<SLOT> {
    /// Where the request's id is; what is behind it, both kinds of guests lay out alike.
    const ID: usize = SLOT - 104;

    fn new(pages: usize) -> Self {
        let bytes: Vec<u8> = (0..SECTORS * SECTOR).map(|n| u8::try_from(n / SECTOR % 251).unwrap()).collect();
        let ring = TestPages::ring(pages);
        let slots = ennead_backend::ring::slots(ring.size(), SLOT).unwrap();
        Self {
            ring,
            slots,
            memory: TestGuest::new(),
            disk: Arc::new(Mutex::new(bytes)),
            req_prod: 0,
            rsp_cons: 0,
            next_id: 1000,
            next_gref: 8,
            expected: BTreeMap::new(),
            answered: BTreeSet::new(),
        }
    }

    fn at(&self, index: u32) -> usize {
        64 + usize::try_from(index % self.slots).unwrap() * SLOT
    }

    /// The same guest and disk, to go on from here once more.
    fn fork(&self) -> Self {
        let memory = TestGuest::new();
        for gref in 8..self.next_gref {
            memory.grant(gref, &self.memory.page(gref).unwrap(), true);
        }
        let disk = Arc::new(Mutex::new(self.disk.lock().unwrap().clone()));
        Self { ring: self.ring.snapshot(), memory, disk, ..self.clone() }
    }

    fn engine(&self, page: &TestPages, order: Order, pages: usize) -> Result<TestEngine<SLOT>, Broken> {
        let disk = TestDisk::new(&self.disk, page, order);
        let memory = Memory(self.memory.clone(), page.clone());
        Engine::attach(page.clone(), memory, disk, Buffers::new(pages).unwrap(), LIMITS)
    }

    fn page(&mut self, byte: u8) -> u32 {
        let gref = self.next_gref;
        self.next_gref += 1;
        self.memory.grant(gref, &[byte; PAGE_SIZE], true);
        gref
    }

    fn post(&mut self, mut slot: [u8; SLOT], operation: u8, status: i16) -> u64 {
        assert!(self.req_prod.wrapping_sub(self.rsp_cons) < self.slots);
        let id = self.next_id;
        self.next_id += 1;
        slot[Self::ID..][..8].copy_from_slice(&id.to_le_bytes());
        self.ring.write(self.at(self.req_prod), &slot);
        self.req_prod = self.req_prod.wrapping_add(1);
        self.ring.store(0, self.req_prod);
        self.expected.insert(id, (operation, status));
        id
    }

    fn transfer(&mut self, operation: u8, sector: u64, grefs: &[u32], status: i16) {
        let segments = grefs.iter().flat_map(|gref| [&gref.to_le_bytes()[..], &[0, 7, 0, 0]].concat());
        let segments: Vec<u8> = segments.collect();
        let mut slot = [0; SLOT];
        slot[Self::ID + 8..][..8].copy_from_slice(&sector.to_le_bytes());
        if grefs.len() <= 11 {
            (slot[0], slot[1]) = (operation, u8::try_from(grefs.len()).unwrap());
            slot[Self::ID + 16..][..segments.len()].copy_from_slice(&segments);
        } else {
            let gref = self.next_gref;
            self.next_gref += 1;
            self.memory.grant(gref, &segments, true);
            (slot[0], slot[1]) = (6, operation);
            slot[2..4].copy_from_slice(&u16::try_from(grefs.len()).unwrap().to_le_bytes());
            slot[Self::ID + 20..][..4].copy_from_slice(&gref.to_le_bytes());
        }
        self.post(slot, operation, status);
    }

    fn pages(&mut self, count: usize, byte: u8) -> Vec<u32> {
        (0..count).map(|_| self.page(byte)).collect()
    }

    fn other(&mut self, operation: u8, sector: u64, count: u64, status: i16) {
        let mut slot = [0; SLOT];
        slot[0] = operation;
        slot[Self::ID + 8..][..8].copy_from_slice(&sector.to_le_bytes());
        slot[Self::ID + 16..][..8].copy_from_slice(&count.to_le_bytes());
        self.post(slot, operation, status);
    }

    /// Consumes the responses that there are: each is that of the oldest request, and right.
    fn reap(&mut self) {
        while self.rsp_cons != self.ring.load(8) {
            let mut answer = [0; RESPONSE];
            self.ring.read(self.at(self.rsp_cons), &mut answer);
            self.rsp_cons = self.rsp_cons.wrapping_add(1);
            let id = 1000 + u64::try_from(self.answered.len()).unwrap();
            assert!(self.answered.insert(id));
            let (operation, status) = self.expected[&id];
            assert_eq!(answer, response(id, operation, status), "request {id}");
        }
    }

    fn serve(&mut self, engine: &mut TestEngine<SLOT>) {
        while engine.turn().unwrap().progress {}
        self.reap();
        assert_eq!(self.answered.len(), self.expected.len());
        assert!(!engine.final_check().unwrap());
    }

    fn sector(&self, sector: usize) -> u8 {
        self.disk.lock().unwrap()[sector * 512]
    }
}

/// One of everything.
fn one_of_everything<const SLOT: usize>() -> (Guest<SLOT>, Vec<u32>) {
    let mut guest = Guest::new(1);
    let pages = guest.pages(2, 0xa1);
    guest.transfer(1, 0, &pages, OKAY);
    let read = guest.pages(13, 0);
    guest.transfer(0, 100, &read, OKAY);
    guest.other(3, 0, 0, OKAY);
    let pages = guest.pages(12, 0xb2);
    guest.transfer(1, 16, &pages, OKAY);
    guest.transfer(1, 24, &[1], ERROR);
    guest.other(5, 120, 8, OKAY);
    guest.other(2, 0, 0, -2);
    guest.transfer(0, 249, &pages[..1], ERROR);
    (guest, read)
}

#[test]
fn a_disk_that_grows_is_served_to_its_new_end() {
    let mut guest = Guest::<SLOT_64>::new(1);
    let ring = guest.ring.clone();
    let mut engine = guest.engine(&ring, Order::First, BUFFER_PAGES).unwrap();
    guest.disk.lock().unwrap().extend([0; 8 * 512]);
    let pages = guest.pages(1, 0xc3);
    guest.transfer(1, SECTORS, &pages, ERROR);
    guest.serve(&mut engine);
    engine.sectors().store(SECTORS + 8, Ordering::Release);
    guest.transfer(1, SECTORS, &pages, OKAY);
    guest.transfer(1, SECTORS + 1, &pages, ERROR);
    guest.serve(&mut engine);
    assert_eq!(guest.disk.lock().unwrap().last(), Some(&0xc3));
}

fn check<const SLOT: usize>(guest: &Guest<SLOT>, read: &[u32]) {
    assert_eq!(
        [0, 15, 16, 111, 112, 120, 128].map(|n| guest.sector(n)),
        [0xa1, 0xa1, 0xb2, 0xb2, 112, 0, 128]
    );
    // The reads were posted with a write and a discard to the same sectors: any order is right. The last is free of both.
    let last = guest.memory.page(read[12]).unwrap();
    assert_eq!([0, 512, 4095].map(|n| last[n]), [196, 197, 203]);
}

fn all_in_order<const SLOT: usize>() {
    for order in [Order::First, Order::Last, Order::Random(7)] {
        let (mut guest, read) = one_of_everything::<SLOT>();
        let mut engine = guest.engine(&guest.ring, order, BUFFER_PAGES).unwrap();
        guest.serve(&mut engine);
        check(&guest, &read);
        assert!(engine.take_refused().is_some() && engine.take_refused().is_none());
        assert_eq!(engine.storage.syncs, 1);
    }
}

#[test]
fn one_of_everything_is_answered_in_order() {
    all_in_order::<SLOT_64>();
    all_in_order::<SLOT_32>();
}

#[test]
fn a_request_that_is_slow_holds_back_the_answers_only() {
    let (mut guest, _) = one_of_everything::<SLOT_64>();
    let mut engine = guest.engine(&guest.ring, Order::Last, BUFFER_PAGES).unwrap();
    engine.storage().allowed = 0;
    engine.turn().unwrap();
    assert_eq!(engine.storage().under_way.len(), 5, "all are under way at once");
    assert!(matches!(engine.storage().under_way[0], (Operation::Sync, 2)));
    engine.storage().allowed = 4;
    assert_eq!(engine.turn().unwrap(), Turn { progress: true, notify: true });
    guest.reap();
    assert_eq!(guest.answered.len(), 2, "the third is slow");
    engine.storage().allowed = 1;
    assert!(engine.turn().unwrap().progress);
    guest.reap();
    assert_eq!(guest.answered.len(), 8);
}

#[test]
fn at_the_end_what_was_taken_is_answered_and_no_more_is_taken() {
    let (mut guest, _) = one_of_everything::<SLOT_64>();
    let mut engine = guest.engine(&guest.ring, Order::Last, BUFFER_PAGES).unwrap();
    engine.storage().allowed = 0;
    engine.turn().unwrap();
    guest.other(3, 0, 0, OKAY);
    assert_eq!(engine.wind_up(), Some(Turn { progress: false, notify: false }), "it waits for the disk");
    engine.storage().allowed = usize::MAX;
    while engine.wind_up().is_some() {}
    guest.reap();
    assert_eq!(guest.answered.len(), 8, "all but what came after");
    // A successor does the rest.
    drop(engine);
    let mut engine = guest.engine(&guest.ring, Order::First, BUFFER_PAGES).unwrap();
    guest.serve(&mut engine);
    assert_eq!(guest.answered.len(), 9);
}

#[test]
fn with_little_memory_requests_wait_for_it() {
    let mut guest = Guest::<SLOT_64>::new(1);
    for n in 0..6 {
        let pages = guest.pages(11, n + 1);
        guest.transfer(1, u64::from(n) * 24, &pages[..3], OKAY);
        let read = guest.page(0);
        guest.transfer(0, 200, &[read], OKAY);
    }
    let mut engine = guest.engine(&guest.ring, Order::Last, 4).unwrap();
    guest.serve(&mut engine);
    assert_eq!([0, 24, 120, 143].map(|n| guest.sector(n)), [1, 2, 6, 6]);
}

/// A backend killed at each of its stores, its successor killed at some of its own: every request is answered once and in order,
/// and the disk is as if nothing had happened.
fn killed_anywhere<const SLOT: usize>() {
    let mut cuts = 0;
    for order in [Order::First, Order::Last] {
        for first in 0.. {
            let (guest, read) = one_of_everything::<SLOT>();
            let killed = guest.ring.cut_after(first);
            let mut engine = guest.engine(&killed, order, BUFFER_PAGES).unwrap();
            // What it sees of itself after the cut does not matter: none of it took place.
            while !killed.is_cut() && engine.turn().is_ok_and(|turn| turn.progress) {}
            if !killed.is_cut() {
                break;
            }
            for second in [0, 20, 40, 54, 55, 130] {
                let mut guest = guest.fork();
                guest.reap();
                let killed = guest.ring.cut_after(second);
                let mut engine = guest.engine(&killed, order, BUFFER_PAGES).unwrap();
                while !killed.is_cut() && engine.turn().is_ok_and(|turn| turn.progress) {}
                guest.reap();
                let mut engine = guest.engine(&guest.ring, order, BUFFER_PAGES).unwrap();
                guest.serve(&mut engine);
                check(&guest, &read);
                cuts += 1;
            }
        }
    }
    assert!(cuts > 4000, "{cuts}");
}

#[test]
fn killed_anywhere_every_request_is_answered_once() {
    killed_anywhere::<SLOT_64>();
}

#[test]
fn killed_anywhere_every_request_of_a_32_bit_guest_is_answered_once() {
    killed_anywhere::<SLOT_32>();
}

#[test]
fn a_broken_ring_or_record_ends_it() {
    let guest = Guest::<SLOT_64>::new(1);
    let mut engine = guest.engine(&guest.ring, Order::First, 1).unwrap();
    guest.ring.store(0, 33);
    assert!(matches!(engine.turn(), Err(Broken::Ring(_))));
    assert!(matches!(engine.final_check(), Err(Broken::Ring(_))));
    guest.ring.store(0, 2);
    guest.ring.store(20, 1);
    guest.ring.store(24, 2);
    assert_eq!(guest.engine(&guest.ring, Order::First, 1).unwrap_err(), Broken::Record);
}

#[test]
fn pages_that_are_not_granted_are_an_error() {
    let mut guest = Guest::<SLOT_32>::new(1);
    guest.memory.grant(5, &[0; PAGE_SIZE], false);
    guest.transfer(0, 0, &[5], ERROR);
    guest.transfer(1, 0, &[5], OKAY);
    guest.transfer(1, 8, &[5, 6], ERROR);
    let mut slot = [0; SLOT_32];
    (slot[0], slot[1], slot[2], slot[24]) = (6, 0, 20, 7);
    guest.post(slot, 0, ERROR);
    let mut engine = guest.engine(&guest.ring, Order::First, BUFFER_PAGES).unwrap();
    guest.serve(&mut engine);
    assert_eq!((guest.sector(0), guest.sector(8)), (0, 8));
}

#[test]
fn pages_that_are_asked_for_one_by_one_are_read_many_at_once() {
    for (ahead, pages, bad, expected) in [
        (false, BUFFER_PAGES, usize::MAX, 32),
        // Three, sixteen at once, and those that are left.
        (true, BUFFER_PAGES, usize::MAX, 3 + 1 + 1),
        (true, 1, usize::MAX, 32),
        // Half of them cannot be read: more is tried in vain with the fourth, and each fifth after it.
        (true, BUFFER_PAGES, 16 * PAGE_SIZE, 32 + 6),
    ] {
        let mut guest = Guest::<SLOT_64>::new(1);
        let mut engine = guest.engine(&guest.ring, Order::First, pages).unwrap();
        if ahead {
            engine.read_ahead();
        }
        engine.storage().bad = bad;
        for page in 0..32_u8 {
            let grefs = guest.pages(1, 0xff);
            let bad = usize::from(page) * PAGE_SIZE >= bad;
            guest.transfer(0, u64::from(page) * 8, &grefs, if bad { ERROR } else { OKAY });
            guest.serve(&mut engine);
            if !bad {
                assert_eq!(guest.memory.page(grefs[0]).unwrap()[0], page * 8);
            }
        }
        assert_eq!(engine.storage().reads, expected, "{ahead} {pages} {bad}");
    }
}

/// What a boot loader does, and what comes between: to read pages one by one from one on, to write one, to discard one, and to ask
/// for two at once: to read this one and to write that.
#[derive(Debug, Clone)]
enum Asked {
    Run(u8, u8),
    Write(u8),
    Discard(u8),
    Both(u8, u8),
}

fn asked() -> impl Strategy<Value = Asked> {
    let page = || 0_u8..32;
    prop_oneof![
        4 => (page(), 1_u8..24).prop_map(|(first, count)| Asked::Run(first, count)),
        2 => page().prop_map(Asked::Write),
        1 => page().prop_map(Asked::Discard),
        2 => (page(), page()).prop_map(|(read, write)| Asked::Both(read, write)),
    ]
}

fn reading_ahead<const SLOT: usize>(all: Vec<Asked>, seed: usize) -> Result<(), TestCaseError> {
    let mut guest = Guest::<SLOT>::new(1);
    let mut engine = guest.engine(&guest.ring, Order::Random(seed), BUFFER_PAGES).unwrap();
    engine.read_ahead();
    let mut content: Vec<u8> = (0..32).map(|page| page * 8).collect();
    let mut next = 0;
    for asked in all {
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        match asked {
            // Every other one goes on where the last ended.
            Asked::Run(first, count) => {
                let first = if count % 2 == 0 { next } else { first };
                reads.extend((first..32).take(count.into()));
                next = reads.last().map_or(0, |last| (last + 1) % 32);
            }
            Asked::Write(page) => writes.push(page),
            Asked::Discard(page) => {
                guest.other(5, u64::from(page) * 8, 8, OKAY);
                guest.serve(&mut engine);
                content[usize::from(page)] = 0;
            }
            Asked::Both(read, write) => {
                let grefs = guest.pages(1, 0xff);
                guest.transfer(0, u64::from(read) * 8, &grefs, OKAY);
                let value = content[usize::from(read)];
                if read != write {
                    content[usize::from(write)] ^= 0x55;
                    let pages = guest.pages(1, content[usize::from(write)]);
                    guest.transfer(1, u64::from(write) * 8, &pages, OKAY);
                }
                guest.serve(&mut engine);
                prop_assert_eq!(guest.memory.page(grefs[0]).unwrap()[0], value, "page {}", read);
            }
        }
        for page in writes {
            content[usize::from(page)] ^= 0xaa;
            let grefs = guest.pages(1, content[usize::from(page)]);
            guest.transfer(1, u64::from(page) * 8, &grefs, OKAY);
            guest.serve(&mut engine);
        }
        for page in reads {
            let grefs = guest.pages(1, 0xff);
            guest.transfer(0, u64::from(page) * 8, &grefs, OKAY);
            guest.serve(&mut engine);
            prop_assert_eq!(
                guest.memory.page(grefs[0]).unwrap()[0],
                content[usize::from(page)],
                "page {}",
                page
            );
        }
    }
    Ok(())
}

/// In rounds, what a guest does: to write, or to read, a place of its own.
type Rounds = Vec<Vec<(bool, u8)>>;

fn rounds<const SLOT: usize>(
    rounds: Rounds,
    seed: usize,
    pages: usize,
    kill: usize,
    ring_pages: usize,
) -> Result<(), TestCaseError> {
    let mut guest = Guest::<SLOT>::new(ring_pages);
    let mut content: BTreeMap<u8, u8> = BTreeMap::new();
    let mut value = 0;
    for round in rounds {
        let mut used = BTreeSet::new();
        let mut reads = Vec::new();
        for (write, place) in round {
            // A guest does not have two transfers of the same sectors under way.
            if !used.insert(place) {
                continue;
            }
            let sector = u64::from(place) * 16;
            if write {
                value += 1;
                let grefs = guest.pages(2, value);
                guest.transfer(1, sector, &grefs, OKAY);
                content.insert(place, value);
            } else {
                let grefs = guest.pages(2, 0xff);
                guest.transfer(0, sector, &grefs, OKAY);
                reads.push((place, grefs));
            }
        }
        let killed = guest.ring.cut_after(kill);
        let mut doomed = guest.engine(&killed, Order::Random(seed), pages).unwrap();
        while !killed.is_cut() && doomed.turn().is_ok_and(|turn| turn.progress) {}
        drop(doomed);
        guest.reap();
        let mut engine = guest.engine(&guest.ring, Order::Random(seed), pages).unwrap();
        guest.serve(&mut engine);
        for (place, grefs) in reads {
            let first = content.get(&place).copied().unwrap_or(place * 16);
            prop_assert_eq!(guest.memory.page(grefs[0]).unwrap()[0], first, "place {}", place);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever was read ahead, what is read is what was written last.
    #[test]
    fn nothing_old_is_read(all in prop::collection::vec(asked(), 1..40), seed in any::<usize>(), is_64_bit in any::<bool>()) {
        let check = if is_64_bit { reading_ahead::<SLOT_64> } else { reading_ahead::<SLOT_32> };
        check(all, seed)?;
    }

    /// Any mix of writes and reads of their own sectors, in rounds, with any order of completion, killed or not at the end of
    /// each round: what is read is what was written last.
    #[test]
    fn what_is_read_is_what_was_written(
        of_guest in prop::collection::vec(prop::collection::vec((any::<bool>(), 0_u8..16), 1..20), 1..6),
        seed in any::<usize>(),
        pages in prop_oneof![Just(2_usize), Just(40)],
        kill in 0_usize..400,
        ring_pages in 1_usize..=4,
        is_64_bit in any::<bool>(),
    ) {
        let rounds = if is_64_bit { rounds::<SLOT_64> } else { rounds::<SLOT_32> };
        rounds(of_guest, seed, pages, kill, ring_pages)?;
    }
}
