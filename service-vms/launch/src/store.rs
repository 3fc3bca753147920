//! The signed boot plan and its images, as files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, VerifyingKey};
use ennead_manifest::{BootPlan, Image};
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
