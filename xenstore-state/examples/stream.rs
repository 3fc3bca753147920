//! How long it takes to save and to load 100,000 nodes.
//!
//! `cargo run --release -p ennead-xenstore-state --example stream`

use std::time::Instant;

use ennead_xenstore_state::{Head, Identity, Settings, State};
use ennead_xs_wire::Request;

fn main() {
    let mut state = State::new(Settings::default());
    let conn = state.open(Identity::Operator);
    for directory in 0..1000 {
        for node in 0..100 {
            let path = format!("/d/{directory}/n{node}");
            let request = Request::Write { path: path.as_bytes(), value: &[b'v'; 32] };
            state.request(conn, Head { op: request.op() as u32, request_id: 0, tx_id: 0 }, Ok(&request));
            state.pop(conn);
        }
    }
    let start = Instant::now();
    let bytes = state.save();
    println!("save: {:.1} ms, {} bytes", start.elapsed().as_secs_f64() * 1e3, bytes.len());
    let start = Instant::now();
    let loaded = State::load(Settings::default(), &bytes).expect("it was just saved");
    println!("load: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    loaded.check().expect("all is counted right");
    assert!(loaded.save() == bytes, "what is loaded is what was saved");
}
