//! State that ends on SIGTERM and starts again has its contents and its rings.
#![allow(missing_docs, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ennead_xenstore_check::client::{Client, Packet, SocketClient, message};
use ennead_xenstore_check::daemon::Ours;
use ennead_xenstore_check::ours::Profile;
use ennead_xenstore_check::ring::RingClient;
use ennead_xs_wire::Op;
use rustix::process::{Pid, Signal, kill_process};

struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Both halves, in a folder with a file for the contents.
struct Pair {
    state: Kill,
    _logic: Kill,
}

impl Pair {
    fn start(ours: &Ours, dir: &Path) -> Self {
        let socket = dir.join("state");
        let _ = std::fs::remove_file(&socket);
        let mut state = Command::new(&ours.state);
        state.arg("--listen").arg(&socket).arg("--store").arg(dir.join("store"));
        let state = Kill(state.spawn().expect("it starts"));
        wait_for("State's socket", || socket.exists().then_some(()));
        let mut logic = Command::new(&ours.logic);
        logic.arg("--state").arg(&socket).arg("--socket").arg(dir.join("socket")).arg("--rings").arg(dir);
        Self { state, _logic: Kill(logic.spawn().expect("it starts")) }
    }

    /// State ends by SIGTERM, and Logic after it.
    fn end(mut self) {
        let pid = Pid::from_child(&self.state.0);
        kill_process(pid, Signal::TERM).expect("it lives");
        let status = self.state.0.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn answer(client: &mut impl Client) -> Packet {
    wait_for("an answer", || {
        client.pump().expect("Logic is there");
        client.take().expect("it is a message")
    })
}

fn ask(client: &mut impl Client, op: Op, payload: &[u8]) -> Vec<u8> {
    client.send(&message(op as u32, 1, 0, payload)).expect("Logic takes it");
    answer(client).payload
}

fn connect(dir: &Path) -> SocketClient {
    wait_for("Logic's socket", || SocketClient::connect(&dir.join("socket")).ok())
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_owned();
    (dir, path)
}

#[test]
fn contents_outlive_state() {
    let ours = Ours::build(Profile::Debug).unwrap();
    let (_dir, dir) = folder();
    let pair = Pair::start(&ours, &dir);
    let mut client = connect(&dir);
    for node in 0..50 {
        assert_eq!(ask(&mut client, Op::Write, format!("/kept/{node}\0value {node}").as_bytes()), b"OK\0");
    }
    assert_eq!(ask(&mut client, Op::SetPerms, b"/kept/7\0n0\0b3\0"), b"OK\0");
    pair.end();
    let pair = Pair::start(&ours, &dir);
    let mut client = connect(&dir);
    for node in 0..50 {
        let value = ask(&mut client, Op::Read, format!("/kept/{node}\0").as_bytes());
        assert_eq!(value, format!("value {node}").as_bytes());
    }
    assert_eq!(ask(&mut client, Op::GetPerms, b"/kept/7\0"), b"n0\0b3\0");
    assert_eq!(ask(&mut client, Op::Control, b"check\0"), b"OK\0");
    pair.end();
}

#[test]
fn a_guest_does_not_notice() {
    let ours = Ours::build(Profile::Debug).unwrap();
    let (_dir, dir) = folder();
    let pair = Pair::start(&ours, &dir);
    let mut client = connect(&dir);
    std::fs::write(dir.join("dom3.ring"), [0; 4096]).unwrap();
    std::fs::write(dir.join("dom3"), "running").unwrap();
    let mut guest = RingClient::open(&dir, 3).unwrap();
    assert_eq!(ask(&mut client, Op::Introduce, b"3\x001\x009\0"), b"OK\0");
    assert_eq!(ask(&mut client, Op::Write, b"/local/domain/3/name\0guest"), b"OK\0");
    assert_eq!(ask(&mut client, Op::SetPerms, b"/local/domain/3\0n3\0"), b"OK\0");
    assert_eq!(ask(&mut client, Op::SetPerms, b"/local/domain/3/name\0n3\0"), b"OK\0");
    assert_eq!(ask(&mut guest, Op::Watch, b"name\0token\0"), b"OK\0");
    assert_eq!(answer(&mut guest).payload, b"name\0token\0");
    let transaction = ask(&mut guest, Op::TransactionStart, b"\0");
    // More than the ring holds, so that State ends with a reply that is partly delivered; and half a request.
    let long = [&b"name\0"[..], &[b'v'; 900]].concat();
    guest.send(&message(Op::Write as u32, 1, 0, &long)).unwrap();
    assert_eq!(answer(&mut guest).payload, b"name\0token\0");
    assert_eq!(answer(&mut guest).payload, b"OK\0");
    let read = message(Op::Read as u32, 2, 0, b"name\0");
    let (half, rest) = read.split_at(9);
    guest.send(&[&read[..], &read, half].concat()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    pair.end();
    let pair = Pair::start(&ours, &dir);
    let mut client = connect(&dir);
    assert_eq!(answer(&mut guest).payload, [b'v'; 900]);
    assert_eq!(answer(&mut guest).payload, [b'v'; 900]);
    guest.send(rest).unwrap();
    assert_eq!(answer(&mut guest).payload, [b'v'; 900]);
    let id = std::str::from_utf8(&transaction).unwrap().trim_end_matches('\0').parse().unwrap();
    guest.send(&message(Op::TransactionEnd as u32, 3, id, b"T\0")).unwrap();
    // It has looked at nothing.
    assert_eq!(answer(&mut guest).payload, b"OK\0");
    assert_eq!(ask(&mut client, Op::Write, b"/local/domain/3/name\0new"), b"OK\0");
    assert_eq!(answer(&mut guest).payload, b"name\0token\0");
    pair.end();
}
