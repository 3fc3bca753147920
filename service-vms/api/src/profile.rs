//! Files about the way to a toolstack over a network: what the operator has, and what the toolstack's VM has.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// What an operator needs to reach a toolstack over a network, as TOML. Whoever can read it can do what the operator can.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Profile {
    /// `https://HOST:PORT`.
    pub url: String,
    /// The certificate of who vouches for the toolstack, as PEM.
    pub ca: String,
    /// The operator's own certificate, as PEM.
    pub certificate: String,
    /// Its key, as PEM.
    pub key: String,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What a toolstack needs to be reached over a network: [`ENDPOINT`] in its ramdisk, as JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Endpoint {
    /// Name of the VM that serves its network interface.
    pub backend: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix, bits.
    pub prefix: u8,
    /// The way to other networks.
    pub gateway: Ipv4Addr,
    /// TCP port of the API.
    pub port: u16,
    /// The certificate of who vouches for operators, as PEM.
    pub ca: String,
    /// The toolstack's own certificate, as PEM.
    pub certificate: String,
    /// Its key, as PEM.
    pub key: String,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Name of the file with the [`Endpoint`].
pub const ENDPOINT: &str = "network.json";
