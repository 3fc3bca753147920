//! Scenarios: what must hold on a real host, as named checks. `./run --check NAME` and the end-to-end tests run the same.

pub mod boot;
pub mod controllers;
mod counts;
pub mod cut;
pub mod disks;
pub mod drivers;
pub mod fault;
pub mod firmware;
pub mod frontends;
pub mod guests;
pub mod handover;
pub mod lending;
pub mod network;
pub mod power;
mod previous;
pub mod privileges;
pub mod refuse;
pub mod repeat;
mod restart;
mod shell;
pub mod storm;
pub mod subverted;
pub mod tenants;
pub mod vms;
pub mod xenstore;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::host::{self, Host};
use crate::progress::Progress;
use crate::qemu::Settings;
use crate::{operator, relay};

/// What a scenario works with.
#[derive(Debug)]
pub struct Setup {
    /// Where built artefacts are.
    pub cache: Cache,
    /// How builds are shown.
    pub progress: Progress,
    /// What to build.
    pub build: host::Options,
    /// The machine. Scenarios set its ISO and its log.
    pub machine: Settings,
}

impl Setup {
    /// Builds all parts of the host.
    ///
    /// # Errors
    /// When it does not build.
    pub fn host(&self) -> Result<Host> {
        host::build(&self.cache, self.progress, &self.build)
    }

    /// The same, with some images replaced before they are signed.
    ///
    /// # Errors
    /// When it does not build.
    pub fn host_with(&self, replaced: &BTreeMap<String, Vec<u8>>) -> Result<Host> {
        host::build_with(&self.cache, Progress::Silent, &self.build, replaced)
    }

    /// Builds the host of another manifest's text, whose paths are those of the original.
    ///
    /// # Errors
    /// When it does not build.
    pub fn host_of(&self, text: String) -> Result<Host> {
        let options = host::Options { text: Some(text), ..self.build.clone() };
        host::build(&self.cache, Progress::Silent, &options)
    }

    /// Writes the ISO where the user wants it, and gives a machine that boots it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn machine(&self, host: &Host) -> Result<Settings> {
        host.write_iso(&self.cache, self.progress, &self.build.out)?;
        self.settings(host, self.build.out.clone(), "serial")
    }

    /// Writes the ISO of a changed host into a temporary folder, which lives as long as the returned value, and gives a
    /// machine that boots it and logs to `out/serial-NAME.log`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn changed_machine(&self, host: &Host, name: &str) -> Result<(tempfile::TempDir, Settings)> {
        let folder = self.cache.temporary("changed")?;
        let iso = folder.path().join("changed.iso");
        host.write_iso(&self.cache, Progress::Silent, &iso)?;
        let settings = self.settings(host, iso, &format!("serial-{name}"))?;
        Ok((folder, settings))
    }

    fn settings(&self, host: &Host, iso: PathBuf, log: &str) -> Result<Settings> {
        let folder = self.machine.log.parent().map(PathBuf::from).unwrap_or_default();
        // Disk images go there before the machine starts.
        std::fs::create_dir_all(&folder).with_context(|| format!("Cannot make {}", folder.display()))?;
        let (lines, log) = (relay::lines(&host.plan), folder.join(format!("{log}.log")));
        let toolstacks = operator::toolstacks(&host.plan)?;
        Ok(Settings { iso, lines, toolstacks, log, ..self.machine.clone() })
    }
}

/// The outcome of a scenario.
#[derive(Debug, Default)]
pub struct Report {
    show: bool,
    held: usize,
    failed: Vec<String>,
    figures: Vec<(String, String)>,
}

impl Report {
    /// Nothing checked yet. With `show`, each check is printed as it is done.
    #[must_use]
    pub fn new(show: bool) -> Self {
        Self { show, ..Self::default() }
    }

    /// One thing that must hold, and how it was seen or why it does not. Gives whether it held.
    pub fn check(&mut self, name: &str, outcome: Result<String>) -> bool {
        let line = match &outcome {
            Ok(detail) if detail.is_empty() => format!("  ok      {name}"),
            Ok(detail) => format!("  ok      {name} ({detail})"),
            Err(error) => format!("  FAILED  {name}: {error:#}"),
        };
        if self.show {
            println!("{line}");
        }
        let held = outcome.is_ok();
        match outcome {
            Ok(_) => self.held += 1,
            Err(error) => self.failed.push(format!("{name}: {error:#}")),
        }
        held
    }

    /// A number for the reader.
    pub fn figure(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.figures.push((name.into(), value.into()));
    }

    /// Text for the reader, if anybody reads.
    pub fn say(&self, text: &str) {
        if self.show {
            println!("{text}");
        }
    }

    /// The figures, one a line.
    #[must_use]
    pub fn figures(&self) -> String {
        let width = self.figures.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        self.figures.iter().map(|(name, value)| format!("  {name:width$}  {value}\n")).collect()
    }

    /// How many checks held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// The checks that did not hold.
    #[must_use]
    pub fn failed(&self) -> &[String] {
        &self.failed
    }
}

/// A scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    run: fn(&Setup, &mut Report) -> Result<()>,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scenario").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All scenarios.
pub const ALL: [Scenario; 27] = [
    Scenario {
        name: "boot",
        about: "the host starts, has no Dom0, is sealed off, stays quiet, goes off",
        run: boot::run,
    },
    Scenario { name: "firmware", about: "the same ISO starts by BIOS and by UEFI", run: firmware::run },
    Scenario {
        name: "refuse",
        about: "one flipped byte in any signed file stops the host",
        run: refuse::run,
    },
    Scenario {
        name: "fault",
        about: "a VM that cannot start is named, and the host does not hang",
        run: fault::run,
    },
    Scenario {
        name: "vms",
        about: "Builder builds and destroys VMs, and nothing is left of them",
        run: vms::run,
    },
    Scenario {
        name: "xenstore",
        about: "VMs use XenStore, and it survives their restarts and its own",
        run: xenstore::run,
    },
    Scenario {
        name: "handover",
        about: "State hands over to its successor while a VM uses XenStore, and nothing is lost",
        run: handover::run,
    },
    Scenario {
        name: "storm",
        about: "twenty guests use XenStore while its Logic is killed twenty times",
        run: storm::run,
    },
    Scenario {
        name: "guests",
        about: "an operator's PV and PVH guests live their whole lives",
        run: guests::run,
    },
    Scenario {
        name: "tenants",
        about: "a tenant's toolstack that means harm reaches neither another's guests nor Builder",
        run: tenants::run,
    },
    Scenario {
        name: "cycles",
        about: "200 guests come and go, and nothing is left of them",
        run: guests::cycles,
    },
    Scenario {
        name: "lending",
        about: "driver VMs have their controllers to themselves, and again after restarts; what is plugged and pulled is reported",
        run: lending::run,
    },
    Scenario {
        name: "controllers",
        about: "virtio and AHCI controllers serve guests as NVMe and e1000e do, and come back after a kill",
        run: controllers::run,
    },
    Scenario {
        name: "drivers",
        about: "guests have disks and networks, and keep them while their backends are killed",
        run: drivers::run,
    },
    Scenario {
        name: "drivers-long",
        about: "the same with ten kills and ten polite restarts of each",
        run: drivers::long,
    },
    Scenario {
        name: "restart",
        about: "service VMs are restarted politely, and what that means is told before",
        run: restart::run,
    },
    Scenario {
        name: "previous",
        about: "VMs that are not healthy with new images go back to those of an older ISO",
        run: previous::run,
    },
    Scenario { name: "cut", about: "what a guest has flushed outlives the machine's power", run: cut::run },
    Scenario {
        name: "frontends",
        about: "a guest's hostile frontends are disconnected, with the reason",
        run: frontends::run,
    },
    Scenario {
        name: "storms",
        about: "the same, and beside their storms another guest keeps its throughput",
        run: frontends::storms,
    },
    Scenario {
        name: "subverted",
        about: "a netback that was taken over reaches neither guests' memory nor other controllers",
        run: subverted::run,
    },
    Scenario {
        name: "disks",
        about: "a PVH guest boots from its disk; volumes are made, lent, copied and deleted while blkback is killed",
        run: disks::run,
    },
    Scenario {
        name: "network",
        about: "operators reach their toolstack over the network, with a certificate and not without",
        run: network::run,
    },
    Scenario { name: "power", about: "restart and power-off from the console", run: power::run },
    Scenario {
        name: "privileges",
        about: "what a VM may not do is refused, and its devices reach no other VM",
        run: privileges::run,
    },
    Scenario { name: "repeat", about: "ten boots in a row", run: repeat::ten },
    Scenario { name: "soak", about: "fifty boots in a row", run: repeat::fifty },
];

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    ALL.into_iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// Goes through the scenario; once more if QEMU itself crashed.
    #[must_use]
    pub fn run(&self, setup: &Setup, show: bool) -> Report {
        let report = self.once(setup, show);
        match setup.machine.crashes.take() {
            Some(status) if !report.failed().is_empty() => {
                report.say(&format!(
                    "\nQEMU itself crashed ({status}), so `{}` is gone through once more.",
                    self.name
                ));
                let mut report = self.once(setup, show);
                report.figure("crash of QEMU before", status.to_string());
                report
            }
            _ => report,
        }
    }

    /// What it could not even try is a failed check, too.
    fn once(&self, setup: &Setup, show: bool) -> Report {
        let mut report = Report::new(show);
        if let Err(error) = (self.run)(setup, &mut report) {
            report.check(&format!("scenario `{}` comes to its end", self.name), Err(error));
        }
        report
    }
}

/// Seconds between two points of a timeline.
pub(crate) fn seconds(from: Duration, to: Duration) -> String {
    format!("{:.2} s", to.saturating_sub(from).as_secs_f64())
}

/// Changes one byte in the middle.
///
/// # Errors
/// When there is none.
pub(crate) fn flip(bytes: &mut [u8]) -> Result<()> {
    let middle = bytes.len() / 2;
    let byte = bytes.get_mut(middle).context("An empty file has no byte to change")?;
    *byte ^= 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_and_keeps_reasons() {
        let mut report = Report::new(false);
        assert!(report.check("one", Ok(String::new())));
        assert!(!report.check("two", Err(anyhow::anyhow!("why").context("what"))));
        assert!(report.check("three", Ok("seen".to_owned())));
        assert_eq!(report.held(), 2);
        assert_eq!(report.failed(), ["two: what: why"]);
        report.figure("ISO", "12 MB");
        report.figure("memory", "1 MiB");
        assert_eq!(report.figures(), "  ISO     12 MB\n  memory  1 MiB\n");
    }

    #[test]
    fn names_are_unique() {
        for scenario in ALL {
            assert_eq!(ALL.iter().filter(|other| other.name == scenario.name).count(), 1);
            assert!(find(scenario.name).is_some());
        }
        assert!(find("no-such").is_none());
    }

    #[test]
    fn one_bit_is_flipped() {
        let mut bytes = [0; 5];
        flip(&mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 1, 0, 0]);
        assert!(flip(&mut []).is_err());
    }
}
