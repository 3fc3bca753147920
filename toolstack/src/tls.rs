//! Operators who come over the network: TLS 1.3, and only with a certificate of this toolstack's own authority.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ennead_api::Endpoint;
use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

/// Connections at once that have not yet shown who they are.
const MAX_STRANGERS: usize = 32;
/// How long they have for it.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Those who are known, until they are served.
pub const QUEUE: usize = 8;
/// After so long without a word, an operator's machine is asked whether it is still there; then so often, every so long.
const KEEP_ALIVE: (Duration, u32, Duration) = (Duration::from_secs(60), 4, Duration::from_secs(15));
/// When the VM has no memory or file for another connection.
const BREATH: Duration = Duration::from_millis(200);

/// What speaks TLS.
///
/// # Errors
/// When the endpoint's certificates or key are none.
pub fn acceptor(endpoint: &Endpoint) -> anyhow::Result<TlsAcceptor> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(endpoint.ca.as_bytes()) {
        roots.add(certificate.context("Cannot read the operators' authority")?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let own: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(endpoint.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(endpoint.key.as_bytes()).context("Cannot read this VM's key")?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.context("Nobody vouches for operators")?)
        .with_single_cert(own.context("Cannot read this VM's certificate")?, key)
        .context("Cannot use this VM's certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Listens at a port of every address of this VM, those to come as well.
///
/// # Errors
/// Linux's.
pub fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    listener.set_nonblocking(true)?;
    let (after, times, every) = KEEP_ALIVE;
    // Linux gives them to each connection that it accepts.
    sockopt::set_socket_keepalive(&listener, true)?;
    sockopt::set_tcp_keepidle(&listener, after)?;
    sockopt::set_tcp_keepcnt(&listener, times)?;
    sockopt::set_tcp_keepintvl(&listener, every)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Accepts operators and passes them on, until nobody takes them.
pub async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    operators: mpsc::Sender<TlsStream<TcpStream>>,
) {
    let places = Arc::new(Semaphore::new(MAX_STRANGERS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        if operators.is_closed() {
            return;
        }
        let Ok((stream, from)) = listener.accept().await else {
            sleep(BREATH).await;
            continue;
        };
        let (acceptor, operators) = (acceptor.clone(), operators.clone());
        tokio::task::spawn_local(async move {
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                // Nobody takes it only at the end.
                Ok(Ok(stream)) => drop(operators.send(stream).await),
                // Anybody can cause these: nothing for the host's console.
                Ok(Err(e)) => debug!(%from, cause = %e, "operator-refused"),
                Err(_) => debug!(%from, "operator-silent"),
            }
            drop(place);
        });
    }
}
