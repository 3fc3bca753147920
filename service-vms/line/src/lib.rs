//! The operator's line: a stream of bytes that either end can reset, and connections over it. See README.md.
#![forbid(unsafe_code)]

mod framer;
#[cfg(feature = "mux")]
mod mux;
#[cfg(feature = "mux")]
mod stream;
#[cfg(feature = "mux")]
mod wire;

pub use framer::{Framer, MAX_FRAME, Piece};
#[cfg(feature = "mux")]
pub use mux::{Dialer, MAX_STREAMS, connect, serve};
#[cfg(feature = "mux")]
pub use stream::Stream;
#[cfg(feature = "mux")]
pub use wire::{Event, Line, QUEUE, over};
