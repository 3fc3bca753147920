//! Service VMs that do their job and, besides, try what they may not: each is the product's own library plus the calls in
//! [`matrix`]. The scenario `privileges` of `images` boots a host with them and reads what they log:
//!
//! ```text
//! probe as=TYPE op=NAME target=VM result=refused|ALLOWED|unclear errno=N avc=PERMISSION
//! probes as=TYPE count=N allowed=N unclear=N
//! dma writes=N own=yes|no end=yes|no
//! memory pages=N changed=N
//! ```
//! `avc` is what FLASK must have logged, `none` where Xen's own check comes first and `quiet` where the policy says not to.
#![forbid(unsafe_code)]

pub mod attempts;
pub mod edu;
pub mod frontend;
pub mod hostile;
pub mod matrix;
pub mod nic;
pub mod options;
pub mod xenbus;
pub mod xenstore;
