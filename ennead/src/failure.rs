//! What went wrong, and the exit code that says so.

use std::path::Path;

use ennead_api::{Error, ErrorKind};
use ennead_guest::Report;
use serde_json::{Value, json};

/// Why a command has not been carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A file is not right: every mistake in it.
    Configuration(Box<Report>),
    /// Something on this machine.
    Local {
        /// What is wrong.
        message: String,
        /// What to do; may be empty.
        help: String,
    },
    /// What was waited for did not come.
    Waited {
        /// What.
        message: String,
        /// What to do.
        help: String,
    },
    /// The host.
    Host(Error),
    /// Nobody reads the output any more: whoever did has seen enough.
    Unread,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}

impl Failure {
    pub(crate) fn local(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Local { message: message.into(), help: help.into() }
    }

    pub(crate) fn file(what: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::local(format!("Cannot read {what} {}: {error}", path.display()), "")
    }

    /// As the help of the command line lists them.
    pub(crate) fn exit(&self) -> u8 {
        match self {
            Self::Unread => 0,
            Self::Waited { .. } => 1,
            Self::Configuration(_) | Self::Local { .. } => 2,
            Self::Host(Error::Refused(error))
                if matches!(
                    error.kind,
                    ErrorKind::NoSuchGuest | ErrorKind::NoSuchVolume | ErrorKind::NoSuchDisk
                ) =>
            {
                4
            }
            Self::Host(Error::Refused(_)) => 1,
            Self::Host(_) => 3,
        }
    }

    /// What is wrong.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Configuration(report) => report.to_string(),
            Self::Local { message, .. } | Self::Waited { message, .. } => message.clone(),
            Self::Host(error) => error.chain(),
            Self::Unread => String::new(),
        }
    }

    /// What to do.
    pub(crate) fn help(&self) -> String {
        match self {
            Self::Configuration(_) | Self::Unread => String::new(),
            Self::Local { help, .. } | Self::Waited { help, .. } => help.clone(),
            Self::Host(error) => error.help().unwrap_or_default(),
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let kind = match self {
            Self::Configuration(_) => json!("configuration"),
            Self::Local { .. } | Self::Unread => json!("local"),
            Self::Waited { .. } => json!("timeout"),
            Self::Host(Error::Refused(error)) => json!(error.kind),
            Self::Host(_) => json!("unreachable"),
        };
        json!({ "error": { "kind": kind, "message": self.message(), "help": self.help() } })
    }
}
