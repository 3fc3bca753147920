//! What a first guest is made of: Debian's cloud kernel, a ramdisk with busybox, Debian's XenStore tools and the frontends of disks
//! and NICs. Debian's packages are unpacked into the cache and never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ennead_xenstore_check::debian;
use tempfile::TempDir;

use crate::cache::{Cache, Key};
use crate::cpio::Archive;
use crate::progress::Progress;
use crate::step::Step;

/// Depends on the current kernel for machines in clouds.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What the ramdisk is made of; the last four are needed by the second.
const PARTS: [&str; 5] = ["busybox-static", "xenstore-utils", "libxenstore4", "libxentoolcore1", "libc6"];
/// What the dynamic loader needs, and the tools.
const FILES: [&str; 8] = [
    "lib64/ld-linux-x86-64.so.2",
    "lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libxenstore.so.4",
    "usr/lib/x86_64-linux-gnu/libxentoolcore.so.1",
    "usr/bin/xenstore-ls",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-write",
    "usr/bin/xenstore-watch",
];

/// Of the kernel's package: the frontends, which are modules there.
const MODULES: [&str; 2] = ["drivers/block/xen-blkfront.ko", "drivers/net/xen-netfront.ko"];

/// PID 1: makes what busybox's own init needs.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /sbin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2> /dev/null
for module in /lib/modules/*.ko; do [ -e $module ] && insmod $module; done
exec /sbin/init
";
/// A shell on the console. Xen's toolstacks ask for `poweroff` and `reboot`, and Linux runs these programs then.
const INITTAB: &str = "::sysinit:/bin/echo guest-ready
hvc0::respawn:-/bin/sh
::shutdown:/bin/echo guest-down
";

/// What `udhcpc` does with the address that it gets.
const DHCP: &str = "#!/bin/sh
case $1 in
deconfig) ifconfig $interface up ;;
bound | renew)
    ifconfig $interface $ip netmask $subnet
    [ -z \"$router\" ] || route add default gw $router ;;
esac
";

/// The files of a guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its kernel, a bzImage.
    pub kernel: PathBuf,
    /// Its ramdisk.
    pub ramdisk: PathBuf,
}

/// Debian's current cloud kernel, and a ramdisk with busybox and the XenStore tools.
///
/// # Errors
/// When a package cannot be had.
pub fn debian(cache: &Cache, progress: Progress) -> Result<Guest> {
    let package = debian::first_dependency(KERNEL)?;
    let mut step = progress.step("Debian's kernel for a guest".to_owned());
    let dir = cache.artefact("guest-kernel", &key(&[&package])?, &mut step, |dir, step| {
        let (_folder, root) = unpack(cache, &[&package], step)?;
        let release = package.trim_start_matches("linux-image-");
        let kernel = root.join("boot").join(format!("vmlinuz-{release}"));
        let mut files = vec![(kernel, dir.join("vmlinuz"))];
        for module in MODULES {
            let from = root.join("lib/modules").join(release).join("kernel").join(module);
            files.push((from, dir.join(file_name(module))));
        }
        for (from, to) in files {
            fs::copy(&from, to).with_context(|| format!("Cannot copy {}", from.display()))?;
        }
        Ok(())
    })?;
    step.done(&package);
    Ok(Guest { kernel: dir.join("vmlinuz"), ramdisk: ramdisk(cache, progress, Some((&package, &dir)))? })
}

/// A ramdisk with busybox; for Debian's kernel (its package, and the folder with its modules) also with the frontends and
/// the XenStore tools.
///
/// # Errors
/// When a package cannot be had.
pub fn ramdisk(cache: &Cache, progress: Progress, kernel: Option<(&str, &Path)>) -> Result<PathBuf> {
    ramdisk_with(cache, progress, kernel, None)
}

/// The same with a program of ours, a static executable: its name in /bin, and its bytes.
///
/// # Errors
/// As [`ramdisk`].
pub fn ramdisk_with(
    cache: &Cache,
    progress: Progress,
    kernel: Option<(&str, &Path)>,
    program: Option<(&str, &[u8])>,
) -> Result<PathBuf> {
    let tools = kernel.is_some();
    let packages = if tools { PARTS.as_slice() } else { &PARTS[..1] };
    let mut step = progress.step("Ramdisk for a guest".to_owned());
    let mut key = key(packages)?.with("init", INIT).with("inittab", INITTAB).with("files", FILES.join(" "));
    if let Some((package, _)) = kernel {
        key = key.with("kernel", debian::candidate(package)?).with("dhcp", DHCP);
    }
    if let Some((name, bytes)) = program {
        key = key.with("program", name).with("its bytes", bytes);
    }
    let dir = cache.artefact("guest-ramdisk", &key, &mut step, |dir, step| {
        let (_folder, root) = unpack(cache, packages, step)?;
        let mut archive = Archive::new();
        for name in ["bin", "dev", "etc", "lib", "lib/x86_64-linux-gnu", "lib64", "usr", "usr/bin", "usr/lib"]
        {
            archive.directory(name)?;
        }
        for name in ["usr/lib/x86_64-linux-gnu", "lib/modules", "usr/share", "usr/share/udhcpc"] {
            archive.directory(name)?;
        }
        archive.character_device("dev/console", 5, 1)?;
        archive.program("init", INIT.as_bytes())?;
        archive.file("etc/inittab", INITTAB.as_bytes())?;
        archive.program("bin/busybox", &read(&root, "bin/busybox")?)?;
        if let Some((name, bytes)) = program {
            archive.program(&format!("bin/{name}"), bytes)?;
        }
        for name in FILES.iter().filter(|_| tools) {
            archive.program(name, &read(&root, name)?)?;
        }
        if let Some((_, modules)) = kernel {
            archive.program("usr/share/udhcpc/default.script", DHCP.as_bytes())?;
            for name in MODULES.map(file_name) {
                archive.file(&format!("lib/modules/{name}"), &read(modules, name)?)?;
            }
        }
        fs::write(dir.join("ramdisk"), archive.finish()?).context("Cannot write the ramdisk")
    })?;
    step.done("");
    Ok(dir.join("ramdisk"))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn key(packages: &[&str]) -> Result<Key> {
    let mut key = Key::new("guest 3");
    for package in packages {
        key = key.with(package, debian::candidate(package)?);
    }
    Ok(key)
}

/// Downloads packages and unpacks them into `root` of a temporary folder.
fn unpack(cache: &Cache, packages: &[&str], step: &mut Step) -> Result<(TempDir, PathBuf)> {
    step.note("downloading");
    let folder = cache.temporary("debian")?;
    let root = debian::unpack(packages, folder.path())?;
    Ok((folder, root))
}

fn read(root: &Path, name: &str) -> Result<Vec<u8>> {
    let path = debian::place(root, name);
    fs::read(&path).with_context(|| format!("Cannot read {}", path.display()))
}

/// A kernel of ours for small guests: as small as it can be, PV and PVH.
///
/// # Errors
/// When it does not build.
pub fn small_kernel(cache: &Cache, progress: Progress) -> Result<PathBuf> {
    crate::kernel::build(cache, progress, "guest", &crate::images_dir().join("kernels/guest.config"))
}
