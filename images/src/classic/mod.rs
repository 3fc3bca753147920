//! Our host and a classic one (Debian's Dom0 with xl) on the same emulated machine, with the same guest: how long do power-on,
//! the creation of a guest and its end take for whoever asks?
//!
//! All times are wall-clock times of the machine that QEMU runs on, where the operator of both sits. Both machines have the
//! same arguments of QEMU's but for the ISO. The guest is Debian's cloud kernel with busybox, PV, from one xl.cfg.
//!
//! | | Ours | Classic |
//! |---|---|---|
//! | begins with | `ennead create --console` being started | `xl create -c` being typed on Dom0's console |
//! | first line, shell | the line is complete in its output | the line begins on the serial console |
//! | destroy begins with | `ennead destroy` being started | `xl destroy` being typed |
//! | gone | the command has ended and Builder has said that Xen let go of the domain | `xl destroy` has ended |
//!
//! Where the two cannot be measured alike, ours has the longer way. Both hosts create the guest once before it counts: ours is
//! given kernel and ramdisk then (on the classic host they are in Dom0's memory from the start).

mod debian;
mod host;
mod measure;
pub mod power_on;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

use self::measure::{Classic, Host, Ours};
use crate::cache::Cache;
use crate::guest::{self, Guest};
use crate::progress::Progress;
use crate::qemu::Settings;
use crate::{host as our_host, program, relay};

/// MiB of both machines.
const MEMORY_MIB: u32 = 2048;
/// The guest's name.
const GUEST: &str = "guest";
/// How many times faster than xl we must be.
const FACTOR: f64 = 3.0;

/// One guest's life, since the command that began each part.
#[derive(Debug, Clone, Copy)]
struct Life {
    first_line: Duration,
    shell: Duration,
    gone: Duration,
}

/// What was measured on one host.
#[derive(Debug)]
struct Figures {
    ready: Duration,
    /// The guest that is created before it counts.
    first: Life,
    lives: Vec<Life>,
}

/// The comparison.
#[derive(Debug)]
pub struct Comparison {
    ours: Figures,
    classic: Figures,
}

/// Measures both hosts, one after the other; `guests` guests of `memory_mib` MiB count.
///
/// # Errors
/// When a host does not build or start, or does not do what it is asked.
pub fn run(
    cache: &Cache,
    progress: Progress,
    options: &our_host::Options,
    guests: u32,
    memory_mib: u32,
) -> Result<Comparison> {
    let host = our_host::build(cache, progress, options)?;
    let program = program::cli(cache, progress)?;
    let files = guest::debian(cache, progress)?;
    let classic_iso =
        host::iso(cache, progress, &files, &config("/guest/kernel", "/guest/ramdisk", memory_mib))?;
    let folder = cache.temporary("classic")?;
    let iso = folder.path().join("ours.iso");
    host.write_iso(cache, Progress::Silent, &iso)?;
    let file = folder.path().join("guest.cfg");
    let Guest { kernel, ramdisk } = &files;
    let text = config(&kernel.display().to_string(), &ramdisk.display().to_string(), memory_mib);
    std::fs::write(&file, text).with_context(|| format!("Cannot write {}", file.display()))?;
    let log = options.out.with_file_name("classic-ours.log");
    let ours = Settings { lines: relay::lines(&host.plan), ..Settings::emulated(iso, MEMORY_MIB, log) };
    let classic =
        Settings { iso: classic_iso, log: options.out.with_file_name("classic.log"), ..ours.clone() };
    let step = progress.step("Guests on our host");
    let ours = figures(|| Ours::start(&ours, program, file), guests)?;
    step.done("");
    let step = progress.step("Guests on the classic host");
    let classic = figures(|| Classic::start(&classic), guests)?;
    step.done("");
    Ok(Comparison { ours, classic })
}

/// The guest, as for xl; our host takes the same. Its kernel says its version as soon as it runs, and little more until there is a
/// shell: with `quiet` it would say nothing, and with more the consoles would be measured, not the toolstacks.
fn config(kernel: &str, ramdisk: &str, memory_mib: u32) -> String {
    format!(
        "name = '{GUEST}'\ntype = 'pv'\nkernel = '{kernel}'\nramdisk = '{ramdisk}'\nextra = 'console=hvc0 earlyprintk=xen loglevel=6'\n\
         memory = {memory_mib}\nvcpus = 1\n"
    )
}

fn figures<H: Host>(start: impl FnOnce() -> Result<(H, Duration)>, guests: u32) -> Result<Figures> {
    let (mut host, ready) = start()?;
    let mut life = || {
        let (first_line, shell) = host.create()?;
        Ok(Life { first_line, shell, gone: host.destroy()? })
    };
    let first = life()?;
    let lives = (0..guests).map(|_| life()).collect::<Result<_>>()?;
    host.power_off()?;
    Ok(Figures { ready, first, lives })
}

impl Figures {
    fn median(&self, part: fn(&Life) -> Duration) -> f64 {
        median(self.lives.iter().map(part))
    }
}

/// The one in the middle, in seconds.
fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut seconds: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or_default()
}

impl Comparison {
    /// What, seconds on our host, seconds on the classic one, and whether it must be [`FACTOR`] times faster.
    fn rows(&self) -> [(&'static str, f64, f64, bool); 5] {
        let Self { ours, classic } = self;
        let medians = |part: fn(&Life) -> Duration| (ours.median(part), classic.median(part));
        let (first_line, shell, gone) =
            (medians(|life| life.first_line), medians(|life| life.shell), medians(|life| life.gone));
        let seconds = |time: Duration| time.as_secs_f64();
        let ready = (seconds(ours.ready), seconds(classic.ready));
        let first = (seconds(ours.first.first_line), seconds(classic.first.first_line));
        [
            ("create to the guest's first console line", first_line.0, first_line.1, true),
            ("create to the guest's shell", shell.0, shell.1, false),
            ("destroy to gone", gone.0, gone.1, true),
            ("power-on to ready (once)", ready.0, ready.1, false),
            ("the very first create (ours: with upload)", first.0, first.1, false),
        ]
    }

    /// The comparison as a Markdown table.
    #[must_use]
    pub fn table(&self) -> String {
        let count = self.ours.lives.len();
        let mut table =
            format!("| Median of {count} | Ennead | Debian's Dom0 with xl | Ratio |\n|---|---|---|---|\n");
        for (what, ours, classic, _) in self.rows() {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "| {what} | {ours:.2} s | {classic:.2} s | {:.1} |", classic / ours);
        }
        table
    }

    /// Whether a guest is created and destroyed at least [`FACTOR`] times faster than by xl.
    ///
    /// # Errors
    /// Names what is not.
    pub fn check(&self) -> Result<()> {
        for (what, ours, classic, counts) in self.rows() {
            let ratio = classic / ours;
            anyhow::ensure!(!counts || ratio >= FACTOR, "{what}: {ratio:.1} times faster, not {FACTOR}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(first_lines: &[u64], gone: u64) -> Figures {
        let life = |n: &u64| Life {
            first_line: Duration::from_secs(*n),
            shell: Duration::from_secs(100),
            gone: Duration::from_secs(gone),
        };
        Figures {
            ready: Duration::from_secs(8),
            first: life(&16),
            lives: first_lines.iter().map(life).collect(),
        }
    }

    #[test]
    fn medians_are_compared() {
        let fast = Comparison { ours: figures(&[9, 1, 2], 1), classic: figures(&[7, 5, 6], 3) };
        assert!(fast.check().is_ok());
        let table = fast.table();
        assert!(table.contains("| Median of 3 |"), "{table}");
        assert!(table.contains("first console line | 2.00 s | 6.00 s | 3.0 |"), "{table}");
        for slow in [(figures(&[3], 1), figures(&[8], 3)), (figures(&[1], 1), figures(&[3], 2))] {
            let (ours, classic) = slow;
            assert!(Comparison { ours, classic }.check().is_err());
        }
    }
}
