//! The guests' consoles: a process of its own serves them, so that they are always read, since a guest's printk spins on a full ring, and so
//! that what reads bytes of guests has little else to lose.
//!
//! [`process`] is that process, [`client`] its user's end; they speak [`protocol`].

pub mod client;
pub mod process;
pub mod protocol;
pub mod ring;
pub mod scrollback;
pub mod serve;
