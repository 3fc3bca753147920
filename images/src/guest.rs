//! What a first guest is made of: Debian's cloud kernel, a ramdisk with busybox and Debian's XenStore tools. Debian's packages
//! are unpacked into the cache and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

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

/// PID 1: makes what busybox's own init needs.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /sbin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2> /dev/null
exec /sbin/init
";
/// A shell on the console. Xen's toolstacks ask for `poweroff` and `reboot`, and Linux runs these programs then.
const INITTAB: &str = "::sysinit:/bin/echo guest-ready
hvc0::respawn:-/bin/sh
::shutdown:/bin/echo guest-down
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
    let package = kernel_package()?;
    let mut step = progress.step("Debian's kernel for a guest".to_owned());
    let dir = cache.artefact("guest-kernel", &key(&[&package])?, &mut step, |dir, step| {
        let root = unpack(cache, &[&package], step)?;
        let release = package.trim_start_matches("linux-image-");
        let kernel = root.path().join("root/boot").join(format!("vmlinuz-{release}"));
        fs::copy(&kernel, dir.join("vmlinuz"))
            .with_context(|| format!("Cannot copy {}", kernel.display()))?;
        Ok(())
    })?;
    step.done(&package);
    Ok(Guest { kernel: dir.join("vmlinuz"), ramdisk: ramdisk(cache, progress, true)? })
}

/// A ramdisk with busybox; with `tools`, Debian's XenStore tools, too.
///
/// # Errors
/// When a package cannot be had.
pub fn ramdisk(cache: &Cache, progress: Progress, tools: bool) -> Result<PathBuf> {
    let packages = if tools { PARTS.as_slice() } else { &PARTS[..1] };
    let mut step = progress.step("Ramdisk for a guest".to_owned());
    let key = key(packages)?.with("init", INIT).with("inittab", INITTAB).with("files", FILES.join(" "));
    let dir = cache.artefact("guest-ramdisk", &key, &mut step, |dir, step| {
        let unpacked = unpack(cache, packages, step)?;
        let root = unpacked.path().join("root");
        let mut archive = Archive::new();
        for name in ["bin", "dev", "etc", "lib", "lib/x86_64-linux-gnu", "lib64", "usr", "usr/bin", "usr/lib"]
        {
            archive.directory(name)?;
        }
        archive.directory("usr/lib/x86_64-linux-gnu")?;
        archive.character_device("dev/console", 5, 1)?;
        archive.program("init", INIT.as_bytes())?;
        archive.file("etc/inittab", INITTAB.as_bytes())?;
        archive.program("bin/busybox", &read(&root.join("bin/busybox"))?)?;
        for name in FILES.iter().filter(|_| tools) {
            archive.program(name, &read(&root.join(name))?)?;
        }
        fs::write(dir.join("ramdisk"), archive.finish()?).context("Cannot write the ramdisk")
    })?;
    step.done("");
    Ok(dir.join("ramdisk"))
}

fn key(packages: &[&str]) -> Result<Key> {
    let mut key = Key::new("guest 1");
    for package in packages {
        key = key.with(package, candidate(package)?);
    }
    Ok(key)
}

/// The kernel's package that Debian's depends on now.
fn kernel_package() -> Result<String> {
    let text = run(Command::new("apt-cache").args(["show", "--no-all-versions", KERNEL]))?;
    let depends = text.lines().find_map(|line| line.strip_prefix("Depends: "));
    let package = depends.and_then(|line| line.split_whitespace().next());
    Ok(package
        .with_context(|| format!("{KERNEL} depends on no kernel; is `apt-get update` due?"))?
        .to_owned())
}

/// The version that would be downloaded.
fn candidate(package: &str) -> Result<String> {
    let text = run(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
    Ok(version.with_context(|| format!("Debian has no {package}; is `apt-get update` due?"))?.to_owned())
}

/// Downloads packages and unpacks them into `root` of a temporary folder.
fn unpack(cache: &Cache, packages: &[&str], step: &mut Step) -> Result<tempfile::TempDir> {
    step.note("downloading");
    let folder = cache.temporary("debian")?;
    // Without the option apt complains that its own user may not write here.
    run(Command::new("apt-get")
        .args(["-o", "APT::Sandbox::User=root", "download"])
        .args(packages)
        .current_dir(folder.path()))?;
    let root = folder.path().join("root");
    for entry in fs::read_dir(folder.path()).context("Cannot list the download")?.filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
        }
    }
    Ok(folder)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Cannot read {}", path.display()))
}

fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("Cannot start `{name}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "`{name}` failed: {}", said.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A kernel of ours for small guests: as small as it can be, PV and PVH.
///
/// # Errors
/// When it does not build.
pub fn small_kernel(cache: &Cache, progress: Progress) -> Result<PathBuf> {
    crate::kernel::build(cache, progress, "guest", &crate::images_dir().join("kernels/guest.config"))
}
