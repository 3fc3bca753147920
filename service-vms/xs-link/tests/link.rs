//! Both ends over the same memory.

use ennead_xs_link::{
    Answerer, Call, CallKind, Caller, Connect, Directory, Head, LocalMemory, MAX_BODY, MAX_GRANTS, Record,
    RecordKind, RecordWriter, Records, SLOT_LEN, Shared, decode_request, encode_request, region_len,
};
use ennead_xs_wire::{Errno, Request};
use proptest::prelude::*;

const SLOTS: usize = 4;

fn ends() -> (Caller<LocalMemory>, Answerer<LocalMemory>, LocalMemory) {
    let memory = LocalMemory::new(region_len(SLOTS));
    let answerer = Answerer::create(memory.clone());
    (Caller::attach(memory.clone()).unwrap(), answerer, memory)
}

fn call(kind: CallKind, line: u32) -> Call {
    Call { kind, line, req_cons: line + 1, rsp_cons: line + 2 }
}

#[test]
fn calls_are_answered_in_order_over_any_number_of_rounds() {
    let (mut caller, mut answerer, _) = ends();
    let (mut body, mut answer) = ([0; MAX_BODY], [0; MAX_BODY]);
    for round in 0..20_u32 {
        for i in 0..4 {
            caller.submit(&call(CallKind::Request, round * 4 + i), &[i.try_into().unwrap(); 100]).unwrap();
        }
        assert!(caller.submit(&call(CallKind::Take, 0), &[]).is_err());
        for i in 0..4_u8 {
            let (got, bytes) = answerer.next_call(&mut body).unwrap().unwrap();
            assert_eq!(got, call(CallKind::Request, round * 4 + u32::from(i)));
            assert_eq!(bytes, [i; 100]);
            answerer.answer(&[i, i], i == 3);
        }
        assert_eq!(answerer.next_call(&mut body).unwrap(), None);
        for i in 0..4_u8 {
            let got = caller.collect(&mut answer).unwrap().unwrap();
            assert_eq!((got.line, got.more, got.len), (round * 4 + u32::from(i), i == 3, 2));
            assert_eq!(got.req_cons, got.line + 1);
            assert_eq!(answer[..2], [i, i]);
        }
        assert_eq!(caller.collect(&mut answer).unwrap(), None);
    }
}

#[test]
fn a_successor_waits_for_what_its_predecessor_asked() {
    let (mut old, mut answerer, memory) = ends();
    old.submit(&call(CallKind::Request, 1), b"x").unwrap();
    drop(old);
    let mut new = Caller::attach(memory).unwrap();
    assert!(!new.settled());
    let mut body = [0; MAX_BODY];
    answerer.next_call(&mut body).unwrap().unwrap();
    answerer.answer(b"for the old one", false);
    assert!(new.settled());
    assert_eq!(new.collect(&mut body).unwrap(), None);
    new.submit(&call(CallKind::Attach, 0), &[]).unwrap();
    assert_eq!(answerer.next_call(&mut body).unwrap().unwrap().0.kind, CallKind::Attach);
}

#[test]
fn the_one_that_sleeps_is_woken() {
    let (caller, answerer, _) = ends();
    assert!(!caller.must_wake() && !answerer.must_wake());
    caller.sleeps(true);
    answerer.sleeps(true);
    assert!(caller.must_wake() && answerer.must_wake());
    let before = caller.attention();
    answerer.call_attention();
    assert_ne!(caller.attention(), before);
}

#[test]
fn a_region_that_is_none_is_refused() {
    assert!(Caller::attach(LocalMemory::new(region_len(4))).is_err());
    let memory = LocalMemory::new(region_len(4));
    drop(Answerer::create(memory.clone()));
    memory.store(8, 1 << 20);
    assert!(Caller::attach(memory).is_err());
}

#[test]
fn a_connect_and_a_directory_come_back() {
    let connect =
        Connect { domid: 0x7fef, port: 9, known: true, stashed: true, req_cons: u32::MAX, rsp_prod: 7 };
    assert_eq!(Connect::decode(&connect.encode()), Some(connect));
    assert_eq!(Connect::decode(&[0; 15]), None);
    let page = LocalMemory::new(4096);
    assert_eq!(Directory::read(&page), None);
    let directory = Directory { port: 3, grants: (8..8 + 512).collect() };
    assert!(directory.publish(&page));
    assert_eq!(Directory::read(&page), Some(directory));
    page.store(12, u32::try_from(MAX_GRANTS).unwrap() + 1);
    assert_eq!(Directory::read(&page), None);
}

#[test]
fn every_kind_of_record_comes_back() {
    let mut writer = RecordWriter::default();
    for kind in RecordKind::ALL {
        assert!(writer.push_bare(kind, 7));
    }
    let back: Vec<_> = Records(writer.bytes()).map(|record| record.kind).collect();
    assert_eq!(back, RecordKind::ALL);
}

#[test]
fn records_come_back_until_an_answer_is_full() {
    let mut writer = RecordWriter::default();
    let data = [7; 1000];
    let record =
        |line| Record { kind: RecordKind::Message, line, at: line * 2, skip: 3, take: 4, data: &data };
    let mut n = 0;
    while writer.push(&record(n)) {
        n += 1;
    }
    assert_eq!(usize::try_from(n).unwrap(), MAX_BODY / 1020);
    let back: Vec<_> = Records(writer.bytes()).collect();
    assert_eq!(back, (0..n).map(record).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever Logic writes into the region, State goes on, and answers what it can.
    #[test]
    fn state_survives_any_region(writes in prop::collection::vec((0..region_len(SLOTS), any::<[u8; 8]>()), 0..40)) {
        let (mut caller, mut answerer, memory) = ends();
        let mut body = [0; MAX_BODY];
        for (at, bytes) in writes {
            let _ = caller.submit(&call(if at % 2 == 0 { CallKind::Request } else { CallKind::Stash }, 1), &[1; 40]);
            memory.write(at, &bytes);
            for _ in 0..8 {
                match answerer.next_call(&mut body) {
                    Ok(Some((_, bytes))) => {
                        let _ = decode_request(bytes);
                        answerer.answer(&[], false);
                    }
                    Ok(None) => break,
                    Err(_) => {}
                }
            }
        }
    }

    /// Whatever State writes, Logic does not panic.
    #[test]
    fn logic_survives_any_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..SLOT_LEN) {
        let (mut caller, mut answerer, memory) = ends();
        let mut body = [0; MAX_BODY];
        caller.submit(&call(CallKind::Take, 1), &[]).unwrap();
        answerer.next_call(&mut body).unwrap();
        answerer.answer(&bytes, true);
        memory.write(4096 + at.min(24), &bytes);
        if let Ok(Some(answer)) = caller.collect(&mut body) {
            prop_assert!(Records(&body[..answer.len]).count() <= MAX_BODY);
        }
    }

    #[test]
    fn requests_come_back(op in any::<u32>(), value in prop::collection::vec(any::<u8>(), 0..4096)) {
        let head = Head { op, request_id: 1, tx_id: u32::MAX };
        let mut out = [0; MAX_BODY];
        let request = Request::Write { path: b"/a", value: &value };
        let n = encode_request(head, Ok(request.clone()), &mut out).unwrap();
        prop_assert_eq!(decode_request(&out[..n]), Some((head, Ok(request))));
        let n = encode_request(head, Err(Errno::Einval), &mut out).unwrap();
        prop_assert_eq!(decode_request(&out[..n]), Some((head, Err(Errno::Einval))));
    }
}
