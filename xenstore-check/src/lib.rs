//! Checks and measures XenStore daemons side by side, without Xen: ours, C xenstored and oxenstored.
//!
//! The daemons run as processes in folders of their own (`daemon`). Clients are sockets and guests' rings (`client`,
//! `ring`), all of them together a `world`. A seed gives a sequence of actions (`generate`); `differential` does it on
//! two daemons. `suite` runs Xen's own test and tools. `bench` measures all daemons in turns.

#![forbid(unsafe_code)]

pub mod action;
pub mod bench;
pub mod client;
pub mod daemon;
pub mod debian;
pub mod differential;
pub mod generate;
pub mod ours;
pub mod peer;
pub mod ring;
pub mod suite;
pub mod universe;
pub mod world;
