//! `ennead`: guests on an Ennead host, from the operator's machine.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod console;
mod create;
mod disk;
mod failure;
mod host;
mod output;
mod show;
mod table;
mod text;
mod volume;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let output = output::Output::new(cli.json);
    match commands::run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit())
        }
    }
}
