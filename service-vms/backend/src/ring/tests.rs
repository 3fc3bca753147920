use std::collections::BTreeMap;

use super::*;
use crate::testing::TestPages;
use proptest::prelude::*;

const SLOT: usize = 1000;
type Small = Ring<TestPages, SLOT>;

/// A frontend: requests carry a number, responses must carry it back.
#[derive(Debug)]
struct Frontend {
    page: TestPages,
    req_prod: u32,
    rsp_cons: u32,
    slots: u32,
    /// Requests by index, until answered.
    open: BTreeMap<u32, u64>,
    next: u64,
}

impl Frontend {
    fn new(page: &TestPages, start: u32) -> Self {
        page.store(REQ_PROD, start);
        page.store(RSP_PROD, start);
        page.store(REQ_EVENT, start.wrapping_add(1));
        page.store(RSP_EVENT, start.wrapping_add(1));
        let slots = slots(page.size(), SLOT).unwrap();
        Self { page: page.clone(), req_prod: start, rsp_cons: start, slots, open: BTreeMap::new(), next: 1 }
    }

    fn at(&self, index: u32) -> usize {
        SLOTS + usize::try_from(index % self.slots).unwrap() * SLOT
    }

    /// Posts a request if there is a slot.
    fn post(&mut self) -> bool {
        let free = self.req_prod.wrapping_sub(self.rsp_cons) < self.slots;
        if free {
            self.page.write(self.at(self.req_prod), &[self.next.to_le_bytes(), [0xee; 8]].concat());
            self.open.insert(self.req_prod, self.next);
            self.req_prod = self.req_prod.wrapping_add(1);
            self.page.store(REQ_PROD, self.req_prod);
            self.next += 1;
        }
        free
    }

    /// Consumes all responses; each must be that of its request.
    fn reap(&mut self) -> usize {
        let mut count = 0;
        while self.rsp_cons != self.page.load(RSP_PROD) {
            let mut answer = [0; 9];
            self.page.read(self.at(self.rsp_cons), &mut answer);
            let asked = self.open.remove(&self.rsp_cons).expect("no response without a request");
            assert_eq!(answer, response(asked), "index {}", self.rsp_cons);
            self.rsp_cons = self.rsp_cons.wrapping_add(1);
            count += 1;
        }
        count
    }
}

fn response(number: u64) -> [u8; 9] {
    let mut bytes = [0x55; 9];
    bytes[1..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number(request: &[u8; SLOT]) -> u64 {
    assert_eq!(request[8..16], [0xee; 8], "only intact requests are taken");
    u64::from_le_bytes(request[..8].try_into().unwrap())
}

/// Takes up to `batch` requests and answers them together, again and again.
fn serve(ring: &mut Small, batch: usize) -> Result<(), Violation> {
    loop {
        let mut taken = Vec::new();
        while taken.len() < batch {
            let Some((_, request)) = ring.take()? else { break };
            taken.push(response(number(&request)));
        }
        if taken.is_empty() {
            return Ok(());
        }
        ring.publish(&taken.concat(), &taken);
    }
}

/// Goes on where a backend was killed.
fn recover(page: &TestPages) -> Small {
    let (mut ring, committed) = Small::attach(page.clone()).unwrap();
    if let Some(Committed { count, body }) = committed {
        let count = usize::try_from(count).unwrap();
        let answers: Vec<_> = body.chunks_exact(9).take(count).collect();
        assert_eq!(answers.len(), count);
        ring.publish(&body, &answers);
    }
    ring
}

#[test]
fn sizes_are_those_of_the_protocols() {
    let pages = |n| n * ennead_xen::PAGE_SIZE;
    assert_eq!([1, 2, 4, 8, 16].map(|n| slots(pages(n), 112).unwrap()), [32, 64, 128, 256, 512]);
    assert_eq!((slots(pages(1), 12), slots(pages(1), 8)), (Some(256), Some(256)));
    assert_eq!((slots(64, 8), slots(10, 8), slots(4096, 0), slots(4096, 5000)), (None, None, None, None));
}

/// Every batch size, every fill of the ring, every start (also where indices wrap), every store at which a backend can be cut,
/// and there a second cut during recovery: each request is answered exactly once, with its own answer.
#[test]
fn cut_anywhere_nothing_is_lost_and_nothing_is_answered_twice() {
    let mut cuts = 0;
    for start in [0, u32::MAX, u32::MAX - 1] {
        for fill in 1..=4 {
            for batch in 1..=fill {
                for first in 0.. {
                    let page = TestPages::ring(1);
                    let mut guest = Frontend::new(&page, start);
                    for _ in 0..fill {
                        assert!(guest.post());
                    }
                    let killed = page.cut_after(first);
                    let (mut ring, committed) = Small::attach(killed.clone()).unwrap();
                    assert_eq!(committed, None);
                    // What a killed backend does behind the cut never happened; it may read its own unfinished stores.
                    let _ = serve(&mut ring, batch);
                    if !killed.is_cut() {
                        break;
                    }
                    for second in [0, 1, 5, 30, 36, 37, 38, 39, 45, 46, 47, 48, 100] {
                        let again = page.snapshot();
                        let mut guest = Frontend { page: again.clone(), open: guest.open.clone(), ..guest };
                        // Responses may be consumed and slots used again while nobody serves.
                        guest.reap();
                        while guest.post() {}
                        recover(&again.cut_after(second));
                        guest.reap();
                        let mut ring = recover(&again);
                        serve(&mut ring, batch).unwrap();
                        guest.reap();
                        assert!(guest.open.is_empty(), "start {start} fill {fill} batch {batch} cut {first}");
                        cuts += 1;
                    }
                }
            }
        }
    }
    assert!(cuts > 10_000, "{cuts}");
}

#[test]
fn too_many_requests_break_the_ring() {
    let page = TestPages::ring(1);
    let (mut ring, _) = Small::attach(page.clone()).unwrap();
    page.store(REQ_PROD, 4);
    assert!(ring.take().unwrap().is_some());
    for wrong in [5, 0, u32::MAX, 1 << 31] {
        page.store(REQ_PROD, wrong);
        let error = ring.take().unwrap_err();
        assert_eq!(error, Violation::Overflow { req_prod: wrong, rsp_prod: 0, slots: 4 });
        assert_eq!(ring.final_check_for_requests(), Err(error));
    }
    page.store(REQ_PROD, 5);
    assert!(Small::attach(page).is_err());
    assert_eq!(Ring::<_, 5000>::attach(TestPages::ring(1)).unwrap_err(), Violation::NoRoom);
}

#[test]
fn a_forged_record_covers_no_more_than_there_is() {
    let page = TestPages::ring(1);
    page.store(REQ_PROD, 2);
    page.store(RECORD_NUMBER, 1);
    for (count, counts) in [(0, false), (1, true), (2, true), (3, false), (u32::MAX, false)] {
        page.store(RECORD_COUNT, count);
        let (_, committed) = Small::attach(page.clone()).unwrap();
        assert_eq!(committed.map(|c| c.count), counts.then_some(count));
    }
}

#[test]
fn a_response_longer_than_its_record_or_more_than_the_ring_harms_nobody() {
    let page = TestPages::ring(1);
    let (mut ring, _) = Small::attach(page.clone()).unwrap();
    ring.publish::<&[u8]>(&[], &[]);
    ring.publish(&[], &[[1_u8]; 5]);
    assert_eq!((ring.rsp_prod(), page.load(RSP_PROD)), (0, 0));
    page.store(REQ_PROD, 1);
    ring.take().unwrap();
    ring.publish(&[7; 100], &[[1_u8]]);
    assert_eq!(ring.slot(0)[..3], [1, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With any interleaving, a side that sleeps is woken whenever the other has something for it.
    #[test]
    fn nobody_sleeps_for_ever(
        steps in prop::collection::vec((0_u8..4, 1_u32..4), 1..200),
        start in any::<u32>(),
    ) {
        let page = TestPages::ring(1);
        let mut guest = Frontend::new(&page, start);
        let (mut ring, _) = Small::attach(page.clone()).unwrap();
        // The backend sleeps until so many requests wait.
        let (mut told, mut sleeps_until) = (false, None);
        for (step, requests) in steps {
            match step {
                0 => {
                    let before = guest.req_prod;
                    guest.post();
                    // As a frontend notifies: if req_event is in what it has just posted.
                    let (new, event) = (guest.req_prod, page.load(REQ_EVENT));
                    if new.wrapping_sub(event) < new.wrapping_sub(before) {
                        sleeps_until = None;
                    }
                    prop_assert!(sleeps_until.is_none_or(|until| ring.waiting().unwrap() < until));
                }
                1 if sleeps_until.is_none() => {
                    serve(&mut ring, 1).unwrap();
                    told |= ring.needs_notify();
                    let there = ring.final_check_for(requests).unwrap();
                    sleeps_until = (!there).then_some(requests);
                }
                2 if told => {
                    guest.reap();
                    page.store(RSP_EVENT, guest.rsp_cons.wrapping_add(1));
                    told = false;
                }
                _ => {}
            }
            prop_assert!(told || page.load(RSP_PROD) == guest.rsp_cons);
        }
    }
}
