//! XenStore's security advisories: what guests did to other daemons, one test each; up to number 330. (38 and 72 are about
//! rings and messages: XenStore-Logic and `ennead-xs-wire`.)

use alloc::{format, vec::Vec};

use ennead_xs_wire::Request;

use super::world::World;
use crate::Quotas;

#[test]
fn xsa_115_watches_tell_nothing_that_cannot_be_read() {
    let mut w = World::new();
    let one = w.guest(1);
    for path in ["/", "@introduceDomain", "@releaseDomain"] {
        assert_eq!(w.by(one, &format!("watch {path} t")), "OK|");
    }
    w.events(one);
    w.guest(2);
    w.op("write /local/domain/2/secret 1");
    w.op("write /public/secret/deep 1");
    w.op("chmod /public r0");
    assert_eq!(w.events(one), ["/public t"]);
    w.op("rm /public");
    assert_eq!(w.events(one), ["/public t"]);
    w.state.died(2);
    assert_eq!(w.events(one).len(), 0);
    assert_eq!(w.by(one, "introduced 2"), "EACCES|");
}

#[test]
fn xsa_206_a_transaction_gets_its_chance() {
    let mut w = World::new();
    let (op, one) = (w.operator, w.guest(1));
    let two = w.guest(2);
    w.op("write /shared 0");
    w.op("chmod /shared b0");
    let mut now = 1;
    for _ in 0..3 {
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries < 20, "starved");
            let id = w.start(op);
            w.within(op, id, "read /shared");
            // Guests write whenever they are let.
            for guest in [one, two] {
                if w.state.ready(guest) {
                    assert_eq!(w.by(guest, "write /shared 1"), "OK|");
                }
            }
            w.within(op, id, "write /shared 2");
            now += 1;
            w.state.tick(now);
            if w.within(op, id, "commit") == "OK|" {
                break;
            }
        }
        // All is as before at once.
        assert!(w.state.ready(one) && w.state.ready(two));
    }
    // Pauses end by themselves, and without a conflict there are none.
    for _ in 0..3 {
        let id = w.start(op);
        w.within(op, id, "read /shared");
        w.by(one, "write /shared 1");
        w.within(op, id, "commit");
    }
    w.by(one, "write /shared 1");
    assert!(!w.state.ready(one) && w.state.ready(two) && w.state.ready(op));
    w.state.tick(now + 60);
    assert!(w.state.ready(one));
    w.state.tick(now + 2000);
    w.by(one, "write /shared 1");
    assert!(w.state.ready(one));
}

#[test]
fn xsa_206_guests_cannot_slow_each_other() {
    let mut w = World::new();
    let (one, two) = (w.guest(1), w.guest(2));
    w.state.tick(1);
    w.op("write /shared 0");
    w.op("chmod /shared b0");
    for _ in 0..10 {
        let id = w.start(one);
        w.within(one, id, "read /shared");
        w.by(two, "write /shared 1");
        assert_eq!(w.within(one, id, "commit"), "EAGAIN|");
    }
    assert!(w.state.ready(two));
}

#[test]
fn xsa_233_stub_and_target_may_die_in_any_order() {
    for order in [[5, 6], [6, 5]] {
        let mut w = World::new();
        let stub = w.guest(6);
        w.guest(5);
        w.expect("target 6 5", "OK|");
        w.expect("target 6 5", "OK|");
        for domid in order {
            w.state.died(domid);
            w.check();
        }
        let _ = stub;
    }
    // The next domain with the target's domid is somebody else.
    let mut w = World::new();
    let stub = w.guest(6);
    w.guest(5);
    w.op("target 6 5");
    w.state.died(5);
    w.state.next_notice();
    w.guest(5);
    assert_eq!(w.by(stub, "read /local/domain/5"), "EACCES|");
}

#[test]
fn xsa_272_every_way_to_create_nodes_is_charged() {
    let mut w = World::new();
    let one = w.guest(1);
    w.op("write /open");
    w.op("chmod /open b0");
    for n in 0..2000 {
        let dir = n / 50;
        match n % 4 {
            0 => drop(w.by(one, &format!("write d{dir}/n{n} 1"))),
            1 => drop(w.by(one, &format!("mkdir d{dir}/n{n}"))),
            2 => drop(w.by(one, &format!("write /open/a{dir}/b{n} 1"))),
            _ => {
                let id = w.start(one);
                w.within(one, id, &format!("write d{dir}/t{n} 1"));
                w.within(one, id, "commit");
            }
        }
    }
    assert_eq!(w.nodes_of(1), 1000);
    w.check();
}

#[test]
fn xsa_322_a_reused_domid_inherits_nothing() {
    let mut w = World::new();
    let one = w.guest(1);
    w.op("write /n secret");
    w.op("chmod /n n0 r1");
    w.op("chmod @releaseDomain n0 r1");
    assert_eq!(w.by(one, "read /n"), "secret");
    w.state.died(1);
    w.state.next_notice();
    let again = w.guest(1);
    assert_eq!(w.by(again, "read /n"), "EACCES|");
    // Nor if nobody told of the death, nor after changes of the node or new nodes below it.
    w.state.created(1, None);
    w.op("write /n other");
    w.op("write /n/below 1");
    while w.state.next_notice().is_some() {}
    let again = w.guest(1);
    assert_eq!(w.by(again, "read /n"), "EACCES|");
    assert_eq!(w.by(again, "read /n/below"), "EACCES|");
    w.by(again, "watch @releaseDomain t");
    w.events(again);
    w.guest(2);
    w.state.died(2);
    assert_eq!(w.events(again).len(), 0);
    w.op("chmod /n n0 r1");
    assert_eq!(w.by(again, "read /n"), "other");
    w.check();
}

#[test]
fn xsa_323_lengths_are_those_of_absolute_paths() {
    let mut w = World::new();
    let one = w.guest(1);
    // Some digits more or less make no difference, for relative and absolute paths alike.
    let longest = "x/".repeat(1023) + "xx";
    let absolute = format!("/local/domain/1/{longest}");
    assert_eq!(w.by(one, &format!("read {longest}")), "ENOENT|");
    assert_eq!(w.by(one, &format!("read {absolute}")), "ENOENT|");
    assert_eq!(w.by(one, &format!("read {longest}x")), "EINVAL|");
    assert_eq!(w.by(one, &format!("read {absolute}x")), "EINVAL|");
    assert_eq!(w.by(one, &format!("watch {longest}x t")), "EINVAL|");
    // What can be created can be listed, read and removed.
    w.op(&format!("write {absolute} v"));
    assert_eq!(w.op(&format!("read {absolute}")), "v");
    assert_eq!(w.by(one, "rm x"), "OK|");
    w.check();
}

#[test]
fn xsa_324_events_that_are_too_long_are_not_sent() {
    let mut w = World::new();
    let one = w.guest(1);
    let token = "t".repeat(4000);
    assert_eq!(w.ask(one, 0, &Request::Watch { path: b"data", token: token.as_bytes() }), "OK|");
    assert_eq!(w.events(one).len(), 1);
    assert_eq!(w.by(one, &format!("write data/{} 1", "x".repeat(200))), "OK|");
    assert_eq!(w.events(one).len(), 0);
    assert_eq!(w.by(one, "write data/x 1"), "OK|");
    assert_eq!(w.events(one).len(), 1);
}

#[test]
fn xsa_326_memory_of_a_guest_is_bounded() {
    let mut w = World::new();
    let one = w.guest(1);
    let value = "v".repeat(1900);
    // Large nodes in as many transactions as there may be, and whatever it looks at.
    let transactions: Vec<_> = (0..20).map(|_| w.by(one, "start")).collect();
    let transactions: Vec<u32> =
        transactions.iter().filter_map(|id| id.trim_end_matches('|').parse().ok()).collect();
    assert_eq!(transactions.len(), 11);
    let mut refused = 0;
    for &id in &transactions {
        for n in 0..1100 {
            let answer = w.within(one, id, &format!("write n{n} {value}"));
            refused += usize::from(answer != "OK|");
            if answer != "OK|" && n > 10 {
                break;
            }
        }
        let deep = format!("d/{}", "x/".repeat(500));
        for n in 0..1100 {
            if w.within(one, id, &format!("read {deep}{n}")) != "ENOENT|" {
                break;
            }
        }
    }
    assert!(refused > 0);
    assert!(w.usage(1, "memory") <= Quotas::GUEST.memory);
    assert!(w.state.store.held_by_transactions() <= Quotas::GUEST.memory * 2);
    w.check();
    for id in transactions {
        assert_eq!(w.within(one, id, "commit"), "ENOMEM|");
    }
    assert!(w.usage(1, "memory") < 100);
    w.check();
}

#[test]
fn xsa_330_and_512_watches_do_not_pile_up() {
    let mut w = World::new();
    let one = w.guest(1);
    for round in 0..3 {
        for n in 0..200 {
            w.by(one, &format!("watch {round}/{n} t"));
        }
        w.by(one, "reset");
    }
    assert_eq!((w.usage(1, "watches"), w.state.watches.len()), (0, 1));
    // Registering and removing without ever reading.
    let head = |request: &Request<'_>| crate::Head { op: request.op() as u32, request_id: 0, tx_id: 0 };
    for _ in 0..2000 {
        for request in
            [Request::Watch { path: b"a", token: b"t" }, Request::Unwatch { path: b"a", token: b"t" }]
        {
            w.state.request(one, head(&request), Ok(&request));
        }
    }
    assert!(w.state.connections[&one].outbox.events().0 <= Quotas::GUEST.events + 1);
    w.check();
}
