//! A guest's connection: the ring page (`struct xenstore_domain_interface`, `xen/include/public/io/xs_wire.h`) is a file,
//! its event channel a pair of datagram sockets.
//!
//! The page is read and written through the file. The daemon maps it, so an index must never be seen half written:
//! each is stored with one aligned write of 4 bytes, and its counterpart is only looked at when an event came.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::client::{Client, Packet, take_packet};

/// Bytes of each of the two rings.
const RING: u32 = 1024;
const REQUESTS: u64 = 0;
const RESPONSES: u64 = 1024;
const REQ_CONS: u64 = 2048;
const REQ_PROD: u64 = 2052;
const RSP_CONS: u64 = 2056;
const RSP_PROD: u64 = 2060;
/// Domain N's event channel is this port plus N in the daemon.
const FIRST_PORT: u32 = 100;

/// A guest that speaks to the daemon through its ring.
#[derive(Debug)]
pub struct RingClient {
    domid: u16,
    page: File,
    channel: UnixDatagram,
    daemon: PathBuf,
    output: Vec<u8>,
    input: Vec<u8>,
}

impl RingClient {
    /// Opens the ring page of a domain in the daemon's folder and takes its end of the event channel.
    ///
    /// # Errors
    /// When there is no such page, or the socket cannot be made.
    pub fn open(dir: &Path, domid: u16) -> Result<Self> {
        let path = dir.join(format!("dom{domid}.ring"));
        let page = File::options().read(true).write(true).open(&path);
        let page = page.with_context(|| format!("Cannot open {}", path.display()))?;
        let path = dir.join(format!("dom{domid}.evtchn"));
        let _ = std::fs::remove_file(&path);
        let channel = UnixDatagram::bind(&path).with_context(|| format!("Cannot bind {}", path.display()))?;
        channel.set_nonblocking(true).context("Cannot make the event channel non-blocking")?;
        let daemon = dir.join("evtchn.sock");
        Ok(Self { domid, page, channel, daemon, output: Vec::new(), input: Vec::new() })
    }

    /// Forgets half-sent and half-received messages: the daemon has emptied the rings.
    pub fn reset(&mut self) {
        self.output.clear();
        self.input.clear();
    }

    fn index(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.page.read_exact_at(&mut bytes, at).context("Cannot read a ring page")?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn set_index(&self, at: u64, value: u32) -> Result<()> {
        self.page.write_all_at(&value.to_le_bytes(), at).context("Cannot write a ring page")
    }

    fn notify(&self) -> Result<()> {
        let port = FIRST_PORT.saturating_add(u32::from(self.domid));
        loop {
            match self.channel.send_to(&port.to_le_bytes(), &self.daemon) {
                // The daemon's queue is full: it has been woken up and has yet to look.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                // It is being restarted: an event is lost then, and the new one looks at every ring.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
                    return Ok(());
                }
                sent => return sent.map(drop).context("The daemon takes no events"),
            }
        }
    }

    /// Writes as much as there is room for; tells whether that was anything.
    fn fill(&mut self) -> Result<bool> {
        let mut moved = false;
        while !self.output.is_empty() {
            let (cons, prod) = (self.index(REQ_CONS)?, self.index(REQ_PROD)?);
            let used = prod.wrapping_sub(cons);
            anyhow::ensure!(used <= RING, "Guest {}: the request ring holds {used} bytes", self.domid);
            let start = prod % RING;
            let room = (RING - used).min(RING - start);
            let count = usize::try_from(room)?.min(self.output.len());
            let Some(piece) = self.output.get(..count).filter(|piece| !piece.is_empty()) else { break };
            self.page.write_all_at(piece, REQUESTS + u64::from(start)).context("Cannot write a ring page")?;
            self.output.drain(..count);
            self.set_index(REQ_PROD, prod.wrapping_add(u32::try_from(count)?))?;
            moved = true;
        }
        Ok(moved)
    }

    /// Reads all that is there; tells whether that was anything.
    fn drain(&mut self) -> Result<bool> {
        let mut moved = false;
        loop {
            let (cons, prod) = (self.index(RSP_CONS)?, self.index(RSP_PROD)?);
            let used = prod.wrapping_sub(cons);
            anyhow::ensure!(used <= RING, "Guest {}: the response ring holds {used} bytes", self.domid);
            let start = cons % RING;
            let count = used.min(RING - start);
            if count == 0 {
                return Ok(moved);
            }
            let mut piece = vec![0; usize::try_from(count)?];
            let at = RESPONSES + u64::from(start);
            self.page.read_exact_at(&mut piece, at).context("Cannot read a ring page")?;
            self.input.extend_from_slice(&piece);
            self.set_index(RSP_CONS, cons.wrapping_add(count))?;
            moved = true;
        }
    }
}

impl Client for RingClient {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.extend_from_slice(bytes);
        self.pump()
    }

    fn pump(&mut self) -> Result<()> {
        let mut event = [0; 4];
        while self.channel.recv(&mut event).is_ok() {}
        let filled = self.fill()?;
        let drained = self.drain()?;
        if filled || drained { self.notify() } else { Ok(()) }
    }

    fn take(&mut self) -> Result<Option<Packet>> {
        take_packet(&mut self.input)
    }

    fn events(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    fn is_full(&self) -> bool {
        // Room in the ring is announced by an event, not by the socket.
        false
    }

    fn is_closed(&self) -> bool {
        false
    }
}
