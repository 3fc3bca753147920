//! A guest's ring page (`struct xenstore_domain_interface`, docs/misc/xenstore-ring.txt): two rings of 1024 bytes, their
//! indices, and what the two ends say about the connection. The guest can write all of it at any time.

use core::sync::atomic::{Ordering, fence};

use ennead_xs_link::Shared;

/// Bytes of each of the two rings.
pub const RING: u32 = 1024;

const AT_RSP: usize = 1024;
const AT_REQ_CONS: usize = 2048;
const AT_REQ_PROD: usize = 2052;
const AT_RSP_CONS: usize = 2056;
const AT_RSP_PROD: usize = 2060;
const AT_FEATURES: usize = 2064;
const AT_CONNECTION: usize = 2068;
const AT_ERROR: usize = 2072;

/// We can reconnect (bit 0) and report errors (bit 1).
const FEATURES: u32 = 0b11;

/// Why a ring is not served any more (`XENSTORE_ERROR_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Fault {
    /// Communication broke down.
    Communication = 1,
    /// Its indices cannot be.
    Index = 2,
    /// A message longer than any may be.
    Protocol = 3,
}

/// Both ends of the ring of requests, one look each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requests {
    /// How far we have read.
    pub cons: u32,
    /// Bytes that wait.
    pub waiting: u32,
}

/// Says what we can do, and that the connection is up.
pub fn greet(page: &impl Shared) {
    page.store(AT_FEATURES, FEATURES);
    page.store(AT_CONNECTION, 0);
}

/// Whether the guest asks for a new start.
pub fn wants_reset(page: &impl Shared) -> bool {
    page.load(AT_CONNECTION) == 1
}

/// A new start: both rings are empty.
pub fn reset(page: &impl Shared) {
    for at in [AT_REQ_CONS, AT_REQ_PROD, AT_RSP_CONS, AT_RSP_PROD, AT_ERROR, AT_CONNECTION] {
        page.store(at, 0);
    }
}

/// Tells the guest why it is not served any more.
pub fn report(page: &impl Shared, fault: Fault) {
    page.store(AT_ERROR, fault as u32);
}

/// Where a page stands: `req_cons` and `rsp_prod`.
pub fn positions(page: &impl Shared) -> (u32, u32) {
    (page.load(AT_REQ_CONS), page.load(AT_RSP_PROD))
}

/// The requests that wait.
///
/// # Errors
/// `Fault::Index` if there seem to be more than fit.
pub fn requests(page: &impl Shared, cons: u32) -> Result<Requests, Fault> {
    let waiting = page.load(AT_REQ_PROD).wrapping_sub(cons);
    if waiting > RING { Err(Fault::Index) } else { Ok(Requests { cons, waiting }) }
}

/// Copies request bytes from position `from`; `out` is at most as long as what waits.
pub fn read_requests(page: &impl Shared, from: u32, out: &mut [u8]) {
    let at = offset(from);
    let first = out.len().min(span(at));
    let (head, tail) = out.split_at_mut(first);
    page.read(at, head);
    page.read(0, tail);
}

/// Copies response bytes to position `to`; at most `RING` of them.
pub fn write_responses(page: &impl Shared, to: u32, data: &[u8]) {
    let at = offset(to);
    let (head, tail) = data.split_at(data.len().min(span(at)));
    page.write(AT_RSP + at, head);
    page.write(AT_RSP, tail);
}

/// Whether the guest has read none of the responses before `rsp_prod` for which there is room. It rings when it does: it looks at
/// what we published after it has moved its own index, and we the other way round.
pub fn is_full(page: &impl Shared, rsp_prod: u32) -> bool {
    fence(Ordering::SeqCst);
    rsp_prod.wrapping_sub(rsp_cons(page)) >= RING
}

/// How far the guest has read the responses.
pub fn rsp_cons(page: &impl Shared) -> u32 {
    page.load(AT_RSP_CONS)
}

/// Lets the guest have the room of the requests before `cons`.
pub fn consume(page: &impl Shared, cons: u32) {
    page.store(AT_REQ_CONS, cons);
}

/// Lets the guest see the responses before `prod`. What it can see already, a predecessor of ours has published: an index that
/// goes back would be no ring any more for a guest that looks just then.
pub fn publish(page: &impl Shared, prod: u32) {
    if prod.wrapping_sub(page.load(AT_RSP_PROD)) <= RING {
        page.store(AT_RSP_PROD, prod);
    }
}

fn offset(position: u32) -> usize {
    usize::try_from(position % RING).unwrap_or(0)
}

/// Bytes from `at` to the ring's end.
fn span(at: usize) -> usize {
    AT_RSP - at
}
