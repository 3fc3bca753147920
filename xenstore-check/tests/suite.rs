//! Xen's test-xenstore and its command line tools are content with each daemon.
#![allow(missing_docs, reason = "a test")]

use ennead_xenstore_check::daemon::{Daemon, Kind, Ours};
use ennead_xenstore_check::ours::Profile;
use ennead_xenstore_check::peer::Peers;
use ennead_xenstore_check::suite::suite;

#[test]
fn c_passes() {
    let peers = Peers::get().unwrap();
    assert_eq!(suite(&peers, &Daemon::c(&peers).unwrap()).unwrap().len(), 6);
}

#[test]
fn ocaml_passes() {
    let peers = Peers::get().unwrap();
    assert_eq!(suite(&peers, &Daemon::ocaml(&peers).unwrap()).unwrap().len(), 6);
}

#[test]
fn ours_passes() {
    let peers = Peers::get().unwrap();
    let ours = Ours::build(Profile::Debug).unwrap();
    assert_eq!(suite(&peers, &Daemon::ours(&ours).unwrap()).unwrap().len(), 6);
}

#[test]
fn a_daemon_that_has_ended_fails() {
    let peers = Peers::get().unwrap();
    let mut daemon = Daemon::c(&peers).unwrap();
    assert_eq!(daemon.kind(), Kind::C);
    daemon.check().unwrap();
    daemon.kill("xenstored").unwrap();
    assert!(daemon.check().unwrap_err().to_string().contains("xenstored ended"));
    suite(&peers, &daemon).unwrap_err();
    daemon.restart("xenstored").unwrap();
    daemon.check().unwrap();
}
