//! XenStore's Logic: the guests' rings and all of the wire protocol. It holds nothing that must survive: what a request means,
//! who may do it, and every byte that waits for its other half are State's.
//!
//! `handler` are the two functions that see what guests wrote; each run starts from, and ends with, pristine memory
//! (`Forgetful`). `serve` moves bytes between lines (rings, sockets), handlers and State; of a message it looks at nothing but
//! the length. `ring` is a guest's page. What the loop knows about a line it can learn again from State at any time.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod handler;
pub mod ring;
pub mod serve;
