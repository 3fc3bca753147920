//! `/init` of the netback VM.
#![forbid(unsafe_code)]

fn main() -> ! {
    ennead_runtime::run(ennead_netback::service::run)
}
