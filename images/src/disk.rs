//! A guest's disk: Debian 12 with a kernel, as a cloud has it, in a raw image for the machine's storage controller.
//!
//! The image has two GPT partitions, by label: `debian`, which is the guest's whole disk (ext4, no partition table of its own), and
//! `scratch`, which is empty. `debian/make.sh` puts it together. Each copy has a third, for volumes (`debian/volumes.sh`).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use ennead_xenstore_check::debian;

use crate::cache::{Cache, Key};
use crate::packages;
use crate::progress::Progress;
use crate::step::Step;
use crate::xen::{SUITE, write};

/// MiB of the guest's root file system.
pub const ROOT_MIB: u32 = 1024;
/// MiB of the empty partition.
pub const SCRATCH_MIB: u32 = 128;

/// MiB of the partition for volumes, with what the partition table takes.
pub const VOLUMES_MIB: u32 = 257;

/// The kernel; its version decides when the disk is made anew, as that of the C library does.
const KERNEL: &str = "linux-image-cloud-amd64";
const LIBC: &str = "libc6";
/// What is in it beside what any Debian has.
const PACKAGES: [&str; 16] = [
    KERNEL,
    "initramfs-tools",
    "zstd",
    "lz4",
    "systemd-sysv",
    "udev",
    "kmod",
    "procps",
    "ifupdown",
    "iproute2",
    "udhcpc",
    "iputils-ping",
    "wget",
    "fio",
    "iperf3",
    "xenstore-utils",
];
/// Files of packages that a guest on a console does not need.
pub(crate) const LEFT_OUT: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*"];

/// Makes of each kernel one for GRUB in PV guests.
const PV_KERNEL: &str = "etc/kernel/postinst.d/pv-kernel";

/// Files that are there before the kernel is installed: what its initial ramdisk is made by. GRUB reads it in pieces of 4 KiB, each
/// an exchange with the backend: it is kept small. The virtio drivers are for a machine without Xen.
const EARLY: [(&str, &str); 3] = [
    ("usr/share/initramfs-tools/conf.d/guest", "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=19\n"),
    (
        "usr/share/initramfs-tools/modules.d/guest",
        "crc32c_generic\next4\nxen_blkfront\nxen_netfront\nvirtio_pci\nvirtio_blk\nvirtio_net\n",
    ),
    (PV_KERNEL, include_str!("../debian/pv-kernel")),
];

/// Files that are put over the packages'.
const FILES: [(&str, &str); 12] = [
    // The links in / lead to the newest kernel. PV guests have the platform `xen`, PVH guests `xen_pvh`.
    (
        "boot/grub/grub.cfg",
        "set default=0\nset timeout=0\nset kernel=/vmlinuz\n\
         if [ \"$grub_platform\" = xen -a -f /vmlinux.gz ]; then set kernel=/vmlinux.gz; fi\n\
         menuentry Debian {\n\
         \tlinux $kernel root=LABEL=debian ro console=hvc0 quiet net.ifnames=0\n\tinitrd /initrd.img\n}\n",
    ),
    ("etc/fstab", "LABEL=debian / ext4 noatime,errors=remount-ro 0 0\n"),
    ("etc/hostname", "debian\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost\n"),
    // Programs type there, too.
    ("etc/inputrc", "set enable-bracketed-paste off\n"),
    ("etc/motd", ""),
    (
        "etc/network/interfaces",
        "auto lo\niface lo inet loopback\n\nallow-hotplug eth0\niface eth0 inet dhcp\n",
    ),
    ("etc/systemd/journald.conf.d/guest.conf", "[Journal]\nStorage=volatile\nRuntimeMaxUse=4M\n"),
    // Written anew when the network is there.
    ("etc/resolv.conf", ""),
    // Whoever has the console has the guest: no password is asked for there, and there is no other way in.
    (
        "etc/systemd/system/serial-getty@.service.d/guest.conf",
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I $TERM\n",
    ),
    // Something that answers from outside.
    (
        "etc/systemd/system/web.service",
        "[Unit]\nDescription=A page for whoever asks\n\n[Service]\n\
         ExecStart=/bin/busybox httpd -f -p 80 -h /srv/www\nUser=nobody\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n",
    ),
    ("srv/www/index.html", "This is Debian, a guest of Ennead.\n"),
];

/// Units that do their work in some boots only.
pub(crate) const SOMETIMES: [&str; 6] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
];

/// Further units that a guest can do without, and that cost seconds where its processor is emulated.
const MASKED: [&str; 18] = [
    "getty@tty1.service",
    "getty-static.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-journal-flush.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-binfmt.service",
    "systemd-machine-id-commit.service",
    "systemd-logind.service",
    "systemd-ask-password-wall.path",
    "systemd-ask-password-console.path",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "modprobe@.service",
];

/// The disk, from the cache: it is not to be written to.
///
/// # Errors
/// When Debian's archive cannot be reached, or a tool fails.
pub fn debian(cache: &Cache, progress: Progress) -> Result<PathBuf> {
    let mut step = progress.step("Debian on a disk");
    let kernel = debian::first_dependency(KERNEL)?;
    let mut key = Key::new("disk 1")
        .with("suite", SUITE)
        .with("packages", PACKAGES.join(" "))
        .with("kernel", &kernel)
        .with("libc", debian::candidate(LIBC)?)
        .with("script", crate::xen::read(&script())?)
        .with("masked", [&SOMETIMES[..], &MASKED].concat().join(" "))
        .with("left out", LEFT_OUT.join(" "))
        .with("sizes", format!("{ROOT_MIB} {SCRATCH_MIB}"));
    for (name, content) in EARLY.iter().chain(&FILES) {
        key = key.with(name, content);
    }
    let dir = cache.artefact("disk-debian", &key, &mut step, |dir, step| make(cache, dir, step))?;
    step.done(&kernel);
    Ok(dir.join("disk"))
}

/// A copy of the disk, as sparse as it is, with room for volumes; what is there is replaced.
///
/// # Errors
/// As [`debian`], and when the copy cannot be written.
pub fn write_copy(cache: &Cache, progress: Progress, out: &Path) -> Result<()> {
    let disk = debian(cache, progress)?;
    let mut step = Progress::Silent.step("The partition for volumes");
    copy(&disk, out)?;
    add_volumes(&mut step, out, VOLUMES_MIB)
}

/// Copies a disk, as sparse as it is; what is there is replaced.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["--sparse=always", "--reflink=auto"]).args([from, to]);
    Progress::Silent.step("The copy of the disk").run(&mut command)
}

/// Adds the partition for volumes to a disk.
fn add_volumes(step: &mut Step, disk: &Path, mib: u32) -> Result<()> {
    let script = crate::images_dir().join("debian/volumes.sh");
    step.run(Command::new("sh").arg(script).arg(disk).arg(mib.to_string()))
}

fn make(cache: &Cache, dir: &Path, step: &mut Step) -> Result<()> {
    let folder = cache.temporary("disk")?;
    let at = |name: &str| folder.path().join(name);
    let files = at("files");
    lay(&files, &FILES)?;
    let units = files.join("etc/systemd/system");
    mask(&units, SOMETIMES.iter().chain(&MASKED))?;
    link("/etc/systemd/system/web.service", &units.join("multi-user.target.wants/web.service"))?;
    let tar = bootstrap(step, folder.path(), "minbase", &PACKAGES, &EARLY)?;
    assemble(step, folder.path(), [&tar, &files, &dir.join("disk")], [ROOT_MIB, SCRATCH_MIB])
}

/// Has systemd leave units alone.
pub(crate) fn mask<'a>(folder: &Path, units: impl IntoIterator<Item = &'a &'a str>) -> Result<()> {
    units.into_iter().try_for_each(|unit| link("/dev/null", &folder.join(unit)))
}

/// Installs Debian's packages; gives an archive of the root file system, in `folder`. The early files are there before the
/// packages; those that begin as scripts do can be run.
pub(crate) fn bootstrap(
    step: &mut Step,
    folder: &Path,
    variant: &str,
    packages: &[&str],
    early: &[(&str, &str)],
) -> Result<PathBuf> {
    let (tar, sources) = (folder.join("root.tar"), folder.join("debian.sources"));
    write(&sources, &archives()?)?;
    lay(&folder.join("early"), early)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args([&format!("--variant={variant}"), "--format=tar"]);
    mmdebstrap.arg(format!("--include={}", packages.join(",")));
    mmdebstrap.arg("--aptopt=APT::Install-Recommends \"false\"");
    mmdebstrap.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    for (name, content) in early {
        let place = Path::new(name).parent().unwrap_or(Path::new(""));
        mmdebstrap.arg(format!("--essential-hook=mkdir -p \"$1/{}\"", place.display()));
        mmdebstrap.arg(format!("--essential-hook=upload early/{name} /{name}"));
        if content.starts_with("#!") {
            mmdebstrap.arg(format!("--essential-hook=chmod +x \"$1/{name}\""));
        }
    }
    mmdebstrap.arg(SUITE).arg(&tar).arg(&sources).current_dir(folder);
    mmdebstrap.env("SOURCE_DATE_EPOCH", "1767225600").env("LC_ALL", "C");
    step.run(&mut mmdebstrap)?;
    Ok(tar)
}

/// Makes the disk (the last file) of an archive of its files and those put over them. What lies between goes into `folder`.
fn assemble(step: &mut Step, folder: &Path, files: [&Path; 3], mib: [u32; 2]) -> Result<()> {
    let mut make = shell_as_root();
    make.arg(script()).args(files).args(mib.map(|mib| mib.to_string())).current_dir(folder);
    step.run(&mut make)
}

/// `sh`, to which the files that it makes seem to be root's. Else a file system of them would have the builder's files.
pub(crate) fn shell_as_root() -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new("sh");
    }
    let mut fakeroot = Command::new("fakeroot");
    fakeroot.args(["--", "sh"]);
    fakeroot
}

fn script() -> PathBuf {
    crate::images_dir().join("debian/make.sh")
}

/// Debian's archives as this system has them: the suite's, and that of its security fixes if there is one.
fn archives() -> Result<String> {
    let etc_apt = Path::new("/etc/apt");
    let main = packages::source_entry(etc_apt, SUITE)?;
    let security = packages::source_entry(etc_apt, &format!("{SUITE}-security")).unwrap_or_default();
    Ok(format!("{main}\n{security}").replace("Types: deb-src\n", "Types: deb\n"))
}

/// Makes files in a folder.
pub(crate) fn lay(folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, content) in files {
        let path = folder.join(name);
        above(&path)?;
        write(&path, content)?;
    }
    Ok(())
}

/// Makes a symbolic link, and the folder that it is in.
pub(crate) fn link(target: &str, path: &Path) -> Result<()> {
    above(path)?;
    symlink(target, path).with_context(|| format!("Cannot make {}", path.display()))
}

/// Makes the folder of a file.
fn above(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_its_partitions_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut step = Progress::silent().step("The disk");
        lay(
            &at("root"),
            &[("etc/hostname", "theirs"), ("etc/machine-id", "uninitialized"), ("dev/none", "")],
        )
        .unwrap();
        let mut tar = Command::new("tar");
        step.run(tar.args(["-cf", "root.tar", "-C", "root", "."]).current_dir(folder.path())).unwrap();
        lay(&at("files"), &FILES).unwrap();
        link("/dev/null", &at("files/etc/systemd/system/a.timer")).unwrap();
        assemble(
            &mut step,
            folder.path(),
            [&at("root.tar"), &at("files"), &at("disk")].map(|p| p.as_path()),
            [8, 2],
        )
        .unwrap();
        assert_eq!(fs::metadata(at("disk")).unwrap().len(), 12 << 20);
        add_volumes(&mut step, &at("disk"), 9).unwrap();

        let disk = fs::read(at("disk")).unwrap();
        // Entries of the GPT from sector 2 on, 128 bytes each: first and last sector at 32 and 40, name at 56.
        let partitions =
            [("debian", 2048_u64, 18431_u64), ("scratch", 18432, 22527), ("ennead-volumes", 24576, 40959)];
        for (index, (name, first, last)) in partitions.into_iter().enumerate() {
            let entry = &disk[1024 + index * 128..][..128];
            let utf16: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).chain([0, 0]).collect();
            assert!(entry[56..].starts_with(&utf16), "{name}");
            assert_eq!(entry[32..48], [first.to_le_bytes(), last.to_le_bytes()].concat(), "{name}");
        }
        let debugfs = |command: &str| {
            let mut debugfs = Command::new("debugfs");
            let file_system = format!("{}?offset=1048576", at("disk").display());
            let output = debugfs.args(["-R", command, &file_system]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(debugfs("cat /etc/hostname"), "debian\n");
        assert_eq!(debugfs("cat /etc/machine-id"), "");
        assert!(debugfs("cat /boot/grub/grub.cfg").contains("linux $kernel root=LABEL=debian"));
        assert!(debugfs("stat /etc/systemd/system/a.timer").contains("Fast link dest: \"/dev/null\""));
        assert!(!debugfs("ls /dev").contains("none"));
        let features = debugfs("features");
        assert!(!features.contains("metadata_csum_seed") && !features.contains("orphan_file"), "{features}");
        let owner = debugfs("stat /etc/hostname");
        assert!(owner.contains("User:     0   Group:     0"), "{owner}");
    }
}
