//! The two hosts, and the guests of both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ennead_manifest::Kind;
use ennead_xenstore_check::debian;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::cache::{Cache, Key};
use crate::cpio::Archive;
use crate::guest;
use crate::host::{self, Host};
use crate::progress::Progress;
use crate::xen::{read, write};

/// The kernel of Linux's driver VMs.
const KERNEL: &str = "device-linux";
/// Their program.
const PROGRAM: &str = "linux-backend";
/// MiB of each of them: more than ours have, since guests' pages are mapped there.
const MEMORY_MIB: u32 = 96;

/// Of zstd.
const LEVEL: i32 = 10;

/// What the peer's iperf3 is made of, and its files.
const PACKAGES: [&str; 5] = ["iperf3", "libiperf0", "libsctp1", "libssl3", "libc6"];
const FILES: [&str; 6] = [
    "usr/bin/iperf3",
    "usr/lib/x86_64-linux-gnu/libiperf.so.0",
    "usr/lib/x86_64-linux-gnu/libsctp.so.1",
    "usr/lib/x86_64-linux-gnu/libssl.so.3",
    "usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "lib/x86_64-linux-gnu/libm.so.6",
];

/// Our host and the one with Linux's backends.
///
/// # Errors
/// When one does not build.
pub(super) fn build(cache: &Cache, progress: Progress, options: &host::Options) -> Result<[Host; 2]> {
    let ours = host::build(cache, progress, options)?;
    let folder = cache.temporary("backends")?;
    let from = options.manifest.parent().unwrap_or(Path::new(""));
    let kernels = folder.path().join("kernels");
    fs::create_dir(&kernels).with_context(|| format!("Cannot make {}", kernels.display()))?;
    for entry in fs::read_dir(from.join("kernels")).context("Cannot list the kernels")? {
        let entry = entry?;
        fs::copy(entry.path(), kernels.join(entry.file_name())).context("Cannot copy a kernel's options")?;
    }
    let more = read(&crate::images_dir().join("linux-backend/linux.config"))?;
    let config = format!("{}\n{more}", read(&kernels.join("device.config"))?);
    write(&kernels.join(format!("{KERNEL}.config")), &config)?;
    let patch = |name: &str| kernels.join(format!("{name}.patch"));
    fs::copy(patch("device"), patch(KERNEL)).context("Cannot copy the patch")?;
    let manifest = folder.path().join("host.toml");
    // Linux's netback does not copy a packet itself: it has Xen copy from one guest's page to the other's.
    let rules = "allow guest_main_t guest_main_t:grant { copy };".to_owned();
    let text = with_linux(&options.manifest_text()?)?;
    let options = host::Options { manifest, text: Some(text), rules, ..options.clone() };
    Ok([ours, host::build(cache, progress, &options)?])
}

/// The same manifest, but its driver VMs have Linux's backends.
fn with_linux(text: &str) -> Result<String> {
    let mut manifest: Table = text.parse().context("The manifest is no TOML")?;
    let section = |name: &str| {
        let section = manifest.get(name).and_then(Value::as_table).cloned();
        section.with_context(|| format!("No [{name}] in the manifest"))
    };
    let (mut kernels, mut vms) = (section("kernel")?, section("vm")?);
    kernels.insert(KERNEL.into(), format!("kernels/{KERNEL}.config").into());
    for (_, vm) in &mut vms {
        let kind = vm.get("kind").and_then(Value::as_str).unwrap_or_default();
        if ![Kind::Blkback, Kind::Netback].iter().any(|k| k.as_str() == kind) {
            continue;
        }
        let vm = vm.as_table_mut().context("A VM is no table")?;
        vm.insert("kernel".into(), KERNEL.into());
        vm.insert("program".into(), PROGRAM.into());
        vm.insert("memory-mib".into(), MEMORY_MIB.into());
    }
    manifest.insert("kernel".into(), kernels.into());
    manifest.insert("vm".into(), vms.into());
    Ok(manifest.to_string())
}

/// The guests' configurations, in a folder of their own.
#[derive(Debug)]
pub(super) struct Guests {
    folder: TempDir,
}

impl Guests {
    /// The one that measures: Debian.
    pub(super) fn debian(&self) -> PathBuf {
        self.folder.path().join("debian.toml")
    }

    /// The one on the other side of the bridge.
    pub(super) fn peer(&self) -> PathBuf {
        self.folder.path().join("peer.toml")
    }
}

/// Makes the guests' files.
///
/// # Errors
/// When a package cannot be had.
pub(super) fn guests(cache: &Cache, progress: Progress) -> Result<Guests> {
    let files = guest::debian(cache, progress)?;
    let folder = cache.temporary("backends-guests")?;
    let guests = Guests { folder };
    let ramdisk = guests.folder.path().join("ramdisk");
    // Linux unpacks one archive after the other.
    let both = [files.ramdisk, iperf3(cache, progress)?]
        .map(|path| fs::read(&path).with_context(|| format!("Cannot read {}", path.display())));
    let [first, second] = both;
    let both = [first?, second?].concat();
    // Together with the kernel it must fit into what the toolstack keeps of images.
    let packed = zstd::encode_all(both.as_slice(), LEVEL).context("Cannot compress the ramdisk")?;
    fs::write(&ramdisk, packed).context("Cannot write the ramdisk")?;
    write(
        &guests.peer(),
        &format!(
            "name = \"{}\"\nkind = \"pv\"\nkernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console=hvc0 quiet\"\n\
             memory-mib = 160\nvcpus = 1\nvif = [{{}}]\n",
            super::side::PEER,
            files.kernel.display(),
            ramdisk.display()
        ),
    )?;
    let debian = read(&crate::first_guest::configuration())?;
    let disk = "\n[[disk]]\nvdev = \"xvdb\"\nsource = \"label:scratch\"\naccess = \"w\"\n";
    write(&guests.debian(), &(debian + disk))?;
    Ok(guests)
}

/// A ramdisk with iperf3, to go behind a guest's own.
fn iperf3(cache: &Cache, progress: Progress) -> Result<PathBuf> {
    let mut key = Key::new("iperf3 1").with("files", FILES.join(" "));
    for package in PACKAGES {
        key = key.with(package, debian::candidate(package)?);
    }
    let mut step = progress.step("Ramdisk with iperf3");
    let dir = cache.artefact("iperf3", &key, &mut step, |dir, _| {
        let folder = cache.temporary("iperf3")?;
        let root = debian::unpack(&PACKAGES, folder.path())?;
        let mut archive = Archive::new();
        for name in FILES {
            let path = debian::place(&root, name);
            let bytes = fs::read(&path).with_context(|| format!("Cannot read {}", path.display()))?;
            archive.program(name, &bytes)?;
        }
        fs::write(dir.join("ramdisk"), archive.finish()?).context("Cannot write the ramdisk")
    })?;
    step.done("");
    Ok(dir.join("ramdisk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_driver_vms_are_linux_s() {
        let text = read(&crate::images_dir().join("host.toml")).unwrap();
        let linux = with_linux(&text).unwrap();
        assert_eq!(linux.matches("program = \"linux-backend\"").count(), 2);
        let checked = crate::plan::check_text(Path::new("host.toml"), linux).unwrap();
        let changed = |vm: &&ennead_manifest::Vm| vm.kernel == KERNEL;
        let names: Vec<&str> = checked.plan.vms.iter().filter(changed).map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, ["blkback", "netback"]);
    }
}
