//! Work in progress.
#![forbid(unsafe_code)]
mod plan;
pub use plan::*;
