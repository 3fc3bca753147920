//! What Logic does for each request: the handlers alone, and the reset after each of them.
#![allow(missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use ennead_xenstore_logic::handler::{format, parse};
use ennead_xs_link::{MAX_BODY, encode_message};
use ennead_xs_wire::{Message, Op, Reply, Request};

fn handlers(c: &mut Criterion) {
    let mut output = [0; MAX_BODY];
    let path = b"/local/domain/7/device/vif/0/state";
    let requests =
        [("parse a READ", Request::Read { path }), ("parse a WRITE", Request::Write { path, value: b"4" })];
    for (name, request) in requests {
        let message = request.message(1, 0);
        c.bench_function(name, |b| b.iter(|| parse(black_box(&message), &mut output)));
    }
    let names: Vec<u8> = (0..100).flat_map(|child| format!("child{child}\0").into_bytes()).collect();
    let replies = [
        ("format a value", Op::Read, Reply::Bytes(b"4")),
        ("format a list of 100", Op::Directory, Reply::Names(&names)),
    ];
    for (name, op, reply) in replies {
        let message = Message::Reply { op: op as u32, request_id: 1, tx_id: 0, reply };
        let mut body = [0; MAX_BODY];
        let len = encode_message(&message, &mut body).expect("it fits");
        c.bench_function(name, |b| b.iter(|| format(black_box(&body[..len]), &mut output)));
    }
}

/// Microseconds of one reset, as the program itself measures it: its own statics are a part of what is put back.
fn measured() -> f64 {
    let output = Command::new(env!("CARGO_BIN_EXE_xenstore-logic")).arg("--measure-reset").output();
    let text = String::from_utf8(output.expect("it runs").stdout).expect("it is text");
    let number = text.trim_end().strip_suffix(" us").and_then(|text| text.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).expect("it says how long it takes")
}

fn reset(c: &mut Criterion) {
    let mut group = c.benchmark_group("reset");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).warm_up_time(Duration::from_millis(300));
    group.bench_function("statics, heap, stack", |b| {
        b.iter_custom(|times| {
            let times = u32::try_from(times).unwrap_or(u32::MAX);
            Duration::from_secs_f64(measured() / 1e6) * times
        });
    });
}

criterion_group!(benches, handlers, reset);
criterion_main!(benches);
