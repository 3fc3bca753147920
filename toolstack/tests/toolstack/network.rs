//! Operators who come over the network.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ennead_api::{Client, Endpoint, Error, Profile};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::world::run;

/// Who vouches for others.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key.
    fn issue(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages.push(usage);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn endpoint(&self) -> Endpoint {
        let (certificate, key) = self.issue(&["127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        Endpoint {
            backend: "net".to_owned(),
            address: Ipv4Addr::new(10, 0, 2, 40),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            port: 8443,
            ca: self.certificate.clone(),
            certificate,
            key,
        }
    }

    fn operator(&self, port: u16) -> Profile {
        let (certificate, key) = self.issue(&[], ExtendedKeyUsagePurpose::ClientAuth);
        Profile { url: format!("https://127.0.0.1:{port}"), ca: self.certificate.clone(), certificate, key }
    }
}

fn client(profile: &Profile) -> Client {
    Client::of(profile).unwrap().patience(Duration::from_secs(20))
}

#[track_caller]
fn distrust(error: Error) -> String {
    match error {
        Error::Distrust { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_that_works_over_the_line_works_over_the_network() {
    run(|mut world| async move {
        let authority = Authority::new("a");
        let port = world.serve_network(&authority.endpoint());
        world.client = client(&authority.operator(port));
        let mut events = world.client.events(true).await.unwrap();
        // It uploads, too.
        let domid = world.create("a", "").await;
        assert_eq!(world.client.guests().await.unwrap().len(), 1);
        while events.next().await.unwrap().unwrap().domid != Some(domid) {}
        let mut console = world.client.console("a").await.unwrap();
        world.guests.print(domid, b"login: ");
        let mut seen = [0; 7];
        console.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"login: ");
        console.write_all(b"root").await.unwrap();
        console.flush().await.unwrap();
        let mut typed = Vec::new();
        while typed.len() < 4 {
            typed.extend(world.guests.typed(domid));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(typed, b"root");
        world.client.destroy("a").await.unwrap();
        // Its end is the console's.
        while console.read(&mut seen).await.unwrap() > 0 {}
    });
}

#[test]
fn who_has_no_certificate_or_another_authority_s_is_refused() {
    run(|mut world| async move {
        let (authority, other) = (Authority::new("a"), Authority::new("a"));
        let endpoint = authority.endpoint();
        let port = world.serve_network(&endpoint);
        // Its certificate is another authority's.
        let stranger = Profile { ca: authority.certificate.clone(), ..other.operator(port) };
        let problem = distrust(client(&stranger).guests().await.unwrap_err());
        assert!(problem.contains("does not take the profile's certificate"), "{problem}");
        // A toolstack's certificate is no operator's.
        let (certificate, key) = (endpoint.certificate.clone(), endpoint.key.clone());
        let server = Profile { certificate, key, ..authority.operator(port) };
        distrust(client(&server).guests().await.unwrap_err());
        // The toolstack is another's.
        let lost = Profile { ca: other.certificate.clone(), ..authority.operator(port) };
        distrust(client(&lost).guests().await.unwrap_err());
        assert_eq!(without_certificate(&authority, port).await, b"");
        // No TLS at all.
        let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        plain.write_all(b"GET /v1/guests HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
        // The right one is still served.
        assert_eq!(client(&authority.operator(port)).guests().await.unwrap().len(), 0);
    });
}

/// What somebody without a certificate reads.
async fn without_certificate(authority: &Authority, port: u16) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let _ = stream.write_all(b"GET /v1/guests HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap_err();
    answer
}

#[test]
fn those_who_say_nothing_do_not_keep_others_out() {
    run(|mut world| async move {
        let authority = Authority::new("a");
        let port = world.serve_network(&authority.endpoint());
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap());
        }
        // Served once the first of them have had their time.
        assert_eq!(client(&authority.operator(port)).guests().await.unwrap().len(), 0);
        let mut first = [0];
        assert_eq!(silent.first_mut().unwrap().read(&mut first).await.unwrap(), 0, "it is closed");
    });
}
