//! What needs `unsafe` besides Xen, behind safe types: memory shared between two processes, and the arena that XenStore's
//! Logic puts back into its first state after each use; taps and bridges of the VM's own kernel;
//! I/O on its disks.

mod arena;
mod buffers;
mod heap;
mod link;
mod shared;
mod spin;
mod tap;
mod uring;
mod xen;

pub use arena::{Arena, INPUT_LEN, OUTPUT_LEN, Size};
pub use buffers::{Buffer, Buffers};
pub use heap::ArenaHeap;
pub use link::{Link, listen};
pub use shared::SharedMemory;
pub use spin::Spin;
pub use tap::{Interfaces, Offload, TapDevice, VNET_HEADER};
pub use uring::{Completion, Operation, Uring};
pub use xen::XenMemory;
