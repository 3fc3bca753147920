//! GRUB as Debian builds it for Xen's guests. It runs inside a guest that boots from its own disk, in place of a kernel, so nobody
//! else reads that disk. A program of its own (GPL-3.0-or-later), taken from Debian's package as it is.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ennead_xenstore_check::debian;

use crate::cache::{Cache, Key};
use crate::progress::Progress;
use crate::step::size;
use crate::xen::file_size;

const PACKAGE: &str = "grub-xen-host";
/// Where the package has it for each kind of guest, and its name in the ramdisk of a toolstack, which looks for these.
const FILES: [(&str, &str); 2] = [
    ("usr/lib/grub-xen/grub-x86_64-xen.bin", "loader.pv"),
    ("usr/lib/grub-xen/grub-i386-xen_pvh.bin", "loader.pvh"),
];

/// The boot loaders, as files of a toolstack's ramdisk: name and bytes.
///
/// # Errors
/// When Debian's package cannot be had.
pub fn files(cache: &Cache, progress: Progress) -> Result<Vec<(String, Vec<u8>)>> {
    let version = debian::candidate(PACKAGE)?;
    let mut step = progress.step("GRUB for guests");
    let key = Key::new("loader 1").with(PACKAGE, &version);
    let dir = cache.artefact("loader", &key, &mut step, |dir, step| {
        step.note("downloading");
        let folder = cache.temporary("debian")?;
        let root = debian::unpack(&[PACKAGE], folder.path())?;
        for (path, name) in FILES {
            let from = root.join(path);
            fs::copy(&from, dir.join(name)).with_context(|| format!("Cannot copy {}", from.display()))?;
        }
        Ok(())
    })?;
    let places: Vec<(&str, PathBuf)> = FILES.iter().map(|(_, name)| (*name, dir.join(name))).collect();
    let sizes = places.iter().map(|(_, path)| file_size(path)).sum::<Result<u64>>()?;
    step.done(&size(sizes));
    let read = |(name, path): (&str, PathBuf)| {
        let bytes = fs::read(&path).with_context(|| format!("Cannot read {}", path.display()))?;
        Ok((name.to_owned(), bytes))
    };
    places.into_iter().map(read).collect()
}
