//! The operator's API of a toolstack: what is asked and answered, as JSON over HTTP/1.1. See README.md.
//!
//! With the feature `client`, [`Client`] asks.
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
mod client;
mod error;
mod event;
mod guest;
mod host;
mod image;
pub mod path;
mod profile;
mod volume;

#[cfg(feature = "client")]
pub use client::{Address, BadProfile, Client, Console, Error, Events, NotAnAddress, Uploaded};
pub use error::{ApiError, ErrorBody, ErrorKind};
pub use event::{Event, What};
pub use guest::{Action, BOOT_GUESTS, CreateGuest, Guest, GuestInfo, Shutdown, State, UsedImage, boot_image};
pub use host::{Host, Resources, Service};
pub use image::{Image, Images, NotADigest, Sha256};
pub use profile::{ENDPOINT, Endpoint, Profile};
pub use volume::{CreateVolume, GrowVolume, Volume, Volumes};

/// Header of `POST /v1/guests`: 1 to 64 visible ASCII characters that are new for each guest.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a console is upgraded to (header `Upgrade`).
pub const CONSOLE_PROTOCOL: &str = "ennead-console";

/// The media type of JSON.
pub const JSON: &str = "application/json";

/// The media type of the events: one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

/// The media type of images and logs.
pub const BYTES: &str = "application/octet-stream";

/// Bytes that a JSON body may at most have, either way.
pub const MAX_JSON: usize = 1 << 20;

/// Events that a toolstack keeps for whoever asks later.
pub const KEPT_EVENTS: usize = 256;

#[cfg(test)]
mod tests;
