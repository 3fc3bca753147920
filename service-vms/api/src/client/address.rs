//! Where a host is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a host is: `unix:PATH`, a socket on this machine whose other end is the toolstack; or as a
/// [`Profile`](crate::Profile) says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A port of a network.
    Https {
        /// Its name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// What is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address of a host: write `unix:` and the path of its socket, such as `unix:out/toolstack.sock`"
)]
pub struct NotAnAddress(String);

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => Err(NotAnAddress(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let address: Address = "unix:out/a b.sock".parse().unwrap();
        assert_eq!(address, Address::Unix("out/a b.sock".into()));
        assert_eq!(address.to_string(), "unix:out/a b.sock");
        for wrong in ["", "unix:", "out/toolstack.sock", "http://host", "https://host:1234"] {
            assert!(wrong.parse::<Address>().unwrap_err().to_string().contains("`unix:`"), "{wrong}");
        }
    }
}
