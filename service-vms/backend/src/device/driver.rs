//! All devices of a backend, over XenStore.

use std::cell::RefCell;
use std::collections::{BTreeMap, btree_map};
use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ennead_runtime::drain;
use ennead_xen::DomId;
use ennead_xs_client::{Access as _, Errno, Error, XenStore};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};

use super::nodes::{Directory, Failure, Nodes, find};
use super::report::{Changes, Credit, Pace, Report, Reporter, Reports};
use super::step::{Step, XenbusState, step};

/// How long until what could not be served yet is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Token of the watch on Builder's wish.
const DRAIN: &str = "drain";
/// A device that does not settle in so many steps goes on with the next event.
const STEPS: usize = 8;
/// So often a device may begin anew at once, and again once every [`REST`]: it costs more than anything else that a guest can ask
/// for, and others' share of this VM's time is to stay theirs.
const BEGINNINGS: u32 = 5;
const REST: Duration = Duration::from_secs(2);

/// Which device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// The guest.
    pub domid: DomId,
    /// Its number for the device: the last part of the directory's name.
    pub handle: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domid={} handle={}", self.domid.0, self.handle)
    }
}

/// Nodes to be written: names below a device's directory, and values.
pub type NewNodes = Vec<(String, String)>;

/// What a device is.
pub trait Backend {
    /// The kind's name in XenStore: `vbd`, `vif`.
    const KIND: &'static str;
    /// A device that is served, by threads of its own. Dropped, all of it ends before the drop does: threads, ports, mappings.
    type Served;

    /// The nodes that say what we offer to the frontend, below the device's own directory `own`. The same after each restart.
    ///
    /// # Errors
    /// The device cannot be had.
    fn offer(&mut self, device: Device, own: &mut dyn Nodes) -> Result<NewNodes, Failure>;

    /// Maps, binds and serves what the frontend has written below its directory, whether it is fresh or a predecessor served
    /// it: the ring says which. Gives the nodes that the frontend needs before it may use the device.
    ///
    /// # Errors
    /// The frontend cannot be served.
    fn serve(
        &mut self,
        device: Device,
        own: &mut dyn Nodes,
        frontend: &mut dyn Nodes,
        reporter: Reporter,
    ) -> Result<(Self::Served, NewNodes), Failure>;

    /// What has changed of a device that is served, and its frontend is to hear: nodes of its own directory. After these its
    /// state is written again, which is a frontend's sign to read them.
    ///
    /// # Errors
    /// It cannot be said now.
    fn refresh(
        &mut self,
        _device: Device,
        _own: &mut dyn Nodes,
        _served: &Self::Served,
    ) -> Result<NewNodes, Failure> {
        Ok(NewNodes::new())
    }
}

#[derive(Debug)]
struct Entry<T> {
    served: Option<(u64, T)>,
    /// Why it is not served, as far as it was logged.
    waits: Option<String>,
    voice: Pace,
    beginnings: Credit,
    /// Until then nothing is done for it.
    rests: Option<Instant>,
}

/// Logs an event of a device, if it may be spoken of.
macro_rules! say {
    ($level:ident, $driver:expr, $device:expr, $($what:tt)+) => {
        if $driver.devices.get_mut(&$device).is_none_or(|entry| entry.voice.speaks(Instant::now())) {
            $level!(domid = $device.domid.0, handle = $device.handle, $($what)+);
        }
    };
}

/// All devices of one kind.
#[derive(Debug)]
pub struct Driver<B: Backend, S = File> {
    store: XenStore<S>,
    backend: B,
    devices: BTreeMap<Device, Entry<B::Served>>,
    reports: Reports,
    generation: u64,
    /// Builder will destroy this VM: nothing is served any more.
    drained: bool,
}

impl<B: Backend, S: Read + Write + AsFd> Driver<B, S> {
    /// Watches for devices, and serves those that there are: after this the backend is well.
    ///
    /// # Errors
    /// XenStore cannot be reached.
    pub fn start(mut store: XenStore<S>, backend: B) -> Result<Self, Error> {
        // The wish was a predecessor's.
        store.rm(drain::NODE)?;
        store.watch(drain::NODE, DRAIN)?;
        store.watch(&root::<B>(), B::KIND)?;
        let (devices, reports) = (BTreeMap::new(), Reports::new()?);
        let mut driver = Self { store, backend, devices, reports, generation: 0, drained: false };
        driver.look()?;
        Ok(driver)
    }

    /// Serves for good.
    ///
    /// # Errors
    /// XenStore cannot be reached.
    pub fn run(mut self) -> Result<Infallible, Error> {
        loop {
            self.turn(None)?;
        }
    }

    /// Handles all that has happened; waits for it up to `patience`, or for good.
    ///
    /// # Errors
    /// XenStore cannot be reached.
    pub fn turn(&mut self, patience: Option<Duration>) -> Result<(), Error> {
        if !self.events()? {
            self.wait(patience)?;
            self.events()?;
        }
        for report in self.reports.take() {
            self.reported(report)?;
        }
        if self.reports.take_changed() {
            let served: Vec<Device> = self.served().map(|(device, _)| device).collect();
            served.into_iter().try_for_each(|device| self.refresh(device))?;
        }
        let waiting = self.devices.iter().filter(|(_, entry)| entry.waits.is_some());
        let waiting: Vec<Device> = waiting.map(|(device, _)| *device).collect();
        waiting.into_iter().try_for_each(|device| self.settle(device))
    }

    /// For whoever changes what devices are served from.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.reports.changes()
    }

    /// The devices that are served.
    pub fn served(&self) -> impl Iterator<Item = (Device, &B::Served)> {
        self.devices.iter().filter_map(|(device, entry)| Some((*device, &entry.served.as_ref()?.1)))
    }

    fn wait(&self, patience: Option<Duration>) -> Result<(), Error> {
        let retry = self.devices.values().any(|entry| entry.waits.is_some()).then_some(AGAIN);
        let timeout = patience.into_iter().chain(retry).min();
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut files = [PollFd::new(&self.store, PollFlags::IN), PollFd::new(&self.reports, PollFlags::IN)];
        match poll(&mut files, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }

    /// Handles the events that have come; whether there were any.
    fn events(&mut self) -> Result<bool, Error> {
        let mut some = false;
        loop {
            let event = match self.store.event(Duration::ZERO) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(some),
                Err(Error::EventsLost) => {
                    self.look()?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            some = true;
            if event.token == DRAIN.as_bytes() {
                self.drain()?;
                continue;
            }
            match parse_token(&event.token) {
                Some(device) => self.settle(device)?,
                // Below a device's directory only we write, and the toolstack its wish to end, which is the frontend's to hear.
                None if event.path.split(|byte| *byte == b'/').count() <= 4 => self.look()?,
                None => {}
            }
        }
    }

    /// Ends all serving when Builder wishes it, and says so: what was begun is answered, the rest is the successor's.
    fn drain(&mut self) -> Result<(), Error> {
        let wished = find(&mut self.store, drain::NODE)?.is_some_and(|wish| wish == drain::WISH);
        if !wished {
            return Ok(());
        }
        self.drained = true;
        let served = self.served().count();
        self.devices.clear();
        info!(served, "drained");
        self.store.write(drain::NODE, drain::DONE)
    }

    /// Looks which devices there are.
    fn look(&mut self) -> Result<(), Error> {
        if self.drained {
            return Ok(());
        }
        let mut found = Vec::new();
        for domid in list(&mut self.store, &root::<B>())? {
            let Some(number) = parse(&domid) else { continue };
            for handle in list(&mut self.store, &format!("{}/{domid}", root::<B>()))? {
                if let Some(handle) = parse(&handle) {
                    found.push(Device { domid: DomId(number), handle });
                }
            }
        }
        let gone: Vec<_> = self.devices.keys().filter(|device| !found.contains(device)).copied().collect();
        for device in gone {
            self.forget(device)?;
        }
        for device in found {
            if let btree_map::Entry::Vacant(place) = self.devices.entry(device) {
                place.insert(Entry {
                    served: None,
                    waits: None,
                    voice: Pace::default(),
                    beginnings: Credit::default(),
                    rests: None,
                });
                let watched = self.store.watch(&format!("{}/state", frontend::<B>(device)), &token(device));
                self.tolerate(device, watched)?;
            }
            self.settle(device)?;
        }
        Ok(())
    }

    /// What XenStore refuses for one device is that device's trouble, and tried again; else it is everybody's.
    fn tolerate(&mut self, device: Device, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(e) if e.errno().is_some() => {
                self.waits(device, &e.to_string());
                Ok(())
            }
            other => other,
        }
    }

    fn forget(&mut self, device: Device) -> Result<(), Error> {
        if self.devices.remove(&device).is_some_and(|entry| entry.served.is_some()) {
            say!(info, self, device, "device-gone");
        }
        match self.store.unwatch(&format!("{}/state", frontend::<B>(device)), &token(device)) {
            Err(e) if e.errno().is_none() => Err(e),
            _ => Ok(()),
        }
    }

    /// Does what is to be done for a device, until there is nothing.
    fn settle(&mut self, device: Device) -> Result<(), Error> {
        let resting = |entry: &Entry<_>| entry.rests.is_some_and(|until| Instant::now() < until);
        if self.devices.get(&device).is_some_and(resting) {
            return Ok(());
        }
        let settled = self.steps(device);
        self.tolerate(device, settled)
    }

    fn steps(&mut self, device: Device) -> Result<(), Error> {
        for _ in 0..STEPS {
            let ours = state(&mut self.store, &own::<B>(device))?;
            let theirs = state(&mut self.store, &frontend::<B>(device))?;
            let Some(entry) = self.devices.get_mut(&device) else { return Ok(()) };
            let done = match step(ours, theirs, entry.served.is_some()) {
                Step::Wait => {
                    entry.waits = None;
                    return Ok(());
                }
                Step::Detach => {
                    entry.served = None;
                    say!(info, self, device, state = theirs.value(), "frontend-disconnected");
                    Ok(())
                }
                Step::Write(state) => self.write(device, &[], Some(state)).map_err(Failure::from),
                Step::Offer => match entry.beginnings.take(BEGINNINGS, REST, Instant::now()) {
                    Ok(()) => self.offer(device),
                    Err(until) => {
                        entry.rests = Some(until);
                        Err(Failure::NotYet("its frontend begins anew too often".to_owned()))
                    }
                },
                Step::Connect => self.serve(device, true),
                Step::Serve => self.serve(device, false),
            };
            match done {
                Ok(()) => {}
                Err(Failure::Store(e)) => return Err(e),
                Err(Failure::NotYet(reason)) => {
                    return self.later(device, reason);
                }
                Err(Failure::Refused(reason)) => {
                    say!(warn, self, device, reason, "frontend-refused");
                    self.write(device, &[("error".to_owned(), reason)], Some(XenbusState::Closed))?;
                }
            }
        }
        Ok(())
    }

    /// Tries it again later; the toolstack may read why.
    fn later(&mut self, device: Device, reason: String) -> Result<(), Error> {
        if !self.waits(device, &reason) {
            return Ok(());
        }
        self.write(device, &[("error".to_owned(), reason)], None)
    }

    /// Whether the reason is a new one.
    fn waits(&mut self, device: Device, reason: &str) -> bool {
        let Some(entry) = self.devices.get_mut(&device) else { return false };
        let is_new = entry.waits.as_deref() != Some(reason);
        if is_new {
            entry.waits = Some(reason.to_owned());
            say!(warn, self, device, reason, "device-waits");
        }
        is_new
    }

    fn offer(&mut self, device: Device) -> Result<(), Failure> {
        let store = RefCell::new(&mut self.store);
        let mut directory = Directory { store: &store, path: own::<B>(device) };
        let nodes = self.backend.offer(device, &mut directory)?;
        Ok(self.write(device, &nodes, Some(XenbusState::InitWait))?)
    }

    fn serve(&mut self, device: Device, fresh: bool) -> Result<(), Failure> {
        self.generation += 1;
        let generation = self.generation;
        let reporter = self.reports.reporter(device, generation);
        let store = RefCell::new(&mut self.store);
        let mut ours = Directory { store: &store, path: own::<B>(device) };
        let mut theirs = Directory { store: &store, path: frontend::<B>(device) };
        let (served, nodes) = self.backend.serve(device, &mut ours, &mut theirs, reporter)?;
        if let Some(entry) = self.devices.get_mut(&device) {
            entry.served = Some((generation, served));
        }
        if fresh {
            self.write(device, &nodes, Some(XenbusState::Connected))?;
            say!(info, self, device, "frontend-connected");
        } else {
            say!(info, self, device, "frontend-reattached");
            // It may have changed while nobody was there to say so.
            self.refresh(device)?;
        }
        Ok(())
    }

    /// Tells the frontend what has changed of a device.
    fn refresh(&mut self, device: Device) -> Result<(), Error> {
        let Some((_, served)) = self.devices.get(&device).and_then(|entry| entry.served.as_ref()) else {
            return Ok(());
        };
        let store = RefCell::new(&mut self.store);
        let mut directory = Directory { store: &store, path: own::<B>(device) };
        let nodes = match self.backend.refresh(device, &mut directory, served) {
            Ok(nodes) if nodes.is_empty() => return Ok(()),
            Ok(nodes) => nodes,
            Err(Failure::Store(e)) => return self.tolerate(device, Err(e)),
            Err(Failure::NotYet(reason) | Failure::Refused(reason)) => {
                say!(warn, self, device, reason, "device-not-refreshed");
                return Ok(());
            }
        };
        let path = format!("{}/state", own::<B>(device));
        // One that is about to end needs not know.
        let written = self.store.transaction(|t| {
            let connected = XenbusState::Connected.value().as_bytes();
            if t.find(&path)?.as_deref() != Some(connected) {
                return Ok(());
            }
            for (key, value) in &nodes {
                t.write(&format!("{}/{key}", own::<B>(device)), value.as_bytes())?;
            }
            t.write(&path, connected)
        });
        say!(info, self, device, ?nodes, "device-changed");
        self.tolerate(device, written)
    }

    fn reported(&mut self, report: Report) -> Result<(), Error> {
        let Report { device, generation, reason, is_end } = report;
        let Some(entry) = self.devices.get_mut(&device) else { return Ok(()) };
        // One that is served again meanwhile is another.
        if entry.served.as_ref().is_none_or(|(current, _)| *current != generation) {
            return Ok(());
        }
        if !is_end {
            say!(warn, self, device, reason, "frontend-odd");
            return Ok(());
        }
        entry.served = None;
        say!(warn, self, device, reason, "frontend-broken");
        let error = [("error".to_owned(), reason)];
        let written = self.write(device, &error, Some(XenbusState::Closing));
        self.tolerate(device, written)?;
        self.settle(device)
    }

    /// Writes nodes and the state, all at once, if the device is still there: what the toolstack has removed must not come
    /// back. What was in its way is not any more when it goes on.
    fn write(
        &mut self,
        device: Device,
        nodes: &[(String, String)],
        state: Option<XenbusState>,
    ) -> Result<(), Error> {
        let path = own::<B>(device);
        self.store.transaction(|t| {
            if t.find(&format!("{path}/frontend-id"))?.is_none() {
                return Ok(());
            }
            if matches!(state, Some(XenbusState::InitWait | XenbusState::Connected)) {
                t.rm(&format!("{path}/error"))?;
            }
            for (key, value) in nodes {
                t.write(&format!("{path}/{key}"), value.as_bytes())?;
            }
            state.map_or(Ok(()), |state| t.write(&format!("{path}/state"), state.value().as_bytes()))
        })
    }
}

fn root<B: Backend>() -> String {
    format!("backend/{}", B::KIND)
}

/// A device's directory, below ours.
fn own<B: Backend>(device: Device) -> String {
    format!("{}/{}/{}", root::<B>(), device.domid.0, device.handle)
}

/// Its frontend's. Not as `frontend` says: a device is that of the guest in whose directory it is.
fn frontend<B: Backend>(device: Device) -> String {
    format!("/local/domain/{}/device/{}/{}", device.domid.0, B::KIND, device.handle)
}

fn token(device: Device) -> String {
    format!("{}/{}", device.domid.0, device.handle)
}

fn parse_token(token: &[u8]) -> Option<Device> {
    let (domid, handle) = std::str::from_utf8(token).ok()?.split_once('/')?;
    Some(Device { domid: DomId(parse(domid)?), handle: parse(handle)? })
}

/// A number as XenStore's paths have it: no leading zero.
fn parse<T: std::str::FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

fn state<S: Read + Write + AsFd>(store: &mut XenStore<S>, directory: &str) -> Result<XenbusState, Error> {
    let value = find(store, &format!("{directory}/state"))?;
    Ok(value.map_or(XenbusState::Unknown, |value| XenbusState::parse(&value)))
}

/// The names in a directory; none if it is not there.
fn list<S: Read + Write + AsFd>(store: &mut XenStore<S>, path: &str) -> Result<Vec<String>, Error> {
    match store.list(path) {
        Err(e) if e.errno() == Some(Errno::Enoent) => Ok(Vec::new()),
        names => names,
    }
}

#[cfg(test)]
mod tests;
