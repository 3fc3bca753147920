//! `host.toml` -> a checked, typed plan of the host.
//!
//! Two halves. Always there: the types of the plan, and `BootPlan`, the signed form in which it travels to the host. Behind the
//! feature `check`, for the tools on the builder's desk: `check`, which reads `host.toml` and reports every mistake in it
//! with file, line and remedy. No I/O in either.
#![forbid(unsafe_code)]

mod boot_plan;
#[cfg(feature = "check")]
mod check;
mod labels;
mod lookup;
mod names;
mod plan;
#[cfg(feature = "check")]
mod raw;
#[cfg(feature = "check")]
mod report;
mod rules;
#[cfg(feature = "check")]
mod table;

pub use boot_plan::{BootPlanError, MAX_BOOT_PLAN_LENGTH};
#[cfg(feature = "check")]
pub use check::{MAX_MANIFEST_LENGTH, check};
pub use labels::context;
pub use plan::*;
#[cfg(feature = "check")]
pub use report::{Diagnostic, Place, Report};
pub use rules::{MAX_DOMID, MAX_MEMORY_MIB, MAX_VCPUS, XEN_MEMORY_MIB, is_name};
