//! blkback: virtual disks for guests, from one storage controller.
//!
//! - [`protocol`]: what a request says, and whether it may.
//! - [`engine`]: one ring: requests in, I/O, responses out in their order.
//! - [`queue`]: the thread of one ring.
//! - [`storage`]: I/O on a volume.
//! - [`vbd`]: the handshake: what is offered, what a frontend asks for.
//! - [`volumes`]: what there is to be had.

#![forbid(unsafe_code)]

pub mod engine;
pub mod protocol;
pub mod queue;
pub mod storage;
pub mod vbd;
pub mod vm;
pub mod volumes;
