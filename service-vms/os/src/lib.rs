//! What needs `unsafe` besides Xen, behind safe types: memory shared between two processes, and the arena that XenStore's
//! Logic puts back into its first state after each use.

mod arena;
mod heap;
mod shared;

pub use arena::{Arena, INPUT_LEN, OUTPUT_LEN, Size};
pub use heap::ArenaHeap;
pub use shared::SharedMemory;
