use super::world::World;
use crate::{Identity, Notice};
use ennead_xs_wire::Errno;

#[test]
fn a_domain_comes_and_goes() {
    let mut w = World::new();
    let op = w.operator;
    w.op("watch @introduceDomain i");
    w.op("watch @releaseDomain r");
    w.events(op);
    w.expect("introduced 5", "F|");
    w.expect("introduced 0", "T|");
    w.expect("introduced 32752", "T|");
    let five = w.guest(5);
    assert_eq!(w.events(op), ["@introduceDomain i"]);
    w.expect("introduced 5", "T|");
    w.by(five, "write data 1");
    w.by(five, "watch data t");
    w.events(five);
    w.op("watch /local/domain/5 n");
    w.events(op);
    w.state.domain_shut_down(5);
    w.state.domain_shut_down(5);
    assert_eq!(w.events(op), ["@releaseDomain r"]);
    w.expect("resume 5", "OK|");
    w.state.domain_shut_down(5);
    assert_eq!(w.events(op), ["@releaseDomain r"]);
    w.state.died(5);
    assert_eq!(w.events(op), ["/local/domain/5 n", "@releaseDomain r"]);
    assert_eq!(w.state.next_notice(), Some(Notice::Disconnect { conn: five, domid: 5 }));
    w.expect("read /local/domain/5", "ENOENT|");
    w.expect("resume 5", "ENOENT|");
    w.state.died(5);
    assert_eq!(w.events(op).len(), 0);
    w.check();
}

#[test]
fn introduce_again_starts_the_connection_afresh() {
    let mut w = World::new();
    let op = w.operator;
    let five = w.guest(5);
    w.op("watch @introduceDomain i");
    w.events(op);
    w.by(five, "write data 1");
    w.by(five, "watch data t");
    let id = w.start(five);
    assert_eq!(w.state.introduce(5, 9, None), Ok(five));
    assert_eq!(w.state.next_notice(), Some(Notice::Connect { conn: five, domid: 5, port: 9 }));
    assert_eq!(w.events(op).len(), 0);
    assert!(w.state.front(five).is_none());
    assert_eq!(w.within(five, id, "commit"), "ENOENT|");
    w.by(five, "write data 2");
    assert_eq!(w.drain(five).len(), 0);
    w.check();
}

#[test]
fn introduce_needs_a_port_and_a_domain() {
    let mut w = World::new();
    assert_eq!(w.state.introduce(5, 0, None), Err(Errno::Einval));
    assert_eq!(w.state.introduce(0, 1, None), Err(Errno::Einval));
    assert_eq!(w.state.introduce(0x7ff0, 1, None), Err(Errno::Einval));
    w.expect("introduce 5", "ENOENT|");
    w.expect("introduce 0", "OK|");
    w.state.created(5, None);
    w.expect("introduce 5", "OK|");
    assert!(w.state.exists(5) && !w.state.exists(6));
    let five = w.state.connections.keys().copied().max().expect("it is the last");
    assert_eq!(w.by(five, "introduce 5"), "EACCES|");
}

#[test]
fn release_takes_the_nodes_but_not_the_domain() {
    let mut w = World::new();
    w.expect("release 5", "ENOENT|");
    w.expect("release 0", "EINVAL|");
    let five = w.guest(5);
    w.op("write /n");
    w.op("chmod /n n0 r5");
    w.by(five, "write data 1");
    w.expect("release 5", "OK|");
    w.expect("introduced 5", "F|");
    w.expect("release 5", "ENOENT|");
    w.expect("read /local/domain/5/data", "ENOENT|");
    w.expect("introduce 5", "OK|");
    let again = w.state.connections.keys().copied().max().expect("it is the last");
    assert_ne!(again, five);
    // It lost what it was given before.
    assert_eq!(w.by(again, "read /n"), "EACCES|");
    w.check();
}

#[test]
fn a_restart_keeps_nodes_owners_and_permissions() {
    let mut w = World::new();
    let op = w.operator;
    let five = w.guest(5);
    w.op("write /n 1");
    w.op("chmod /n n0 r5");
    w.by(five, "write data 1");
    w.by(five, "watch data t");
    w.start(five);
    w.op("watch @releaseDomain r");
    w.op("watch @introduceDomain i");
    w.op("watch /local/domain/5/device/vif/0/state backend");
    w.by(five, "write device/vif/0/state 4");
    w.by(five, "write device/pci/0/state 4");
    w.events(op);
    w.state.restarting(5);
    // Its backends let go of it.
    assert_eq!(w.events(op), ["/local/domain/5/device/vif/0/state backend"]);
    w.expect("read /local/domain/5/device/vif", "ENOENT|");
    w.expect("read /local/domain/5/device/pci/0/state", "4");
    assert_eq!(w.state.next_notice(), Some(Notice::Disconnect { conn: five, domid: 5 }));
    w.state.domain_shut_down(5);
    w.state.died(5);
    w.check();
    w.state.created(5, None);
    // Should it die once more before it is back.
    w.state.died(5);
    w.state.created(5, None);
    w.expect("read /local/domain/5/data", "1");
    let back = w.state.rebound(5, 3).expect("it is known");
    assert_ne!(back, five);
    assert_eq!(w.state.next_notice(), Some(Notice::Connect { conn: back, domid: 5, port: 3 }));
    assert_eq!(w.events(op).len(), 0);
    assert_eq!(w.by(back, "read /n"), "1");
    assert_eq!(w.by(back, "write data 2"), "OK|");
    assert_eq!(w.events(back).len(), 0);
    assert_eq!((w.usage(5, "watches"), w.usage(5, "transactions")), (0, 0));
    w.check();
    w.state.died(5);
    w.expect("read /local/domain/5/data", "ENOENT|");
    assert_eq!(w.events(op), ["@releaseDomain r"]);
    assert_eq!(w.state.rebound(5, 3), Err(Errno::Enoent));
    w.check();
}

#[test]
fn a_restart_that_is_given_up_ends_in_release() {
    let mut w = World::new();
    w.guest(5);
    w.state.restarting(5);
    w.state.died(5);
    assert_eq!(w.state.release(5), Ok(()));
    w.expect("read /local/domain/5", "ENOENT|");
    // One without a ring: created ends the restart.
    w.state.created(6, None);
    w.op("write /local/domain/6");
    w.op("chmod /local/domain/6 n6");
    w.state.restarting(6);
    w.state.died(6);
    w.state.created(6, None);
    w.expect("perms /local/domain/6", "n6|");
    w.state.died(6);
    w.expect("perms /local/domain/6", "ENOENT|");
    w.check();
}

#[test]
fn notices_do_not_pile_up() {
    let mut w = World::new();
    w.state.created(5, None);
    for _ in 0..100 {
        w.expect("introduce 5", "OK|");
        w.expect("introduce 5", "OK|");
        w.expect("release 5", "OK|");
    }
    assert_eq!(w.state.next_notice(), None);
    w.expect("introduce 5", "OK|");
    assert!(matches!(w.state.next_notice(), Some(Notice::Connect { .. })));
    // Logic has heard of it: a new port and the end are both one notice.
    w.expect("introduce 5", "OK|");
    w.expect("release 5", "OK|");
    assert!(matches!(w.state.next_notice(), Some(Notice::Disconnect { .. })));
    assert_eq!(w.state.next_notice(), None);
}

#[test]
fn channels_of_a_domain_end_with_it() {
    let mut w = World::new();
    w.state.created(5, None);
    let channel = w.state.open(Identity::Domain(5));
    assert_eq!(w.by(channel, "path 5"), "/local/domain/5|");
    w.state.died(5);
    assert_eq!(w.state.next_notice(), Some(Notice::Disconnect { conn: channel, domid: 5 }));
    assert!(!w.state.exists(5));
    w.check();
}

#[test]
fn a_domain_may_remove_itself_in_a_transaction() {
    let mut w = World::with(crate::Settings {
        roles: [(3, crate::Role::Builder)].into(),
        ..crate::Settings::default()
    });
    let builder = w.guest(3);
    let id = w.start(builder);
    w.within(builder, id, "write data 1");
    let head = crate::Head { op: 9, request_id: 0, tx_id: id };
    w.state.request(builder, head, Ok(&ennead_xs_wire::Request::Release { domid: 3 }));
    assert!(w.state.pop(builder).is_none());
    w.check();
    w.expect("introduce 3", "OK|");
    let builder = w.state.connections.keys().copied().max().expect("it is the last");
    let id = w.start(builder);
    assert_eq!(w.within(builder, id, "introduce 3"), "OK|");
    assert_eq!(w.within(builder, id, "read /"), "ENOENT|");
    w.check();
}
