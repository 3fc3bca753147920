//! `xenstore-check`: `--help` explains.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ennead_xenstore_check::bench::{Options, bench, table};
use ennead_xenstore_check::daemon::{Daemon, Kind, Ours};
use ennead_xenstore_check::differential::Show;
use ennead_xenstore_check::ours::Profile;
use ennead_xenstore_check::peer::Peers;
use ennead_xenstore_check::{differential, suite};

/// Checks and measures XenStore daemons side by side, without Xen.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Does generated sequences of actions on two daemons; every reply and event must be the same.
    Differential {
        /// The daemon that is checked.
        #[arg(long, value_enum, default_value_t = Kind::Ours)]
        daemon: Kind,
        /// The daemon that is right.
        #[arg(long, value_enum, default_value_t = Kind::C)]
        against: Kind,
        /// Which sequences: FIRST..END.
        #[arg(long, value_parser = range, default_value = "0..50")]
        seeds: Range<u64>,
        /// Actions in each, after the preparations.
        #[arg(long, default_value_t = 400)]
        steps: usize,
        /// How many of the actions before a difference are shown.
        #[arg(long, default_value_t = 20)]
        trace: usize,
        /// Shows the sequence as it was generated, not a shorter one with a difference.
        #[arg(long)]
        no_shrink: bool,
        /// Also lists how often each request was answered how.
        #[arg(long)]
        answers: bool,
        #[command(flatten)]
        binaries: Binaries,
    },
    /// Measures the daemons side by side.
    Bench {
        /// Which daemons.
        #[arg(long, value_enum, default_value_t = Which::All)]
        daemon: Which,
        /// How often each measurement is done; medians are shown.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Shorter measurements, a smaller large store: no numbers to quote.
        #[arg(long)]
        quick: bool,
        /// Leaves it to the kernel which processor runs what.
        #[arg(long)]
        no_pin: bool,
        /// Only measurements with this in their name.
        #[arg(long)]
        only: Option<String>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
        /// Fails when ours misses a target.
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        binaries: Binaries,
    },
    /// Runs Xen's test-xenstore and command line tools.
    Suite {
        /// The daemon that is checked.
        #[arg(long, value_enum, default_value_t = Kind::Ours)]
        daemon: Kind,
        #[command(flatten)]
        binaries: Binaries,
    },
}

/// Which daemons to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    C,
    Ocaml,
    Ours,
    /// All three.
    All,
    /// C xenstored and oxenstored.
    Others,
}

impl Which {
    fn kinds(self) -> Vec<Kind> {
        match self {
            Self::C => vec![Kind::C],
            Self::Ocaml => vec![Kind::Ocaml],
            Self::Ours => vec![Kind::Ours],
            Self::All => vec![Kind::C, Kind::Ocaml, Kind::Ours],
            Self::Others => vec![Kind::C, Kind::Ocaml],
        }
    }
}

/// Where our binaries are; without these options they are built.
#[derive(Debug, Args)]
struct Binaries {
    /// `xenstore-state`
    #[arg(long, requires = "logic")]
    state: Option<PathBuf>,
    /// `xenstore-logic`
    #[arg(long, requires = "state")]
    logic: Option<PathBuf>,
}

impl Binaries {
    fn get(self, profile: Profile) -> Result<Ours> {
        match (self.state, self.logic) {
            (Some(state), Some(logic)) => Ok(Ours { state, logic }),
            _ => Ours::build(profile),
        }
    }
}

fn range(text: &str) -> Result<Range<u64>> {
    let (first, end) = text.split_once("..").context("Two numbers with `..` between them")?;
    Ok(first.parse()?..end.parse()?)
}

/// Starts any of the daemons.
struct Starter {
    peers: Peers,
    ours: Option<Ours>,
}

impl Starter {
    fn new(kinds: &[Kind], binaries: Binaries, profile: Profile) -> Result<Self> {
        let ours = kinds.contains(&Kind::Ours).then(|| binaries.get(profile)).transpose()?;
        Ok(Self { peers: Peers::get()?, ours })
    }

    fn start(&self, kind: Kind) -> Result<Daemon> {
        match (kind, &self.ours) {
            (Kind::C, _) => Daemon::c(&self.peers),
            (Kind::Ocaml, _) => Daemon::ocaml(&self.peers),
            (Kind::Ours, ours) => Daemon::ours(ours.as_ref().context("Ours was not built")?),
        }
    }
}

fn run() -> Result<()> {
    match Cli::parse().command {
        Subcommands::Differential { daemon, against, seeds, steps, trace, no_shrink, answers, binaries } => {
            let starter = Starter::new(&[daemon, against], binaries, Profile::Debug)?;
            let (left, right) = (|| starter.start(against), || starter.start(daemon));
            let show = Show { shrink: !no_shrink, lines: trace };
            let compared = differential::run(&left, &right, seeds, steps, show)?;
            if answers {
                for ((request, answer), count) in &compared.answers {
                    println!("{request:<20} {answer:<10} {count:>8}");
                }
            }
            println!("No difference in {} sequences, {} actions", compared.seeds, compared.actions);
        }
        Subcommands::Bench { daemon, rounds, quick, no_pin, only, json, check, binaries } => {
            let options = Options { kinds: daemon.kinds(), rounds, quick, pin: !no_pin, only };
            let starter = Starter::new(&options.kinds, binaries, Profile::Release)?;
            let lines = bench(&options, &|kind| starter.start(kind), &mut |step| eprintln!("{step}"))?;
            if json {
                println!("{}", serde_json::to_string_pretty(&lines)?);
            } else {
                print!("{}", table(&lines));
            }
            let missed: Vec<&str> = (lines.iter().filter(|line| line.reached == Some(false)))
                .map(|line| line.name.as_str())
                .collect();
            anyhow::ensure!(!check || missed.is_empty(), "Targets missed: {}", missed.join("; "));
        }
        Subcommands::Suite { daemon, binaries } => {
            let starter = Starter::new(&[daemon], binaries, Profile::Debug)?;
            for passed in suite::suite(&starter.peers, &starter.start(daemon)?)? {
                println!("ok   {passed}");
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
