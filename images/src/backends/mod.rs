//! Our backends and Linux's: the same guests on the same host, on the same emulated machine. How much do their disk and network
//! give, and how long is a pause when ours are restarted?
//!
//! Both machines differ in the driver VMs alone: there ours run `blkback` and `netback`, and Linux's a kernel with xen-blkback and
//! xen-netback (and `images/linux-backend`, which does what Xen's hotplug scripts do). They run in turns: while one is measured,
//! the other is stopped, its clock too. Both start anew for each round: one start differs from another by a few hundredths for as long
//! as it lasts. Of each figure the median counts.
//!
//! One guest is Debian from its disk; it reads and writes another partition with fio. The other one, with busybox, is on the same
//! bridge: what goes between them passes the backend twice.

mod hosts;
mod measure;
mod pause;
mod side;

use std::fmt::Write as _;

use anyhow::{Context, Result};

use self::measure::{CASES, Case, Unit};
use self::side::Side;
use crate::cache::Cache;
use crate::crashes::Crashes;
use crate::progress::Progress;
use crate::{host, program};

/// How often each backend is restarted to see the pause.
const RESTARTS: u32 = 3;

/// What was measured: figures by case, ours and Linux's.
#[derive(Debug)]
pub struct Comparison {
    rounds: u32,
    rows: Vec<(Case, f64, f64)>,
}

/// Measures both in turns, and then ours being restarted. Tables are shown as soon as there are any.
///
/// # Errors
/// When a host does not build or start, or a guest does not do what it is asked.
pub fn run(
    cache: &Cache,
    progress: Progress,
    options: &host::Options,
    rounds: u32,
    show: impl Fn(&str),
) -> Result<Comparison> {
    let [ours, linux] = hosts::build(cache, progress, options)?;
    let guests = hosts::guests(cache, progress)?;
    let program = program::cli(cache, progress)?;
    let out = options.out.parent().context("The ISO has no folder")?;
    let start = |host: &host::Host, name: &str| {
        let mut step = progress.step(format!("Guests on the host with {name}"));
        let (out, crashes) = (out.join(format!("backends-{name}")), Crashes::default());
        let mut once = || Side::start(cache, host, &out, &program, &guests, &crashes, &mut step);
        // QEMU's own crashes come while devices are enabled, and not with what is measured.
        let side = match once() {
            Err(_) if crashes.take().is_some() => once(),
            side => side,
        };
        step.done("");
        side.with_context(|| format!("The host with {name}"))
    };
    let mut found: Vec<[Vec<f64>; 2]> = CASES.iter().map(|_| Default::default()).collect();
    let mut one_round = |round| -> Result<[Side; 2]> {
        let mut sides = [start(&ours, "ours")?, start(&linux, "linux")?];
        let step = progress.step(format!("Round {round}"));
        for (index, side) in sides.iter_mut().enumerate() {
            let figures = side.awake(|side| side.measure())?;
            for (all, figure) in found.iter_mut().zip(figures) {
                if let Some(list) = all.get_mut(index) {
                    list.push(figure);
                }
            }
        }
        step.done("");
        Ok(sides)
    };
    for round in 1..rounds {
        one_round(round)?.iter_mut().try_for_each(Side::end)?;
    }
    let mut sides = one_round(rounds)?;
    let rows = CASES.into_iter().zip(found);
    let rows = rows.map(|(case, [ours, linux])| (case, median(ours), median(linux))).collect();
    let comparison = Comparison { rounds, rows };
    show(&comparison.table());
    let [ours, _] = &mut sides;
    let step = progress.step("Restarts");
    let pauses = ours.awake(|side| side.pauses(RESTARTS))?;
    step.done("");
    show(&pause::table(&pauses));
    sides.iter_mut().try_for_each(Side::end)?;
    Ok(comparison)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// How many times better ours is.
fn ratio((case, ours, linux): &(Case, f64, f64)) -> f64 {
    match case.unit {
        Unit::Milliseconds => linux / ours,
        _ => ours / linux,
    }
}

impl Comparison {
    /// As a Markdown table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table =
            format!("| Median of {} | Ennead | Linux's backend | Ratio |\n|---|---|---|---|\n", self.rounds);
        for row in &self.rows {
            let (case, ours, linux) = row;
            let unit = case.unit.text();
            // Writing to a String cannot fail.
            let _ = writeln!(
                table,
                "| {} | {ours:.1} {unit} | {linux:.1} {unit} | {:.2} |",
                case.name,
                ratio(row)
            );
        }
        table
    }

    /// Whether ours is at least as good in each case.
    ///
    /// # Errors
    /// Names those in which it is not.
    pub fn check(&self) -> Result<()> {
        let worse: Vec<String> = self
            .rows
            .iter()
            .filter(|row| ratio(row) < 1.0)
            .map(|row| format!("{}: {:.2}", row.0.name, ratio(row)))
            .collect();
        anyhow::ensure!(worse.is_empty(), "Worse than Linux's: {}", worse.join("; "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_better_but_for_times() {
        let case = |unit| Case { name: "x", unit };
        let rows = vec![(case(Unit::Milliseconds), 2.0, 3.0), (case(Unit::Operations), 6.0, 6.0)];
        let good = Comparison { rounds: 1, rows };
        assert!(good.check().is_ok());
        assert!(good.table().contains("| x | 2.0 ms | 3.0 ms | 1.50 |"), "{}", good.table());
        let rows = vec![(case(Unit::Milliseconds), 3.0, 2.0), (case(Unit::Operations), 9.0, 1.0)];
        let bad = Comparison { rows, ..good };
        assert_eq!(bad.check().unwrap_err().to_string(), "Worse than Linux's: x: 0.67");
    }

    #[test]
    fn the_middle_one_counts() {
        assert_eq!(median(vec![9.0, 1.0, 3.0]).to_string(), "3");
    }
}
