//! What 100,000 nodes of 32 bytes cost in resident memory, and how fast they are written, read and removed.
//!
//! `cargo run --release -p ennead-xenstore-state --example memory`

use std::time::Instant;

use ennead_xenstore_state::{Conn, Head, Identity, Settings, State};
use ennead_xs_wire::Request;

const DIRECTORIES: u32 = 1000;
const NODES: u32 = 100;

fn main() {
    let mut state = State::new(Settings::default());
    let conn = state.open(Identity::Operator);
    let value = [b'v'; 32];
    let total = f64::from(DIRECTORIES * NODES);

    let before = resident();
    let start = Instant::now();
    for directory in 0..DIRECTORIES {
        for node in 0..NODES {
            let path = format!("/d/{directory}/n{node}");
            ask(&mut state, conn, &Request::Write { path: path.as_bytes(), value: &value });
        }
    }
    let inserts = start.elapsed().as_secs_f64();
    println!("{:.1} bytes of resident memory a node", (resident() - before) / total);
    println!("{:.0} inserts/s", total / inserts);

    let start = Instant::now();
    for directory in 0..DIRECTORIES {
        for node in 0..NODES {
            let path = format!("/d/{directory}/n{node}");
            ask(&mut state, conn, &Request::Read { path: path.as_bytes() });
        }
    }
    println!("{:.0} reads/s", total / start.elapsed().as_secs_f64());

    let plain = writes(&mut state, conn);
    for watch in 0..10_000 {
        ask(&mut state, conn, &Request::Watch { path: format!("/w/{watch}").as_bytes(), token: b"t" });
    }
    println!("{plain:.0} writes/s; with 10,000 watches elsewhere {:.0}", writes(&mut state, conn));

    let start = Instant::now();
    ask(&mut state, conn, &Request::Rm { path: b"/d" });
    println!("rm of all: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    state.check().expect("all is counted right");
}

/// Writes of one node in a second.
fn writes(state: &mut State, conn: Conn) -> f64 {
    const WRITES: u32 = 300_000;
    let start = Instant::now();
    for _ in 0..WRITES {
        ask(state, conn, &Request::Write { path: b"/d/500/n50", value: b"value" });
    }
    f64::from(WRITES) / start.elapsed().as_secs_f64()
}

fn ask(state: &mut State, conn: Conn, request: &Request<'_>) {
    let op = request.op() as u32;
    state.request(conn, Head { op, request_id: 0, tx_id: 0 }, Ok(request));
    while state.pop(conn).is_some() {}
    state.next_with_output();
}

/// Resident memory of this process, bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kib * 1024.0
}
