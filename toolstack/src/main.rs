//! `/init` of a toolstack VM; with the argument `console` its console process.
#![forbid(unsafe_code)]

use ennead_toolstack::{console::process, vm};

fn main() -> ! {
    if std::env::args().nth(1).as_deref() == Some(process::ARGUMENT) {
        process::main();
    }
    ennead_runtime::run(vm::run)
}
