//! blkback: virtual disks for guests, from one storage controller.
//!
//! - [`protocol`]: what a request says, and whether it may.
//! - [`engine`]: one ring: requests in, I/O, responses out in their order.
//! - [`queue`]: the thread of one ring.
//! - [`storage`]: I/O on a volume.
//! - [`polled`]: small I/O without interrupts.
//! - [`vbd`]: the handshake: what is offered, what a frontend asks for.
//! - [`volumes`]: what there is to be had: disks and partitions.
//! - [`files`]: and files.
//! - [`keeper`]: makes, copies and deletes them for toolstacks.

#![forbid(unsafe_code)]

pub mod ahead;
pub mod engine;
pub mod files;
pub mod keeper;
pub mod polled;
pub mod protocol;
pub mod queue;
pub mod storage;
pub mod vbd;
pub mod vm;
pub mod volumes;
