//! What needs `unsafe` besides Xen, behind safe types: memory shared between two processes, and the arena that XenStore's
//! Logic puts back into its first state after each use.

mod arena;
mod heap;
mod link;
mod shared;
mod spin;
mod xen;

pub use arena::{Arena, INPUT_LEN, OUTPUT_LEN, Size};
pub use heap::ArenaHeap;
pub use link::{Link, listen};
pub use shared::SharedMemory;
pub use spin::Spin;
pub use xen::XenMemory;
