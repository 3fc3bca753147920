//! What is measured.

use std::time::Duration;

use anyhow::{Context, Result};
use ennead_xs_wire::Request;

use super::load::{Load, Until};
use super::measure::{connections, fan_out, insert, latency, restarts, watches};
use super::report::{Better, Metric, Target};
use super::script::{Script, vm_creation};
use crate::daemon::Daemon;

/// The guest that owns what the toolstack writes; it exists in every daemon that is measured.
pub(super) const OWNER: u16 = 1;
/// Each connection has a node of its own.
const MOST_CONNECTIONS: u16 = 256;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amount {
    /// How long one measurement lasts.
    pub(super) slice: Duration,
    /// Nodes in the large store.
    pub(super) nodes: u32,
    /// Watches that have nothing to do with what is written.
    pub(super) watches: u32,
    /// Restarts of which the median is taken.
    pub(super) restarts: usize,
}

/// Measures one thing on one daemon: a number for each of its metrics.
pub(super) type Measure = Box<dyn Fn(&mut Daemon, Amount) -> Result<Vec<f64>>>;

/// The script of a connection, for the path of its node.
type MakeScript = fn(&str) -> Script;

/// One thing to measure.
pub(super) struct Case {
    pub(super) metrics: Vec<Metric>,
    /// It needs a daemon of its own.
    pub(super) fresh: bool,
    /// Only ours has this.
    pub(super) ours_only: bool,
    pub(super) measure: Measure,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

fn key(number: u16) -> String {
    format!("/bench/k{number}")
}

/// The nodes that the cases use.
pub(super) fn prepare(daemon: &Daemon) -> Result<()> {
    daemon.create_domain(OWNER)?;
    let introduce = Request::Introduce { domid: OWNER, gfn: 1, port: 7 };
    let mut script = Script::of(&introduce).then(&Request::Write { path: b"/bench/watched", value: b"" });
    for number in 0..MOST_CONNECTIONS {
        script = script.then(&Request::Write { path: key(number).as_bytes(), value: b"0123456789abcdef" });
    }
    for number in 0..100 {
        let path = format!("/bench/dir/child{number}");
        script = script.then(&Request::Write { path: path.as_bytes(), value: b"" });
    }
    Load::new(&daemon.socket(), [script])?.run(16, Until::Times(1))?;
    Ok(())
}

/// Everything, in the order of the table.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        one("read latency, p50", Better::Lower("us"), Target::TimesC(1.3), |daemon, amount| {
            latency(&daemon.socket(), key(0).as_bytes(), amount.slice)
        }),
        one("connect + read + close", Better::Higher("/s"), Target::None, |daemon, amount| {
            connections(&daemon.socket(), key(0).as_bytes(), amount.slice)
        }),
    ];
    let plain: [(&str, MakeScript); 4] = [
        ("read", |key| Script::of(&Request::Read { path: key.as_bytes() })),
        ("write", |key| Script::of(&Request::Write { path: key.as_bytes(), value: b"0123456789abcdef" })),
        ("list 100 children", |_| Script::of(&Request::Directory { path: b"/bench/dir" })),
        ("get_perms", |key| Script::of(&Request::GetPerms { path: key.as_bytes() })),
    ];
    for (name, script) in plain {
        for connections in [1, 8, MOST_CONNECTIONS] {
            for depth in [1, 16] {
                let target = if (connections, depth) == (8, 16) { Target::Best } else { Target::None };
                cases.push(load(name, connections, depth, target, script));
            }
        }
    }
    let transactions: [(&str, MakeScript); 4] = [
        ("transaction, empty", |_| Script::default().start().commit()),
        ("transaction, read-modify-write", |key| modify(key, None)),
        ("transaction, in conflict", |key| modify(key, Some(key))),
        ("transaction, disjoint change", |key| modify(key, Some("/bench/watched"))),
    ];
    for (name, script) in transactions {
        for (connections, depth) in [(1, 1), (1, 16), (8, 1), (8, 16)] {
            cases.push(load(name, connections, depth, Target::Best, script));
        }
    }
    for count in [1, 10, 100, 1000] {
        let name = format!("event to {count} watchers, p50");
        cases.push(one(&name, Better::Lower("us"), Target::Best, move |daemon, amount| {
            fan_out(&daemon.socket(), count, amount.slice)
        }));
    }
    cases.extend([unrelated_watches(), vm_empty(), vm_many(), large_store(), restart()]);
    cases
}

/// Reads and writes in a transaction, while the same connection writes outside of it.
fn modify(key: &str, outside: Option<&str>) -> Script {
    let path = key.as_bytes();
    let mut script = Script::default().start().inside(&Request::Read { path });
    if let Some(other) = outside {
        script = script.then(&Request::Write { path: other.as_bytes(), value: b"outside" });
    }
    script.inside(&Request::Write { path, value: b"0123456789abcdef" }).commit()
}

fn one(
    name: &str,
    better: Better,
    target: Target,
    measure: impl Fn(&Daemon, Amount) -> Result<f64> + 'static,
) -> Case {
    Case {
        metrics: vec![Metric::new(name, better, target)],
        fresh: false,
        ours_only: false,
        measure: Box::new(move |daemon, amount| Ok(vec![measure(daemon, amount)?])),
    }
}

fn load(name: &str, connections: u16, depth: usize, target: Target, script: MakeScript) -> Case {
    let plural = if connections == 1 { "" } else { "s" };
    let deep = if depth == 1 { String::new() } else { format!(", {depth} deep") };
    let name = format!("{name}: {connections} connection{plural}{deep}");
    one(&name, Better::Higher("/s"), target, move |daemon, amount| {
        let scripts = (0..connections).map(|number| script(&key(number)));
        Load::new(&daemon.socket(), scripts)?.run(depth, Until::Elapsed(amount.slice))
    })
}

fn writes(daemon: &Daemon, amount: Amount) -> Result<f64> {
    let write =
        |number| Script::of(&Request::Write { path: key(number).as_bytes(), value: b"0123456789abcdef" });
    Load::new(&daemon.socket(), (0..8).map(write))?.run(16, Until::Elapsed(amount.slice))
}

fn unrelated_watches() -> Case {
    let name = "write with many watches elsewhere: 8 connections, 16 deep";
    Case {
        metrics: vec![
            Metric::new(name, Better::Higher("/s"), Target::None),
            Metric::new("... of writes without them", Better::Higher("%"), Target::AtLeast(90.0)),
        ],
        fresh: false,
        ours_only: false,
        measure: Box::new(|daemon, amount| {
            // Before and after, so that a machine that changes its pace does not count.
            let before = writes(daemon, amount)?;
            let held = watches(&daemon.socket(), amount.watches)?;
            let with = writes(daemon, amount)?;
            drop(held);
            let without = f64::midpoint(before, writes(daemon, amount)?);
            Ok(vec![with, 100.0 * with / without])
        }),
    }
}

fn vm_empty() -> Case {
    one("VM creation, empty store", Better::Higher("/s"), Target::Best, |daemon, amount| {
        Load::new(&daemon.socket(), [vm_creation(2000, OWNER)])?.run(1, Until::Elapsed(amount.slice))
    })
}

fn vm_many() -> Case {
    one("VM creation, 1000 domains with 12 keys", Better::Higher("/s"), Target::Best, |daemon, amount| {
        let mut script = Script::default();
        for domid in 3000..4000 {
            for key in 0..12 {
                let path = format!("/local/domain/{domid}/key{key}");
                script = script.then(&Request::Write { path: path.as_bytes(), value: b"0123456789abcdef" });
            }
        }
        Load::new(&daemon.socket(), [script])?.run(16, Until::Times(1))?;
        let rate =
            Load::new(&daemon.socket(), [vm_creation(2000, OWNER)])?.run(1, Until::Elapsed(amount.slice))?;
        let remove = Script::of(&Request::Rm { path: b"/local/domain" });
        Load::new(&daemon.socket(), [remove])?.run(1, Until::Times(1))?;
        Ok(rate)
    })
}

fn large_store() -> Case {
    Case {
        metrics: vec![
            Metric::new(
                "insert nodes: 1 connection, 16 deep",
                Better::Higher("/s"),
                Target::AtLeast(50_000.0),
            ),
            Metric::new("resident memory of a node", Better::Lower("B"), Target::CAndAtMost(150.0)),
            Metric::new("read in a large store: 8 connections, 16 deep", Better::Higher("/s"), Target::None),
            Metric::new("write in a large store: 8 connections, 16 deep", Better::Higher("/s"), Target::None),
            Metric::new("read-modify-write in a large store", Better::Higher("/s"), Target::Best),
            Metric::new("remove the large tree", Better::Lower("ms"), Target::None),
        ],
        fresh: true,
        ours_only: false,
        measure: Box::new(|daemon, amount| {
            let insert = insert(daemon, amount.nodes)?;
            let run = |connections: u16, depth, script: MakeScript| {
                let keys = (0..connections).map(|number| script(&format!("/d/{number}/n7")));
                Load::new(&daemon.socket(), keys)?.run(depth, Until::Elapsed(amount.slice))
            };
            let read = run(8, 16, |key| Script::of(&Request::Read { path: key.as_bytes() }))?;
            let write = |key: &str| Script::of(&Request::Write { path: key.as_bytes(), value: &[b'w'; 32] });
            let write = run(8, 16, write)?;
            let transaction = run(1, 1, |key| modify(key, None))?;
            let remove = Script::of(&Request::Rm { path: b"/d" });
            let removals = Load::new(&daemon.socket(), [remove])?.run(1, Until::Times(1));
            let removals = removals.context("Cannot remove the large tree")?;
            Ok(vec![insert.rate, insert.bytes, read, write, transaction, 1000.0 / removals])
        }),
    }
}

fn restart() -> Case {
    let target = Target::AtMost(10.0);
    Case {
        metrics: vec![
            Metric::new("restart of Logic, until a guest's next answer", Better::Lower("ms"), target),
            Metric::new("restart of Logic, large store", Better::Lower("ms"), target),
        ],
        fresh: true,
        ours_only: true,
        measure: Box::new(|daemon, amount| {
            let mut guest = daemon.guest(OWNER)?;
            let small = restarts(daemon, &mut guest, amount.restarts)?;
            insert(daemon, amount.nodes)?;
            Ok(vec![small, restarts(daemon, &mut guest, amount.restarts)?])
        }),
    }
}
