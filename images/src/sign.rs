//! Keys and signatures of the boot plan (ed25519).

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signer as _, SigningKey};

use crate::cache::{Cache, hex};

/// The key to sign with: the user's own file, or the development key, which is made on first use.
///
/// # Errors
/// When the file cannot be read, is no key, or the development key cannot be made.
pub fn key(cache: &Cache, own: Option<&Path>) -> Result<SigningKey> {
    let path = match own {
        Some(path) => path.to_path_buf(),
        None => development_key(cache)?,
    };
    let text =
        fs::read_to_string(&path).with_context(|| format!("Cannot read the key {}", path.display()))?;
    parse(&text).with_context(|| format!("Cannot use the key {}", path.display()))
}

fn parse(text: &str) -> Result<SigningKey> {
    if text.contains("-----BEGIN") {
        return SigningKey::from_pkcs8_pem(text).context("It is no ed25519 private key in PKCS#8 PEM form");
    }
    let digits = text.trim();
    let seed =
        seed(digits).context("Expected a PKCS#8 PEM file, or 64 hex digits (a 32-byte ed25519 seed)")?;
    Ok(SigningKey::from_bytes(&seed))
}

fn seed(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Readable by its owner only; appears under its name only when it is whole.
fn development_key(cache: &Cache) -> Result<PathBuf> {
    let path = cache.root().join("development-key");
    let _lock = cache.lock("development-key")?;
    if path.exists() {
        return Ok(path);
    }
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut seed))
        .context("Cannot read random bytes from /dev/urandom")?;
    cache.keep_private(&path, &format!("{}\n", hex(&seed)))?;
    Ok(path)
}

/// A signature: 64 bytes.
#[must_use]
pub fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    key.sign(message).to_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ed25519_dalek::{Signature, Verifier as _};

    use super::*;

    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    // RFC 8032, 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn both_forms_of_a_key_are_the_same_key() {
        for text in [SEED, PEM, &format!("{SEED}\n")] {
            assert_eq!(hex(parse(text).unwrap().verifying_key().as_bytes()), PUBLIC);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "abc", &SEED.replace('9', "x"), &format!("{SEED}00"), &PEM.replace("MC4C", "MC4D")] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_development_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let first = key(&cache, None).unwrap();
        assert_eq!(first.to_bytes(), key(&cache, None).unwrap().to_bytes());
        let mode = fs::metadata(dir.path().join("development-key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let signature = sign(&first, b"plan");
        let signature = Signature::from_slice(&signature).unwrap();
        first.verifying_key().verify(b"plan", &signature).unwrap();
        assert!(first.verifying_key().verify(b"plam", &signature).is_err());
    }
}
