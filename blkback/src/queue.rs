//! The thread of one ring.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ennead_backend::device::{Device, Reporter};
use ennead_backend::memory::Granted;
use ennead_backend::worth::{Worth, look};
use ennead_os::Buffers;
use ennead_xen::{DomId, EventChannels, GrantRef, MappedRegion, Port};
use rustix::event::{EventfdFlags, eventfd};

use crate::engine::{BUFFER_PAGES, Broken, Engine};
use crate::protocol::{Limits, Refusal, SLOT_32, SLOT_64};
use crate::storage::{Disk, Medium};

/// Pages that stay mapped for a frontend with `feature-persistent`: all that Linux's has (32 requests of 32 segments, each with a page
/// that names them).
const KEPT_PAGES: usize = 32 * 33;
/// Bytes that one takes: of gntdev's, of Linux's page tables, and of ours.
const KEPT: usize = 256;

/// Bytes that a ring takes at most: its I/O's, the pages that stay mapped, and what its thread, Linux (two queues of io_uring's) and
/// Xen need for it.
pub const MEMORY: usize = BUFFER_PAGES * ennead_xen::PAGE_SIZE + KEPT_PAGES * KEPT + (192 << 10);

/// How often it looks for what comes next before it sleeps.
const LOOKS: u32 = 60_000;

/// Events in a row that had nothing to tell, after which the frontend's next ones are taken more slowly.
const PATIENCE: u32 = 16;
/// How long such a frontend's events wait.
const SLOWLY: Duration = Duration::from_millis(5);

/// How the frontend lays out its ring: its `protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    /// As a 64-bit kernel does.
    X86_64,
    /// As a 32-bit one does.
    X86_32,
}

/// Where a ring is, as the frontend says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What its slots are like.
    pub abi: Abi,
    /// Its pages.
    pub grefs: Vec<GrantRef>,
    /// Its event channel.
    pub port: Port,
    /// Whether the frontend uses the same grants again and again (`feature-persistent`).
    pub persistent: bool,
}

/// Why a ring cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Xen refused, or the frontend said what is not so.
    #[error(transparent)]
    Xen(#[from] ennead_xen::Error),
    /// The frontend broke its protocol.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Linux refused.
    #[error("I/O: {0}")]
    Io(#[from] io::Error),
}

/// A ring that is served. Dropped, it is not any more.
#[derive(Debug)]
pub struct Queue {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
    sectors: Arc<AtomicU64>,
}

type Served<const SLOT: usize> = Engine<MappedRegion, Granted, Disk, SLOT>;

impl Queue {
    /// Maps the ring, binds the channel, goes on where a predecessor stopped, and serves. `alone`: no other ring leads to the disk,
    /// but such as only read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn start(
        place: &Place,
        medium: Medium,
        limits: Limits,
        alone: bool,
        reporter: Reporter,
    ) -> Result<Self, Error> {
        match place.abi {
            Abi::X86_64 => Self::start_with::<SLOT_64>(place, medium, limits, alone, reporter),
            Abi::X86_32 => Self::start_with::<SLOT_32>(place, medium, limits, alone, reporter),
        }
    }

    fn start_with<const SLOT: usize>(
        place: &Place,
        medium: Medium,
        limits: Limits,
        alone: bool,
        reporter: Reporter,
    ) -> Result<Self, Error> {
        let Device { domid, .. } = reporter.device();
        let page = MappedRegion::map(domid, &place.grefs)?;
        let events = EventChannels::open()?;
        let port = bind(&events, domid, place.port)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
        let slots = ennead_backend::ring::slots(place.grefs.len() * ennead_xen::PAGE_SIZE, SLOT).unwrap_or(1);
        let disk = Disk::open(medium, slots, &events, &stop)?;
        let buffers = Buffers::new(BUFFER_PAGES)?;
        let kept = if place.persistent { KEPT_PAGES } else { 0 };
        let memory = Granted::keeping(domid, kept)?;
        let mut engine: Served<SLOT> = Engine::attach(page, memory, disk, buffers, limits)?;
        if alone {
            engine.read_ahead();
        }
        let sectors = engine.sectors();
        let serve = move || {
            if let Err(error) = serve(engine, &events, port, &reporter) {
                reporter.broken(error);
            }
        };
        let thread = thread::Builder::new().name(format!("ring-{domid}")).spawn(serve)?;
        Ok(Self { stop, thread: Some(thread), sectors })
    }

    /// The disk has grown to so many units of 512 bytes. After this the frontend may be told.
    pub fn grow(&self, sectors: u64) {
        self.sectors.fetch_max(sectors, Ordering::Release);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        // One that cannot be told to end ends with the program.
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// A port to this guest only.
fn bind(events: &EventChannels, domid: DomId, port: Port) -> Result<Port, ennead_xen::Error> {
    let port = events.bind_interdomain(domid, port)?;
    events.restrict(domid)?;
    Ok(port)
}

fn serve<const SLOT: usize>(
    mut engine: Served<SLOT>,
    events: &EventChannels,
    port: Port,
    reporter: &Reporter,
) -> Result<(), Error> {
    // The frontend may have sent requests to nobody, or wait for an event that a predecessor did not send.
    events.notify(port)?;
    let (mut empty, mut told) = (0_u32, false);
    let (mut busy, mut idle) = (Worth::default(), Worth::default());
    loop {
        let turn = engine.turn()?;
        if turn.notify {
            events.notify(port)?;
        }
        let rung = engine.storage().take_event();
        if turn.progress {
            empty = 0;
            tell(&mut told, engine.take_refused(), reporter);
        } else if rung {
            empty = empty.saturating_add(1);
        }
        if engine.storage().is_stopped() {
            return wind_up(engine, events, port);
        }
        if engine.storage().is_polled() {
            engine.storage().wait()?;
            continue;
        }
        let worth = if engine.is_busy() { &mut busy } else { &mut idle };
        if turn.progress && worth.is_it() {
            engine.storage().submit(false)?;
            // A turn says what is broken.
            let found = look(LOOKS, || engine.storage().has_completed() || engine.is_asked().unwrap_or(true));
            worth.note(found);
            if found {
                continue;
            }
        }
        // While there are requests, events of more are of no use: the port stays masked, and keeps one.
        let more = engine.final_check()?;
        if !more {
            if rung && empty > PATIENCE {
                thread::sleep(SLOWLY);
            }
            engine.storage().listen()?;
        }
        engine.storage().submit(!more)?;
    }
}

/// Answers what was taken: a successor need not do it again.
fn wind_up<const SLOT: usize>(
    mut engine: Served<SLOT>,
    events: &EventChannels,
    port: Port,
) -> Result<(), Error> {
    while let Some(turn) = engine.wind_up() {
        if turn.notify {
            events.notify(port)?;
        }
        if !turn.progress {
            engine.storage().wait()?;
        }
    }
    Ok(())
}

/// The first request that cannot be done is told of.
fn tell(told: &mut bool, refused: Option<Refusal>, reporter: &Reporter) {
    if let Some(reason) = refused.filter(|_| !std::mem::replace(told, true)) {
        reporter.odd(format!("it asks for {reason}"));
    }
}
