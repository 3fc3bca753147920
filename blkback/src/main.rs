//! `/init` of a blkback VM.
#![forbid(unsafe_code)]

fn main() -> ! {
    ennead_runtime::run(ennead_blkback::vm::run)
}
