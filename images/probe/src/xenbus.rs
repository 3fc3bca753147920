//! A client of XenStore over this VM's ring, as small as tests need it. It waits for answers as long as they take.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};

use anyhow::Context as _;
use ennead_xs_wire::{Errno, HEADER_LEN, Header, Raw, Request};

/// The open device.
#[derive(Debug)]
pub struct XenBus {
    device: File,
    /// Paths of events that came between answers.
    events: Vec<Vec<u8>>,
}

impl XenBus {
    /// Opens /dev/xen/xenbus.
    ///
    /// # Errors
    /// Linux's.
    pub fn open() -> anyhow::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus");
        Ok(Self { device: device.context("Cannot open /dev/xen/xenbus")?, events: Vec::new() })
    }

    /// The payload of the answer to a request. `Err` inside: XenStore's error.
    ///
    /// # Errors
    /// When the device fails.
    pub fn ask(&mut self, request: &Request<'_>) -> anyhow::Result<Result<Vec<u8>, Errno>> {
        self.ask_in(0, request)
    }

    /// The same in a transaction.
    ///
    /// # Errors
    /// When the device fails.
    pub fn ask_in(&mut self, tx_id: u32, request: &Request<'_>) -> anyhow::Result<Result<Vec<u8>, Errno>> {
        self.device.write_all(&request.message(0, tx_id))?;
        loop {
            let message = self.receive()?;
            let Some((raw, _)) = Raw::split(&message)? else { continue };
            match raw.event() {
                Some((path, _)) => self.events.push(path.to_vec()),
                None => return Ok(raw.error().map_or_else(|| Ok(raw.payload.to_vec()), Err)),
            }
        }
    }

    /// The path of the next event; waits for it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn event(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if !self.events.is_empty() {
                return Ok(self.events.remove(0));
            }
            let message = self.receive()?;
            if let Some((path, _)) = Raw::split(&message)?.and_then(|(raw, _)| raw.event()) {
                self.events.push(path.to_vec());
            }
        }
    }

    /// One whole message.
    fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut message = vec![0; HEADER_LEN];
        self.device.read_exact(&mut message)?;
        let header = message.first_chunk().context("a header")?;
        let len = Header::decode(header)?.len;
        message.resize(HEADER_LEN + len, 0);
        self.device.read_exact(message.get_mut(HEADER_LEN..).context("a payload")?)?;
        Ok(message)
    }
}
