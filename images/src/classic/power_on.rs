//! From power-on to a guest's login: our host, and Debian's Dom0 with xl ([`super::debian`]), in turns on the same emulated machine.
//!
//! Both machines have the same arguments of QEMU's but for the ISO and what is on the disk, and the guest is the same: Debian from
//! its partition, by GRUB in a PV guest. All times are wall-clock times since QEMU's start.
//!
//! | | Ours | Classic |
//! |---|---|---|
//! | host ready | Builder says `host-ready` | xenstored and xenconsoled run, so `xl` can be used |
//! | guest created | the toolstack has created the guests of the manifest | `xl create` has ended, which `xendomains` starts |
//! | login | the guest's console, followed, shows its prompt | `xl console` shows it |

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{MEMORY_MIB, debian, median};
use crate::cache::Cache;
use crate::first_guest;
use crate::operator::Operator;
use crate::progress::Progress;
use crate::qemu::{Machine, Settings};
use crate::session::{PATIENCE, Session};
use crate::{disk, host as our_host, plan, program, relay, timeline};

/// How many times faster than Debian's Dom0 we must be.
const FACTOR: f64 = 1.5;

/// One boot, since power-on.
#[derive(Debug, Clone, Copy, Default)]
struct Boot {
    xen: Duration,
    ready: Duration,
    created: Duration,
    login: Duration,
}

/// A part of it, in words.
type Part = (&'static str, fn(&Boot) -> Duration);

const PARTS: [Part; 4] = [
    ("Xen's first line", |boot| boot.xen),
    ("the host is ready", |boot| boot.ready),
    ("the guest is created", |boot| boot.created),
    ("the guest's login", |boot| boot.login),
];

/// The comparison.
#[derive(Debug, Default)]
pub struct Comparison {
    ours: Vec<Boot>,
    classic: Vec<Boot>,
}

/// Measures both hosts in turns.
///
/// # Errors
/// When a host does not build or start, or its guest does not come up.
pub fn run(
    cache: &Cache,
    progress: Progress,
    options: &our_host::Options,
    rounds: u32,
) -> Result<Comparison> {
    let dom0 = debian::dom0(cache, progress)?;
    let options = with_guest(options)?;
    let host = our_host::build(cache, progress, &options)?;
    let program = program::cli(cache, progress)?;
    let folder = cache.temporary("power-on")?;
    let iso = folder.path().join("ours.iso");
    host.write_iso(cache, Progress::Silent, &iso)?;
    let log = |name| options.out.with_file_name(name);
    let ours = Settings {
        lines: relay::lines(&host.plan),
        ..Settings::emulated(iso, MEMORY_MIB, log("power-on-ours.log"))
    };
    let classic = Settings { iso: dom0.iso, log: log("power-on-classic.log"), ..ours.clone() };
    let image = folder.path().join("disk.img");
    let mut comparison = Comparison::default();
    for round in 1..=rounds {
        let step = progress.step(format!("Round {round}: our host"));
        let _ = std::fs::remove_file(&image);
        comparison.ours.push(boot_ours(&equipped(&ours, cache, &image)?, &program)?);
        step.done("");
        let step = progress.step(format!("Round {round}: Debian's Dom0"));
        disk::copy(&dom0.disk, &image)?;
        comparison.classic.push(boot_classic(&equipped(&classic, cache, &image)?)?);
        step.done("");
    }
    Ok(comparison)
}

/// The host of a manifest, and the guest starts with it.
fn with_guest(options: &our_host::Options) -> Result<our_host::Options> {
    let checked = plan::check_text(&options.manifest, options.manifest_text()?)?;
    let tenant = &checked.plan.tenants.first().context("The manifest has no tenant")?.name;
    let (name, config) = (first_guest::NAME, first_guest::configuration());
    let section =
        format!("\n[guest.{name}]\ntenant = \"{tenant}\"\nconfig = {:?}\n", config.display().to_string());
    Ok(our_host::Options { text: Some(checked.text + &section), ..options.clone() })
}

/// With this disk, which is made if it is not there, and a network.
fn equipped(machine: &Settings, cache: &Cache, disk: &Path) -> Result<Settings> {
    let mut machine = machine.clone();
    first_guest::equip(&mut machine, cache, Progress::Silent, disk)?;
    Ok(machine)
}

fn boot_ours(machine: &Settings, program: &Path) -> Result<Boot> {
    let mut session = Session::start(machine, false)?;
    let toolstack = machine.lines.first().context("The manifest has no toolstack")?;
    let operator = Operator { program: PathBuf::from(program), reach: session.operator(toolstack)? };
    let ready = session.until_ready()?;
    let (created, _) = session.wait("the guest", PATIENCE, |m| m.is(toolstack, "guests-started"))?;
    operator.wait_for(first_guest::NAME, first_guest::PROMPT, 1, first_guest::PATIENCE)?;
    let login = session.machine.started().elapsed();
    let xen = session.timeline.xen().context("Xen has not said its first line")?;
    Ok(Boot { xen, ready, created, login })
}

fn boot_classic(machine: &Settings) -> Result<Boot> {
    let mut machine = Machine::start(machine)?;
    let mut when = |what: &str, seen: &dyn Fn(&str) -> bool| {
        machine.wait(what, PATIENCE, |line| seen(&line.text).then_some(Ok(line.at)))
    };
    let says = |text: &'static str| move |line: &str| line == text;
    Ok(Boot {
        xen: when("Xen's first line", &timeline::is_xens_first)?,
        ready: when("the classic host", &says("classic: host-ready"))?,
        created: when("`xl create`", &says("classic: guest-created"))?,
        login: when("the guest's login", &says("classic: guest-login"))?,
    })
}

impl Comparison {
    /// What, and seconds from power-on to it on our host and on the classic one.
    fn rows(&self) -> impl Iterator<Item = (&'static str, f64, f64)> {
        PARTS.into_iter().map(|(what, part)| {
            (what, median(self.ours.iter().map(part)), median(self.classic.iter().map(part)))
        })
    }

    /// The comparison as a Markdown table.
    #[must_use]
    pub fn table(&self) -> String {
        let count = self.ours.len();
        let mut table = format!(
            "| Power-on to, median of {count} | Ennead | Debian's Dom0 with xl | Ratio |\n|---|---|---|---|\n"
        );
        for (what, ours, classic) in self.rows() {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "| {what} | {ours:.1} s | {classic:.1} s | {:.2} |", classic / ours);
        }
        table
    }

    /// Whether the guest's login is there at least [`FACTOR`] times sooner than with Debian's Dom0.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self) -> Result<()> {
        let login = |boots: &[Boot]| median(boots.iter().map(|boot| boot.login));
        let ratio = login(&self.classic) / login(&self.ours);
        anyhow::ensure!(ratio >= FACTOR, "The guest's login: {ratio:.2} times faster, not {FACTOR}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boots(logins: &[u64]) -> Vec<Boot> {
        let boot = |login: &u64| Boot {
            xen: Duration::from_secs(1),
            ready: Duration::from_secs(2),
            created: Duration::from_secs(4),
            login: Duration::from_secs(*login),
        };
        logins.iter().map(boot).collect()
    }

    #[test]
    fn the_login_decides() {
        let fast = Comparison { ours: boots(&[50, 10, 20]), classic: boots(&[30, 90, 20]) };
        assert!(fast.check().is_ok());
        let table = fast.table();
        assert!(table.contains("median of 3 "), "{table}");
        assert!(table.contains("| the host is ready | 2.0 s | 2.0 s | 1.00 |"), "{table}");
        assert!(table.contains("| the guest's login | 20.0 s | 30.0 s | 1.50 |"), "{table}");
        let slow = Comparison { ours: boots(&[20]), classic: boots(&[29]) };
        let error = slow.check().unwrap_err().to_string();
        assert_eq!(error, "The guest's login: 1.45 times faster, not 1.5");
        // Nothing was measured.
        assert!(Comparison::default().check().is_err());
    }
}
