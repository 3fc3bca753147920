extern crate std;

use std::thread;
use std::time::{Duration, Instant};

use alloc::{format, string::ToString, vec::Vec};

use ennead_xs_link::{LocalMemory, region_len};
use ennead_xs_wire::Request;

use super::*;
use crate::{Head, Identity, State};

const SLOTS: usize = 4;

/// Looks again and again: two threads share the memory.
struct Looks(Instant);

impl Looks {
    fn for_a_while() -> Self {
        Self(Instant::now() + Duration::from_secs(20))
    }
}

impl Bell for Looks {
    fn ring(&mut self) {}

    fn wait(&mut self) -> bool {
        thread::yield_now();
        Instant::now() < self.0
    }
}

fn full(nodes: usize) -> Service {
    let mut state = State::new(Settings::default());
    let conn = state.open(Identity::Operator);
    for n in 0..nodes {
        let path = format!("/d/{}/n{n}", n % 100);
        let request = Request::Write { path: path.as_bytes(), value: &[b'v'; 100] };
        state.request(conn, Head { op: request.op() as u32, request_id: 0, tx_id: 0 }, Ok(&request));
        state.pop(conn);
    }
    state.close(conn);
    Service::new(state, Mode::Xen)
}

/// What the successor then would give on.
fn taken_by(memory: LocalMemory) -> thread::JoinHandle<Result<Vec<u8>, Failed>> {
    let taker = Taker::new(memory);
    thread::spawn(move || {
        let service = taker.take(Settings::default(), Mode::Xen, &mut Looks::for_a_while())?;
        service.state.check().map_err(|e| failed(e.to_string()))?;
        Ok(service.save())
    })
}

#[test]
fn everything_arrives_through_little_memory() {
    let (service, memory) = (full(3000), LocalMemory::new(region_len(SLOTS)));
    let taken = taken_by(memory.clone());
    assert_eq!(give(&service, memory, &mut Looks::for_a_while()), Ok(()));
    assert!(taken.join().expect("no panic") == Ok(service.save()), "it is the same");
}

/// The calls of one that gives, by hand.
fn giver(memory: LocalMemory, bell: &mut Looks) -> Giver<'_, LocalMemory, Looks> {
    Giver { caller: Caller::attach(memory).expect("a link"), bell, answer: Box::new([0; MAX_BODY]) }
}

#[test]
fn what_was_lost_on_the_way_is_missed() {
    let memory = LocalMemory::new(region_len(SLOTS));
    let taken = taken_by(memory.clone());
    let mut looks = Looks::for_a_while();
    let mut giver = giver(memory, &mut looks);
    let whole = full(3).save();
    giver.call(0, (0, 0), &whole).expect("room");
    giver.call(1, (0, 0), &[]).expect("room");
    assert_eq!(giver.collect(), Ok(()));
    let why = failed("some of it was lost on the way");
    assert_eq!(giver.collect(), Err(why.clone()));
    assert_eq!(taken.join().expect("no panic"), Err(why));
}

#[test]
fn a_successor_that_does_not_answer_is_given_up() {
    let (service, memory) = (full(10), LocalMemory::new(region_len(SLOTS)));
    let before = service.save();
    assert_eq!(
        give(&service, memory.clone(), &mut Looks(Instant::now())),
        Err(failed("its region is no link"))
    );
    let taker = Taker::new(memory.clone());
    assert_eq!(give(&service, memory, &mut Looks(Instant::now())), Err(failed("it does not answer")));
    assert!(service.save() == before, "as if nothing had happened");
    drop(taker);
}

#[test]
fn a_stream_that_contradicts_itself_is_refused_in_words() {
    let memory = LocalMemory::new(region_len(SLOTS));
    let taken = taken_by(memory.clone());
    let mut looks = Looks::for_a_while();
    let mut giver = giver(memory, &mut looks);
    giver.call(0, (0, 0), b"not a stream of ours").expect("room");
    assert_eq!(giver.collect(), Err(failed("it is no stream of XenStore\\'s contents")));
    assert_eq!(taken.join().expect("no panic"), Err(failed("it is no stream of XenStore's contents")));
}
