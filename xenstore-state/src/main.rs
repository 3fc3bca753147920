//! `xenstore-state`: in its VM, `/init`; elsewhere an ordinary process.
#![forbid(unsafe_code)]

mod controller;
mod process;
mod saved;
mod settings;
mod successor;
mod vm;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// XenStore's contents half as an ordinary process.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Socket on which xenstore-logic finds it
    #[arg(long, value_name = "SOCKET")]
    listen: PathBuf,
    /// Microseconds to look for work before sleeping
    #[arg(long, default_value_t = 50)]
    spin: u64,
    /// File in which the contents outlive the process: read at the start if it is there, written on SIGTERM
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    if std::process::id() == 1 {
        ennead_runtime::run(vm::serve);
    }
    let options = Options::parse();
    process::serve(&options.listen, Duration::from_micros(options.spin), options.store)
}
