//! A VM with a ring that notices if XenStore loses anything of its: nodes, a watch, an open transaction. It has a transaction open all
//! the time; each time that one is committed it looks at everything, and writes to `data/commits` how often, and to `data/longest`
//! the longest that it waited for an answer meanwhile (ms). It ends when something is missing.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ennead_probe::xenbus::XenBus;
use ennead_runtime::Runtime;
use ennead_xs_wire::Request;
use tracing::info;

/// Nodes that it has.
const NODES: u32 = 2000;
/// How long a transaction is open at least.
const OPEN: Duration = Duration::from_secs(15);

fn main() -> ! {
    ennead_runtime::run(run)
}

struct Keeper {
    xenbus: XenBus,
    longest: Duration,
}

fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let mut keeper = Keeper { xenbus: XenBus::open()?, longest: Duration::ZERO };
    runtime.health.report()?;
    for n in 0..NODES {
        keeper.write(0, &node(n), &value(n))?;
    }
    // All that is written later is there: a new child of `data` would end an open transaction, which has looked at that.
    for path in ["data/watched", "data/in-transaction", "data/beat", "data/longest", "data/commits"] {
        keeper.write(0, path, "0")?;
    }
    keeper.ask(0, &Request::Watch { path: b"data/watched", token: b"mine" })?;
    ensure!(keeper.xenbus.event()? == b"data/watched", "a watch fires at once");
    for commits in 1_u32.. {
        let open = keeper.ask(0, &Request::TransactionStart)?;
        let tx_id = std::str::from_utf8(&open)?.trim_end_matches('\0').parse()?;
        keeper.write(tx_id, "data/in-transaction", &commits.to_string())?;
        let start = Instant::now();
        while start.elapsed() < OPEN {
            keeper.write(0, "data/beat", &start.elapsed().as_millis().to_string())?;
            keeper.look(0, &node(commits % NODES), &value(commits % NODES))?;
            std::thread::sleep(Duration::from_millis(10));
        }
        keeper.look(tx_id, "data/in-transaction", &commits.to_string())?;
        keeper.ask(tx_id, &Request::TransactionEnd { commit: true }).context("The commit")?;
        keeper.look(0, "data/in-transaction", &commits.to_string())?;
        // Its own watch tells it.
        keeper.write(0, "data/watched", &commits.to_string())?;
        ensure!(keeper.xenbus.event()? == b"data/watched", "the watch told something else");
        (0..NODES).try_for_each(|n| keeper.look(0, &node(n), &value(n)))?;
        let longest = std::mem::take(&mut keeper.longest).as_millis();
        keeper.write(0, "data/longest", &longest.to_string())?;
        keeper.write(0, "data/commits", &commits.to_string())?;
        info!(commits, longest_ms = longest, "kept");
    }
    anyhow::bail!("The numbers have an end")
}

fn node(n: u32) -> String {
    format!("data/nodes/{}/{n}", n % 20)
}

fn value(n: u32) -> String {
    format!("the value of node {n}")
}

impl Keeper {
    fn ask(&mut self, tx_id: u32, request: &Request<'_>) -> anyhow::Result<Vec<u8>> {
        let start = Instant::now();
        let answer = self.xenbus.ask_in(tx_id, request)?;
        self.longest = self.longest.max(start.elapsed());
        answer.with_context(|| format!("{:?} failed", request.op()))
    }

    fn write(&mut self, tx_id: u32, path: &str, value: &str) -> anyhow::Result<()> {
        self.ask(tx_id, &Request::Write { path: path.as_bytes(), value: value.as_bytes() })
            .map(drop)
            .with_context(|| format!("Cannot write {path}"))
    }

    /// Whether a node is what it should be.
    fn look(&mut self, tx_id: u32, path: &str, expected: &str) -> anyhow::Result<()> {
        let found = self
            .ask(tx_id, &Request::Read { path: path.as_bytes() })
            .with_context(|| format!("Cannot read {path}"))?;
        ensure!(found == expected.as_bytes(), "{path} is {}", found.escape_ascii());
        Ok(())
    }
}
