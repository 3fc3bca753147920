//! What can go wrong on a channel.

use std::time::Duration;

use ennead_xen::{DomId, GrantRef};

/// What the peer wrote that no correct peer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The page has a layout of another version.
    #[error("layout version {version}, this end knows {}", crate::VERSION)]
    Version {
        /// What the header says.
        version: u32,
    },
    /// The header has the right version and impossible values.
    #[error("header with flags {flags:#x}, generation {generation}, port {port}")]
    Header {
        /// Must be 0.
        flags: u32,
        /// Must not be 0.
        generation: u32,
        /// Must not be 0.
        port: u32,
    },
    /// The page has no header, although whoever owns it said that it is ready.
    #[error("no header")]
    NotReady,
    /// The server speaks something else.
    #[error("protocol {found:#010x}, this end speaks {expected:#010x}")]
    Protocol {
        /// This end's.
        expected: u32,
        /// The header's.
        found: u32,
    },
    /// Indices that are out of range or further apart than the ring is long.
    #[error("producer index {producer} and consumer index {consumer} cannot belong together")]
    Indices {
        /// Producer index.
        producer: u32,
        /// Consumer index.
        consumer: u32,
    },
    /// A frame that is too long, or longer than what is there.
    #[error(
        "frame of {len} bytes with {available} bytes in the ring (longest message {})",
        crate::MAX_MESSAGE
    )]
    Frame {
        /// The frame's length field.
        len: u16,
        /// Bytes between the indices.
        available: u32,
    },
    /// A frame whose bytes are no message of the protocol.
    #[error("{len} bytes that are no message of the protocol")]
    Message {
        /// Length of the frame.
        len: usize,
    },
    /// A reply that does not belong to the request, or a list of replies out of order.
    #[error("reply {what}")]
    Reply {
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Error of a channel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer broke the rules. The channel is dead: drop it and have the peer restarted.
    #[error("Peer broke the channel: {violation}; the channel is closed for good, restart the peer")]
    PeerBroke {
        /// What it did.
        violation: Violation,
    },
    /// This end tried to send a message that is too long.
    #[error("Message of {len} bytes is longer than {} bytes: split it", crate::MAX_MESSAGE)]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The peer did not take messages or did not answer in time.
    #[error("Peer was silent for {timeout:?} while this end waited to {action}: is it running?")]
    Timeout {
        /// `send` or `receive`.
        action: &'static str,
        /// How long this end waited.
        timeout: Duration,
    },
    /// The server did not offer its page in time.
    #[error(
        "Domain {} offered no channel in page {} within {timeout:?}: is it running, and does it answer this VM?",
        .server.0, .gref.0
    )]
    NoServer {
        /// The server's domid.
        server: DomId,
        /// The page that it was to grant.
        gref: GrantRef,
        /// How long this end waited.
        timeout: Duration,
        /// Why the last attempt failed, if Xen refused it.
        source: Option<ennead_xen::Error>,
    },
    /// This end tried to send what cannot be encoded.
    #[error("Message cannot be encoded")]
    Encode(#[source] postcard::Error),
    /// Xen or its devices refused an operation.
    #[error("Channel cannot {action}")]
    Xen {
        /// What was tried.
        action: &'static str,
        /// What Xen said.
        source: ennead_xen::Error,
    },
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::PeerBroke { violation }
    }
}
