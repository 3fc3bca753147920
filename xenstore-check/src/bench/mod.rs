//! Measures the daemons one beside the other: each measurement goes through all daemons before the next one, and all
//! of that several times, so that what disturbs the machine disturbs all alike.

mod cases;
mod load;
mod measure;
mod report;
mod script;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::daemon::{Daemon, Kind};
use cases::{Amount, Case, cases, prepare};
pub use report::{Line, table};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which daemons.
    pub kinds: Vec<Kind>,
    /// How often.
    pub rounds: usize,
    /// Shorter measurements and a smaller large store: to see that everything works.
    pub quick: bool,
    /// The daemons on one processor, the client on another.
    pub pin: bool,
    /// Only what has this in its name.
    pub only: Option<String>,
}

/// Keeps this thread, and the processes that it starts, on some processors.
struct Processors {
    all: CpuSet,
    pin: bool,
}

impl Processors {
    fn new(pin: bool) -> Result<Self> {
        let all = sched_getaffinity(None).context("Cannot ask for the processors")?;
        Ok(Self { all, pin: pin && all.count() > 1 })
    }

    /// To the first processor (0) or the second (1) of those that we may use.
    fn go_to(&self, number: usize) -> Result<()> {
        if !self.pin {
            return Ok(());
        }
        let processor = (0..CpuSet::MAX_CPU).filter(|cpu| self.all.is_set(*cpu)).nth(number);
        let mut set = CpuSet::new();
        set.set(processor.context("Too few processors")?);
        sched_setaffinity(None, &set).context("Cannot go to a processor")
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.all);
    }
}

/// Measures everything; `start` starts a daemon, `progress` hears what comes next.
///
/// # Errors
/// When a daemon does not start, ends, or answers with an error where none belongs.
pub fn bench(
    options: &Options,
    start: &dyn Fn(Kind) -> Result<Daemon>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Line>> {
    let amount = if options.quick {
        Amount { slice: Duration::from_millis(30), nodes: 5_000, watches: 1_000, restarts: 5 }
    } else {
        Amount { slice: Duration::from_millis(200), nodes: 100_000, watches: 10_000, restarts: 20 }
    };
    // A thousand watchers are a thousand files, here and in the daemon.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("Cannot open many files")?;
    // Not everybody may; then other programs disturb more.
    let _ = setpriority_process(None, -20);
    let processors = Processors::new(options.pin)?;
    let begin = |kind| {
        processors.go_to(0)?;
        let daemon = start(kind)?;
        processors.go_to(1)?;
        prepare(&daemon).with_context(|| format!("Preparing {}", kind.name()))?;
        Ok::<_, anyhow::Error>(daemon)
    };
    let wanted = |case: &Case| {
        let name = |only: &String| case.metrics.iter().any(|metric| metric.name().contains(only.as_str()));
        options.only.as_ref().is_none_or(name) && (options.kinds.contains(&Kind::Ours) || !case.ours_only)
    };
    let cases: Vec<Case> = cases().into_iter().filter(wanted).collect();
    let mut daemons = options.kinds.iter().map(|kind| begin(*kind)).collect::<Result<Vec<_>>>()?;
    // By case and metric, the rounds of each daemon.
    let mut numbers: BTreeMap<(usize, usize), BTreeMap<&'static str, Vec<f64>>> = BTreeMap::new();
    for round in 1..=options.rounds {
        for (at, case) in cases.iter().enumerate() {
            let title = case.metrics.first().map_or("", |metric| metric.name());
            progress(&format!("round {round} of {}: {title}", options.rounds));
            for daemon in daemons.iter_mut().filter(|daemon| !case.ours_only || daemon.kind() == Kind::Ours) {
                let name = daemon.kind().name();
                let measured = if case.fresh {
                    begin(daemon.kind()).and_then(|mut own| (case.measure)(&mut own, amount))
                } else {
                    (case.measure)(daemon, amount)
                };
                if measured.is_err() {
                    daemon.check()?;
                }
                let measured = measured.with_context(|| format!("{title}, {name}"))?;
                for (metric, number) in measured.into_iter().enumerate() {
                    numbers.entry((at, metric)).or_default().entry(name).or_default().push(number);
                }
            }
        }
    }
    let metrics = cases.iter().enumerate().flat_map(|(at, case)| {
        case.metrics.iter().enumerate().map(move |(number, metric)| ((at, number), metric))
    });
    Ok(metrics.map(|(key, metric)| Line::new(metric, numbers.remove(&key).unwrap_or_default())).collect())
}
