use alloc::{collections::BTreeMap, format, vec::Vec};

use super::world::World;
use crate::{Quotas, Role, Settings};

/// With small quotas for guests.
fn small() -> World {
    World::with(Settings {
        quotas: Quotas {
            nodes: 5,
            watches: 2,
            transactions: 2,
            transaction_nodes: 6,
            memory: 40_000,
            ..Quotas::GUEST
        },
        ..Settings::default()
    })
}

#[test]
fn a_guest_owns_so_many_nodes() {
    let mut w = small();
    let one = w.guest(1);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(w.by(one, &format!("write {name} 1")), "OK|");
    }
    assert_eq!(w.by(one, "write e 1"), "ENOSPC|");
    assert_eq!(w.by(one, "write a 2"), "OK|");
    assert_eq!(w.by(one, "rm a"), "OK|");
    // Two would be too many: none is created.
    assert_eq!(w.by(one, "write x/y 1"), "ENOSPC|");
    assert_eq!(w.by(one, "read x"), "ENOENT|");
    assert_eq!(w.by(one, "write e 1"), "OK|");
    // The operator may give it more.
    w.expect("write /local/domain/1/f 1", "OK|");
    assert_eq!(w.nodes_of(1), 6);
    w.check();
}

#[test]
fn nodes_of_a_transaction_count_when_it_commits() {
    let mut w = small();
    let one = w.guest(1);
    let id = w.start(one);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(w.within(one, id, &format!("write {name} 1")), "OK|");
    }
    // One less than outside, as in C xenstored.
    assert_eq!(w.within(one, id, "commit"), "ENOSPC|");
    let id = w.start(one);
    for name in ["a", "b", "c"] {
        w.within(one, id, &format!("write {name} 1"));
    }
    assert_eq!(w.within(one, id, "commit"), "OK|");
    assert_eq!(w.nodes_of(1), 4);
    assert_eq!(w.by(one, "write d 1"), "OK|");
    let id = w.start(one);
    assert_eq!(w.within(one, id, "write e 1"), "ENOSPC|");
    assert_eq!(w.within(one, id, "commit"), "OK|");
    w.check();
}

#[test]
fn a_node_must_stay_below_its_size() {
    let mut w = World::new();
    let one = w.guest(1);
    let value = |len: usize| "v".repeat(len);
    // 24 for the record, 8 for its permission.
    assert_eq!(w.by(one, &format!("write a {}", value(2048 - 32))), "ENOSPC|");
    assert_eq!(w.by(one, &format!("write a {}", value(2047 - 32))), "OK|");
    assert_eq!(w.by(one, "chmod a n1 r0"), "ENOSPC|");
    assert_eq!(w.by(one, &format!("write a {}", value(2048 - 32))), "ENOSPC|");
    // A child's name counts too.
    assert_eq!(w.by(one, "write a/b"), "ENOSPC|");
    assert_eq!(w.by(one, &format!("write a {}", value(2047 - 34))), "OK|");
    assert_eq!(w.by(one, "write a/b"), "OK|");
    assert_eq!(w.by(one, "write a/c"), "ENOSPC|");
    w.expect(&format!("write /local/domain/1/a {}", value(4000)), "OK|");
    w.check();
}

#[test]
fn too_large_in_a_transaction_is_the_end_of_it() {
    let mut w = World::new();
    let one = w.guest(1);
    let id = w.start(one);
    assert_eq!(w.within(one, id, "write b 1"), "OK|");
    assert_eq!(w.within(one, id, &format!("write a {}", "v".repeat(2048))), "ENOSPC|");
    assert_eq!(w.within(one, id, "commit"), "ENOMEM|");
    assert_eq!(w.by(one, "read b"), "ENOENT|");
    w.check();
}

#[test]
fn watches_and_transactions_one_more_than_the_quota() {
    let mut w = small();
    let one = w.guest(1);
    let watches: Vec<_> = (0..4).map(|n| w.by(one, &format!("watch p{n} t"))).collect();
    assert_eq!(watches, ["OK|", "OK|", "OK|", "E2BIG|"]);
    assert_eq!(w.by(one, "unwatch p0 t"), "OK|");
    assert_eq!(w.by(one, "watch p3 t"), "OK|");
    let started: Vec<_> = (0..4).map(|_| w.by(one, "start")).collect();
    assert_eq!(started, ["1|", "2|", "3|", "ENOSPC|"]);
    assert_eq!(w.within(one, 2, "abort"), "OK|");
    assert_eq!(w.by(one, "start"), "4|");
    w.check();
}

#[test]
fn a_domains_connections_share_its_quotas() {
    let mut w = small();
    let one = w.guest(1);
    let other = w.state.open(crate::Identity::Domain(1));
    for _ in 0..3 {
        w.start(one);
    }
    assert_eq!(w.by(other, "start"), "ENOSPC|");
    w.check();
}

#[test]
fn a_transaction_looks_at_so_many_nodes() {
    let mut w = small();
    let one = w.guest(1);
    let id = w.start(one);
    // Each missing one, and what is above.
    for n in 0..5 {
        assert_eq!(w.within(one, id, &format!("read n{n}")), "ENOENT|");
    }
    assert_eq!(w.within(one, id, "read n0"), "ENOENT|");
    assert_eq!(w.within(one, id, "read n6"), "ENOSPC|");
    assert_eq!(w.within(one, id, "commit"), "ENOMEM|");
    w.check();
}

#[test]
fn permissions_of_a_node_are_limited() {
    let mut w = World::new();
    let one = w.guest(1);
    assert_eq!(w.by(one, "chmod /local/domain/1 n1 r0 r2 r3 r4"), "OK|");
    assert_eq!(w.by(one, "chmod /local/domain/1 n1 r0 r2 r3 r4 r5"), "ENOSPC|");
    w.expect("chmod /local/domain/1 n1 r0 r2 r3 r4 r5 r6", "OK|");
}

#[test]
fn memory_is_limited_and_given_back() {
    let mut w =
        World::with(Settings { quotas: Quotas { memory: 10_000, ..Quotas::GUEST }, ..Settings::default() });
    let one = w.guest(1);
    let value = "v".repeat(1900);
    let written: Vec<_> = (0..6).map(|n| w.by(one, &format!("write n{n} {value}"))).collect();
    assert_eq!(written, ["OK|", "OK|", "OK|", "OK|", "OK|", "EIO|"]);
    assert_eq!(w.by(one, &format!("watch p {value}")), "ENOMEM|");
    let id = w.start(one);
    assert_eq!(w.within(one, id, "read n0"), value);
    assert_eq!(w.within(one, id, &format!("write n0 x{value}")), "EIO|");
    w.check();
    assert_eq!(w.within(one, id, "commit"), "ENOMEM|");
    // Smaller is always allowed.
    assert_eq!(w.by(one, "write n0 1"), "OK|");
    assert_eq!(w.by(one, &format!("write n5 {value}")), "OK|");
    // The operator is not kept from writing to it.
    w.expect(&format!("write /local/domain/1/n6 {value}"), "OK|");
    for n in 0..7 {
        w.by(one, &format!("rm n{n}"));
    }
    assert_eq!(w.usage(1, "memory"), 24 + 8 + "/local/domain/1".len());
    w.check();
}

#[test]
fn the_operator_has_no_quotas() {
    let mut w = small();
    let op = w.operator;
    for n in 0..20 {
        assert_eq!(w.op(&format!("write /n{n} {}", "v".repeat(4000))), "OK|");
        assert_eq!(w.op(&format!("watch /n{n} t")), "OK|");
        let id = w.start(op);
        assert_eq!(w.within(op, id, "ls /"), w.op("ls /"));
    }
    w.check();
}

#[test]
fn service_vms_have_larger_quotas_but_quotas() {
    let roles = BTreeMap::from([(4, Role::Service)]);
    let mut w = World::with(Settings {
        roles,
        service_quotas: Quotas { nodes: 20, ..Quotas::SERVICE },
        quotas: Quotas { nodes: 5, ..Quotas::GUEST },
        ..Settings::default()
    });
    let four = w.guest(4);
    let made = (0..30).filter(|n| w.by(four, &format!("write n{n} 1")) == "OK|").count();
    assert_eq!(made, 19);
}
