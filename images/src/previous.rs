//! Images of an ISO that was there before: what VMs go back to that do not become healthy with their own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use ennead_launch::Store;
use ennead_manifest::{Kind, Plan};

use crate::cache::Cache;

/// The images of an older ISO that differ from those of this `plan`, `new`, under the names that this plan's VMs have for previous
/// ones. Only of VMs that Builder builds again.
///
/// # Errors
/// The ISO cannot be read, is none of ours, or is not signed with this key (ed25519, 32 bytes).
pub fn images(
    cache: &Cache,
    iso: &Path,
    key: &[u8; 32],
    plan: &Plan,
    new: &BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = cache.temporary("previous")?;
    let there = || format!("Cannot take previous images from {}", iso.display());
    let old = open(iso, key, folder.path()).with_context(there)?;
    of_store(&old, plan, new).with_context(there)
}

fn open(iso: &Path, key: &[u8; 32], folder: &Path) -> Result<Store> {
    anyhow::ensure!(iso.is_file(), "There is no such file");
    let initrd = folder.join("initrd");
    let mut command = Command::new("xorriso");
    command.args(["-osirrox", "on", "-indev"]).arg(iso).args(["-extract", "/boot/initrd"]).arg(&initrd);
    let output = command.output().context("Cannot run xorriso")?;
    anyhow::ensure!(
        initrd.is_file(),
        "It is no ISO of Ennead's: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    unpack(&fs::read(&initrd)?, folder).context("Its initrd is none of ours")?;
    fs::write(folder.join("plan.pub"), key)?;
    Ok(Store::open(folder)?)
}

/// Puts the signed plan and the images of domain 0's initrd ([`crate::ramdisk::domain_zero`]) into a folder.
fn unpack(initrd: &[u8], folder: &Path) -> Result<()> {
    let mut bootstrapper = zstd::stream::read::Decoder::with_buffer(initrd)?.single_frame();
    io::copy(&mut bootstrapper, &mut io::sink())?;
    let mut rest = bootstrapper.finish();
    let padding = rest.iter().take_while(|byte| **byte == 0).count();
    rest = rest.get(padding..).unwrap_or_default();
    fs::create_dir(folder.join("images"))?;
    loop {
        let mut reader = cpio::newc::Reader::new(rest)?;
        if reader.entry().is_trailer() {
            return Ok(());
        }
        let name = reader.entry().name().to_owned();
        let file = name.strip_prefix("images/").unwrap_or(&name);
        let is_ours = file != name || ["plan.toml", "plan.sig"].contains(&file);
        if is_ours && !file.contains('/') {
            let mut content = Vec::new();
            reader.read_to_end(&mut content)?;
            fs::write(folder.join(&name), content).with_context(|| format!("Cannot write {name:?}"))?;
        }
        rest = reader.finish()?;
    }
}

fn of_store(old: &Store, plan: &Plan, new: &BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, Vec<u8>>> {
    let stays =
        |kind| matches!(kind, Kind::Bootstrapper | Kind::Builder | Kind::Pciback | Kind::XenstoreState);
    let mut found = BTreeMap::new();
    for vm in plan.vms.iter().filter(|vm| !stays(vm.kind)) {
        let (Some(before), Some(names)) = (old.boot_plan().plan.vm(&vm.name), vm.previous(|_| true)) else {
            continue;
        };
        for (name, before, now) in [
            (names.kernel_image(), before.kernel_image(), vm.kernel_image()),
            (names.ramdisk_image(), before.ramdisk_image(), vm.ramdisk_image()),
        ] {
            let image = old.image(&before)?;
            if new.get(&now) == Some(&image) {
                continue;
            }
            if let Some(other) = found.insert(name, image.clone()) {
                anyhow::ensure!(
                    other == image,
                    "VMs that share `{now}` had different images, one of them `{before}`"
                );
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ramdisk::{Extra, domain_zero, ramdisk};

    #[test]
    fn plan_and_images_are_found_behind_the_bootstrapper() {
        let bootstrapper =
            ramdisk(&[7; 100_000], &[Extra { name: "plan.pub", content: b"not this one" }]).unwrap();
        let images =
            [Extra { name: "a.kernel", content: b"kernel" }, Extra { name: "b.ramdisk", content: b"" }];
        let initrd = domain_zero(&bootstrapper, &images, b"plan", b"signature").unwrap();
        let folder = tempfile::tempdir().unwrap();
        unpack(&initrd, folder.path()).unwrap();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert_eq!([read("plan.toml"), read("plan.sig")], [b"plan".to_vec(), b"signature".to_vec()]);
        assert_eq!([read("images/a.kernel"), read("images/b.ramdisk")], [b"kernel".to_vec(), Vec::new()]);
        assert!(!folder.path().join("plan.pub").exists());
    }

    #[test]
    fn what_is_no_initrd_of_ours_is_refused_and_nothing_is_written_elsewhere() {
        let refused = |bytes: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            let inner = folder.path().join("inner");
            fs::create_dir(&inner).unwrap();
            let result = unpack(bytes, &inner);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            result.is_err()
        };
        let bootstrapper = ramdisk(&[7; 100], &[]).unwrap();
        let whole = domain_zero(&bootstrapper, &[], b"plan", b"signature").unwrap();
        for cut in (0..whole.len() - 200).step_by(97) {
            assert!(refused(&whole[..cut]), "{cut}");
        }
        assert!(refused(b"something else"));
        for name in ["../evil", "x/y"] {
            let evil = domain_zero(&bootstrapper, &[Extra { name, content: b"" }], b"", b"").unwrap();
            assert!(!refused(&evil), "{name} is passed over");
        }
    }

    #[test]
    fn a_file_that_is_no_iso_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("old.iso");
        assert!(open(&file, &[0; 32], folder.path()).unwrap_err().to_string().contains("no such file"));
        fs::write(&file, [0; 100_000]).unwrap();
        assert!(open(&file, &[0; 32], folder.path()).unwrap_err().to_string().contains("no ISO of Ennead's"));
    }
}
