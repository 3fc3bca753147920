//! The way to a host over a network: TLS 1.3, and both ends show certificates.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::Address;
use crate::Profile;

/// What is wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The profile is not usable: {0}")]
pub struct BadProfile(String);

/// What a profile says of certificates.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    pub(super) name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads a profile.
pub(super) fn read(profile: &Profile) -> Result<(Address, Tls), BadProfile> {
    let bad = |what: &str, error: &dyn std::fmt::Display| BadProfile(format!("its {what}: {error}"));
    let (host, port) =
        split(&profile.url).ok_or_else(|| BadProfile("its `url` is not `https://HOST:PORT`".to_owned()))?;
    let name = ServerName::try_from(host.clone()).map_err(|e| bad("`url`", &e))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&profile.ca).map_err(|e| bad("`ca`", &e))? {
        roots.add(certificate).map_err(|e| bad("`ca`", &e))?;
    }
    let own = certificates(&profile.certificate).map_err(|e| bad("`certificate`", &e))?;
    let key = PrivateKeyDer::from_pem_slice(profile.key.as_bytes()).map_err(|e| bad("`key`", &e))?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| bad("certificates", &e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(own, key)
        .map_err(|e| bad("`certificate`", &e))?;
    Ok((Address::Https { host, port }, Tls { connector: TlsConnector::from(Arc::new(config)), name }))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect()
}

fn split(url: &str) -> Option<(String, u16)> {
    let (host, port) = url.strip_prefix("https://")?.trim_end_matches('/').rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// What TLS says about a connection that did not come about, or ended: one end does not trust the other.
pub(super) fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = io.and_then(|inner| inner.downcast_ref::<rustls::Error>()).or_else(|| error.downcast_ref());
        match tls {
            Some(rustls::Error::AlertReceived(alert)) => {
                return Some(format!("it does not take the profile's certificate ({alert:?})"));
            }
            Some(tls) => return Some(tls.to_string()),
            None => next = error.source(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(split("https://127.0.0.1:8443"), Some(("127.0.0.1".to_owned(), 8443)));
        assert_eq!(split("https://[::1]:1/"), Some(("::1".to_owned(), 1)));
        for wrong in ["", "http://a:1", "https://a", "https://a:x", "a:1"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_profile_that_is_none_is_refused_and_never_shown() {
        let profile = Profile {
            url: "https://127.0.0.1:1".to_owned(),
            ca: String::new(),
            certificate: String::new(),
            key: "secret".to_owned(),
        };
        let error = read(&profile).unwrap_err().to_string();
        assert!(error.contains("`key`") && !error.contains("secret"), "{error}");
        assert!(!format!("{profile:?}").contains("secret"));
        let error = read(&Profile { url: "unix:a".to_owned(), ..profile }).unwrap_err().to_string();
        assert!(error.contains("`url`"), "{error}");
    }
}
