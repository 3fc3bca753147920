use alloc::format;

use super::world::World;
use crate::{Conn, Identity, Settings};

/// A store with `/x` and `/y`, the operator, a second one, and a transaction of the first.
fn started() -> (World, Conn, Conn, u32) {
    let mut w = World::new();
    w.op("write /x 1");
    w.op("write /y 1");
    let (op, other) = (w.operator, w.state.open(Identity::Operator));
    let id = w.start(op);
    (w, op, other, id)
}

#[test]
fn nobody_sees_a_transaction_before_it_commits() {
    let (mut w, op, other, id) = started();
    let nodes = w.state.nodes();
    assert_eq!(w.within(op, id, "write /x 2"), "OK|");
    assert_eq!(w.within(op, id, "write /d/new 3"), "OK|");
    assert_eq!(w.state.nodes(), nodes);
    assert_eq!(w.within(op, id, "rm /y"), "OK|");
    assert_eq!(w.within(op, id, "read /x"), "2");
    assert_eq!(w.within(op, id, "ls /"), "tool|x|d|");
    assert_eq!(w.by(other, "read /x"), "1");
    assert_eq!(w.by(other, "ls /"), "tool|x|y|");
    w.check();
    assert_eq!(w.within(op, id, "commit"), "OK|");
    assert_eq!(w.by(other, "read /x"), "2");
    assert_eq!(w.by(other, "ls /"), "tool|x|d|");
    assert_eq!(w.by(other, "read /d/new"), "3");
    w.check();
    assert_eq!(w.within(op, id, "commit"), "ENOENT|");
}

#[test]
fn an_aborted_transaction_changes_nothing() {
    let (mut w, op, _, id) = started();
    w.within(op, id, "write /x 2");
    w.within(op, id, "rm /y");
    assert_eq!(w.within(op, id, "abort"), "OK|");
    w.expect("read /x", "1");
    w.expect("read /y", "1");
    w.check();
}

#[test]
fn reads_see_the_start_and_then_the_commit_fails() {
    let (mut w, op, other, id) = started();
    w.by(other, "write /x 2");
    assert_eq!(w.within(op, id, "read /x"), "1");
    assert_eq!(w.within(op, id, "commit"), "EAGAIN|");
    // What appeared and is gone again was still seen as missing while it was there.
    let id = w.start(op);
    w.by(other, "write /z 1");
    assert_eq!(w.within(op, id, "read /z"), "ENOENT|");
    w.by(other, "rm /z");
    assert_eq!(w.within(op, id, "commit"), "EAGAIN|");
    w.check();
}

#[test]
fn conflicts_are_those_of_c_xenstored() {
    // What the transaction does, what happens meanwhile, how it ends.
    for (own, outside, end) in [
        ("read /x", "write /y 2", "OK|"),
        ("read /x", "write /x 2", "EAGAIN|"),
        ("write /x 2", "write /x 3", "EAGAIN|"),
        ("write /x 2", "write /y 3", "OK|"),
        ("read /x", "write /x 1", "EAGAIN|"),
        ("read /x", "chmod /x r0", "EAGAIN|"),
        ("read /x", "rm /x", "EAGAIN|"),
        ("read /none", "write /none 1", "EAGAIN|"),
        // The parent of what is missing was looked at, and got a child.
        ("read /none", "write /other 1", "EAGAIN|"),
        ("read /x/none", "write /y/other 1", "OK|"),
        ("write /x/a 1", "write /x/b 1", "EAGAIN|"),
        ("write /x/a 1", "write /y/b 1", "OK|"),
        ("write /x/a 1", "write /x/a 1", "EAGAIN|"),
        ("rm /x", "write /x/new 1", "EAGAIN|"),
        ("rm /x", "rm /x", "EAGAIN|"),
        ("rm /x", "write /y 2", "OK|"),
        ("ls /", "mkdir /new", "EAGAIN|"),
        ("ls /", "write /x 2", "OK|"),
    ] {
        let (mut w, op, other, id) = started();
        w.within(op, id, own);
        assert_eq!(w.by(other, outside), "OK|");
        assert_eq!(w.within(op, id, "commit"), end, "{own}, meanwhile {outside}");
        w.check();
    }
}

#[test]
fn disjoint_changes_both_stay() {
    let (mut w, op, other, first) = started();
    let second = w.start(other);
    w.within(op, first, "write /x/a 1");
    w.within(other, second, "write /y/b 1");
    assert_eq!(w.within(op, first, "commit"), "OK|");
    assert_eq!(w.within(other, second, "commit"), "OK|");
    w.expect("read /x/a", "1");
    w.expect("read /y/b", "1");
    w.check();
}

#[test]
fn what_changed_below_an_untouched_child_stays() {
    let (mut w, op, other, id) = started();
    w.op("write /x/child/leaf 1");
    let again = w.start(op);
    w.within(op, again, "write /x/new 1");
    w.by(other, "write /x/child/leaf 2");
    assert_eq!(w.within(op, again, "commit"), "OK|");
    w.expect("read /x/child/leaf", "2");
    w.expect("ls /x", "child|new|");
    assert_eq!(w.within(op, id, "abort"), "OK|");
    w.check();
}

#[test]
fn children_keep_the_order_in_which_the_transaction_created_them() {
    let (mut w, op, _, id) = started();
    // Looked at in another order than created.
    w.within(op, id, "read /x/b");
    w.within(op, id, "read /x/a");
    w.within(op, id, "write /x/a 1");
    w.within(op, id, "write /x/c 1");
    w.within(op, id, "write /x/b 1");
    w.within(op, id, "rm /x/a");
    w.within(op, id, "write /x/a/deep 1");
    let own = w.within(op, id, "ls /x");
    assert_eq!(own, "c|b|a|");
    assert_eq!(w.within(op, id, "commit"), "OK|");
    w.expect("ls /x", &own);
    w.check();
}

#[test]
fn what_is_removed_and_created_again_is_new() {
    let (mut w, op, _, id) = started();
    w.op("write /x/old 1");
    assert_eq!(w.within(op, id, "abort"), "OK|");
    let id = w.start(op);
    w.within(op, id, "rm /x");
    w.within(op, id, "write /x 2");
    assert_eq!(w.within(op, id, "commit"), "OK|");
    w.expect("read /x", "2");
    w.expect("ls /x", "");
    w.expect("ls /", "tool|y|x|");
    w.check();
}

#[test]
fn events_come_once_per_node_when_it_commits() {
    let (mut w, op, other, id) = started();
    w.op("write /y/sub/leaf 1");
    w.by(other, "watch / t");
    w.by(other, "watch /y/sub/leaf u");
    w.events(other);
    w.within(op, id, "abort");
    let id = w.start(op);
    w.within(op, id, "read /x");
    w.within(op, id, "write /n 1");
    w.within(op, id, "write /n 2");
    w.within(op, id, "write /x 2");
    w.within(op, id, "write /gone 2");
    w.within(op, id, "rm /gone");
    w.within(op, id, "rm /y");
    assert_eq!(w.events(other).len(), 0);
    assert_eq!(w.within(op, id, "commit"), "OK|");
    // In the order in which the nodes were first looked at.
    assert_eq!(w.events(other), ["/x t", "/n t", "/y t", "/y/sub/leaf u"]);
    let id = w.start(op);
    w.within(op, id, "write /x 1");
    w.by(other, "write /x 3");
    w.events(other);
    assert_eq!(w.within(op, id, "commit"), "EAGAIN|");
    assert_eq!(w.events(other).len(), 0);
}

#[test]
fn transaction_numbers_are_the_connections_own() {
    let (mut w, op, other, id) = started();
    assert_eq!(id, 1);
    assert_eq!(w.start(op), 2);
    assert_eq!(w.start(other), 1);
    assert_eq!(w.within(other, 2, "read /x"), "ENOENT|");
    assert_eq!(w.within(op, 1, "start"), "EBUSY|");
    assert_eq!(w.by(op, "commit"), "ENOENT|");
    // Ignored where there is nothing to be transacted.
    assert_eq!(w.within(op, 99, "watch /x t"), "OK|");
    assert_eq!(w.within(op, 99, "unwatch /x t"), "OK|");
}

#[test]
fn a_snapshot_keeps_nothing_after_the_end() {
    let (mut w, op, other, id) = started();
    for number in 0..100 {
        w.by(other, &format!("write /x/{number} v"));
    }
    assert!(w.state.store.held_by_transactions() > 0);
    w.within(op, id, "read /x/5");
    w.within(op, id, "abort");
    assert_eq!(w.state.store.held_by_transactions(), 0);
    w.check();
}

#[test]
fn snapshots_that_hold_too_much_start_over() {
    let mut w = World::with(Settings { snapshot_memory: 64 * 1024, ..Settings::default() });
    let (op, one) = (w.operator, w.guest(1));
    let value = "v".repeat(4000);
    let fill = |w: &mut World| (0..10).for_each(|n| drop(w.op(&format!("write /big/{n} {value}"))));
    fill(&mut w);
    let guests = w.start(one);
    fill(&mut w);
    let operators = w.start(op);
    assert_eq!(w.within(op, operators, &format!("write /a {value}")), "OK|");
    assert!(!w.state.connections[&one].transactions[&guests].stale);
    for n in 0..6 {
        assert_eq!(w.within(op, operators, &format!("write /held/{n} {value}")), "OK|");
    }
    // A domain's goes first.
    assert!(w.state.connections[&one].transactions[&guests].stale);
    assert!(!w.state.connections[&op].transactions[&operators].stale);
    assert_eq!(w.within(one, guests, "write data 1"), "OK|");
    assert_eq!(w.within(one, guests, "commit"), "EAGAIN|");
    assert_eq!(w.within(op, operators, "commit"), "OK|");
    w.check();
    for _ in 0..50 {
        let inner = w.start(op);
        w.within(op, inner, &format!("write /held {value}"));
        assert!(w.state.store.held_by_transactions() <= 64 * 1024);
    }
    w.check();
}
