use alloc::{collections::BTreeMap, format, vec};

use super::world::World;
use crate::{Backend, Conn, DeviceKind, Identity, Quotas, Role, Settings};

const BUILDER: u16 = 3;
const TOOLSTACK: u16 = 8;
const OTHER: u16 = 9;
const DISKS: u16 = 10;

/// Builder, two toolstacks with a backend for disks, guest 20 of the first, guest 30 of the other.
struct Host {
    w: World,
    builder: Conn,
    toolstack: Conn,
    other: Conn,
    disks: Conn,
    guest: Conn,
}

fn host() -> Host {
    let backends = vec![Backend { domid: DISKS, kind: DeviceKind::Vbd }];
    let roles = BTreeMap::from([
        (BUILDER, Role::Builder),
        (TOOLSTACK, Role::Toolstack { backends: backends.clone() }),
        (OTHER, Role::Toolstack { backends }),
        (DISKS, Role::Service),
    ]);
    let quotas = Quotas { nodes: 10, ..Quotas::GUEST };
    let mut w = World::with(Settings { roles, quotas, ..Settings::default() });
    let builder = w.state.open(Identity::Domain(BUILDER));
    for domid in [TOOLSTACK, OTHER, DISKS] {
        w.state.created(domid, None);
        assert_eq!(w.by(builder, &format!("write /local/domain/{domid}/name x")), "OK|");
        assert_eq!(w.by(builder, &format!("chmod /local/domain/{domid} n{domid}")), "OK|");
        assert_eq!(w.by(builder, &format!("introduce {domid}")), "OK|");
    }
    let [toolstack, other, disks] =
        [TOOLSTACK, OTHER, DISKS].map(|domid| w.state.store.domains.get(domid).and_then(|d| d.ring));
    let [toolstack, other, disks] = [toolstack, other, disks].map(|ring| ring.expect("it was introduced").0);
    w.state.created(20, Some(TOOLSTACK));
    w.state.created(30, Some(OTHER));
    w.expect("write /vm", "OK|");
    assert_eq!(w.by(toolstack, "write /local/domain/20/name guest"), "OK|");
    assert_eq!(w.by(toolstack, "chmod /local/domain/20 n20"), "OK|");
    let guest = w.state.introduce(20, 1, None).expect("it is a domain");
    w.check();
    Host { w, builder, toolstack, other, disks, guest }
}

#[test]
fn builder_keeps_service_vms_but_no_guests() {
    let Host { mut w, builder, .. } = host();
    assert_eq!(w.by(builder, "write /local/domain/10/backend/vbd 1"), "OK|");
    w.expect("perms /local/domain/10/backend", "n10|");
    assert_eq!(w.by(builder, "write /local/domain/20/device/pci/0/state 1"), "OK|");
    w.expect("perms /local/domain/20/device", "n20|");
    w.expect("perms /local/domain/20/device/pci", "n3|");
    assert_eq!(w.by(builder, "chmod /local/domain/20/device/pci n20"), "OK|");
    for request in ["write /local/domain/20/name x", "read /local/domain/20/name", "rm /tool", "control x"] {
        assert_eq!(w.by(builder, request), "EACCES|", "{request}");
    }
    assert_eq!(w.by(builder, "introduced 20"), "T|");
    assert_eq!(w.by(builder, "resume 20"), "OK|");
    assert_eq!(w.by(builder, "release 20"), "OK|");
    w.check();
}

#[test]
fn a_toolstack_keeps_its_guests_only() {
    let Host { mut w, toolstack, other, .. } = host();
    assert_eq!(w.by(toolstack, "read /local/domain/20/name"), "guest");
    for request in ["write /local/domain/20/name x", "read /local/domain/20/name", "rm /local/domain/20"] {
        assert_eq!(w.by(other, request), "EACCES|", "{request}");
    }
    for request in ["write /local/domain/30/name x", "write /tool/x 1", "introduce 21", "introduced 20"] {
        assert_eq!(w.by(toolstack, request), "EACCES|", "{request}");
    }
    // Without the guest's quota, at its expense.
    for n in 0..20 {
        assert_eq!(w.by(toolstack, &format!("write /local/domain/20/device/{n} 1")), "OK|");
    }
    assert_eq!(w.nodes_of(20), 22);
    assert_eq!(w.by(toolstack, "rm /local/domain/20"), "OK|");
    w.check();
}

#[test]
fn a_toolstack_links_its_guests_to_its_backends() {
    let Host { mut w, toolstack, other, disks, guest, .. } = host();
    let dir = "/local/domain/10/backend/vbd/20/51712";
    assert_eq!(w.by(toolstack, &format!("write {dir}/params x")), "OK|");
    // The way there is the backend's.
    w.expect("perms /local/domain/10/backend/vbd", "n10|");
    w.expect("perms /local/domain/10/backend/vbd/20", "n8|");
    assert_eq!(w.by(toolstack, &format!("chmod {dir} n10 r20")), "OK|");
    assert_eq!(w.by(disks, &format!("write {dir}/state 2")), "OK|");
    assert_eq!(w.by(guest, &format!("read {dir}")), "");
    assert_eq!(w.by(guest, &format!("write {dir} x")), "EACCES|");
    assert_eq!(w.by(toolstack, &format!("read {dir}/state")), "2");
    for request in [
        format!("write {dir}/params y"),
        format!("read {dir}/params"),
        "write /local/domain/10/backend/vif/30/0 1".into(),
        "write /local/domain/10/backend/vbd/20/0 1".into(),
    ] {
        assert_eq!(w.by(other, &request), "EACCES|", "{request}");
    }
    // Its authority is not a way into the backend's own nodes.
    assert_eq!(w.by(toolstack, "rm /local/domain/10/backend/vbd"), "EACCES|");
    assert_eq!(w.by(toolstack, "write /local/domain/10/name x"), "EACCES|");
    w.check();
}

#[test]
fn ownership_is_given_only_to_those_concerned() {
    let Host { mut w, toolstack, .. } = host();
    w.by(toolstack, "write /local/domain/20/x 1");
    for owner in [0, 3, 9, 30] {
        assert_eq!(w.by(toolstack, &format!("chmod /local/domain/20/x n{owner}")), "EPERM|", "{owner}");
    }
    for owner in [8, 10, 20] {
        assert_eq!(w.by(toolstack, &format!("chmod /local/domain/20/x n{owner}")), "OK|", "{owner}");
    }
    w.check();
}

#[test]
fn names_of_vms_belong_to_who_made_them() {
    let Host { mut w, toolstack, other, .. } = host();
    assert_eq!(w.by(toolstack, "write /vm/uuid/name guest"), "OK|");
    w.expect("perms /vm/uuid", "n8|");
    for request in ["write /vm/uuid/name x", "read /vm/uuid/name", "rm /vm/uuid"] {
        assert_eq!(w.by(other, request), "EACCES|", "{request}");
    }
    assert_eq!(w.by(toolstack, "chmod /vm/uuid n20"), "OK|");
    assert_eq!(w.by(toolstack, "write /vm/uuid/name y"), "OK|");
    // Its end is nobody else's business.
    for conn in [toolstack, other] {
        w.by(conn, "watch /vm/uuid t");
        w.events(conn);
    }
    let id = w.start(toolstack);
    assert_eq!(w.within(toolstack, id, "rm /vm/uuid"), "OK|");
    assert_eq!(w.within(toolstack, id, "commit"), "OK|");
    assert_eq!(w.events(other).len(), 0);
    assert_eq!(w.by(other, "write /vm/uuid 1"), "OK|");
    assert_eq!(w.by(toolstack, "read /vm/uuid"), "EACCES|");
    w.check();
}

#[test]
fn who_manages_domains_hears_of_them() {
    let Host { mut w, builder, toolstack, guest, disks, .. } = host();
    for conn in [builder, toolstack, guest, disks] {
        w.by(conn, "watch @releaseDomain t");
        w.by(conn, "watch /local/domain/20 t");
        w.events(conn);
    }
    w.op("write /local/domain/20/data x");
    assert_eq!([builder, toolstack, disks].map(|conn| w.events(conn).len()), [0, 1, 0]);
    w.state.domain_shut_down(20);
    assert_eq!([builder, toolstack, disks].map(|conn| w.events(conn).len()), [1, 1, 0]);
}

#[test]
fn authority_goes_with_the_guest() {
    let Host { mut w, toolstack, .. } = host();
    w.state.died(20);
    assert_eq!(w.by(toolstack, "write /local/domain/20/x 1"), "EACCES|");
    w.state.created(20, Some(OTHER));
    assert_eq!(w.by(toolstack, "write /local/domain/20/x 1"), "EACCES|");
    w.check();
}

#[test]
fn a_toolstack_creates_vms_in_a_transaction() {
    let Host { mut w, toolstack, other, .. } = host();
    w.state.created(21, Some(TOOLSTACK));
    let id = w.start(toolstack);
    for request in [
        "write /local/domain/21/name new",
        "chmod /local/domain/21 n21",
        "write /local/domain/21/device/vbd/0/backend /local/domain/10/backend/vbd/21/0",
        "write /local/domain/10/backend/vbd/21/0/frontend /local/domain/21/device/vbd/0",
        "chmod /local/domain/10/backend/vbd/21/0 n10 r21",
        "write /vm/new/name new",
    ] {
        assert_eq!(w.within(toolstack, id, request), "OK|", "{request}");
    }
    assert_eq!(w.within(toolstack, id, "write /local/domain/30/name x"), "EACCES|");
    assert_eq!(w.within(toolstack, id, "commit"), "OK|");
    w.expect("perms /local/domain/21/device", "n21|");
    w.expect("perms /local/domain/10/backend/vbd/21/0", "n10|r21|");
    w.expect("perms /vm/new/name", "n8|");
    assert_eq!(w.by(other, "read /vm/new/name"), "EACCES|");
    w.check();
}
