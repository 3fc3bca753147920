//! XenStore's security advisories, continued: ownership, transactions, lifetimes.

extern crate std;

use alloc::format;

use super::world::World;
use crate::{Quotas, Settings};

#[test]
fn xsa_352_nodes_are_not_given_away() {
    let mut w = World::new();
    let one = w.guest(1);
    w.by(one, "write data 1");
    assert_eq!(w.by(one, "chmod data n0"), "EPERM|");
    let id = w.start(one);
    assert_eq!(w.within(one, id, "chmod data n0"), "EPERM|");
    assert_eq!(w.within(one, id, "commit"), "OK|");
    w.expect("perms /local/domain/1/data", "n1|");
}

#[test]
fn xsa_353_the_root_is_a_node_like_any_other() {
    let mut w = World::new();
    let one = w.guest(1);
    for request in ["chmod / b1", "rm /", "mkdir /x", "write / x", "read /", "ls /", "perms /"] {
        assert_eq!(w.by(one, request), "EACCES|", "{request}");
    }
    // Not even an owner's end is its end.
    w.op("chmod / r1");
    w.state.died(1);
    w.expect("ls /", "tool|local|");
    w.expect("perms /", "r0|");
    w.check();
}

#[test]
fn xsa_414_and_415_what_is_refused_leaves_nothing_behind() {
    let mut w = World::with(Settings { quotas: Quotas { nodes: 3, ..Quotas::GUEST }, ..Settings::default() });
    let one = w.guest(1);
    assert_eq!(w.by(one, "write a/b/c/d 1"), "ENOSPC|");
    w.expect("ls /local/domain/1", "");
    let long = "x".repeat(2000);
    assert_eq!(w.by(one, &format!("write {long}/y 1")), "OK|");
    assert_eq!(w.by(one, &format!("write {}/z 1", "y".repeat(100))), "ENOSPC|");
    w.check();
    // In a transaction: all of it or nothing.
    w.by(one, &format!("rm {long}"));
    let id = w.start(one);
    assert_eq!(w.within(one, id, &format!("write a/b {}", "v".repeat(2048))), "ENOSPC|");
    assert_eq!(w.within(one, id, "write a/b/c/d 1"), "OK|");
    assert_eq!(w.within(one, id, "commit"), "ENOMEM|");
    let id = w.start(one);
    assert_eq!(w.within(one, id, "write a/b/c/d 1"), "OK|");
    assert_eq!(w.within(one, id, "commit"), "ENOSPC|");
    w.expect("ls /local/domain/1", "");
    assert_eq!(w.nodes_of(1), 1);
    w.check();
}

#[test]
fn xsa_417_permissions_of_domains_to_come_do_not_count() {
    let mut w = World::new();
    let one = w.guest(1);
    w.by(one, "write data 1");
    assert_eq!(w.by(one, "chmod data n1 r2 w3"), "OK|");
    let two = w.guest(2);
    assert_eq!(w.by(two, "read /local/domain/1/data"), "EACCES|");
    // In a transaction the same.
    let id = w.start(one);
    w.within(one, id, "chmod data n1 r2 w3");
    let three = w.guest(3);
    w.within(one, id, "commit");
    assert_eq!(w.by(three, "write /local/domain/1/data 3"), "EACCES|");
    w.by(one, "chmod data n1 r2 w3");
    assert_eq!(w.by(two, "read /local/domain/1/data"), "1");
    w.check();
}

#[test]
fn xsa_418_depth_is_no_danger() {
    // A stack that recursion over the depth would exhaust.
    let deep = || {
        let mut w = World::new();
        let one = w.guest(1);
        let path = "x/".repeat(1023) + "x";
        w.op(&format!("write /local/domain/1/{path} 1"));
        assert_eq!(w.by(one, &format!("watch {path} t")), "OK|");
        w.events(one);
        w.check();
        let id = w.start(w.operator);
        assert_eq!(w.within(w.operator, id, "rm /local/domain/1/x"), "OK|");
        assert_eq!(w.within(w.operator, id, "commit"), "OK|");
        assert_eq!(w.events(one).len(), 1);
        w.op(&format!("write /local/domain/1/{path} 1"));
        w.events(one);
        assert_eq!(w.by(one, "rm x"), "OK|");
        assert_eq!(w.events(one).len(), 1);
        w.op(&format!("write /local/domain/1/{path} 1"));
        let _snapshot = w.start(w.operator);
        w.op(&format!("write /local/domain/1/{path} 2"));
        w.state.died(1);
        w.check();
        drop(w);
    };
    std::thread::Builder::new()
        .stack_size(96 * 1024)
        .spawn(deep)
        .expect("a thread")
        .join()
        .expect("no overflow");
}

#[test]
fn xsa_419_nodes_outside_a_guests_home_go_with_it() {
    let mut w = World::new();
    w.op("write /open");
    w.op("chmod /open b0");
    for _ in 0..5 {
        let one = w.guest(1);
        for n in 0..300 {
            assert_eq!(w.by(one, &format!("write /open/{n}/x 1")), "OK|");
        }
        w.state.died(1);
        w.state.next_notice();
        w.expect("ls /open", "");
        w.check();
    }
    assert_eq!(w.state.store.totals().0, 3 + 1 + 2);
}

#[test]
fn xsa_421_created_and_removed_in_one_transaction_is_nothing() {
    let mut w = World::new();
    let one = w.guest(1);
    for _ in 0..50 {
        let id = w.start(one);
        w.within(one, id, "write a/b 1");
        w.within(one, id, "rm a");
        assert_eq!(w.within(one, id, "commit"), "OK|");
        let id = w.start(one);
        w.within(one, id, "write c 1");
        assert_eq!(w.within(one, id, "commit"), "OK|");
        let id = w.start(one);
        w.within(one, id, "rm c");
        w.within(one, id, "write c 2");
        w.within(one, id, "rm c");
        assert_eq!(w.within(one, id, "commit"), "OK|");
    }
    assert_eq!(w.nodes_of(1), 1);
    w.check();
}

#[test]
fn xsa_440_two_transactions_remove_the_same() {
    let mut w = World::new();
    let one = w.guest(1);
    for n in 0..50 {
        w.by(one, &format!("write n{n} 1"));
    }
    let ids = [w.start(one), w.start(one)];
    for id in ids {
        for n in 0..50 {
            assert_eq!(w.within(one, id, &format!("rm n{n}")), "OK|");
        }
    }
    assert_eq!(ids.map(|id| w.within(one, id, "commit")), ["OK|", "EAGAIN|"]);
    assert_eq!(w.nodes_of(1), 1);
    w.check();
}

#[test]
fn xsa_481_a_path_that_ends_in_a_slash() {
    let mut w = World::new();
    let one = w.guest(1);
    for path in ["/local/domain/", "/local/domain/1/", "/", "//", ""] {
        let answer = w.by(one, &format!("read {path}"));
        assert_eq!(answer, if path == "/" { "EACCES|" } else { "EINVAL|" }, "{path}");
    }
}

#[test]
fn xsa_483_counters_start_anew_with_the_domain() {
    let mut w = World::new();
    for _ in 0..3 {
        let one = w.guest(1);
        let made = (0..2000).filter(|n| w.by(one, &format!("write {}/{n} 1", n / 50)) == "OK|").count();
        assert_eq!((made, w.nodes_of(1)), (979, 1000));
        for n in 0..129 {
            assert_eq!(w.by(one, &format!("watch {n} t")), "OK|");
        }
        for _ in 0..11 {
            w.start(one);
        }
        w.state.died(1);
        w.state.next_notice();
    }
    w.check();
}

#[test]
fn xsa_484_reset_watches_inside_a_transaction() {
    let mut w = World::new();
    let one = w.guest(1);
    let id = w.start(one);
    w.within(one, id, "write a 1");
    assert_eq!(w.within(one, id, "reset"), "OK|");
    assert_eq!(w.within(one, id, "commit"), "ENOENT|");
    w.check();
}
