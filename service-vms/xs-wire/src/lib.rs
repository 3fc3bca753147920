//! The XenStore wire protocol of Xen 4.17 (`xen/include/public/io/xs_wire.h`, `docs/misc/xenstore.txt`), both directions,
//! without I/O: bytes to typed requests and replies, and back.
//!
//! Whatever is decoded here came from a guest or from a daemon under test: it is an allegation. Decoding checks form
//! (lengths, NULs, numbers); what a path may contain is checked by `path`, what a request means by XenStore-State.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "messages")]
extern crate alloc;

mod errno;
#[cfg(feature = "messages")]
mod header;
#[cfg(feature = "messages")]
mod op;
#[cfg(feature = "messages")]
pub mod path;
mod perms;
#[cfg(feature = "messages")]
mod raw;
#[cfg(feature = "messages")]
mod reply;
#[cfg(feature = "messages")]
mod request;
#[cfg(feature = "messages")]
mod text;

pub use errno::Errno;
#[cfg(feature = "messages")]
pub use header::{HEADER_LEN, Header, TooLong};
#[cfg(feature = "messages")]
pub use op::Op;
pub use perms::{Access, Perm};
#[cfg(feature = "messages")]
pub use raw::Raw;
#[cfg(feature = "messages")]
pub use reply::{Message, Reply};
#[cfg(feature = "messages")]
pub use request::Request;

/// Most bytes of payload in one message, in either direction (`XENSTORE_PAYLOAD_MAX`).
pub const PAYLOAD_MAX: usize = 4096;
/// Most bytes of an absolute path, without the NUL (`XENSTORE_ABS_PATH_MAX`).
pub const ABS_PATH_MAX: usize = 3072;
/// Most bytes of a relative path, without the NUL (`XENSTORE_REL_PATH_MAX`).
pub const REL_PATH_MAX: usize = 2048;
