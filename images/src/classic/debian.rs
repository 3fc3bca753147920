//! A Dom0 as Debian's users have it, and the guest's disk with its root on it.
//!
//! It is Debian 12 as its installer leaves it without any task (all packages of priority `required` and `important`), with
//! `linux-image-amd64`, `xen-system-amd64`, `bridge-utils`, `grub-xen-host` and `openssh-server`: systemd, udev, cron, sshd, xenstored
//! (the one that Debian prefers), xenconsoled, and `/etc/init.d/xendomains`, which starts what is in `/etc/xen/auto`.
//!
//! What a careful administrator does to have it start fast is done: memory of Dom0 is fixed, its ramdisk has only the drivers that
//! this machine needs (as with `MODULES=dep`), its address is fixed, the bridge does not wait for its ports, the kernel is `quiet`, there
//! is no qemu for disks of Dom0's own. Nothing runs that would differ from boot to boot: no timers, no `fsck`. No boot is a first one.
//!
//! GRUB starts it from an ISO, as it does ours. Its root is a partition of the disk that has the guest's. Three things are there only
//! to be measured, and say on the serial console: `xl` can be used, `xl create` has ended, the guest's console shows its prompt.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ennead_xenstore_check::debian;

use crate::cache::{Cache, Key};
use crate::disk;
use crate::iso::{self, Contents};
use crate::plan::CommandLines;
use crate::progress::Progress;
use crate::step::size;
use crate::xen::{SUITE, file_size, read};

/// What is in it beside what Debian's installer installs anyway.
const PACKAGES: [&str; 8] = [
    KERNEL,
    XEN,
    "bridge-utils",
    "grub-xen-host",
    "initramfs-tools",
    "openssh-server",
    "xenstore-utils",
    "zstd",
];
/// The kernel, Xen and the C library: their versions decide when it is made anew.
const KERNEL: &str = "linux-image-amd64";
const XEN: &str = "xen-system-amd64";
const HYPERVISOR: &str = "xen-hypervisor-4.17-amd64";
const LIBC: &str = "libc6";

/// MiB of Dom0, of 2048.
const DOM0_MIB: u32 = 1024;
/// MiB of its root file system.
const ROOT_MIB: u32 = 1536;

/// What its initial ramdisk is made by: the drivers of its root file system.
const EARLY: [(&str, &str); 2] = [
    ("usr/share/initramfs-tools/conf.d/host", "MODULES=list\n"),
    ("usr/share/initramfs-tools/modules.d/host", "crc32c_generic\next4\nnvme\n"),
];

/// What its administrator has written.
const FILES: [(&str, &str); 6] = [
    ("etc/fstab", "PARTLABEL=dom0 / ext4 noatime,errors=remount-ro 0 0\n"),
    ("etc/hostname", "xenhost\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 xenhost\n::1 localhost\n"),
    ("etc/machine-id", "8d3b2a1052a54c3c9f575f3d9c1e0e09\n"),
    (
        "etc/network/interfaces",
        "auto lo\niface lo inet loopback\n\n\
         auto xenbr0\niface xenbr0 inet static\n\taddress 10.0.2.4/24\n\tgateway 10.0.2.2\n\
         \tbridge_ports eth0\n\tbridge_stp off\n\tbridge_fd 0\n\tbridge_maxwait 0\n",
    ),
    // The same as `guests/debian.toml`.
    (
        "etc/xen/auto/debian.cfg",
        "name = 'debian'\ntype = 'pv'\nkernel = '/usr/lib/grub-xen/grub-x86_64-xen.bin'\nmemory = 256\nvcpus = 1\n\
         disk = ['phy:/dev/disk/by-partlabel/debian,xvda,w']\nvif = ['bridge=xenbr0']\n",
    ),
];

/// What is there only to be measured. A line of its own, whatever is in the console's: a prompt of Dom0's, maybe.
const SEEN: [(&str, &str); 4] = [
    (
        "etc/systemd/system/xen.service.d/seen.conf",
        "[Service]\nExecStartPost=/bin/sh -c '(echo; echo classic: host-ready) > /dev/hvc0'\n",
    ),
    (
        "etc/systemd/system/xendomains.service.d/seen.conf",
        "[Service]\nExecStartPost=/bin/sh -c '(echo; echo classic: guest-created) > /dev/hvc0'\n",
    ),
    (
        "etc/systemd/system/seen.service",
        "[Unit]\nAfter=xendomains.service\n\n[Service]\nExecStart=/bin/bash /usr/local/bin/seen\n",
    ),
    ("usr/local/bin/seen", include_str!("../../classic/seen")),
];

/// A unit that does its work in some boots only, beside those that a guest has as well.
const LOGROTATE: &str = "logrotate.timer";

/// What the machine is given.
#[derive(Debug)]
pub(super) struct Dom0 {
    /// It starts from this.
    pub(super) iso: PathBuf,
    /// The guest's disk with Dom0's root. It is not to be written to.
    pub(super) disk: PathBuf,
}

/// Makes it, or takes it from the cache.
///
/// # Errors
/// When Debian's archive cannot be reached, or a tool fails.
pub(super) fn dom0(cache: &Cache, progress: Progress) -> Result<Dom0> {
    let guest = disk::debian(cache, progress)?;
    let made_of = guest.parent().and_then(Path::file_name).context("The guest's disk has no name")?;
    let mut step = progress.step("Debian's Dom0");
    let lines = command_lines();
    let mut key = Key::new("dom0 1")
        .with("suite", SUITE)
        .with("packages", PACKAGES.join(" "))
        .with("kernel", debian::first_dependency(KERNEL)?)
        .with("hypervisor", debian::candidate(HYPERVISOR)?)
        .with("libc", debian::candidate(LIBC)?)
        .with("script", read(&script())?)
        .with("masked", [&disk::SOMETIMES[..], &[LOGROTATE]].concat().join(" "))
        .with("left out", disk::LEFT_OUT.join(" "))
        .with("size", ROOT_MIB.to_string())
        .with("guest", made_of.as_encoded_bytes())
        .with("xen", &lines.xen)
        .with("options", &lines.kernel);
    for (name, content) in EARLY.iter().chain(&FILES).chain(&SEEN) {
        key = key.with(name, content);
    }
    let dir = cache.artefact("dom0", &key, &mut step, |dir, step| {
        let folder = cache.temporary("dom0")?;
        let at = |name: &str| folder.path().join(name);
        let files = at("files");
        lay(&files)?;
        let tar = disk::bootstrap(step, folder.path(), "important", &PACKAGES, &EARLY)?;
        let mut make = disk::shell_as_root();
        make.arg(script()).args([&tar, &files, &guest, &dir.join("disk")]).arg(ROOT_MIB.to_string());
        step.run(make.current_dir(folder.path()))?;
        let bytes = |name: &str| std::fs::read(at(name)).with_context(|| format!("Dom0 has no {name}"));
        let contents = Contents {
            xen: &bytes("xen")?,
            kernel: ("vmlinuz", &bytes("vmlinuz")?),
            initrd: &bytes("initrd")?,
            policy: None,
            command_lines: &lines,
            console: "com1",
        };
        iso::build(cache, Progress::Silent, &contents, &dir.join("dom0.iso"))
    })?;
    let dom0 = Dom0 { iso: dir.join("dom0.iso"), disk: dir.join("disk") };
    step.done(&size(file_size(&dom0.iso)?));
    Ok(dom0)
}

fn script() -> PathBuf {
    crate::images_dir().join("classic/dom0.sh")
}

/// Xen says as much as Debian has it say: less than on our host.
fn command_lines() -> CommandLines {
    CommandLines {
        xen: format!("console=com1,vga com1=115200,8n1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M"),
        kernel: "root=PARTLABEL=dom0 ro quiet console=hvc0 net.ifnames=0".to_owned(),
    }
}

/// Makes the files that are put over the packages'.
fn lay(folder: &Path) -> Result<()> {
    disk::lay(folder, &FILES)?;
    disk::lay(folder, &SEEN)?;
    let units = folder.join("etc/systemd/system");
    disk::mask(&units, disk::SOMETIMES.iter().chain([&LOGROTATE]))?;
    disk::link("../seen.service", &units.join("multi-user.target.wants/seen.service"))
}
