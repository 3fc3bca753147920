//! `images`: builds the host's ISO and runs it in QEMU. `images --help` explains.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ennead_images::cli::main()
}
