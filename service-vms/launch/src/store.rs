//! The signed boot plan and its images, as files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, VerifyingKey};
use ennead_manifest::{BootPlan, Image, Vm};
use sha2::{Digest as _, Sha256};

/// Bytes of a boot plan at most: one of some ten VMs has a few KiB.
const PLAN_LIMIT: u64 = 1 << 20;

/// What was refused, and why. Its `Display` names the file.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Refused {
    /// `signature`, `manifest` or the image's name.
    pub what: String,
    /// The reason.
    pub why: String,
}

fn refused(what: &str, why: impl Into<String>) -> Refused {
    Refused { what: what.to_owned(), why: why.into() }
}

/// The signed boot plan and the images that it names.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    boot: BootPlan,
    plan_bytes: Vec<u8>,
    signature: Vec<u8>,
}

impl Store {
    /// Opens the store in `dir` (`plan.toml`, `plan.sig`, `images/`) and checks the plan's signature against the public
    /// key in `dir/plan.pub` (32 bytes, ed25519, RFC 8032).
    ///
    /// # Errors
    /// When a file is missing, the signature does not match, or the plan is not valid.
    pub fn open(dir: &Path) -> Result<Self, Refused> {
        let file = |name: &str, what: &str, limit: u64| {
            read_bounded(&dir.join(name), limit)
                .map_err(|e| refused(what, format!("Cannot read {name}: {e}")))
        };
        let key: [u8; 32] = file("plan.pub", "key", 32)?.try_into().map_err(|bytes: Vec<u8>| {
            refused("key", format!("plan.pub has {} bytes, not 32", bytes.len()))
        })?;
        let plan_bytes = file("plan.toml", "manifest", PLAN_LIMIT)?;
        let signature = file("plan.sig", "signature", 64)?;
        check_signature(&key, &plan_bytes, &signature)?;
        let text =
            std::str::from_utf8(&plan_bytes).map_err(|e| refused("manifest", format!("plan.toml: {e}")))?;
        let boot = BootPlan::from_toml(text).map_err(|e| refused("manifest", format!("plan.toml: {e}")))?;
        Ok(Self { dir: dir.to_owned(), boot, plan_bytes, signature })
    }

    /// The signed plan.
    #[must_use]
    pub fn boot_plan(&self) -> &BootPlan {
        &self.boot
    }

    /// The VM of this name is another one from now on: its successor under its other domid.
    pub fn succeed(&mut self, vm: &Vm) {
        self.boot.plan.vms.iter_mut().filter(|old| old.name == vm.name).for_each(|old| old.clone_from(vm));
    }

    /// The VM of this name has its previous images from now on, if there are any that it does not have already.
    pub fn fall_back(&mut self, name: &str) -> Option<Vm> {
        let vm = self.boot.plan.vm(name)?.previous(|image| self.boot.images.contains_key(image))?;
        self.succeed(&vm);
        Some(vm)
    }

    /// Checks every image of the plan; gives their number.
    ///
    /// # Errors
    /// Names the first image that is missing or not the signed one.
    pub fn verify_all(&self) -> Result<usize, Refused> {
        for name in self.boot.images.keys() {
            self.image(name)?;
        }
        Ok(self.boot.images.len())
    }

    /// Reads one image (`<kernel>.kernel` or `<program>.ramdisk`) and checks its hash.
    ///
    /// # Errors
    /// When it is not in the plan, missing, or not the signed one.
    pub fn image(&self, name: &str) -> Result<Vec<u8>, Refused> {
        let signed = self.boot.images.get(name).ok_or_else(|| refused(name, "Not in the signed plan"))?;
        let data = read_bounded(&self.dir.join("images").join(name), signed.size)
            .map_err(|e| refused(name, format!("Cannot read it: {e}")))?;
        check_image(name, &data, signed)?;
        Ok(data)
    }

    /// The whole store as an uncompressed newc archive: appended to Builder's ramdisk it is the store in Builder. The key
    /// is not in it: Builder has its own copy, in the ramdisk that the plan's signature covers.
    ///
    /// # Errors
    /// As [`Store::image`].
    pub fn archive(&self) -> Result<Vec<u8>, Refused> {
        let mut files = vec![
            ("plan.toml".to_owned(), self.plan_bytes.clone()),
            ("plan.sig".to_owned(), self.signature.clone()),
        ];
        for name in self.boot.images.keys() {
            files.push((format!("images/{name}"), self.image(name)?));
        }
        crate::archive::newc(&["images"], &files).map_err(|e| refused("store", e.to_string()))
    }
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    // One byte more than allowed, so that a file that is too long is seen as such.
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut data)?;
    if u64::try_from(data.len()).is_ok_and(|n| n > limit) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {limit} bytes")));
    }
    Ok(data)
}

fn check_signature(key: &[u8; 32], plan: &[u8], signature: &[u8]) -> Result<(), Refused> {
    let key =
        VerifyingKey::from_bytes(key).map_err(|_| refused("key", "plan.pub is no ed25519 public key"))?;
    let signature = Signature::from_slice(signature)
        .map_err(|_| refused("signature", format!("plan.sig has {} bytes, not 64", signature.len())))?;
    key.verify_strict(plan, &signature).map_err(|_| {
        refused("manifest", "Its signature (plan.sig) does not match: plan.toml or plan.sig was modified, or signed with another key")
    })
}

fn check_image(name: &str, data: &[u8], signed: &Image) -> Result<(), Refused> {
    let actual = hex(&Sha256::digest(data));
    if u64::try_from(data.len()).ok() != Some(signed.size) {
        return Err(refused(name, format!("{} bytes, but the signed plan says {}", data.len(), signed.size)));
    }
    if actual != signed.sha256 {
        return Err(refused(
            name,
            format!("SHA-256 is {actual}, but the signed plan says {}", signed.sha256),
        ));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use ed25519_dalek::{Signer as _, SigningKey};

    use ennead_manifest::Kind;

    use super::*;

    /// A signed store of the shipped manifest, whose images are a few bytes each.
    fn signed() -> tempfile::TempDir {
        signed_with(&[])
    }

    /// The same with further images.
    fn signed_with(more: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        let text = include_str!("../../../images/host.toml");
        let plan = ennead_manifest::check("host.toml", text).expect("the shipped manifest is valid");
        let mut images = BTreeMap::new();
        fs::create_dir(dir.path().join("images")).expect("directory");
        let vms = plan.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper);
        let names = vms.flat_map(|vm| [vm.kernel_image(), vm.ramdisk_image()]);
        for name in names.chain(more.iter().map(|name| (*name).to_owned())) {
            let data = format!("the image {name}").into_bytes();
            let sha256 = hex(&Sha256::digest(&data));
            fs::write(dir.path().join("images").join(&name), &data).expect("file");
            images.insert(name, Image { sha256, size: u64::try_from(data.len()).expect("small") });
        }
        let manifest_sha256 = hex(&Sha256::digest(text));
        let boot = BootPlan { manifest_sha256, images, plan }.to_toml().expect("valid");
        let key = SigningKey::from_bytes(&[7; 32]);
        let file = |name: &str, data: &[u8]| fs::write(dir.path().join(name), data).expect("file");
        file("plan.toml", boot.as_bytes());
        file("plan.sig", &key.sign(boot.as_bytes()).to_bytes());
        file("plan.pub", key.verifying_key().as_bytes());
        dir
    }

    fn check(dir: &Path) -> Result<usize, String> {
        Store::open(dir).and_then(|store| store.verify_all()).map_err(|refused| refused.to_string())
    }

    fn flip(path: &Path) {
        let mut data = fs::read(path).expect("file");
        let middle = data.len() / 2;
        data[middle] ^= 1;
        fs::write(path, data).expect("file");
    }

    #[test]
    fn a_vm_goes_back_to_its_previous_images_once() {
        let dir = signed_with(&["netback.previous.ramdisk"]);
        let mut store = Store::open(dir.path()).expect("signed");
        assert!(store.fall_back("blkback").is_none() && store.fall_back("nobody").is_none());
        let vm = store.fall_back("netback").expect("there is one");
        assert_eq!(store.image(&vm.ramdisk_image()).expect("signed"), b"the image netback.previous.ramdisk");
        assert_eq!(vm.kernel_image(), "device.kernel", "that one is as it was");
        assert_eq!(store.boot_plan().plan.vm("netback"), Some(&vm));
        assert!(store.fall_back("netback").is_none());
        let dir = signed_with(&["netback.previous.ramdisk", "device.previous.kernel"]);
        let mut store = Store::open(dir.path()).expect("signed");
        let vm = store.fall_back("netback").expect("there are two");
        assert_eq!(
            (&*vm.kernel_image(), &*vm.ramdisk_image()),
            ("device.previous.kernel", "netback.previous.ramdisk")
        );
        assert!(store.fall_back("netback").is_none());
    }

    #[test]
    fn what_was_signed_is_accepted() {
        // Four kernels, seven programs.
        assert_eq!(check(signed().path()), Ok(11));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused_and_named() {
        for (file, named) in [
            ("plan.toml", "manifest: Its signature (plan.sig) does not match"),
            ("plan.sig", "manifest: Its signature (plan.sig) does not match"),
            ("images/driver.kernel", "driver.kernel: SHA-256 is "),
            ("images/service.kernel", "service.kernel: SHA-256 is "),
            ("images/builder.ramdisk", "builder.ramdisk: SHA-256 is "),
            ("images/pciback.ramdisk", "pciback.ramdisk: SHA-256 is "),
        ] {
            let dir = signed();
            flip(&dir.path().join(file));
            let refused = check(dir.path()).expect_err(file);
            assert!(refused.starts_with(named), "{file}: {refused}");
        }
    }

    #[test]
    fn another_key_does_not_do() {
        let dir = signed();
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        fs::write(dir.path().join("plan.pub"), other.as_bytes()).expect("file");
        assert!(check(dir.path()).expect_err("another key").starts_with("manifest: Its signature"));
    }

    #[test]
    fn missing_short_and_long_files_are_named() {
        for (file, data, named) in [
            ("plan.pub", Some(&b"short"[..]), "key: plan.pub has 5 bytes, not 32"),
            ("plan.sig", Some(b"short"), "signature: plan.sig has 5 bytes, not 64"),
            ("plan.sig", Some(&[0; 65]), "signature: Cannot read plan.sig: longer than 64 bytes"),
            ("plan.sig", None, "signature: Cannot read plan.sig: No such file"),
            (
                "images/builder.ramdisk",
                Some(b"short"),
                "builder.ramdisk: 5 bytes, but the signed plan says 25",
            ),
            (
                "images/builder.ramdisk",
                Some(&[0; 99]),
                "builder.ramdisk: Cannot read it: longer than 25 bytes",
            ),
            ("images/builder.ramdisk", None, "builder.ramdisk: Cannot read it: No such file"),
        ] {
            let dir = signed();
            let path = dir.path().join(file);
            fs::remove_file(&path).expect("file");
            if let Some(data) = data {
                fs::write(&path, data).expect("file");
            }
            let refused = check(dir.path()).expect_err(file);
            assert!(refused.starts_with(named), "{file}: {refused}");
        }
    }

    #[test]
    fn the_archive_holds_the_whole_store_but_the_key() {
        let dir = signed();
        let store = Store::open(dir.path()).expect("signed");
        let archive = store.archive().expect("signed");
        let mut names = Vec::new();
        let mut rest = archive.as_slice();
        loop {
            let reader = cpio::newc::Reader::new(rest).expect("an archive");
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().expect("an archive");
        }
        let images = store.boot_plan().images.keys().map(|name| format!("images/{name}"));
        let expected = ["images", "plan.toml", "plan.sig"].map(str::to_owned).into_iter().chain(images);
        assert_eq!(names, expected.collect::<Vec<_>>());
        assert!(names.contains(&"images/builder.ramdisk".to_owned()));
    }
}
