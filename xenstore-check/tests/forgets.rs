//! A request that writes over Logic's own memory has no influence on the next response; and a Logic that is killed is back at
//! once, with everything that State holds.
#![allow(missing_docs, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ennead_xenstore_check::client::{Client as _, Packet, SocketClient, message};
use ennead_xenstore_check::daemon::{Daemon, Ours};
use ennead_xenstore_check::ours::Profile;
use ennead_xs_wire::Op;

/// Logic with a hole (feature `corrupt`), built beside the usual binaries.
fn with_a_hole(ours: &Ours) -> PathBuf {
    let target = ours.logic.parent().expect("a folder").join("corrupt");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            "ennead-xenstore-logic",
            "--features",
            "corrupt",
            "--target-dir",
        ])
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(status.success());
    target.join("debug/xenstore-logic")
}

struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect(socket: &Path) -> SocketClient {
    let start = Instant::now();
    loop {
        match SocketClient::connect(socket) {
            Ok(client) => return client,
            Err(e) => assert!(start.elapsed() < Duration::from_secs(10), "{e:#}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ask(client: &mut SocketClient, op: Op, payload: &[u8]) -> Packet {
    client.send(&message(op as u32, 1, 0, payload)).expect("Logic takes it");
    let start = Instant::now();
    loop {
        if let Some(packet) = client.take().expect("Logic answers") {
            return packet;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "no answer");
        client.pump().expect("Logic is there");
    }
}

/// What `/a` reads as after a corrupting request.
fn read_after_corruption(ours: &Ours, logic: &Path, with_reset: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a folder");
    let (state, socket) = (dir.path().join("state"), dir.path().join("socket"));
    let _state = Kill(Command::new(&ours.state).arg("--listen").arg(&state).spawn().expect("it starts"));
    while !state.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut command = Command::new(logic);
    command.arg("--state").arg(&state).arg("--socket").arg(&socket);
    if !with_reset {
        command.env("XENSTORE_LOGIC_WITHOUT_RESET", "1");
    }
    let _logic = Kill(command.spawn().expect("it starts"));
    let mut client = connect(&socket);
    ask(&mut client, Op::Write, b"/a\0mine");
    ask(&mut client, Op::Write, b"/stolen\0another's");
    ask(&mut client, Op::Control, b"corrupt\0");
    ask(&mut client, Op::Read, b"/a\0").payload
}

#[test]
fn a_break_in_dies_with_its_request() {
    let ours = Ours::build(Profile::Debug).unwrap();
    let logic = with_a_hole(&ours);
    assert_eq!(read_after_corruption(&ours, &logic, true), b"mine");
    // Without the reset it does not: so this test can fail.
    assert_eq!(read_after_corruption(&ours, &logic, false), b"another's");
}

#[test]
fn a_killed_logic_is_back_with_everything() {
    let ours = Ours::build(Profile::Debug).unwrap();
    let mut daemon = Daemon::ours(&ours).unwrap();
    ask(&mut connect(&daemon.socket()), Op::Write, b"/a\0kept");
    // More than Logic looks at together.
    for domid in 1..=200 {
        daemon.create_domain(domid).unwrap();
    }
    for domid in 201..=205 {
        daemon.kill("xenstore-logic").unwrap();
        daemon.restart("xenstore-logic").unwrap();
        daemon.create_domain(domid).unwrap();
        let introduce = format!("{domid}\x001\x007\0");
        assert_eq!(ask(&mut connect(&daemon.socket()), Op::Introduce, introduce.as_bytes()).payload, b"OK\0");
        assert_eq!(ask(&mut connect(&daemon.socket()), Op::Read, b"/a\0").payload, b"kept");
    }
}
