//! A guest that spoils its own XenStore ring behind its kernel's back.

use std::convert::Infallible;
use std::time::Duration;

use ennead_xen::probe::{OwnPage, Probe};
use ennead_xen::{Control, Mfn, Port};
use ennead_xs_wire::Request;
use tracing::info;

use crate::xenbus::XenBus;

/// Where the indices lie (xs_wire.h, `struct xenstore_domain_interface`).
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;
/// Bytes of each ring.
const SIZE: u32 = 1024;
const RING: usize = 1024;
/// Frames looked at in one go.
const STEP: usize = 512;
/// The ports of which one is XenStore's: the first that a VM has.
const PORTS: std::ops::RangeInclusive<u32> = 1..=4;
/// What is asked so that the ring is known by it.
const MARK: &[u8] = b"data/this-is-the-ring-of-a-hostile-guest";

/// The ring, and what sends events.
#[derive(Debug)]
pub struct Ring<'a> {
    page: OwnPage,
    probe: Probe<'a>,
    random: u32,
}

impl<'a> Ring<'a> {
    /// Finds the page among the machine's first `frames`: it is where a request of this program's lies.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find(control: &'a Control, bus: &mut XenBus, frames: u64) -> anyhow::Result<Self> {
        let probe = control.probe();
        let _nothing_there = bus.ask(&Request::Read { path: MARK })?;
        let is_ring = |page: &[u8]| {
            let word = |at: usize| page.get(at..at + 4);
            let requests = page.get(..RING).unwrap_or_default();
            word(REQ_PROD) == word(REQ_CONS) && requests.windows(MARK.len()).any(|bytes| bytes == MARK)
        };
        for first in (0..frames).step_by(STEP) {
            if let Some(page) = probe.own_page(Mfn(first), STEP, is_ring)? {
                return Ok(Self { page, probe, random: 0x9e37_79b9 });
            }
        }
        anyhow::bail!("The ring is in none of {frames} frames")
    }

    /// Writes nonsense into the indices and the rings, for ever.
    ///
    /// # Errors
    /// None in practice.
    pub fn corrupt(mut self) -> anyhow::Result<Infallible> {
        info!("corrupt-starts");
        loop {
            for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
                let value = match self.random() % 4 {
                    0 => self.random(),
                    1 => self.page.load(index).wrapping_add(self.random() % (2 * SIZE)),
                    2 => self.page.load(index).wrapping_sub(1),
                    _ => continue,
                };
                self.page.store(index, value);
            }
            let (at, word) = (self.random() % (2 * SIZE / 4) * 4, self.random());
            self.page.store(usize::try_from(at)?, word);
            self.notify();
        }
    }

    /// Asks for large answers as long as there is room, and makes no room for them, for ever.
    ///
    /// # Errors
    /// When the answers' node cannot be written.
    pub fn stall(self, bus: &mut XenBus) -> anyhow::Result<Infallible> {
        bus.ask(&Request::Write { path: b"data/large", value: &[b'x'; 1900] })??;
        let request = Request::Read { path: b"data/large" }.message(7, 0);
        let length = u32::try_from(request.len())?;
        info!("stall-starts");
        loop {
            // Its kernel takes what comes: as if it had not.
            self.page.store(RSP_CONS, self.page.load(RSP_PROD).wrapping_sub(SIZE));
            let (cons, prod) = (self.page.load(REQ_CONS), self.page.load(REQ_PROD));
            if prod.wrapping_sub(cons).saturating_add(length) <= SIZE {
                for (at, byte) in (prod..).zip(&request) {
                    self.page.write(usize::try_from(at % SIZE)?, &[*byte]);
                }
                self.page.store(REQ_PROD, prod.wrapping_add(length));
                self.notify();
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Not all of the ports exist.
    fn notify(&self) {
        for port in PORTS {
            let _no_such_port = self.probe.send(Port(port));
        }
    }

    /// Xorshift.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}
