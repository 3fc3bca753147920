//! Errors.

use serde::{Deserialize, Serialize};

use crate::Sha256;

/// The body of an answer that says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ApiError,
}

/// Why the host says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[error("{message}")]
pub struct ApiError {
    /// For a program.
    pub kind: ErrorKind,
    /// For people: what is wrong, one sentence without a full stop.
    pub message: String,
    /// For people: what to do; often empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub help: String,
    /// With `ErrorKind::ImagesMissing`: which to upload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Sha256>,
}

impl ApiError {
    /// An error without help.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: String::new(), images: Vec::new() }
    }

    /// With what to do.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: help.into(), ..self }
    }
}

/// Why the host says no, for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// What was asked makes no sense.
    Invalid,
    /// There is no such path.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// There is no such guest.
    NoSuchGuest,
    /// There is no such image.
    NoSuchImage,
    /// There is no such volume.
    NoSuchVolume,
    /// The guest has no such disk.
    NoSuchDisk,
    /// There is a guest, a volume or a disk of that name.
    Exists,
    /// Not as long as the guest does what it does, or the volume is used.
    State,
    /// The host no longer has the images that it takes.
    ImagesMissing,
    /// The same `Idempotency-Key` came with another request.
    KeyReused,
    /// What was sent is too large, or the host has no room for it.
    TooLarge,
    /// The tenant's limits.
    Quota,
    /// The host has not enough memory.
    Memory,
    /// Too much at once: again later.
    Busy,
    /// Builder, Xen or XenStore failed.
    Failed,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorKind {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Quota => 403,
            Self::NotFound
            | Self::NoSuchGuest
            | Self::NoSuchImage
            | Self::NoSuchVolume
            | Self::NoSuchDisk => 404,
            Self::MethodNotAllowed => 405,
            Self::Exists | Self::State | Self::ImagesMissing => 409,
            Self::TooLarge => 413,
            Self::KeyReused => 422,
            Self::Failed | Self::Unknown => 500,
            Self::Busy => 503,
            Self::Memory => 507,
        }
    }
}
