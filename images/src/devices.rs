//! The machine's disk and network controllers, which pciback lends to driver VMs: QEMU's options for them.
//!
//! Each is alone behind a root port of its own, so that a reset of the bus reaches no other. Virtio devices keep to the
//! virtual IOMMU, as real ones do.

use std::fmt;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::qemu::escaped;

/// Bytes of a disk image that is made new.
const NEW_IMAGE: u64 = 1 << 30;

/// What a virtio device needs to be like a real one.
const VIRTIO: &str = "disable-legacy=on,iommu_platform=on";

/// A storage controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskModel {
    /// NVMe: resets by itself (FLR).
    Nvme,
    /// virtio-blk.
    Virtio,
    /// AHCI: resets only with its bus.
    Ahci,
}

/// A controller with one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The disk's content, raw.
    pub image: PathBuf,
    /// The controller.
    pub model: DiskModel,
}

impl Disk {
    /// Makes the image, sparse and 1 GiB large, if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(&self) -> Result<()> {
        let made = OpenOptions::new().write(true).create_new(true).open(&self.image);
        let grown = match made {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            made => made.and_then(|file| file.set_len(NEW_IMAGE)),
        };
        grown.with_context(|| format!("Cannot make {}", self.image.display()))
    }

    /// QEMU's options; `index` is another for each controller of the machine.
    #[must_use]
    pub fn arguments(&self, index: u8) -> Vec<String> {
        self.with(index, &format!("format=raw,file={}", escaped(&self.image)))
    }

    /// The same, but every write and flush is noted in a file, in order.
    #[must_use]
    pub fn logged(&self, index: u8, log: &Path) -> Vec<String> {
        let (image, log) = (escaped(&self.image), escaped(log));
        let file = format!("file.driver=raw,file.file.driver=file,file.file.filename={image}");
        self.with(index, &format!("driver=blklogwrites,{file},log.driver=file,log.filename={log}"))
    }

    fn with(&self, index: u8, content: &str) -> Vec<String> {
        let drive = format!("drive{index}");
        let content = format!("if=none,id={drive},{content}");
        let (controller, disk) = match self.model {
            DiskModel::Nvme => (format!("nvme,serial=ennead{index},drive={drive}"), None),
            DiskModel::Virtio => (format!("virtio-blk-pci,{VIRTIO},drive={drive}"), None),
            DiskModel::Ahci => {
                ("ich9-ahci".to_owned(), Some(format!("ide-hd,drive={drive},bus=controller{index}.0")))
            }
        };
        let disk = disk.into_iter().flat_map(|disk| ["-device".to_owned(), disk]).collect();
        [vec!["-drive".to_owned(), content], behind_port(index, &controller), disk].concat()
    }
}

/// A network controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkModel {
    /// Intel 82574L: resets through its power states.
    E1000e,
    /// virtio-net.
    Virtio,
}

/// A TCP port of this machine that leads into QEMU's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Port on 127.0.0.1.
    pub outside: u16,
    /// Whose port; `None`: of whoever has the first address there (10.0.2.15).
    pub to: Option<Ipv4Addr>,
    /// Its port.
    pub inside: u16,
}

impl Forward {
    /// From this port of this machine, or from another if somebody has it.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn from(wanted: u16, to: Option<Ipv4Addr>, inside: u16) -> Result<Self> {
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = free(wanted).or_else(|_| free(0)).context("No free port")?;
        Ok(Self { outside: listener.local_addr()?.port(), to, inside })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to.map(|to| to.to_string()).unwrap_or_default();
        write!(f, ",hostfwd=tcp:127.0.0.1:{}-{to}:{}", self.outside, self.inside)
    }
}

/// A controller on QEMU's own network (10.0.2.0/24, which has DHCP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The controller.
    pub model: NetworkModel,
    /// How its network is reached.
    pub forwards: Vec<Forward>,
}

impl Network {
    /// QEMU's options; `index` is another for each controller of the machine.
    #[must_use]
    pub fn arguments(&self, index: u8) -> Vec<String> {
        let net = format!("net{index}");
        let forwards: String = self.forwards.iter().map(Forward::to_string).collect();
        let device = match self.model {
            NetworkModel::E1000e => format!("e1000e,netdev={net}"),
            NetworkModel::Virtio => format!("virtio-net-pci,{VIRTIO},netdev={net}"),
        };
        [vec!["-netdev".to_owned(), format!("user,id={net}{forwards}")], behind_port(index, &device)].concat()
    }
}

fn behind_port(index: u8, device: &str) -> Vec<String> {
    [port(index), vec!["-device".to_owned(), format!("{device},id=controller{index},bus=port{index}")]]
        .concat()
}

/// QEMU's options for the port `portINDEX`, into which a controller can be plugged.
#[must_use]
pub fn port(index: u8) -> Vec<String> {
    vec!["-device".to_owned(), format!("pcie-root-port,id=port{index},chassis={index},slot={index}")]
}

/// A disk image beside the log of the machine.
#[must_use]
pub fn image_beside(log: &Path, name: &str) -> PathBuf {
    log.with_file_name(format!("{name}.img"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_is_behind_a_port_of_its_own() {
        let disk = Disk { image: PathBuf::from("a,b.img"), model: DiskModel::Nvme };
        assert_eq!(
            disk.arguments(1).join(" "),
            "-drive if=none,id=drive1,format=raw,file=a,,b.img \
             -device pcie-root-port,id=port1,chassis=1,slot=1 \
             -device nvme,serial=ennead1,drive=drive1,id=controller1,bus=port1"
        );
        let ahci = Disk { model: DiskModel::Ahci, ..disk.clone() }.arguments(3).join(" ");
        assert!(ahci.ends_with(
            "-device ich9-ahci,id=controller3,bus=port3 -device ide-hd,drive=drive3,bus=controller3.0"
        ));
        let logged = disk.logged(1, Path::new("c,d")).join(" ");
        assert!(logged.contains("filename=a,,b.img,log.driver=file,log.filename=c,,d -device"), "{logged}");
        let forwards = vec![
            Forward { outside: 8022, to: None, inside: 22 },
            Forward { outside: 8443, to: Some(Ipv4Addr::new(10, 0, 2, 40)), inside: 443 },
        ];
        let network = Network { model: NetworkModel::Virtio, forwards };
        assert_eq!(
            network.arguments(2).join(" "),
            "-netdev user,id=net2,hostfwd=tcp:127.0.0.1:8022-:22,hostfwd=tcp:127.0.0.1:8443-10.0.2.40:443 \
             -device pcie-root-port,id=port2,chassis=2,slot=2 \
             -device virtio-net-pci,disable-legacy=on,iommu_platform=on,netdev=net2,id=controller2,bus=port2"
        );
    }

    #[test]
    fn an_image_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk { image: folder.path().join("disk.img"), model: DiskModel::Nvme };
        disk.make().unwrap();
        assert_eq!(disk.image.metadata().unwrap().len(), NEW_IMAGE);
        std::fs::write(&disk.image, "content").unwrap();
        disk.make().unwrap();
        assert_eq!(std::fs::read(&disk.image).unwrap(), b"content");
        let nowhere = Disk { image: folder.path().join("no/disk.img"), ..disk };
        assert!(nowhere.make().is_err());
    }
}
