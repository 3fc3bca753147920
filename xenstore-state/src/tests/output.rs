use alloc::{format, vec, vec::Vec};

use super::world::World;
use crate::{Quotas, Settings};

/// Guests' events are merged beyond 4.
fn world() -> World {
    World::with(Settings { quotas: Quotas { events: 4, ..Quotas::GUEST }, ..Settings::default() })
}

#[test]
fn events_that_do_not_fit_become_one_for_each_watch() {
    let mut w = world();
    let one = w.guest(1);
    w.by(one, "watch data t");
    w.by(one, "watch data/x u");
    w.events(one);
    for n in 0..3 {
        w.op(&format!("write /local/domain/1/data/x/{n} 1"));
    }
    for n in 0..100 {
        w.op(&format!("write /local/domain/1/data/y/{n} 1"));
    }
    // Four as they came; then data's, which stands for all below it; data/x got all of its.
    assert_eq!(w.events(one), ["data/x/0 t", "data/x/0 u", "data/x/1 t", "data/x/1 u", "data t", "data/x u"]);
    // Read: from now on each counts again.
    w.op("write /local/domain/1/data/y/1 1");
    assert_eq!(w.events(one), ["data/y/1 t"]);
    w.check();
}

#[test]
fn a_client_that_never_reads_costs_so_much_and_no_more() {
    let mut w = world();
    let one = w.guest(1);
    let two = w.guest(2);
    w.op("write /shared");
    w.op("chmod /shared b0");
    for n in 0..10 {
        w.by(one, &format!("watch /shared/{n} t"));
    }
    w.by(one, "watch /shared t");
    w.events(one);
    for round in 0..200 {
        assert_eq!(w.by(two, &format!("write /shared/{} v", round % 10)), "OK|");
    }
    let (counted, waiting) = w.state.connections[&one].outbox.events();
    assert_eq!(counted, waiting);
    assert!(waiting <= 4 + 11, "{waiting}");
    let mut seen = w.events(one);
    seen.sort();
    seen.dedup();
    // Nobody missed that something changed.
    for n in 0..10 {
        assert!(seen.contains(&format!("/shared/{n} t")), "{n} of {seen:?}");
    }
    w.check();
}

#[test]
fn outboxes_are_served_in_turn() {
    let mut w = World::new();
    let [one, two] = [1, 2].map(|domid| w.guest(domid));
    while w.state.next_with_output().is_some() {}
    let read = ennead_xs_wire::Request::Read { path: b"/" };
    let head = crate::Head { op: 2, request_id: 0, tx_id: 0 };
    for conn in [two, one, two, two] {
        w.state.request(conn, head, Ok(&read));
    }
    assert_eq!(w.state.next_with_output(), Some(two));
    w.state.request(two, head, Ok(&read));
    let rest: Vec<_> = core::iter::from_fn(|| w.state.next_with_output()).collect();
    assert_eq!(rest, vec![one, two]);
    assert_eq!(w.drain(two).len(), 4);
}

#[test]
fn a_message_waits_until_it_is_taken() {
    let mut w = World::new();
    let op = w.operator;
    let read = ennead_xs_wire::Request::Read { path: b"/tool" };
    w.state.request(op, crate::Head { op: 2, request_id: 0, tx_id: 0 }, Ok(&read));
    let first = w.state.front(op).map(|item| item.message().encode());
    assert!(first.is_some());
    assert_eq!(w.state.front(op).map(|item| item.message().encode()), first);
    assert_eq!(w.state.pop(op).map(|item| item.message().encode()), first);
    assert!(w.state.front(op).is_none());
}

#[test]
fn refusals_are_told_but_not_too_many() {
    let mut w = World::new();
    let (one, two) = (w.guest(1), w.guest(2));
    let long = "x".repeat(300);
    w.by(one, "read /tool");
    w.by(one, &format!("write /tool/{long} 1"));
    w.by(one, &format!("write big {}", "v".repeat(2048)));
    w.by(one, "read missing");
    w.op("rm /");
    w.by(one, "introduce 3");
    let told: Vec<_> = core::iter::from_fn(|| w.state.next_refusal()).collect();
    let short: Vec<_> = told
        .iter()
        .map(|refusal| format!("{} {:?} {:?}", refusal.domid, refusal.op, refusal.errno))
        .collect();
    assert_eq!(short, ["1 Read Eacces", "1 Write Eacces", "1 Write Enospc", "1 Introduce Eacces"]);
    assert_eq!((&*told[0].path, told[1].path.len()), (b"/tool".as_slice(), 256));
    for _ in 0..100 {
        w.by(one, "read /tool");
    }
    // A flood of one domain hides nobody else's.
    w.by(two, "read /tool");
    let told: Vec<_> = core::iter::from_fn(|| w.state.next_refusal()).map(|refusal| refusal.domid).collect();
    assert_eq!(told, [1, 1, 1, 1, 2]);
    assert_eq!(w.state.refusals_dropped(), 96);
    w.state.tick(1000);
    w.by(one, "read /tool");
    assert_eq!(w.state.next_refusal().map(|refusal| refusal.domid), Some(1));
}
