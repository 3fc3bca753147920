use alloc::{collections::BTreeMap, vec};

use super::*;

const BUILDER: u16 = 3;
const TOOLSTACK: u16 = 8;
const OTHER_TOOLSTACK: u16 = 9;
const DISKS: u16 = 10;
const NETS: u16 = 11;
const GUEST: u16 = 20;
const FOREIGN: u16 = 30;

/// Guests 20 to 29 are the toolstack's, 30 to 39 the other one's.
struct World(BTreeMap<&'static [u8], u16>);

impl Facts for World {
    fn is_service(&self, domid: u16) -> bool {
        (1..20).contains(&domid)
    }

    fn manager(&self, domid: u16) -> Option<u16> {
        match domid {
            20..=29 => Some(TOOLSTACK),
            30..=39 => Some(OTHER_TOOLSTACK),
            _ => None,
        }
    }

    fn owner(&self, path: &[u8]) -> Option<u16> {
        self.0.get(path).copied()
    }
}

fn world() -> World {
    World(BTreeMap::from([
        (b"/vm/mine".as_slice(), TOOLSTACK),
        (b"/vm/guests", GUEST),
        (b"/vm/foreign", FOREIGN),
        (b"/vm/operators", 0),
    ]))
}

fn toolstack() -> Role {
    Role::Toolstack {
        backends: vec![
            Backend { domid: DISKS, kind: DeviceKind::Vbd },
            Backend { domid: NETS, kind: DeviceKind::Vif },
        ],
    }
}

fn may(role: &Role, me: u16, path: &str) -> bool {
    authority(role, me, path.as_bytes(), true, &world())
}

#[test]
fn builder_keeps_service_vms_and_pci() {
    let may = |path| may(&Role::Builder, BUILDER, path);
    for path in [
        "/local/domain/3",
        "/local/domain/10/backend/vbd/20/51712",
        "/local/domain/20/device/pci",
        "/local/domain/20/device/pci/0/state",
        "/local/domain/1/backend/pci/20/0",
    ] {
        assert!(may(path), "{path}");
    }
    for path in [
        "/",
        "/local",
        "/local/domain",
        "/local/domain/20",
        "/local/domain/20/device",
        "/local/domain/20/device/vif/0",
        "/local/domain/20/device/pcix",
        "/local/domain/20/data/device/pci",
        "/local/domain/20/frontend/pci",
        "/local/domain/0",
        "/local/domain/03",
        "/local/domain/70000",
        "/local/domain/abc",
        "/other/domain/3",
        "/local/domains/3",
        "/vm/mine",
        "/tool",
    ] {
        assert!(!may(path), "{path}");
    }
}

#[test]
fn a_toolstack_keeps_its_guests() {
    let role = toolstack();
    let may = |path| may(&role, TOOLSTACK, path);
    for path in [
        "/local/domain/20",
        "/local/domain/20/device/vbd/51712/state",
        "/local/domain/29/name",
        "/local/domain/10/backend/vbd/20",
        "/local/domain/10/backend/vbd/20/51712/params",
        "/local/domain/11/backend/vif/21/0",
        // Its own network interface.
        "/local/domain/11/backend/vif/8/0",
        "/vm/mine",
        "/vm/mine/name",
        "/vm/guests/uuid",
        "/vm/new",
    ] {
        assert!(may(path), "{path}");
    }
    for path in [
        "/",
        "/local/domain",
        "/local/domain/30",
        "/local/domain/30/name",
        "/local/domain/10",
        "/local/domain/10/backend",
        "/local/domain/10/backend/vbd",
        "/local/domain/10/backend/vbd/30/51712",
        "/local/domain/10/backend/vif/20/0",
        "/local/domain/10/backend/vbd/8/51712",
        "/local/domain/10/backend/vif/8/0",
        "/local/domain/11/backend/vif/9/0",
        "/local/domain/11/backend/vbd/20/0",
        "/local/domain/12/backend/vbd/20/0",
        "/local/domain/10/frontend/vbd/20/0",
        "/local/domain/8",
        "/local/domain/0",
        "/vm",
        "/vm/foreign",
        "/vm/foreign/name",
        "/vm/operators",
        "/tool",
    ] {
        assert!(!may(path), "{path}");
    }
}

#[test]
fn what_is_gone_is_nobodys() {
    let of = |path: &[u8]| authority(&toolstack(), TOOLSTACK, path, false, &world());
    assert!(of(b"/vm/mine"));
    assert!(!of(b"/vm/new"));
}

#[test]
fn services_have_no_rights_of_their_own() {
    assert!(!may(&Role::Service, DISKS, "/local/domain/10"));
    assert!(!may(&Role::Service, DISKS, "/local/domain/20"));
}

#[test]
fn nodes_are_given_only_to_those_concerned() {
    let gives = |owner| may_give(&toolstack(), TOOLSTACK, owner, &world());
    for owner in [TOOLSTACK, GUEST, DISKS, NETS] {
        assert!(gives(owner), "{owner}");
    }
    for owner in [0, BUILDER, OTHER_TOOLSTACK, FOREIGN, 12] {
        assert!(!gives(owner), "{owner}");
    }
    assert!(may_give(&Role::Builder, BUILDER, GUEST, &world()));
    assert!(!may_give(&Role::Service, DISKS, DISKS, &world()));
}

#[test]
fn only_builder_introduces() {
    let domains = [Op::Introduce, Op::Release, Op::Resume, Op::SetTarget, Op::IsDomainIntroduced];
    for op in domains {
        assert!(may_ask(&Role::Builder, op), "{op:?}");
        assert!(!may_ask(&toolstack(), op), "{op:?}");
        assert!(!may_ask(&Role::Service, op), "{op:?}");
    }
    assert!(!may_ask(&Role::Builder, Op::Control));
    assert!(hears_of_domains(&Role::Builder) && hears_of_domains(&toolstack()));
    assert!(!hears_of_domains(&Role::Service));
}

#[test]
fn a_toolstack_keeps_what_is_said_of_its_volumes_where_its_disks_come_from() {
    let may = |path| may(&toolstack(), TOOLSTACK, path);
    for path in ["/local/domain/10/backend/volumes/8", "/local/domain/10/backend/volumes/8/lend/20/51712"] {
        assert!(may(path), "{path}");
    }
    for path in [
        "/local/domain/10/backend/volumes",
        "/local/domain/10/backend/volumes/9",
        "/local/domain/10/backend/volumes/20",
        "/local/domain/10/volumes/8",
        "/local/domain/11/backend/volumes/8",
        "/local/domain/12/backend/volumes/8",
    ] {
        assert!(!may(path), "{path}");
    }
}
