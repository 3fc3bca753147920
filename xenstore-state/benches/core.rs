//! What requests cost in XenStore-State's core alone: no transport, no Logic.
#![allow(missing_docs, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ennead_xenstore_state::{Conn, Head, Identity, Settings, State};
use ennead_xs_wire::{Message, Reply, Request};

/// Children of each directory.
const CHILDREN: u32 = 100;
const NODES: [u32; 2] = [20_000, 100_000];
const WATCHES: [u32; 2] = [0, 10_000];
const PATH: &[u8] = b"/d/50/n50";

struct Client {
    state: State,
    conn: Conn,
}

impl Client {
    fn new(nodes: u32) -> Self {
        let mut state = State::new(Settings::default());
        let conn = state.open(Identity::Operator);
        let mut client = Self { state, conn };
        for node in 0..nodes {
            let path = format!("/d/{}/n{}", node / CHILDREN, node % CHILDREN);
            client.ask(0, &Request::Write { path: path.as_bytes(), value: &[b'v'; 32] });
        }
        client
    }

    /// The number in the answer, if it is a transaction's.
    fn ask(&mut self, tx_id: u32, request: &Request<'_>) -> Option<u32> {
        let head = Head { op: request.op() as u32, request_id: 0, tx_id };
        self.state.request(self.conn, head, Ok(request));
        self.state.next_with_output();
        let mut started = None;
        while let Some(item) = self.state.pop(self.conn) {
            if let Message::Reply { reply, .. } = item.message() {
                assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
                if let Reply::Transaction(id) = reply {
                    started = Some(id);
                }
            }
        }
        started
    }

    /// Reads a node and writes it, in a transaction.
    fn modify(&mut self) {
        let tx_id = self.ask(0, &Request::TransactionStart).expect("it has a number");
        self.ask(tx_id, &Request::Read { path: PATH });
        self.ask(tx_id, &Request::Write { path: PATH, value: b"0123456789abcdef" });
        self.ask(tx_id, &Request::TransactionEnd { commit: true });
    }
}

fn requests(c: &mut Criterion) {
    for nodes in NODES {
        let mut client = Client::new(nodes);
        let requests = [
            ("read", Request::Read { path: PATH }),
            ("write", Request::Write { path: PATH, value: b"0123456789abcdef" }),
            ("list 100 children", Request::Directory { path: b"/d/50" }),
        ];
        for (name, request) in requests {
            c.bench_function(&format!("{name}, {nodes} nodes"), |b| b.iter(|| client.ask(0, &request)));
        }
        c.bench_function(&format!("transaction, {nodes} nodes"), |b| b.iter(|| client.modify()));
    }
}

fn watches(c: &mut Criterion) {
    let mut group = c.benchmark_group("write with watches elsewhere");
    for watches in WATCHES {
        let mut client = Client::new(1000 * CHILDREN);
        for watch in 0..watches {
            let path = format!("/elsewhere/{}/{watch}", watch % CHILDREN);
            client.ask(0, &Request::Watch { path: path.as_bytes(), token: b"t" });
        }
        let request = Request::Write { path: PATH, value: b"0123456789abcdef" };
        group.bench_function(BenchmarkId::from_parameter(watches), |b| b.iter(|| client.ask(0, &request)));
    }
}

criterion_group!(benches, requests, watches);
criterion_main!(benches);
