//! The core of XenStore-State: XenStore's contents, and the last word on permissions and quotas. Pure logic, without
//! I/O: `State` is told of requests (`State::request`) and of domains (`State::created`, `State::died` ...), and what it
//! has to say waits in each connection's outbox (`State::front`, `State::pop`).
//!
//! It behaves as C xenstored 4.17 does; the differences that are meant are in `xenstore-differences.md`.
//!
//! | Module | What |
//! |---|---|
//! | `slab`, `perms`, `tree` | nodes, shared between snapshots; lists of permissions, kept once |
//! | `store`, `domain`, `quota` | the main tree and what each domain is charged for it |
//! | `transaction`, `commit` | snapshots, what they looked at, and how they end |
//! | `watches`, `fire`, `output` | who is told of what, and the queues |
//! | `authority`, `rights` | what service VMs may do beyond permissions; all questions of rights |
//! | `request`, `node`, `set_perms`, `rm`, `watch`, `lifecycle`, `control` | the operations |
//! | `service` | serves Logic: calls in, records out, and each connection's transport |
//! | `stream` | all of it as bytes and back: how State is restarted or upgraded |
//! | `handover` | a running State gives all of it to its successor |
//! | `fairness`, `refusals`, `check` | no livelock; what was denied; counting again |

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod authority;
mod check;
mod commit;
mod connection;
mod control;
mod domain;
mod fairness;
mod fire;
pub mod handover;
mod lifecycle;
mod node;
mod notice;
mod output;
mod perms;
mod quota;
mod refusals;
mod request;
mod rights;
mod rm;
pub mod service;
mod set_perms;
mod slab;
mod state;
mod store;
mod stream;
mod transaction;
mod tree;
mod watch;
mod watches;

pub use authority::{Backend, DeviceKind, Role};
pub use check::Inconsistency;
pub use connection::{Conn, Identity};
pub use notice::Notice;
pub use output::Item;
pub use quota::Quotas;
pub use refusals::Refusal;
pub use request::Head;
pub use state::{Settings, State};
pub use stream::StreamError;

#[cfg(test)]
mod tests;
