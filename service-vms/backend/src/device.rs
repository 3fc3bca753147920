//! The backend's half of the handshake between a frontend and its backend over XenStore (xen/include/public/io/xenbus.h).
//!
//! A device is a directory `backend/<kind>/<domid>/<handle>` below our own, which the toolstack writes; its frontend's is
//! `/local/domain/<domid>/device/<kind>/<handle>`. [`step`] decides what is next for one device from what stands there and
//! whether we serve it; [`Driver`] does it, for all devices, and a [`Backend`] knows what a device is.
//!
//! All of what a backend must know is in XenStore and in the guest's rings: a new process finds devices that say `Connected` and
//! that it does not serve, and serves them, without changing any node.

mod driver;
mod nodes;
mod report;
mod step;

pub use driver::{Backend, Device, Driver, NewNodes};
pub use nodes::{Failure, Nodes, number, text};
#[cfg(feature = "testing")]
pub use report::TestReports;
pub use report::{Changes, Reporter};
pub use step::{Step, XenbusState, step};
