//! netback: a network controller, shared out as virtual NICs. A backend of Xen's netif for stock frontends, over taps in a
//! bridge of this VM's kernel.
//!
//! - [`netif`], [`gather`]: the rings' slots; which of them make a packet.
//! - [`tx`], [`rx`]: a round of packets from the guest to the bridge, and back: copied by grant, all of a round in one request.
//! - [`offload`], [`headers`], [`filter`], [`vlan`], [`rate`]: what a packet needs, and whether it may pass.
//! - [`neighbours`], [`inbox`]: the direct way from one guest of ours to another.
//! - [`queue`]: both directions of one vif; [`vif`] gives it a tap and event channels, [`worker`] is the thread that serves it,
//!   [`bell`] wakes that.
//! - [`config`]: what toolstack and frontend say about a vif in XenStore.
//! - [`nics`], [`service`]: the VM.
//!
//! It may be killed at any instruction. A response overwrites its request's slot, so `ennead_backend::ring` notes first how
//! many slots a round answers; a successor answers these without data (packets from the guest have been sent; those to it are
//! lost, as packets may be) and does all later requests again.

#![forbid(unsafe_code)]

pub mod bell;
pub mod config;
pub mod filter;
pub mod gather;
pub mod headers;
pub mod inbox;
pub mod neighbours;
pub mod netif;
pub mod nics;
pub mod offload;
pub mod queue;
pub mod rate;
pub mod rx;
pub mod service;
pub mod tap;
pub mod tx;
pub mod vif;
pub mod vlan;
pub mod worker;

/// A few, without a call for memory: most rounds have one packet.
pub(crate) type Few<T> = smallvec::SmallVec<[T; 4]>;

#[cfg(test)]
mod model;
#[cfg(test)]
mod samples;
