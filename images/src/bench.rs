//! Sizes, memory and boot times, as a Markdown table.
//!
//! Time is virtual: QEMU counts instructions ([`Accel::Counted`]), so that a boot takes the same time on any machine. Xen
//! stamps its lines with the processor's time stamp counter; the VMs' milestones have `t`, one wall clock for all VMs. A line
//! that carries both ties the two together.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::host::{self, Host};
use crate::milestone::Milestone;
use crate::progress::Progress;
use crate::qemu::{Accel, Line, Settings};
use crate::session::Session;
use crate::step::size;
use crate::table::mib;
use crate::timeline::is_xens_first;

/// Boots `boots` times and gives the table.
///
/// # Errors
/// When the host does not build or start, or says something unexpected.
pub fn run(cache: &Cache, progress: Progress, options: &host::Options, boots: u32) -> Result<String> {
    let mut host = host::build(cache, progress, options)?;
    host.write_iso(cache, progress, &options.out)?;
    let iso_size = crate::xen::file_size(&options.out)?;
    // Every line of Xen's with the time stamp counter.
    host.command_lines.xen.push_str(" console_timestamps=raw");
    let folder = cache.temporary("bench")?;
    let iso = folder.path().join("bench.iso");
    host.write_iso(cache, Progress::Silent, &iso)?;
    let settings = Settings {
        accel: Accel::Counted,
        lines: crate::relay::lines(&host.plan),
        ..Settings::emulated(iso, host.plan.host.memory_mib, options.out.with_file_name("bench.log"))
    };
    let mut rows = sizes(&host, iso_size);
    let mut times: BTreeMap<usize, (String, Vec<f64>)> = BTreeMap::new();
    for boot in 0..boots {
        let mut session = Session::start(&settings, false)?;
        session.until_ready()?;
        let list = session.list()?;
        session.power_off()?;
        if boot == 0 {
            rows.extend(list.vms.iter().map(|vm| (format!("memory of `{}`", vm.name), mib(vm.memory_kib))));
            rows.push(("memory of all VMs".into(), mib(list.vms.iter().map(|vm| vm.memory_kib).sum())));
        }
        for (row, (what, seconds)) in milestones(&session.machine.lines())?.into_iter().enumerate() {
            times.entry(row).or_insert_with(|| (what, Vec::new())).1.push(seconds);
        }
    }
    for (what, seconds) in times.into_values() {
        rows.push((format!("Xen's first line to: {what}"), spread(seconds)));
    }
    let mut table = format!("| What | Figure ({boots} boots: median, least to most) |\n|---|---|\n");
    for (what, figure) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| {what} | {figure} |");
    }
    Ok(table)
}

fn sizes(host: &Host, iso: u64) -> Vec<(String, String)> {
    let mut rows = vec![("ISO".to_owned(), size(iso))];
    let bytes = |n: usize| size(u64::try_from(n).unwrap_or(u64::MAX));
    rows.extend(host.program_sizes.iter().map(|(name, n)| (format!("static program `{name}`"), bytes(*n))));
    rows.push(("image `bootstrapper.ramdisk`".into(), bytes(host.ramdisk.len())));
    rows.extend(
        host.boot_plan.images.iter().map(|(name, image)| (format!("image `{name}`"), size(image.size))),
    );
    rows
}

fn spread(mut seconds: Vec<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let pick = |n: usize| seconds.get(n).copied().unwrap_or_default();
    let last = seconds.len().saturating_sub(1);
    format!("{:.2} s ({:.2} to {:.2})", pick(seconds.len() / 2), pick(0), pick(last))
}

/// Seconds of virtual time from Xen's first line to each point of the boot.
fn milestones(lines: &[Line]) -> Result<Vec<(String, f64)>> {
    let first =
        lines.iter().find(|line| is_xens_first(&line.text)).context("Xen has not said its first line")?;
    let start = stamp(&first.text).with_context(|| format!("No time stamp in: {}", first.text))?;
    let hertz = lines
        .iter()
        .find_map(|line| frequency(&line.text))
        .context("Xen has not said the processor's frequency")?;
    let (ticks, tied) = lines
        .iter()
        .find_map(|line| Some((stamp(&line.text)?, wall(&Milestone::parse(&line.text)?)?)))
        .context("No milestone came through Xen with a time stamp")?;
    let zero = tied - (ticks - start) / hertz;
    let found = lines.iter().filter_map(|line| Milestone::parse(&line.text));
    Ok(found.filter_map(|milestone| Some((point(&milestone)?, wall(&milestone)? - zero))).collect())
}

/// The milestones that count.
fn point(milestone: &Milestone) -> Option<String> {
    Some(match (milestone.vm.as_str(), milestone.name.as_str()) {
        ("bootstrapper", "started") => "bootstrapper runs".to_owned(),
        (_, "healthy") => format!("{} is healthy", milestone.value("vm")?),
        ("builder", "bootstrapper-destroyed") => "domain 0 is gone".to_owned(),
        ("builder", "host-ready") => "the host is ready".to_owned(),
        _ => return None,
    })
}

fn wall(milestone: &Milestone) -> Option<f64> {
    milestone.clock.as_ref()?.parse().ok()
}

/// `(XEN) [0000000123456789] ...`: ticks.
fn stamp(line: &str) -> Option<f64> {
    let digits = line.split_once("(XEN) [").or_else(|| line.split_once('['))?.1.split_once(']')?.0;
    let ticks = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)?;
    // 2^52 ticks are weeks.
    u32::try_from(ticks >> 20).ok().map(|high| f64::from(high) * 1_048_576.0 + low(ticks))
}

fn low(ticks: u64) -> f64 {
    u32::try_from(ticks & 0xf_ffff).map_or(0.0, f64::from)
}

/// `Detected 1000.000 MHz processor.`: ticks in a second.
fn frequency(line: &str) -> Option<f64> {
    let mega: f64 = line.split_once("Detected ")?.1.split_once(" MHz")?.0.parse().ok()?;
    Some(mega * 1e6)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_clocks_are_tied_together() {
        let lines = [
            "(XEN) [000000003b9aca00] Xen version 4.17.5",
            "(XEN) [000000003b9aca00] Detected 500.000 MHz processor.",
            "ennead bootstrapper: started t=100.500000",
            "(XEN) [0000000077359400] (d1) ennead builder: host-ready vms=2 t=102.000000",
        ]
        .map(|text| Line { at: Duration::ZERO, text: text.to_owned() });
        let found = milestones(&lines).expect("complete");
        assert_eq!(found, [("bootstrapper runs".to_owned(), 0.5), ("the host is ready".to_owned(), 2.0)]);
        assert!(milestones(&lines[1..]).is_err());
    }

    #[test]
    fn the_median_and_the_spread() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), "2.00 s (1.00 to 3.00)");
    }
}
