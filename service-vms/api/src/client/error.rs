//! Why there is no answer.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use crate::{Address, ApiError};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host said no.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// There is nobody.
    #[error("Cannot reach the host at {address}")]
    Unreachable {
        /// Where.
        address: Address,
        /// What the operating system said.
        source: io::Error,
    },
    /// Nothing came for too long.
    #[error("The host at {address} did not answer within {} s", patience.as_secs_f64())]
    NoAnswer {
        /// Where.
        address: Address,
        /// How long nothing came.
        patience: Duration,
    },
    /// The connection ended before the answer did.
    #[error("The connection to the host at {address} broke")]
    Broken {
        /// Where.
        address: Address,
        /// How.
        source: hyper::Error,
    },
    /// One end does not trust the other.
    #[error("The host at {address} is not reached with this profile: {problem}")]
    Distrust {
        /// Where.
        address: Address,
        /// Who does not trust whom, and why.
        problem: String,
    },
    /// The answer is not one of this API.
    #[error("What answers at {address} does not speak the API of a toolstack: {problem}")]
    Foreign {
        /// Where.
        address: Address,
        /// What is wrong with its answer.
        problem: String,
    },
}

impl Error {
    /// What to do about it, if that can be said.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Refused(error) => return Some(error.help.clone()).filter(|help| !help.is_empty()),
            Self::Unreachable { address: Address::Https { .. }, .. } => {
                "is the host running, and is this its profile? `./run` writes `out/profile.toml` anew"
            }
            Self::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "is this its address, and is it running? `./run --keep` starts a host whose socket is `out/toolstack.sock`"
                }
                io::ErrorKind::ConnectionRefused => {
                    "the socket is left over from a host that no longer runs: start it again"
                }
                io::ErrorKind::PermissionDenied => {
                    "the socket belongs to whoever started the host: ask as that user"
                }
                _ => return None,
            },
            Self::NoAnswer { .. } => {
                "its toolstack VM may still be starting: look at the host's console, and try again"
            }
            Self::Broken { .. } => {
                "its toolstack VM may just be restarting: see what has been done, and try again"
            }
            Self::Distrust { .. } => {
                "its certificates are of another host, or were made anew: `./run` writes `out/profile.toml`"
            }
            Self::Foreign { .. } => {
                "is this the socket of a toolstack, and of the same version as this program?"
            }
        };
        Some(text.to_owned())
    }

    /// The error and its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
