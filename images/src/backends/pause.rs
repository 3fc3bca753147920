//! The pause that a guest sees when its backend is restarted, and what it is made of.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::measure::{FIO, Fio};
use super::side::{ADDRESS, Side};
use crate::first_guest::NAME;
use crate::milestone::Milestone;
use crate::qemu::Line;

/// Seconds of work in the guest around a restart.
const WORK: u32 = 12;
/// How long it works before.
const BEFORE: Duration = Duration::from_secs(3);

/// What the pause is made of, in order.
const PARTS: [&str; 4] = ["destroy", "device and build", "kernel", "init and re-attach"];

/// One restart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pause {
    backend: &'static str,
    /// The longest time without an answer, as the guest sees it, in seconds.
    gap: f64,
    /// Seconds of each of [`PARTS`].
    parts: [f64; PARTS.len()],
}

impl Side {
    /// Restarts each backend a few times.
    ///
    /// # Errors
    /// When one does not come back, or the guest says something unexpected.
    pub(super) fn pauses(&mut self, times: u32) -> Result<Vec<Pause>> {
        let mut pauses = Vec::new();
        for _ in 0..times {
            pauses.push(self.pause(
                "netback",
                &format!(
                    "ping -n -D -i 0.001 -w {WORK} {ADDRESS} | \
                     awk -F '[][]' '/bytes from/{{if(p&&$2-p>m)m=$2-p;p=$2}}END{{print m}}'"
                ),
                // Before it, ping complains of a clock that was set.
                |said| said.lines().last().unwrap_or_default().trim().parse().context("no number"),
            )?);
            pauses.push(self.pause(
                "blkback",
                &format!("{FIO} --runtime={WORK} --name=pause --rw=randwrite --bs=4k --iodepth=1"),
                |said| said.lines().find_map(Fio::read).context("no figures")?.longest_write(),
            )?);
        }
        Ok(pauses)
    }

    fn pause(
        &mut self,
        backend: &'static str,
        work: &str,
        read: impl Fn(&str) -> Result<f64>,
    ) -> Result<Pause> {
        self.session.idle(Duration::ZERO);
        let before = self.session.machine.lines().len();
        let guests = self.shells();
        let said = thread::scope(|scope| {
            let work = scope.spawn(|| guests.ask(NAME, work));
            self.session.idle(BEFORE);
            let restarted = self.session.command(&format!("restart {backend}"), |m| {
                m.is("builder", "healthy") && m.value("vm") == Some(backend)
            });
            let said = work.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            restarted?;
            said
        })?;
        let gap = read(&said).with_context(|| format!("The guest says {said}"))?;
        let lines = self.session.machine.lines();
        let parts = parts(lines.get(before..).unwrap_or_default(), backend)?;
        Ok(Pause { backend, gap, parts })
    }
}

/// The parts of a restart, from what was said meanwhile.
fn parts(lines: &[Line], backend: &str) -> Result<[f64; PARTS.len()]> {
    let milestones: Vec<(f64, Milestone)> = lines
        .iter()
        .filter_map(|line| Some((line.at.as_secs_f64(), Milestone::parse(&line.text)?)))
        .collect();
    let last = |vm: &str, name: &str, key: &str| {
        let is = |m: &Milestone| m.is(vm, name) && (key.is_empty() || m.value(key) == Some(backend));
        let found = milestones.iter().rev().find(|(_, m)| is(m));
        found.map(|(at, _)| *at).with_context(|| format!("{backend} restarts without `{name}`"))
    };
    let times = [
        last("builder", "restarting", "vm")?,
        last("builder", "vm-gone", "name")?,
        last("builder", "built", "vm")?,
        last(backend, "started", "")?,
        last(backend, "frontend-reattached", "")?,
    ];
    let mut parts = [0.0; PARTS.len()];
    for (part, pair) in parts.iter_mut().zip(times.windows(2)) {
        if let [from, to] = pair {
            *part = to - from;
        }
    }
    Ok(parts)
}

/// All restarts as a Markdown table.
pub(super) fn table(pauses: &[Pause]) -> String {
    let mut table = format!(
        "| Restart of | The guest waits | {} |\n|---|---|{}\n",
        PARTS.join(" | "),
        "---|".repeat(PARTS.len())
    );
    for Pause { backend, gap, parts } in pauses {
        let parts: Vec<String> = parts.iter().map(|part| format!("{part:.2} s")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| {backend} | {gap:.2} s | {} |", parts.join(" | "));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_come_from_the_log() {
        let said = [
            (1, "ennead builder: restarting vm=blkback pause-ms=0"),
            (2, "ennead builder: vm-gone domid=8 name=blkback"),
            (4, "ennead builder: built vm=blkback domid=8 memory-kib=1"),
            (7, "(d8) ennead blkback: started"),
            (8, "(d8) ennead blkback: frontend-reattached domid=9 handle=1"),
            (11, "(d8) ennead blkback: frontend-reattached domid=10 handle=1"),
        ];
        let lines = said.map(|(at, text)| Line { at: Duration::from_secs(at), text: text.to_owned() });
        let parts = parts(&lines, "blkback").unwrap();
        assert_eq!(parts, [1.0, 2.0, 3.0, 4.0]);
        assert!(super::parts(&lines[1..], "blkback").is_err());
        let table = table(&[Pause { backend: "blkback", gap: 10.5, parts }]);
        assert!(table.ends_with("| blkback | 10.50 s | 1.00 s | 2.00 s | 3.00 s | 4.00 s |\n"), "{table}");
    }
}
