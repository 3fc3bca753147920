//! The classic host: Debian's Xen, and Debian's kernel as Dom0 with xl, C xenstored and xenconsoled, all of it in its ramdisk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ennead_xenstore_check::debian;

use crate::cache::{Cache, Key};
use crate::cpio::Archive;
use crate::guest::Guest;
use crate::iso::{self, Contents};
use crate::plan::CommandLines;
use crate::progress::Progress;
use crate::step::{Step, size};

/// MiB of Dom0.
const DOM0_MIB: u32 = 640;

/// Depends on the current kernel.
const KERNEL: &str = "linux-image-amd64";
/// What is in the ramdisk, beside the kernel's modules.
const PACKAGES: [&str; 21] = [
    "busybox-static",
    "libc6",
    "libgcc-s1",
    "liblzma5",
    "libuuid1",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libzstd1",
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "xenstore-utils",
    "zlib1g",
];
/// Programs; the libraries that they need come with them.
const PROGRAMS: [&str; 6] = [
    "usr/bin/xenstore-exists",
    "usr/lib/xen-4.17/bin/xen-init-dom0",
    "usr/lib/xen-4.17/bin/xenconsole",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xenstored",
    "usr/lib/xen-4.17/bin/xl",
];
/// Where libraries are.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// The dynamic loader, which programs name with its path.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// What the C library loads by itself when a thread is ended.
const THREADS: &str = "lib/x86_64-linux-gnu/libgcc_s.so.1";
/// The shell and everything around it.
const BUSYBOX: &str = "bin/busybox";
/// The kernel's modules, in the order in which they are loaded: name in the ramdisk, path below the kernel's own.
const MODULES: [(&str, &str); 5] = [
    ("privcmd", "xen-privcmd.ko"),
    ("evtchn", "xen-evtchn.ko"),
    ("gntdev", "xen-gntdev.ko"),
    ("gntalloc", "xen-gntalloc.ko"),
    ("fs", "xenfs/xenfs.ko"),
];
/// PID 1.
const INIT: &str = include_str!("../../classic/init");
/// Strength of the compression: about that of Debian's initramfs-tools.
const LEVEL: i32 = 9;

/// Builds the ISO of a classic host that has this guest, and `config` for it, or takes it from the cache.
///
/// # Errors
/// When a package cannot be had or a tool is missing.
pub(super) fn iso(cache: &Cache, progress: Progress, guest: &Guest, config: &str) -> Result<PathBuf> {
    let kernel = debian::first_dependency(KERNEL)?;
    let packages: Vec<&str> = PACKAGES.into_iter().chain([kernel.as_str()]).collect();
    let [guest_kernel, guest_ramdisk] = [&guest.kernel, &guest.ramdisk].map(|path| read(path));
    let guest_files = [
        ("guest/kernel", guest_kernel?),
        ("guest/ramdisk", guest_ramdisk?),
        ("guest/guest.cfg", config.into()),
    ];
    let lines = command_lines();
    let mut key =
        Key::new("classic 1").with("init", INIT).with("xen", &lines.xen).with("kernel", &lines.kernel);
    for package in &packages {
        key = key.with(package, debian::candidate(package)?);
    }
    for (name, bytes) in &guest_files {
        key = key.with(name, bytes);
    }
    let mut step = progress.step("Classic host");
    let dir = cache.artefact("classic", &key, &mut step, |dir, step| {
        step.note("downloading");
        let folder = cache.temporary("debian")?;
        let root = debian::unpack(&packages, folder.path())?;
        let release = kernel.trim_start_matches("linux-image-");
        let initrd = ramdisk(&root, release, &guest_files)?;
        let contents = Contents {
            xen: &hypervisor(&root, step)?,
            kernel: ("vmlinuz", &read(&root.join("boot").join(format!("vmlinuz-{release}")))?),
            initrd: &zstd::encode_all(initrd.as_slice(), LEVEL).context("Cannot compress the ramdisk")?,
            policy: None,
            command_lines: &lines,
            console: "com1",
        };
        iso::build(cache, Progress::Silent, &contents, &dir.join("classic.iso"))
    })?;
    let iso = dir.join("classic.iso");
    step.done(&size(crate::xen::file_size(&iso)?));
    Ok(iso)
}

/// As on our host, as far as that has a meaning here; all else as Debian has it.
fn command_lines() -> CommandLines {
    CommandLines {
        xen: format!("console=com1,vga com1=115200,8n1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M"),
        kernel: "console=hvc0 quiet".to_owned(),
    }
}

/// Debian's Xen as GRUB wants it. It is compressed with gzip, for which GRUB would need another module.
fn hypervisor(root: &Path, step: &mut Step) -> Result<Vec<u8>> {
    let packed = root.join("boot/xen-4.17-amd64.gz");
    step.run(std::process::Command::new("gunzip").arg(&packed))?;
    read(&packed.with_extension(""))
}

fn ramdisk(root: &Path, release: &str, guest: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut files: BTreeSet<String> = PROGRAMS.into_iter().chain([LOADER]).map(str::to_owned).collect();
    libraries(root, &PROGRAMS.map(str::to_owned), &mut files)?;
    let mut archive = Archive::new();
    for name in ["dev", "guest", "modules"] {
        archive.directory(name)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.program("init", INIT.as_bytes())?;
    files.extend([BUSYBOX, THREADS].map(str::to_owned));
    for name in &files {
        for (end, _) in name.match_indices('/') {
            archive.directory(name.get(..end).unwrap_or_default())?;
        }
        archive.program(name, &read(&debian::place(root, name))?)?;
    }
    let drivers = root.join("lib/modules").join(release).join("kernel/drivers/xen");
    for (name, path) in MODULES {
        archive.file(&format!("modules/{name}.ko"), &read(&drivers.join(path))?)?;
    }
    for (name, bytes) in guest {
        archive.file(name, bytes)?;
    }
    archive.finish()
}

/// Adds the libraries that these files need, and those that they need.
fn libraries(root: &Path, files: &[String], found: &mut BTreeSet<String>) -> Result<()> {
    for file in files {
        let mut command = std::process::Command::new("readelf");
        let text = debian::run(command.args(["-W", "-d"]).arg(debian::place(root, file)))?;
        for name in needed(&text).filter(|name| !LOADER.ends_with(name)) {
            let place = LIBRARIES.iter().map(|folder| format!("{folder}/{name}"));
            let place = place.into_iter().find(|place| root.join(place).exists());
            let place = place.with_context(|| format!("{file} needs {name}, which no package has"))?;
            if found.insert(place.clone()) {
                libraries(root, &[place], found)?;
            }
        }
    }
    Ok(())
}

/// The libraries in what `readelf -d` says.
fn needed(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
    lines.filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_libraries_are_read() {
        let text = "Dynamic section at offset 0x10 contains 2 entries:\n  Tag  Type  Name/Value\n \
            0x0001 (NEEDED)  Shared library: [libxl.so.1]\n 0x000e (SONAME)  Library soname: [me.so.2]\n \
            0x0001 (NEEDED)  Shared library: [libc.so.6]\n";
        assert_eq!(needed(text).collect::<Vec<_>>(), ["libxl.so.1", "libc.so.6"]);
    }
}
