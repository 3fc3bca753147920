//! The crate `xenstore-rs`, a client that knows nothing of ours, is content with XenStore-State and XenStore-Logic.
#![allow(missing_docs, reason = "a test")]

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use ennead_xenstore_check::daemon::{Daemon, Ours};
use ennead_xenstore_check::ours::Profile;
use futures::StreamExt as _;
use xenstore_rs::tokio::XsTokio;
use xenstore_rs::unix::XsUnix;
use xenstore_rs::{AsyncWatch as _, AsyncXs as _, Xs as _};

/// Set where this program is the client.
const CLIENT: &str = "ENNEAD_XENSTORE_CLIENT";

/// The crate takes the socket's path from the environment: so the client is a process of its own, this program once more.
#[test]
fn xenstore_rs_is_content() {
    if std::env::var_os(CLIENT).is_some() {
        blocking();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let all = async { tokio::time::timeout(Duration::from_secs(20), watching()).await };
        return runtime.block_on(all).expect("everything is answered");
    }
    let daemon = Daemon::ours(&Ours::build(Profile::Debug).unwrap()).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "xenstore_rs_is_content"])
        .env("XENSTORED_PATH", daemon.socket())
        .env(CLIENT, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn blocking() {
    let client = XsUnix::new().unwrap();
    client.write("/rs/a", "one").unwrap();
    client.write("/rs/b/c", "two words").unwrap();
    assert_eq!(&*client.read("/rs/a").unwrap(), "one");
    assert_eq!(&*client.read("/rs/b").unwrap(), "");
    assert_eq!(client.directory("/rs").unwrap(), ["a".into(), "b".into()]);
    client.rm("/rs/b").unwrap();
    assert_eq!(client.read("/rs/b/c").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(client.write("/rs//a", "").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(client.directory("/rs").unwrap(), ["a".into()]);
}

async fn watching() {
    let (watcher, writer) = (XsTokio::new().await.unwrap(), XsTokio::new().await.unwrap());
    let mut events = watcher.watch("/rs").await.unwrap();
    assert_eq!(events.next().await.as_deref(), Some("/rs"));
    writer.write("/rs/x", "value").await.unwrap();
    assert_eq!(events.next().await.as_deref(), Some("/rs/x"));
    assert_eq!(&*watcher.read("/rs/x").await.unwrap(), "value");
    writer.write("/elsewhere", "").await.unwrap();
    writer.rm("/rs").await.unwrap();
    assert_eq!(events.next().await.as_deref(), Some("/rs"));
    assert_eq!(watcher.read("/rs/x").await.unwrap_err().kind(), ErrorKind::NotFound);
}
