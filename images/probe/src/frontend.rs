//! A frontend of a disk or a network interface that means harm. Its guest's kernel has no driver for it, so the device is this
//! program's: it does the handshake over XenStore as it likes, and has the rings.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ennead_xen::{DomId, EventChannels, GrantedRegion, Port, SharedPage as _};
use ennead_xs_wire::{Errno, Request};

use crate::xenbus::XenBus;

pub mod fake;
pub mod vbd;
pub mod vif;

/// For what a backend does at once, in emulation, with others at work.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
/// Where slots begin.
const SLOTS: usize = 64;
/// Bytes of a ring's header in which our backends keep notes: number, count, content.
const RECORD: usize = 20;

/// The device.
#[derive(Debug)]
pub struct Frontend {
    bus: XenBus,
    directory: String,
    backend: String,
    /// Whose the backend is.
    pub peer: DomId,
    random: u32,
}

impl Frontend {
    /// The guest's first device of a kind.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(kind: &str) -> anyhow::Result<Self> {
        let mut bus = XenBus::open()?;
        let all = format!("device/{kind}");
        let names = bus.ask(&Request::Directory { path: all.as_bytes() })?.context("no such device")?;
        let name = names.split(|byte| *byte == 0).next().unwrap_or_default();
        let directory = format!("{all}/{}", std::str::from_utf8(name)?);
        let mut node = |key: &str| -> anyhow::Result<String> {
            let path = format!("{directory}/{key}");
            let value = bus.ask(&Request::Read { path: path.as_bytes() })?;
            Ok(String::from_utf8(value.with_context(|| format!("Cannot read {path}"))?)?)
        };
        let (backend, peer) = (node("backend")?, DomId(node("backend-id")?.parse()?));
        Ok(Self { bus, directory, backend, peer, random: 0x2545_f491 })
    }

    /// Writes a node of its own.
    ///
    /// # Errors
    /// When XenStore refuses it.
    pub fn write(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let path = format!("{}/{key}", self.directory);
        let written = self.bus.ask(&Request::Write { path: path.as_bytes(), value })?;
        written.map(drop).with_context(|| format!("Cannot write {path}"))
    }

    /// A node of the backend's; empty if it is not there.
    ///
    /// # Errors
    /// When XenStore refuses it.
    pub fn backends(&mut self, key: &str) -> anyhow::Result<String> {
        let path = format!("{}/{key}", self.backend);
        match self.bus.ask(&Request::Read { path: path.as_bytes() })? {
            Ok(value) => Ok(String::from_utf8_lossy(&value).into_owned()),
            Err(Errno::Enoent) => Ok(String::new()),
            Err(errno) => bail!("Cannot read {path}: {errno}"),
        }
    }

    /// Waits until the backend's state is one of these.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn wait(&mut self, states: &[&str]) -> anyhow::Result<String> {
        self.wait_for(states, PATIENCE)
    }

    fn wait_for(&mut self, states: &[&str], patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let state = self.backends("state")?;
            if states.contains(&state.as_str()) {
                return Ok(state);
            }
            ensure!(Instant::now() < deadline, "the backend's state is {state}, not one of {states:?}");
            std::thread::sleep(GLANCE);
        }
    }

    /// Ends what was and begins anew: the backend says again what it offers. What other cases have left is gone.
    ///
    /// # Errors
    /// When the backend does not follow.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        for key in ["protocol", "ring-page-order", "multi-queue-num-queues", "feature-persistent"] {
            let path = format!("{}/{key}", self.directory);
            let _not_there = self.bus.ask(&Request::Rm { path: path.as_bytes() })?;
        }
        // After states in any order the backend may still be about to write one that follows from an earlier one.
        for patience in [GLANCE * 200, PATIENCE] {
            self.write("state", b"6")?;
            self.wait(&["6"])?;
            self.write("state", b"1")?;
            if self.wait_for(&["2"], patience).is_ok() {
                return Ok(());
            }
        }
        bail!("the backend does not begin anew")
    }

    /// Says where its rings are; gives the backend's state then: 4, or 6 if it refuses.
    ///
    /// # Errors
    /// When the backend does not answer.
    pub fn connect(&mut self, nodes: &[(&str, Vec<u8>)]) -> anyhow::Result<String> {
        for (key, value) in nodes {
            self.write(key, value)?;
        }
        self.write("state", b"3")?;
        let state = self.wait(&["4", "6"])?;
        if state == "4" {
            self.write("state", b"4")?;
        }
        Ok(state)
    }

    /// States in any order, as fast as they can be written.
    ///
    /// # Errors
    /// When XenStore refuses one.
    pub fn flap(&mut self, times: u32) -> anyhow::Result<()> {
        const VALUES: [&[u8]; 10] =
            [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"", b"4294967295 \xff\x00 not a state"];
        for _ in 0..times {
            let value = VALUES.get(self.random() as usize % VALUES.len()).copied().unwrap_or_default();
            self.write("state", value)?;
        }
        Ok(())
    }

    /// Xorshift.
    pub fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}

/// A ring of one page, and its event channel.
#[derive(Debug)]
pub struct Ring {
    page: GrantedRegion,
    slot: usize,
    slots: u32,
    events: EventChannels,
    port: Port,
    produced: u32,
}

impl Ring {
    /// A ring for this peer, with slots of so many bytes.
    ///
    /// # Errors
    /// Xen's or Linux's.
    pub fn new(peer: DomId, slot: usize) -> anyhow::Result<Self> {
        let page = GrantedRegion::new(peer, 1)?;
        page.store(REQ_EVENT, 1);
        page.store(RSP_EVENT, 1);
        let events = EventChannels::open()?;
        let port = events.bind_unbound(peer)?;
        let slots = u32::try_from((page.size() - SLOTS) / slot)?;
        Ok(Self { page, slot, slots: 1 << slots.ilog2(), events, port, produced: 0 })
    }

    /// Its page, as a node's value.
    #[must_use]
    pub fn reference(&self) -> Vec<u8> {
        self.page.grefs().first().map(ToString::to_string).unwrap_or_default().into_bytes()
    }

    /// Its port, as a node's value.
    #[must_use]
    pub fn channel(&self) -> Vec<u8> {
        self.port.0.to_string().into_bytes()
    }

    /// Slots that it has.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Where a slot is.
    fn at(&self, index: u32) -> usize {
        SLOTS + (index % self.slots) as usize * self.slot
    }

    /// Puts a request into the next slot.
    pub fn put(&mut self, request: &[u8]) {
        self.page.write(self.at(self.produced), request);
        self.produced = self.produced.wrapping_add(1);
    }

    /// Shows what was put.
    ///
    /// # Errors
    /// Linux's.
    pub fn push(&self) -> anyhow::Result<()> {
        self.claim(self.produced)
    }

    /// Says that it has put so many.
    ///
    /// # Errors
    /// Linux's.
    pub fn claim(&self, produced: u32) -> anyhow::Result<()> {
        self.page.store(REQ_PROD, produced);
        self.notify()
    }

    /// An event.
    ///
    /// # Errors
    /// Linux's.
    pub fn notify(&self) -> anyhow::Result<()> {
        Ok(self.events.notify(self.port)?)
    }

    /// Puts one request and waits for its answer: the bytes of its slot.
    ///
    /// # Errors
    /// When none comes.
    pub fn ask(&mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        let index = self.produced;
        self.put(request);
        self.push()?;
        let deadline = Instant::now() + PATIENCE;
        while self.page.load(RSP_PROD) != self.produced {
            ensure!(Instant::now() < deadline, "no answer");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut answer = vec![0; self.slot];
        self.page.read(self.at(index), &mut answer);
        Ok(answer)
    }

    /// Forges what our backends note in the header.
    pub fn forge(&self, number: u32, count: u32) {
        self.page.store(RECORD, number);
        self.page.store(RECORD + 4, count);
        self.page.write(RECORD + 8, &[0xa5; SLOTS - RECORD - 8]);
    }

    /// Nonsense all over the page, and events; `random` gives words.
    ///
    /// # Errors
    /// Linux's.
    pub fn scribble(&self, words: u32, mut random: impl FnMut() -> u32) -> anyhow::Result<()> {
        for n in 0..words {
            let place = (random() as usize % self.page.size()) & !3;
            self.page.store(if n % 8 == 0 { RECORD } else { place }, random());
            // Indices that can be, too, or no request is looked at.
            self.page.store(REQ_PROD, self.page.load(RSP_PROD).wrapping_add(random() % (self.slots + 1)));
            self.notify()?;
        }
        Ok(())
    }
}

/// What is to become of a case.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// It is refused before it is served, and the reason has this in it.
    Refused(&'static str),
    /// It was served, and is disconnected with a reason that has this in it.
    Broken(&'static str),
    /// It is served on.
    Served,
}

/// Tells how a case ended: `case NAME held REASON` or `case NAME FAILED WHY`.
///
/// # Errors
/// When the device cannot be had any more.
pub fn judge(
    frontend: &mut Frontend,
    name: &str,
    fate: Fate,
    done: anyhow::Result<String>,
) -> anyhow::Result<bool> {
    let outcome = done.and_then(|state| {
        let (state, word) = match fate {
            Fate::Served => {
                ensure!(state == "4", "the backend's state is {state}");
                let now = frontend.backends("state")?;
                ensure!(now == "4", "the backend's state became {now}");
                return Ok("is served on".to_owned());
            }
            Fate::Refused(word) => (state, word),
            Fate::Broken(word) => {
                ensure!(state == "4", "it was not served: {}", frontend.backends("error")?);
                (frontend.wait(&["5", "6"])?, word)
            }
        };
        let error = frontend.backends("error")?;
        ensure!(matches!(state.as_str(), "5" | "6"), "the backend's state is {state}");
        ensure!(error.contains(word), "the reason is {error:?}, not {word:?}");
        Ok(error)
    });
    match &outcome {
        Ok(reason) => println!("case {name} held {reason}"),
        Err(error) => println!("case {name} FAILED {error:#}"),
    }
    Ok(outcome.is_ok())
}
