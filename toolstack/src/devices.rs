//! A guest's disks and NICs: who serves them, and what stands of them in XenStore, as xl writes it.

use std::net::Ipv4Addr;

use ennead_api::{ApiError, ErrorKind};
use ennead_guest::{Disk, GuestConfig, Vif, vdev_number};
use ennead_runtime::boot::{BackendVm, DeviceKind};
use ennead_volumes::{Name, Unfit};
use ennead_xen::DomId;

use crate::problem::Problem;
use crate::tree::home;

/// The network of a NIC that does not say which.
const DEFAULT_BRIDGE: &str = "xenbr0";
/// First half of the addresses that Xen's guests get (`IEEE OUI 00:16:3e`).
const OUI: &str = "00:16:3e";

/// A device, between a guest and the VM that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub kind: DeviceKind,
    /// Its number, which names its directories.
    pub handle: u32,
    /// Who serves it.
    pub backend: DomId,
    /// What the backend finds, below its directory.
    pub back: Vec<(&'static str, String)>,
    /// What the guest finds, below its own.
    pub front: Vec<(&'static str, String)>,
    /// The volume that it is, if it is one.
    pub volume: Option<Name>,
}

impl Device {
    /// A toolstack's own network interface: it has this address and no other. What is `unique` decides its hardware's address.
    #[must_use]
    pub fn own_vif(backend: DomId, unique: &str, address: Ipv4Addr) -> Self {
        let mac = made_up(unique, 0);
        let back = [("handle", "0"), ("mac", &mac), ("bridge", DEFAULT_BRIDGE), ("ip", &address.to_string())];
        Self {
            kind: DeviceKind::Vif,
            handle: 0,
            backend,
            back: back.map(|(name, value)| (name, value.to_owned())).into(),
            front: vec![("handle", "0".to_owned()), ("mac", mac)],
            volume: None,
        }
    }

    /// What the backend finds under this name.
    #[must_use]
    pub fn back(&self, name: &str) -> Option<&str> {
        self.back.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// The directory of the backend.
    #[must_use]
    pub fn backend_path(&self, guest: u16) -> String {
        format!("{}/{}", backend_root(self.backend, self.kind, guest), self.handle)
    }

    /// The directory of the guest's end.
    #[must_use]
    pub fn frontend_path(&self, guest: u16) -> String {
        format!("{}/device/{}/{}", home(guest), self.kind.as_str(), self.handle)
    }
}

/// Where a backend has all of a guest's devices of one kind.
#[must_use]
pub fn backend_root(backend: DomId, kind: DeviceKind, guest: u16) -> String {
    format!("{}/backend/{}/{guest}", home(backend.0), kind.as_str())
}

/// The devices of a guest of this toolstack. `uuid` is its own: addresses that it does not choose are made of it, so they stay.
///
/// # Errors
/// When nobody serves one.
pub fn devices(
    config: &GuestConfig,
    uuid: &str,
    toolstack: u16,
    backends: &[BackendVm],
) -> Result<Vec<Device>, Problem> {
    let disks = config.disks.iter().map(|disk| of_disk(disk, toolstack, backends));
    let vifs = config.vifs.iter().zip(0..).map(|(vif, n)| of_vif(vif, n, uuid, backends));
    disks.chain(vifs).collect()
}

fn of_disk(disk: &Disk, toolstack: u16, backends: &[BackendVm]) -> Result<Device, Problem> {
    let backend = server(DeviceKind::Vbd, disk.backend.as_deref(), &disk.vdev, backends)?;
    let Some(source) = &disk.source else {
        let message = format!("The drive `{}` has no disc", disk.vdev);
        return Err(ApiError::new(ErrorKind::Invalid, message).help("give it one: discs are not changed yet"));
    };
    let invalid = || ApiError::new(ErrorKind::Invalid, format!("`{}` is no virtual disk", disk.vdev));
    let handle = vdev_number(&disk.vdev).ok_or_else(invalid)?;
    let unfit = |e: Unfit| ApiError::new(ErrorKind::Invalid, format!("`{source}` is no volume: {e}"));
    let volume = ennead_volumes::of_source(source).transpose().map_err(unfit)?;
    let params =
        volume.as_ref().map_or_else(|| source.clone(), |name| ennead_volumes::params(toolstack, name));
    let kind = if disk.cdrom { "cdrom" } else { "disk" };
    Ok(Device {
        kind: DeviceKind::Vbd,
        handle,
        backend,
        back: vec![
            ("params", params),
            ("type", "volume".to_owned()),
            ("mode", disk.access.as_str().to_owned()),
            ("dev", disk.vdev.clone()),
            ("removable", u8::from(disk.cdrom).to_string()),
            ("device-type", kind.to_owned()),
        ],
        front: vec![("virtual-device", handle.to_string()), ("device-type", kind.to_owned())],
        volume,
    })
}

fn of_vif(vif: &Vif, handle: u32, uuid: &str, backends: &[BackendVm]) -> Result<Device, Problem> {
    let backend = server(DeviceKind::Vif, vif.backend.as_deref(), &format!("vif {handle}"), backends)?;
    let mac = vif.mac.clone().unwrap_or_else(|| made_up(uuid, handle));
    let mut back = vec![
        ("handle", handle.to_string()),
        ("mac", mac.clone()),
        ("bridge", vif.bridge.clone().unwrap_or_else(|| DEFAULT_BRIDGE.to_owned())),
    ];
    if !vif.ip.is_empty() {
        back.push(("ip", vif.ip.join(" ")));
    }
    if let Some(rate) = vif.rate {
        back.push(("rate", format!("{},{}", rate.bytes_per_interval(), rate.interval_us())));
    }
    if let Some(vlan) = vif.vlan {
        back.push(("vlan", vlan.to_string()));
    }
    Ok(Device {
        kind: DeviceKind::Vif,
        handle,
        backend,
        back,
        front: vec![("handle", handle.to_string()), ("mac", mac)],
        volume: None,
    })
}

/// The VM that serves a device: the one that the guest names, or the tenant's first.
fn server(
    kind: DeviceKind,
    wanted: Option<&str>,
    device: &str,
    backends: &[BackendVm],
) -> Result<DomId, Problem> {
    let mut those = backends.iter().filter(|backend| backend.device == kind);
    let found = match wanted {
        None => those.next(),
        Some(name) => those.find(|backend| backend.name.as_str() == name),
    };
    found.map(|backend| backend.domid).ok_or_else(|| {
        let message = match wanted {
            None => format!("No VM of this host serves `{device}` to this tenant's guests"),
            Some(name) => format!("`{name}` does not serve `{device}` to this tenant's guests"),
        };
        ApiError::new(ErrorKind::Invalid, message)
            .help("name one in `[tenant.NAME.backends]` of the host's manifest, or take the device out")
    })
}

/// An address for a NIC that has none of its own: always the same for the same guest (FNV-1a, folded to 24 bits).
fn made_up(uuid: &str, handle: u32) -> String {
    let bytes = uuid.bytes().chain(handle.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, ..] = (hash ^ (hash >> 24) ^ (hash >> 48)).to_le_bytes();
    format!("{OUI}:{a:02x}:{b:02x}:{c:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends() -> Vec<BackendVm> {
        let vm = |name: &str, domid, device| BackendVm {
            name: name.parse().unwrap(),
            domid: DomId(domid),
            device,
        };
        vec![vm("disks", 8, DeviceKind::Vbd), vm("more", 9, DeviceKind::Vbd), vm("net", 10, DeviceKind::Vif)]
    }

    fn config(devices: &str) -> GuestConfig {
        let text = format!("name = \"web\"\nkind = \"pv\"\nkernel = \"image:k\"\nmemory-mib = 64\n{devices}");
        ennead_guest::parse_toml("a.toml", &text).unwrap_or_else(|e| panic!("{e}")).config
    }

    fn value<'a>(nodes: &'a [(&'static str, String)], name: &str) -> &'a str {
        &nodes.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    #[test]
    fn each_device_goes_to_who_serves_its_kind() {
        let config = config(
            "disk = [{ vdev = \"xvda\", source = \"label:web\" }, { vdev = \"xvdb\", source = \"d\", backend = \"more\", access = \"r\" }]\n\
             vif = [{ bridge = \"lan\", ip = [\"10.0.0.7\"], rate = \"1MB/s\", vlan = 5 }]",
        );
        let found = devices(&config, "u", 7, &backends()).unwrap();
        let short: Vec<_> = found.iter().map(|d| (d.kind, d.handle, d.backend.0)).collect();
        assert_eq!(
            short,
            [(DeviceKind::Vbd, 51712, 8), (DeviceKind::Vbd, 51728, 9), (DeviceKind::Vif, 0, 10)]
        );
        assert_eq!(value(&found[0].back, "params"), "label:web");
        assert_eq!((value(&found[0].back, "mode"), value(&found[1].back, "mode")), ("w", "r"));
        assert_eq!(value(&found[0].front, "virtual-device"), "51712");
        assert_eq!(value(&found[2].back, "bridge"), "lan");
        assert_eq!(value(&found[2].back, "ip"), "10.0.0.7");
        assert_eq!(value(&found[2].back, "rate"), "50000,50000");
        assert_eq!(value(&found[2].back, "vlan"), "5");
        assert_eq!(value(&found[2].back, "mac"), value(&found[2].front, "mac"));
        assert_eq!(found[2].backend_path(1024), "/local/domain/10/backend/vif/1024/0");
        assert_eq!(found[0].frontend_path(1024), "/local/domain/1024/device/vbd/51712");
    }

    #[test]
    fn volumes_are_the_toolstacks() {
        let found =
            devices(&config("disk = [{ vdev = \"xvda\", source = \"volume:web\" }]"), "u", 7, &backends());
        let disk = &found.unwrap()[0];
        assert_eq!(value(&disk.back, "params"), "volume:7/web");
        assert_eq!(disk.volume.as_ref().map(Name::as_str), Some("web"));
        let wrong =
            devices(&config("disk = [{ vdev = \"xvda\", source = \"volume:8/web\" }]"), "u", 7, &backends());
        assert_eq!(wrong.unwrap_err().kind, ErrorKind::Invalid);
    }

    #[test]
    fn what_nobody_serves_is_refused() {
        let disk = config("disk = [{ vdev = \"xvda\", source = \"d\", backend = \"net\" }]");
        let error = devices(&disk, "u", 7, &backends()).unwrap_err();
        assert_eq!(error.message, "`net` does not serve `xvda` to this tenant's guests");
        let vif = config("vif = [{}]");
        let error = devices(&vif, "u", 7, &backends()[..2]).unwrap_err();
        assert_eq!(error.message, "No VM of this host serves `vif 0` to this tenant's guests");
    }

    #[test]
    fn addresses_stay_and_differ() {
        assert_eq!(made_up("u", 0), made_up("u", 0));
        assert_ne!(made_up("u", 0), made_up("u", 1));
        assert_ne!(made_up("u", 0), made_up("v", 0));
        assert!(made_up("u", 0).starts_with("00:16:3e:"));
    }
}
