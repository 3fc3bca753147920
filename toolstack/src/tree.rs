//! What stands in XenStore for a guest: what xl writes, where xl writes it, with xl's permissions, so that guests and tools find what
//! they expect. The toolstack's VM is where xl has domain 0.
//!
//! Owners: the toolstack owns what the guest may only read; what the guest may write is the guest's own, at its own quota.

use std::collections::BTreeSet;
use std::time::Duration;

use ennead_guest::GuestConfig;
use ennead_xen::DomId;
use ennead_xs_client::{Perm, Right};

use crate::devices::{Device, backend_root};

/// A guest, as far as its tree tells of it.
#[derive(Debug, Clone)]
pub struct Guest<'a> {
    /// Its domid.
    pub domid: u16,
    /// The toolstack's.
    pub toolstack: u16,
    /// As the operator wants it.
    pub config: &'a GuestConfig,
    /// Its UUID.
    pub uuid: &'a str,
    /// Its port for the console.
    pub console_port: u32,
    /// Its port for XenStore.
    pub store_port: u32,
    /// Time since 1970.
    pub started: Duration,
    /// Its disks and NICs.
    pub devices: &'a [Device],
}

/// A node to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Absolute.
    pub path: String,
    /// Its value.
    pub value: String,
    /// Its permissions; `None`: as the node above.
    pub perms: Option<Vec<Perm>>,
}

/// The console's grant reference, and XenStore's (`GNTTAB_RESERVED_*` of Xen's grant_table.h). xl writes frame numbers, which
/// nobody here knows; nobody there reads them either: the guest has them from its start info.
const RING_REFS: [(&str, u32); 2] = [("console", 0), ("store", 1)];
/// What the guest says of itself and answers with; in its own directory.
const GUESTS_OWN: [&str; 11] = [
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "device/suspend/event-channel",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
];

/// A domain's directory.
#[must_use]
pub fn home(domid: u16) -> String {
    format!("/local/domain/{domid}")
}

/// The directory of a VM, whichever domain it is at the moment.
#[must_use]
pub fn vm(uuid: &str) -> String {
    format!("/vm/{uuid}")
}

/// The backend's directory of a guest's console.
#[must_use]
pub fn console_backend(toolstack: u16, domid: u16) -> String {
    format!("{}/backend/console/{domid}", home(toolstack))
}

/// Where a backend tells of a toolstack's volumes (`ennead_volumes`).
#[must_use]
pub fn volumes_root(backend: DomId, toolstack: u16) -> String {
    format!("{}/backend/{}/{toolstack}", home(backend.0), ennead_volumes::KIND)
}

/// All directories that are a guest's alone: what is removed before it is written, and at the guest's end. Backends let go of a
/// guest when its directory there goes.
#[must_use]
pub fn roots(toolstack: u16, domid: u16, uuid: &str, devices: &[Device]) -> Vec<String> {
    let mut roots = vec![home(domid), vm(uuid), console_backend(toolstack, domid)];
    // One of each: backends that the guest does not need may not even be there.
    let backends = devices.iter().map(|device| backend_root(device.backend, device.kind, domid));
    roots.extend(backends.collect::<BTreeSet<_>>());
    let volumes = devices.iter().filter(|device| device.volume.is_some());
    let lent = volumes.map(|device| format!("{}/lend/{domid}", volumes_root(device.backend, toolstack)));
    roots.extend(lent.collect::<BTreeSet<_>>());
    roots
}

/// The nodes, each after the one above it.
#[must_use]
pub fn nodes(guest: &Guest<'_>) -> Vec<Node> {
    let Guest { domid, toolstack, config, uuid, .. } = *guest;
    let mine = |access| Perm { access, domid: toolstack };
    let readable = vec![mine(Right::None), Perm { access: Right::Read, domid }];
    let own = vec![Perm { access: Right::None, domid }];
    let (home, vm) = (home(domid), vm(uuid));
    let backend = console_backend(toolstack, domid);

    let mut tree = Tree(Vec::new());
    tree.add(&home, "", Some(&readable));
    tree.add(&vm, "", Some(&readable));
    tree.add(&backend, "", Some(&readable));

    let started = format!("{}.{:02}", guest.started.as_secs(), guest.started.subsec_millis() / 10);
    tree.all(
        &vm,
        &[("uuid", uuid), ("name", &config.name), ("image/ostype", "linux"), ("start_time", &started)],
    );

    tree.all(&home, &[("vm", &vm), ("name", &config.name), ("domid", &domid.to_string())]);
    // Xen gives it no more than what it starts with, so that is also the most that it may balloon up to.
    let memory_kib = (u64::from(config.memory_mib) * 1024).to_string();
    tree.all(&home, &[("memory", ""), ("memory/target", &memory_kib), ("memory/static-max", &memory_kib)]);
    tree.all(&home, &[("cpu", ""), ("device", ""), ("control", "")]);
    for vcpu in 0..config.max_vcpus {
        let availability = if vcpu < config.vcpus { "online" } else { "offline" };
        tree.add(&format!("{home}/cpu/{vcpu}/availability"), availability, None);
    }
    for path in GUESTS_OWN {
        tree.add(&format!("{home}/{path}"), "", Some(&own));
    }
    tree.all(
        &home,
        &[
            ("control/platform-feature-multiprocessor-suspend", "1"),
            ("control/platform-feature-xs_reset_watches", "1"),
        ],
    );
    for ((name, gref), port) in RING_REFS.into_iter().zip([guest.console_port, guest.store_port]) {
        tree.add(&format!("{home}/{name}/port"), &port.to_string(), None);
        tree.add(&format!("{home}/{name}/ring-ref"), &gref.to_string(), None);
    }
    tree.all(
        &home,
        &[
            ("console/backend", &format!("{backend}/0")),
            ("console/backend-id", &toolstack.to_string()),
            ("console/limit", "1048576"),
            ("console/type", "xenconsoled"),
            ("console/output", "pty"),
            // No terminal of this VM's shows it.
            ("console/tty", ""),
        ],
    );
    tree.all(
        &backend,
        &[
            ("0/frontend", &format!("{home}/console")),
            ("0/frontend-id", &domid.to_string()),
            ("0/online", "1"),
            ("0/state", "1"),
            ("0/protocol", "vt100"),
        ],
    );
    for device in guest.devices {
        tree.device(toolstack, domid, device);
    }
    tree.0
}

/// What is to be removed of one of a guest's devices while these others are left.
#[must_use]
pub fn device_rest(toolstack: u16, domid: u16, device: &Device, left: &[Device]) -> Vec<String> {
    let mut rest = vec![device.frontend_path(domid), device.backend_path(domid)];
    let root = backend_root(device.backend, device.kind, domid);
    if left.iter().all(|other| backend_root(other.backend, other.kind, domid) != root) {
        rest.push(root);
    }
    if device.volume.is_some() {
        let volumes = volumes_root(device.backend, toolstack);
        rest.push(format!("{volumes}/{}", ennead_volumes::lend(domid, device.handle)));
        if !left.iter().any(|other| other.volume.is_some() && other.backend == device.backend) {
            rest.push(format!("{volumes}/lend/{domid}"));
        }
    }
    rest
}

/// What is to be removed of a device: all devices of its kind, at its backend and in the VM's own directory.
#[must_use]
pub fn device_roots(domid: u16, device: &Device) -> Vec<String> {
    let kind = device.kind;
    vec![backend_root(device.backend, kind, domid), format!("{}/device/{}", home(domid), kind.as_str())]
}

/// What stands in XenStore for one device: of a guest, or the toolstack's own.
#[must_use]
pub fn device_nodes(toolstack: u16, domid: u16, device: &Device) -> Vec<Node> {
    let mut tree = Tree(Vec::new());
    tree.device(toolstack, domid, device);
    tree.0
}

struct Tree(Vec<Node>);

impl Tree {
    /// Each end owns its directory and may read the other's; what has all of a guest's at a backend is the toolstack's, so that it
    /// can be removed when the guest is gone. Both ends begin as `XenbusStateInitialising` (xenbus.h).
    fn device(&mut self, toolstack: u16, guest: u16, device: &Device) {
        let (back, front) = (device.backend_path(guest), device.frontend_path(guest));
        let ends = |owner, reader| {
            vec![Perm { access: Right::None, domid: owner }, Perm { access: Right::Read, domid: reader }]
        };
        let backend = device.backend.0;
        let root = backend_root(device.backend, device.kind, guest);
        if !self.0.iter().any(|node| node.path == root) {
            let mut readable = ends(toolstack, backend);
            readable.push(Perm { access: Right::Read, domid: guest });
            self.add(&root, "", Some(&readable));
        }
        self.add(&back, "", Some(&ends(backend, guest)));
        self.all(
            &back,
            &[("frontend", &front), ("frontend-id", &guest.to_string()), ("online", "1"), ("state", "1")],
        );
        self.add(&front, "", Some(&ends(guest, backend)));
        self.all(&front, &[("backend", &back), ("backend-id", &backend.to_string()), ("state", "1")]);
        if let Some(name) = &device.volume {
            let root = volumes_root(device.backend, toolstack);
            let lend = format!("{root}/{}", ennead_volumes::lend(guest, device.handle));
            self.add(&lend, name.as_str(), Some(&ends(backend, toolstack)));
        }
        for (path, nodes) in [(&back, &device.back), (&front, &device.front)] {
            for (name, value) in nodes {
                self.add(&format!("{path}/{name}"), value, None);
            }
        }
    }

    fn add(&mut self, path: &str, value: &str, perms: Option<&Vec<Perm>>) {
        self.0.push(Node { path: path.to_owned(), value: value.to_owned(), perms: perms.cloned() });
    }

    fn all(&mut self, directory: &str, nodes: &[(&str, &str)]) {
        for (name, value) in nodes {
            self.add(&format!("{directory}/{name}"), value, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ennead_runtime::boot::{BackendVm, DeviceKind};
    use ennead_xen::DomId;

    use super::*;

    fn backends() -> [BackendVm; 2] {
        [("blkback", 9, DeviceKind::Vbd), ("netback", 10, DeviceKind::Vif)].map(|(name, domid, device)| {
            BackendVm { name: name.parse().unwrap(), domid: DomId(domid), device }
        })
    }

    fn config(config: &str) -> GuestConfig {
        let text = format!("name = \"web\"\nkind = \"pvh\"\nkernel = \"image:k\"\n{config}");
        ennead_guest::parse_toml("a.toml", &text).unwrap_or_else(|e| panic!("{e}")).config
    }

    fn tree(text: &str) -> BTreeMap<String, Node> {
        let config = config(text);
        let devices = crate::devices::devices(&config, "u", 8, &backends()).unwrap();
        let guest = Guest {
            devices: &devices,
            domid: 1024,
            toolstack: 8,
            config: &config,
            uuid: "u",
            console_port: 3,
            store_port: 4,
            started: Duration::from_millis(1_500),
        };
        let nodes = nodes(&guest);
        let count = nodes.len();
        let tree: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.path.clone(), node)).collect();
        assert_eq!(tree.len(), count, "no node twice");
        tree
    }

    #[test]
    fn guests_find_what_they_expect() {
        let tree = tree("memory-mib = 64\nvcpus = 1\nmax-vcpus = 2");
        for (path, value) in [
            ("name", "web"),
            ("domid", "1024"),
            ("vm", "/vm/u"),
            ("memory/target", "65536"),
            ("memory/static-max", "65536"),
            ("cpu/0/availability", "online"),
            ("cpu/1/availability", "offline"),
            ("console/port", "3"),
            ("console/type", "xenconsoled"),
            ("console/backend", "/local/domain/8/backend/console/1024/0"),
            ("store/port", "4"),
            ("store/ring-ref", "1"),
        ] {
            assert_eq!(tree[&format!("/local/domain/1024/{path}")].value, value, "{path}");
        }
        assert_eq!(tree["/vm/u/name"].value, "web");
        assert_eq!(tree["/vm/u/start_time"].value, "1.50");
        assert!(!tree.contains_key("/local/domain/1024/cpu/2/availability"));
    }

    const DEVICES: &str = "memory-mib = 64\ndisk = [{ vdev = \"xvda\", source = \"d\" }]\nvif = [{}]";

    #[test]
    fn each_end_of_a_device_owns_its_directory_and_reads_the_other() {
        let tree = tree(DEVICES);
        for (path, owner, reader) in [
            ("/local/domain/9/backend/vbd/1024/51712", 9, 1024),
            ("/local/domain/1024/device/vbd/51712", 1024, 9),
            ("/local/domain/10/backend/vif/1024/0", 10, 1024),
            ("/local/domain/1024/device/vif/0", 1024, 10),
        ] {
            let perms = tree[path].perms.as_ref().expect("set");
            let shown: Vec<_> = perms.iter().map(|perm| (perm.access, perm.domid)).collect();
            assert_eq!(shown, [(Right::None, owner), (Right::Read, reader)], "{path}");
        }
        let perms = tree["/local/domain/9/backend/vbd/1024"].perms.as_ref().expect("set");
        let shown: Vec<_> = perms.iter().map(|perm| (perm.access, perm.domid)).collect();
        assert_eq!(shown, [(Right::None, 8), (Right::Read, 9), (Right::Read, 1024)]);
        assert_eq!(
            tree["/local/domain/1024/device/vbd/51712/backend"].value,
            "/local/domain/9/backend/vbd/1024/51712"
        );
        assert_eq!(tree["/local/domain/9/backend/vbd/1024/51712/frontend-id"].value, "1024");
    }

    #[test]
    fn a_toolstack_has_a_device_as_a_guest_has() {
        let address = std::net::Ipv4Addr::new(10, 0, 2, 40);
        let device = Device::own_vif(DomId(10), "toolstack/10.0.2.40", address);
        let nodes = device_nodes(8, 8, &device);
        let node = |path: &str| nodes.iter().find(|node| node.path == path).expect("it is there");
        assert_eq!(node("/local/domain/10/backend/vif/8/0/ip").value, "10.0.2.40");
        assert_eq!(node("/local/domain/10/backend/vif/8/0/frontend-id").value, "8");
        assert_eq!(node("/local/domain/8/device/vif/0/backend").value, "/local/domain/10/backend/vif/8/0");
        for path in ["/local/domain/10/backend/vif/8/0/mac", "/local/domain/8/device/vif/0/mac"] {
            assert!(node(path).value.starts_with("00:16:3e:"), "{path}");
        }
        let roots = device_roots(8, &device);
        for Node { path, .. } in &nodes {
            assert!(roots.iter().any(|root| path.starts_with(root.as_str())), "{path}");
        }
    }

    #[test]
    fn a_guest_writes_where_xls_guests_do_and_nowhere_else() {
        let tree = tree("memory-mib = 64");
        let owned: Vec<&str> = tree
            .values()
            .filter(|node| {
                node.perms.as_ref().is_some_and(|perms| perms.first().map(|p| p.domid) == Some(1024))
            })
            .map(|node| node.path.strip_prefix("/local/domain/1024/").expect("its own directory"))
            .collect();
        let mut expected = GUESTS_OWN;
        expected.sort_unstable();
        assert_eq!(owned, expected);
        for root in roots(8, 1024, "u", &[]) {
            let perms = tree[&root].perms.as_ref().expect("set");
            let shown: Vec<_> = perms.iter().map(|perm| (perm.access, perm.domid)).collect();
            assert_eq!(shown, [(Right::None, 8), (Right::Read, 1024)], "{root}");
        }
    }

    #[test]
    fn every_node_is_below_a_root_and_every_path_can_be() {
        let devices = crate::devices::devices(&config(DEVICES), "u", 8, &backends()).unwrap();
        let roots = roots(8, 1024, "u", &devices);
        for path in tree(&format!("max-vcpus = 128\n{DEVICES}")).keys() {
            assert!(roots.iter().any(|root| path.starts_with(root.as_str())), "{path}");
            assert!(ennead_xs_wire::path::is_valid(path.as_bytes()), "{path}");
        }
    }
}
