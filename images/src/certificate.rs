//! Certificates: of toolstacks that are reached over a network, and of their operators.
//!
//! Each toolstack has an authority of its own, `authorities/HOST-VM/` in the cache, made on first use: the operators of one tenant
//! are strangers to another's toolstack. All of it stays, so that who has a profile can use it with the next ISO.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ennead_api::{Endpoint, Profile};
use ennead_manifest::{Plan, Vm};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::cache::Cache;
use crate::xen::read;

/// Where a key begins in a file that has both.
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// A certificate and its key, as PEM.
struct Pair {
    certificate: String,
    key: String,
}

/// Who vouches for a toolstack and its operators.
pub struct Authority {
    cache: Cache,
    folder: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Authority {
    /// A toolstack's, made if it is not there yet.
    ///
    /// # Errors
    /// When its files cannot be made or read.
    pub fn of(cache: &Cache, plan: &Plan, vm: &Vm) -> Result<Self> {
        let name = format!("{}-{}", plan.host.name, vm.name);
        let folder = cache.root().join("authorities").join(&name);
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Ennead: operators of {} on {}", vm.name, plan.host.name));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pair = kept(cache, &folder, "authority", |key| Ok(params.self_signed(key)?.pem()))?;
        let key = KeyPair::from_pem(&pair.key)
            .with_context(|| format!("Cannot use the key in {}", folder.display()))?;
        Ok(Self {
            cache: cache.clone(),
            folder,
            certificate: pair.certificate,
            issuer: Issuer::new(params, key),
        })
    }

    fn issue(
        &self,
        file: &str,
        name: &str,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Pair> {
        kept(&self.cache, &self.folder, file, |key| {
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            Ok(params.signed_by(key, &self.issuer)?.pem())
        })
    }

    /// What an operator of this name needs to reach the toolstack at an address.
    ///
    /// # Errors
    /// As [`Authority::of`].
    pub fn operator(&self, name: &str, url: String) -> Result<Profile> {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        let Pair { certificate, key } = self.issue(&format!("operator-{name}"), name, Vec::new(), usage)?;
        Ok(Profile { url, ca: self.certificate.clone(), certificate, key })
    }
}

/// What the VM needs that is reached over a network; `None` if it is not.
///
/// # Errors
/// As [`Authority::of`].
pub fn endpoint(cache: &Cache, plan: &Plan, vm: &Vm) -> Result<Option<Endpoint>> {
    let Some(network) = &vm.network else { return Ok(None) };
    let (address, prefix) =
        network.address.split_once('/').context("The manifest's address has no prefix")?;
    let authority = Authority::of(cache, plan, vm)?;
    // Also by the port of this machine that leads there.
    let names = [address, "127.0.0.1", "localhost"].map(str::to_owned).to_vec();
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    let Pair { certificate, key } = authority.issue(&format!("server-{address}"), &vm.name, names, usage)?;
    Ok(Some(Endpoint {
        backend: network.backend.clone(),
        address: address.parse()?,
        prefix: prefix.parse()?,
        gateway: network.gateway.parse::<Ipv4Addr>()?,
        port: network.port,
        ca: authority.certificate,
        certificate,
        key,
    }))
}

/// Makes a profile of an operator for the toolstack at its own address.
///
/// # Errors
/// When there is no such toolstack, it has no network, or the file cannot be written.
pub fn make_profile(cache: &Cache, plan: &Plan, toolstack: &str, operator: &str, file: &Path) -> Result<()> {
    // It becomes the name of a file.
    anyhow::ensure!(ennead_manifest::is_name(operator), "An operator's name is 1 to 32 of a-z, 0-9 and -");
    let vm = plan.vm(toolstack).with_context(|| format!("The manifest has no VM `{toolstack}`"))?;
    let network =
        vm.network.as_ref().with_context(|| format!("`{toolstack}` has no `network` in the manifest"))?;
    let address = network.address.split('/').next().unwrap_or_default();
    let url = format!("https://{address}:{}", network.port);
    write_profile(cache, &Authority::of(cache, plan, vm)?.operator(operator, url)?, file)
}

/// Writes a profile, for its owner's eyes only.
///
/// # Errors
/// When it cannot be written.
pub fn write_profile(cache: &Cache, profile: &Profile, file: &Path) -> Result<()> {
    let text = toml::to_string(profile).context("Cannot write the profile as TOML")?;
    cache.keep_private(file, &text)
}

/// The pair in a file; made, if it is not there.
fn kept(
    cache: &Cache,
    folder: &Path,
    name: &str,
    certify: impl FnOnce(&KeyPair) -> Result<String>,
) -> Result<Pair> {
    let file = folder.join(format!("{name}.pem"));
    let _lock = cache.lock("authorities")?;
    if !file.exists() {
        std::fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
        let key = KeyPair::generate().context("Cannot make a key")?;
        let certificate = certify(&key).context("Cannot make a certificate")?;
        cache.keep_private(&file, &format!("{certificate}{}", key.serialize_pem()))?;
    }
    let text = read(&file)?;
    let (certificate, key) =
        text.split_once(KEY).with_context(|| format!("{} has no key", file.display()))?;
    Ok(Pair { certificate: certificate.to_owned(), key: format!("{KEY}{key}") })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_made_stays_and_is_private() {
        let plan = crate::plan::check(&crate::images_dir().join("host.toml")).unwrap().plan;
        let vm = plan.vm("toolstack").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let first = endpoint(&cache, &plan, vm).unwrap().unwrap();
        assert!(endpoint(&cache, &plan, vm).unwrap().unwrap() == first);
        assert!(first.key.starts_with(KEY) && !first.certificate.contains(KEY));
        assert_eq!((first.address, first.prefix), (Ipv4Addr::new(10, 0, 2, 40), 24));
        assert!(endpoint(&cache, &plan, plan.vm("builder").unwrap()).unwrap().is_none());
        let profile =
            Authority::of(&cache, &plan, vm).unwrap().operator("alice", "https://a:1".to_owned()).unwrap();
        assert_eq!(profile.ca, first.ca);
        let file = folder.path().join("profile.toml");
        write_profile(&cache, &profile, &file).unwrap();
        assert!(toml::from_str::<Profile>(&std::fs::read_to_string(&file).unwrap()).unwrap() == profile);
        let own = folder.path().join("authorities/ennead-toolstack");
        for file in [file, own.join("authority.pem"), own.join("operator-alice.pem")] {
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
    }
}
