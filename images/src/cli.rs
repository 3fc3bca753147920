//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};

use crate::cache::Cache;
use crate::progress::Progress;
use crate::qemu::{Accel, Firmware};
use crate::run::{self, Request};
use crate::{backends, bench, certificate, classic, console, disk, graph, host, plan, policy, scenario, xen};

#[derive(Debug, Parser)]
#[command(name = "images", version, about = "Builds Ennead hosts and runs them in QEMU")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a manifest: every mistake with file, line and remedy
    Check {
        /// The manifest
        file: PathBuf,
    },
    /// Show what one VM may do to another (or to `xen`), and which line of the manifest says so
    Explain {
        /// Who acts
        a: String,
        /// Who is acted on
        b: String,
        #[command(flatten)]
        manifest: Manifest,
    },
    /// Draw the host as SVG: its VMs, and who may talk to whom
    Graph {
        /// Where the picture goes [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        manifest: Manifest,
    },
    /// Build the ISO
    Build(Build),
    /// Make an operator's profile: where a toolstack is on the network, and a certificate for `ennead --profile`
    Profile {
        /// The operator
        #[arg(long)]
        name: String,
        /// The toolstack's VM
        #[arg(long, default_value = "toolstack")]
        toolstack: String,
        /// Where the profile goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        manifest: Manifest,
    },
    /// Make a disk of a Debian guest: a raw image for the machine's storage controller, with the guest in GPT partition `debian`
    Disk {
        /// Where the image goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Build the ISO, boot it in QEMU, show how the host starts and which VMs run: what `./run` does
    #[command(override_usage = "./run [OPTIONS] [-- QEMU OPTIONS]", after_help = run_help())]
    Run(Run),
    /// Boot in QEMU with time as a count of instructions, and print sizes, memory and boot times as a table
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(subcommand)]
        against: Option<Against>,
        #[command(flatten)]
        build: Build,
        /// Boots
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
        boots: u32,
    },
}

#[derive(Debug, Subcommand)]
enum Against {
    /// Create and destroy guests here and with xl in Debian's Dom0, on the same machine, and print the times as a table
    Classic {
        #[command(flatten)]
        build: Build,
        /// Guests on each host
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
        guests: u32,
        /// Memory of each guest; Xen frees it page by page when one is destroyed, for both hosts alike
        #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..=512))]
        memory: u32,
        /// Fail if we are not at least three times faster
        #[arg(long)]
        check: bool,
    },
    /// Switch our host and Debian's Dom0 with xl on, in turns, and print as a table when the same Debian guest shows its login
    PowerOn {
        #[command(flatten)]
        build: Build,
        /// How often each is switched on
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
        rounds: u32,
        /// Fail if we are not at least one and a half times faster
        #[arg(long)]
        check: bool,
    },
    /// Measure the disk and the network of a guest with our backends and with Linux's, in turns, and print them as a table;
    /// and how long a guest waits when one of ours is restarted
    Backends {
        #[command(flatten)]
        build: Build,
        /// How often each is measured
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Fail if ours is worse anywhere
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, Args)]
struct Manifest {
    /// The description of the host [default: the project's images/host.toml]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl Manifest {
    fn file(self) -> PathBuf {
        self.manifest.unwrap_or(host::Options::standard().manifest)
    }
}

#[derive(Debug, Args)]
struct Build {
    #[command(flatten)]
    manifest: Manifest,
    /// Where the ISO goes [default: out/ennead.iso of the project]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Key that signs the boot plan: PKCS#8 PEM (ed25519) or 64 hex digits [default: a development key, made on first use]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// An ISO of this host that is known to work: a VM that does not become healthy goes back to its images
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
}

impl Build {
    fn options(self) -> host::Options {
        let standard = host::Options::standard();
        host::Options {
            manifest: self.manifest.file(),
            text: None,
            out: self.out.unwrap_or(standard.out),
            key: self.key,
            previous: self.previous,
            ..standard
        }
    }
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    build: Build,
    /// Only build the ISO
    #[arg(long, conflicts_with_all = ["check", "keep"])]
    build_only: bool,
    /// Go through a scenario (below) and exit with 0 only if all held
    #[arg(
        long, value_name = "SCENARIO", num_args = 0..=1, default_missing_value = "boot", conflicts_with = "keep",
        value_parser = PossibleValuesParser::new(scenario_names()), hide_possible_values = true
    )]
    check: Option<String>,
    /// Stay on the host's serial console
    #[arg(long)]
    keep: bool,
    /// The machine's firmware
    #[arg(long, value_enum, default_value_t = Firmware::Bios)]
    firmware: Firmware,
    /// The machine's memory [default: the manifest's `memory-mib`]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// What executes the machine's instructions
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
    /// Further options of QEMU's
    #[arg(last = true, value_name = "QEMU OPTIONS")]
    qemu: Vec<String>,
}

fn scenario_names() -> Vec<&'static str> {
    scenario::ALL.iter().map(|scenario| scenario.name).chain(["all"]).collect()
}

fn run_help() -> String {
    let scenarios: String =
        scenario::ALL.iter().map(|scenario| format!("  {:10} {}\n", scenario.name, scenario.about)).collect();
    format!(
        "Without --build-only or --check the host stays until Ctrl-C; if standard input is no terminal, and --keep is not\n\
         given, it is switched off once its guest has been shown.\n\n\
         Scenarios:\n{scenarios}  {:10} all of them\n\n\
         Commands on the serial console (--keep): list, build NAME, destroy NAME, restart NAME, kill NAME, plan NAME,\n\
         store PATH, poweroff, reboot.\n\
         Built artefacts are kept in $ENNEAD_CACHE (else ~/.cache/ennead); images/README.md lists the milestones.",
        "all"
    )
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match console::handle_interrupts().and_then(|()| obey(Cli::parse().command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", said(&error));
            ExitCode::FAILURE
        }
    }
}

/// A report on a manifest or a guest's configuration speaks for itself; anything else is one error with its causes.
pub(crate) fn said(error: &anyhow::Error) -> String {
    if let Some(report) = error.downcast_ref::<ennead_manifest::Report>() {
        return report.to_string();
    }
    match error.downcast_ref::<ennead_guest::Report>() {
        Some(report) => report.to_string(),
        None => format!("error: {error:#}"),
    }
}

fn obey(command: Command) -> Result<bool> {
    match command {
        Command::Check { file } => {
            let checked = plan::check(&file)?;
            println!("{}: {} VMs, no mistake", file.display(), checked.plan.vms.len());
            Ok(true)
        }
        Command::Graph { out, manifest } => {
            let drawn = graph::svg(&plan::check(&manifest.file())?.plan);
            match out {
                None => print!("{drawn}"),
                Some(out) => {
                    std::fs::write(&out, drawn).with_context(|| format!("Cannot write {}", out.display()))?;
                }
            }
            Ok(true)
        }
        Command::Explain { a, b, manifest } => {
            let plan = plan::check(&manifest.file())?.plan;
            let xen = xen::build(&Cache::from_environment()?, Progress::for_stderr())?;
            let explanation = policy::policy(&xen, &plan)?.explain(&a, &b).context("Cannot explain")?;
            print!("{explanation}");
            Ok(true)
        }
        Command::Build(build) => {
            let options = build.options();
            let (cache, progress) = (Cache::from_environment()?, Progress::for_stderr());
            host::build(&cache, progress, &options)?.write_iso(&cache, progress, &options.out)?;
            Ok(true)
        }
        Command::Profile { name, toolstack, out, manifest } => {
            let file = manifest.manifest.unwrap_or(host::Options::standard().manifest);
            let plan = plan::check(&file)?.plan;
            certificate::make_profile(&Cache::from_environment()?, &plan, &toolstack, &name, &out)?;
            Ok(true)
        }
        Command::Disk { out } => {
            disk::write_copy(&Cache::from_environment()?, Progress::for_stderr(), &out)?;
            Ok(true)
        }
        Command::Bench { against: Some(Against::Classic { build, guests, memory, check }), .. } => {
            let (cache, progress) = (Cache::from_environment()?, Progress::for_stderr());
            let comparison = classic::run(&cache, progress, &build.options(), guests, memory)?;
            print!("{}", comparison.table());
            if check { comparison.check().map(|()| true) } else { Ok(true) }
        }
        Command::Bench { against: Some(Against::PowerOn { build, rounds, check }), .. } => {
            let (cache, progress) = (Cache::from_environment()?, Progress::for_stderr());
            let comparison = classic::power_on::run(&cache, progress, &build.options(), rounds)?;
            print!("{}", comparison.table());
            if check { comparison.check().map(|()| true) } else { Ok(true) }
        }
        Command::Bench { against: Some(Against::Backends { build, rounds, check }), .. } => {
            let (cache, progress) = (Cache::from_environment()?, Progress::for_stderr());
            let show = |table: &str| println!("{table}");
            let comparison = backends::run(&cache, progress, &build.options(), rounds, show)?;
            if check { comparison.check().map(|()| true) } else { Ok(true) }
        }
        Command::Bench { against: None, build, boots } => {
            print!(
                "{}",
                bench::run(&Cache::from_environment()?, Progress::for_stderr(), &build.options(), boots)?
            );
            Ok(true)
        }
        Command::Run(arguments) => run::run(&Request {
            build_only: arguments.build_only,
            check: arguments.check,
            keep: arguments.keep,
            firmware: arguments.firmware,
            memory_mib: arguments.memory,
            accel: arguments.accel,
            qemu: arguments.qemu,
            build: arguments.build.options(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn run(arguments: &[&str]) -> Run {
        match Cli::try_parse_from([&["images", "run"], arguments].concat()).unwrap().command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn check_has_a_default_and_knows_its_names() {
        assert_eq!(run(&[]).check, None);
        assert_eq!(run(&["--check"]).check.as_deref(), Some("boot"));
        assert_eq!(run(&["--check", "refuse", "--", "-m", "2G"]).check.as_deref(), Some("refuse"));
        assert_eq!(run(&["--", "-m", "2G"]).qemu, ["-m", "2G"]);
        for wrong in [&["--check", "nonsense"][..], &["--check", "--keep"], &["--build-only", "--keep"]] {
            assert!(Cli::try_parse_from([&["images", "run"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }
}
