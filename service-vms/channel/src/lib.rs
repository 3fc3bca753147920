//! Framed, bounded, typed messages between two VMs over one shared page and one event channel.
//!
//! `page` is the sans-IO core (layout, rings, `Endpoint`), `proto` the messages, `link` the two ends with their I/O.
//! Everything that the peer wrote is an allegation: an index, a length or a message that cannot be ends the channel with
//! `Error::PeerBroke`, and nothing is acted upon.

#![forbid(unsafe_code)]

mod bounded;
mod error;
mod link;
mod page;
pub mod proto;

pub use bounded::{List, Text, Unfit};
pub use error::{Error, Violation};
#[cfg(any(feature = "offer", test))]
pub use link::Offer;
pub use link::{Client, Events, Server};
pub use page::{Endpoint, Header, INDEX_LIMIT, MAGIC, MAX_MESSAGE, RING_SIZE, VERSION};
pub use proto::{
    Protocol, Tagged, guests, guests::Guests, line, line::Line, pciback, pciback::Pciback, xenstore,
    xenstore::XenStoreControl,
};

/// The first grant reference that a VM's /dev/xen/gntalloc hands out: Xen reserves 0 to 7, and Linux takes the free ones
/// in order. So client number i of a server has the page with gref `FIRST_GREF` + i.
pub const FIRST_GREF: u32 = 8;

#[cfg(test)]
mod tests;
