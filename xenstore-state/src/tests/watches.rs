use alloc::{format, vec::Vec};

use super::world::World;

#[test]
fn a_watch_fires_at_once_and_at_every_change_below() {
    let mut w = World::new();
    let op = w.operator;
    w.expect("watch /a t", "OK|");
    // The reply comes first.
    assert_eq!(w.events(op), ["/a t"]);
    w.op("write /a/b/c 1");
    w.op("write /a/b/c 1");
    w.op("mkdir /a/b/c");
    w.op("chmod /a/b/c r0");
    w.op("rm /a/b/c");
    w.op("write /ab 1");
    w.op("read /a/b");
    // Directories created on the way do not fire, nor does mkdir of what is there.
    assert_eq!(w.events(op), ["/a/b/c t", "/a/b/c t", "/a/b/c t", "/a/b/c t"]);
    w.expect("unwatch /a t", "OK|");
    w.op("write /a/b/c 1");
    assert_eq!(w.events(op).len(), 0);
    w.check();
}

#[test]
fn own_events_come_before_the_reply_but_for_watch() {
    let mut w = World::new();
    let op = w.operator;
    let head = |op: ennead_xs_wire::Op| crate::Head { op: op as u32, request_id: 1, tx_id: 0 };
    let watch = ennead_xs_wire::Request::Watch { path: b"/a", token: b"t" };
    w.state.request(op, head(watch.op()), Ok(&watch));
    let write = ennead_xs_wire::Request::Write { path: b"/a", value: b"1" };
    w.state.request(op, head(write.op()), Ok(&write));
    assert_eq!(w.drain(op), ["OK|", "event /a t", "event /a t", "OK|"]);
}

#[test]
fn relative_watches_tell_relative_paths() {
    let mut w = World::new();
    let one = w.guest(1);
    assert_eq!(w.by(one, "watch device t"), "OK|");
    assert_eq!(w.by(one, "watch /local/domain/1/device u"), "OK|");
    assert_eq!(w.events(one), ["device t", "/local/domain/1/device u"]);
    w.by(one, "write device/vif/0 1");
    assert_eq!(w.events(one), ["device/vif/0 t", "/local/domain/1/device/vif/0 u"]);
    // The same watch in another form.
    assert_eq!(w.by(one, "watch /local/domain/1/device t"), "EEXIST|");
    assert_eq!(w.by(one, "unwatch /local/domain/1/device t"), "OK|");
}

#[test]
fn watches_are_told_apart_by_path_and_token() {
    let mut w = World::new();
    w.expect("watch /a t", "OK|");
    w.expect("watch /a t", "EEXIST|");
    w.expect("watch /a u", "OK|");
    w.expect("watch /b t", "OK|");
    w.expect("watch /a/ t", "EINVAL|");
    w.expect("unwatch /a v", "ENOENT|");
    w.expect("unwatch /a/ v", "ENOENT|");
    w.expect("unwatch /a t", "OK|");
    w.expect("unwatch /a t", "ENOENT|");
    w.check();
}

#[test]
fn events_come_in_the_order_of_registration() {
    let mut w = World::new();
    let op = w.operator;
    for watch in ["/a/b 1", "/ 2", "/a 3", "/a/b/c 4", "/a/b 5"] {
        w.op(&format!("watch {watch}"));
    }
    w.events(op);
    w.op("write /a/b/c 1");
    assert_eq!(w.events(op), ["/a/b/c 1", "/a/b/c 2", "/a/b/c 3", "/a/b/c 4", "/a/b/c 5"]);
}

#[test]
fn one_change_tells_the_same_once() {
    let mut w = World::new();
    let op = w.operator;
    for watch in ["/a t", "/a/b t", "/ u", "local t", "/local t"] {
        w.op(&format!("watch {watch}"));
    }
    w.events(op);
    w.op("write /a/b 1");
    assert_eq!(w.events(op), ["/a/b t", "/a/b u"]);
    // Two changes are told twice, and so are the two forms of one path.
    w.op("write /a/b 1");
    w.op("write /a/b 1");
    assert_eq!(w.events(op).len(), 4);
    w.op("watch /local/domain t");
    w.op("write local/x 1");
    assert_eq!(
        w.events(op),
        ["/local/domain t", "/local/domain/0/local/x u", "local/x t", "/local/domain/0/local/x t"]
    );
}

#[test]
fn rm_tells_the_deepest_first_and_watches_above_once() {
    let mut w = World::new();
    let op = w.operator;
    for path in ["/a/b/c", "/a/b/d", "/a/e", "/x"] {
        w.op(&format!("mkdir {path}"));
    }
    for path in ["/", "/a", "/a/b", "/a/b/c", "/a/b/d", "/a/e", "/a/none"] {
        w.op(&format!("watch {path} t{}", path.len()));
    }
    w.events(op);
    w.op("rm /a/b");
    assert_eq!(w.events(op), ["/a/b/c t6", "/a/b/d t6", "/a/b t1", "/a/b t2", "/a/b t4"]);
    w.op("rm /a");
    assert_eq!(w.events(op), ["/a/e t4", "/a t1", "/a t2"]);
    w.check();
}

#[test]
fn only_who_may_read_hears_of_it() {
    let mut w = World::new();
    let one = w.guest(1);
    let two = w.guest(2);
    for conn in [one, two] {
        w.by(conn, "watch / t");
        w.events(conn);
    }
    let heard = |w: &mut World, request: &str| {
        w.op(request);
        [one, two].map(|conn| w.events(conn).len())
    };
    assert_eq!(heard(&mut w, "write /n v"), [0, 0]);
    assert_eq!(heard(&mut w, "chmod /n n0 r1"), [1, 0]);
    assert_eq!(heard(&mut w, "write /n v"), [1, 0]);
    // A reader of the parent hears of its children.
    assert_eq!(heard(&mut w, "write /n/hidden v"), [1, 0]);
    assert_eq!(heard(&mut w, "chmod /n/hidden n0"), [1, 0]);
    assert_eq!(heard(&mut w, "write /n/hidden/deep v"), [0, 0]);
    // Who loses the right hears of that.
    assert_eq!(heard(&mut w, "chmod /n n0 r2"), [1, 1]);
    assert_eq!(heard(&mut w, "rm /n"), [0, 1]);
}

#[test]
fn watches_of_any_special_name_are_taken() {
    let mut w = World::new();
    let op = w.operator;
    w.expect("watch @anything t", "OK|");
    assert_eq!(w.events(op), ["@anything t"]);
    w.expect(&format!("watch @{} t", "x".repeat(2048)), "EINVAL|");
    w.expect("watch @introduceDomain a", "OK|");
    w.expect("watch @introduceDomain b", "OK|");
    w.events(op);
    w.guest(1);
    assert_eq!(w.events(op), ["@introduceDomain a", "@introduceDomain b"]);
    w.expect("unwatch @anything t", "OK|");
    w.check();
}

#[test]
fn reset_watches_drops_watches_and_transactions() {
    let mut w = World::new();
    let one = w.guest(1);
    w.by(one, "watch a t");
    let id = w.start(one);
    w.within(one, id, "write data 1");
    assert_eq!(w.by(one, "reset"), "OK|");
    w.events(one);
    w.by(one, "write a 1");
    assert_eq!(w.events(one).len(), 0);
    assert_eq!(w.within(one, id, "commit"), "ENOENT|");
    assert_eq!((w.usage(1, "watches"), w.usage(1, "transactions")), (0, 0));
    w.check();
}

#[test]
fn a_closed_connection_leaves_nothing() {
    let mut w = World::new();
    let one = w.state.open(crate::Identity::Domain(1));
    for number in 0..50 {
        w.by(one, &format!("watch /p/{number} t"));
    }
    let other = w.start(one);
    w.within(one, other, "read /");
    w.state.close(one);
    assert!(w.state.front(one).is_none());
    assert_eq!((w.usage(1, "watches"), w.usage(1, "memory")), (0, 0));
    w.check();
    // Nothing happens to the dead.
    let request = ennead_xs_wire::Request::Read { path: b"/" };
    w.state.request(one, crate::Head { op: 2, request_id: 0, tx_id: 0 }, Ok(&request));
    assert!(w.state.pop(one).is_none());
    let named: Vec<_> = core::iter::from_fn(|| w.state.next_with_output()).collect();
    assert!(!named.contains(&one));
}
