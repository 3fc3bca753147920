//! The toolstack VM of one tenant: the operator's API, and what follows from it.
//!
//! | Module | What |
//! |---|---|
//! | `desired` | what is wanted of each guest, what follows from what it does |
//! | `tree`, `devices` | what stands in XenStore for a guest, and for its disks and NICs |
//! | `kernel`, `images`, `loader` | kernels read in parts; kernels and ramdisks in memory; what boots guests from their disks |
//! | `boot` | the guests that start with the host |
//! | `console` | the guests' consoles, in a process of their own |
//! | `builder`, `xenstore`, `line` | the ways to Builder, XenStore and the operator |
//! | `manager` | the guests' lives |
//! | `network`, `rtnetlink`, `tls` | the toolstack's own network interface, and operators who come over it |
//! | `http`, `events`, `metrics`, `problem` | what operators ask and see |
//! | `drain` | the end of the work, when Builder wishes it |
//! | `vm` | all of it in its VM |
//!
//! One thread runs all tasks; another has the connection to XenStore, which blocks.
#![forbid(unsafe_code)]

pub mod bell;
pub mod boot;
pub mod builder;
pub mod console;
pub mod desired;
pub mod devices;
pub mod drain;
pub mod events;
pub mod http;
pub mod images;
pub mod kernel;
pub mod line;
pub mod loader;
pub mod manager;
pub mod metrics;
pub mod network;
pub mod problem;
pub mod rtnetlink;
pub mod tls;
pub mod tree;
pub mod vm;
pub mod xenstore;
