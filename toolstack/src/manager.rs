//! The guests' lives: what the operator asks, what guests do by themselves, and what is done about it.
//!
//! One operation at a time on each guest ([`Locks`]), one building at a time in all, since Builder has no more. Operations are
//! tasks of their own: an operator who does not wait for the end does not cut them short.

mod boot;
mod build;
mod disks;
mod find;
mod life;
mod locks;
mod view;
mod volumes;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ennead_api::{Event, Sha256, What};
use ennead_runtime::boot::BackendVm;
use tokio::sync::Mutex;

use crate::builder::{Builder, Limits};
use crate::console::client::Console;
use crate::desired::{Phase, Record};
use crate::drain::Work;
use crate::events::Log;
use crate::images::Images;
use crate::xenstore::Store;
use locks::Locks;

/// Everybody that the manager works with.
#[derive(Debug)]
pub struct Peers {
    /// Builds.
    pub builder: Builder,
    /// The guests' trees and records.
    pub store: Store,
    /// The guests' consoles.
    pub console: Console,
    /// Who serves the guests' disks and NICs.
    pub backends: Vec<BackendVm>,
}

/// The guests of one tenant.
#[derive(Debug)]
pub struct Manager {
    /// This VM's name and domid.
    name: String,
    domid: u16,
    limits: Limits,
    started: Duration,
    peers: Peers,
    locks: Locks,
    building: Mutex<()>,
    /// One request at a time: a backend has one place for them.
    asking: Mutex<()>,
    guests: RefCell<BTreeMap<String, Guest>>,
    /// The images.
    pub images: RefCell<Images>,
    events: RefCell<Log<Event>>,
    last_event: Cell<u64>,
    last_console: Cell<u32>,
    /// Since the start.
    pub counters: Counters,
    /// What operators have asked.
    pub work: Work,
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests, by the first digit of their answers' status.
    pub requests: RefCell<BTreeMap<u16, u64>>,
    /// Guests created, and created anew.
    pub builds: Cell<u64>,
    /// The same that did not work.
    pub failed_builds: Cell<u64>,
    /// Guests that crashed.
    pub crashes: Cell<u64>,
}

/// Counts one more.
pub(crate) fn count(counter: &Cell<u64>) {
    counter.set(counter.get().saturating_add(1));
}

/// A guest.
#[derive(Debug, Clone)]
struct Guest {
    record: Record,
    /// Number of its console, also over its restarts.
    console: u32,
    /// Changes with each restart that is waited for, so that of two only one comes.
    turn: u32,
}

/// Time since 1970; 0 if the clock is before that.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A time in milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Manager {
    /// No guests yet: see [`Manager::find`].
    #[must_use]
    pub fn new(name: String, domid: u16, limits: Limits, images: Images, peers: Peers) -> Rc<Self> {
        Rc::new(Self {
            name,
            domid,
            limits,
            started: now(),
            peers,
            locks: Locks::default(),
            building: Mutex::new(()),
            asking: Mutex::new(()),
            guests: RefCell::default(),
            images: RefCell::new(images),
            events: RefCell::default(),
            last_event: Cell::new(0),
            last_console: Cell::new(0),
            counters: Counters::default(),
            work: Work::default(),
        })
    }

    /// The last events, and those to come.
    pub fn follow(&self) -> (Vec<Event>, tokio::sync::broadcast::Receiver<Event>) {
        self.events.borrow().follow()
    }

    fn tell(&self, guest: Option<&str>, domid: Option<u16>, what: What) {
        let seq = self.last_event.get().saturating_add(1);
        self.last_event.set(seq);
        tracing::info!(guest = guest.unwrap_or("none"), domid = domid.unwrap_or(0), what = ?what, "event");
        let event = Event { seq, at_ms: millis(now()), guest: guest.map(str::to_owned), domid, what };
        self.events.borrow_mut().push(event);
    }

    /// A copy of a guest: nothing is borrowed while something is waited for.
    fn guest(&self, name: &str) -> Option<Guest> {
        self.guests.borrow().get(name).cloned()
    }

    /// Changes what is known of a guest, if it is still there.
    fn change(&self, name: &str, change: impl FnOnce(&mut Guest)) {
        if let Some(guest) = self.guests.borrow_mut().get_mut(name) {
            change(guest);
        }
    }

    /// Sets a guest's phase, here and in XenStore.
    async fn enter(&self, name: &str, phase: Phase) -> Result<(), ennead_xs_client::Error> {
        self.change(name, |guest| guest.record.phase = phase);
        let record = self.guest(name).map(|guest| guest.record);
        match record {
            Some(record) => self.peers.store.keep(&record).await,
            None => Ok(()),
        }
    }

    /// The images that guests are made of: they stay.
    #[must_use]
    pub fn needed_images(&self) -> BTreeSet<Sha256> {
        let guests = self.guests.borrow();
        guests.values().flat_map(|guest| guest.record.images()).collect()
    }

    /// Those of a record's images that are not there.
    fn missing(&self, record: &Record) -> Vec<Sha256> {
        let images = self.images.borrow();
        record.images().filter(|id| !images.has(*id)).collect()
    }

    fn new_console(&self) -> u32 {
        let number = self.last_console.get().wrapping_add(1);
        self.last_console.set(number);
        number
    }
}
