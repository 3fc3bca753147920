//! Being PID 1 in a service VM.
//!
//! ```no_run
//! use std::convert::Infallible;
//!
//! use ennead_runtime::{Runtime, Sandbox};
//!
//! fn main() -> ! {
//!     ennead_runtime::run(service)
//! }
//!
//! fn service(runtime: Runtime) -> anyhow::Result<Infallible> {
//!     Sandbox::new().keep_device("/dev/xen/evtchn").enter()?;
//!     runtime.health.report()?;
//!     tracing::info!("healthy");
//!     loop {
//!         std::thread::park();
//!     }
//! }
//! ```

#![forbid(unsafe_code)]

pub mod boot;
pub mod drain;
pub mod health;
mod init;
mod line;
mod log;
#[cfg(feature = "power")]
mod power;
#[cfg(feature = "sandbox")]
pub mod sandbox;

pub use boot::Params;
pub use health::Health;
pub use init::{Error, Runtime, fail, init, run};
pub use line::MAX_LINE;
#[cfg(feature = "power")]
pub use power::{halt, power_off, restart};
pub use rustix::thread::CapabilitySet;
#[cfg(feature = "sandbox")]
pub use sandbox::Sandbox;
