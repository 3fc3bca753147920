//! A vif that is served: for each of its queues a thread with a queue of the tap, two rings and event channels of its own.
//!
//! A queue takes 0.6 MiB of memory for packets under way, and at most 1 MiB more that neighbours' packets have filled once. What
//! waits in the tap is the kernel's.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ennead_backend::budget::{Budget, Share};
use ennead_backend::device::{Backend, Device, Failure, Nodes, Reporter};
use ennead_backend::memory::Granted;
use ennead_os::{Interfaces, Offload, TapDevice};
use ennead_xen::{EventChannels, MappedRegion, Port};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};

use crate::config::{self, Frontend, MAX_QUEUES, Rings};
use crate::delivery::Delivery;
use crate::inbox::{Deputy, Inbox};
use crate::neighbours::{Member, Neighbours};
use crate::queue::{Pass, Queue, Rules};
use crate::rate::Credit;
use crate::rx::Error;
use crate::tx::Counts;
use crate::vlan::Vlan;

/// So many events in a row without anything to do are as many as an honest frontend may send.
const VAIN: u32 = 16;
/// How long a frontend that sends more is not heard.
const DEAF: Duration = Duration::from_millis(1);

/// Bytes that a queue takes at most, with its thread, and what Linux and Xen need for it.
pub const MEMORY: usize = 7 << 18;
/// While there is memory for so many queues a frontend is offered more than one.
const PLENTY: usize = 2 * MAX_QUEUES as usize;

/// Packets that wait in a tap at most, in all of its queues: Linux's number for one.
const WAITING: usize = 500;

type VifQueue = Queue<MappedRegion, Granted, TapDevice>;

/// The vifs, for `ennead_backend`.
#[derive(Debug)]
pub struct Vifs {
    interfaces: Interfaces,
    budget: Budget,
    neighbours: Neighbours,
}

impl Vifs {
    /// None yet; so many queues at most.
    #[must_use]
    pub fn new(interfaces: Interfaces, budget: Budget) -> Self {
        Self { interfaces, budget, neighbours: Neighbours::default() }
    }
}

/// As xl names it.
fn name(Device { domid, handle }: Device) -> String {
    format!("vif{}.{handle}", domid.0)
}

/// The queues of a tap of that name, which is a port of the vif's bridge.
pub(crate) fn port(
    interfaces: &Interfaces,
    name: &str,
    vif: &config::Vif,
    offloads: Offload,
    queues: usize,
) -> io::Result<Vec<TapDevice>> {
    let taps = TapDevice::create_queues(name, queues)?;
    taps.iter().try_for_each(|tap| tap.set_offload(offloads))?;
    if queues > 1 {
        std::fs::write(format!("/sys/class/net/{name}/tx_queue_len"), (WAITING / queues).to_string())?;
    }
    interfaces.create_bridge(&vif.bridge)?;
    interfaces.up(&vif.bridge)?;
    interfaces.attach(&vif.bridge, name)?;
    if vif.isolated {
        // Before it is up: no packet passes before.
        std::fs::write(format!("/sys/class/net/{name}/brport/isolated"), "1")?;
    }
    interfaces.up(name)?;
    Ok(taps)
}

impl Backend for Vifs {
    const KIND: &'static str = "vif";
    type Served = Vif;

    fn offer(&mut self, _: Device, own: &mut dyn Nodes) -> Result<Vec<(String, String)>, Failure> {
        config::Vif::read(own)?;
        Ok(config::offer(if self.budget.left() >= PLENTY { MAX_QUEUES } else { 1 }))
    }

    fn serve(
        &mut self,
        device: Device,
        own: &mut dyn Nodes,
        frontend: &mut dyn Nodes,
        reporter: Reporter,
    ) -> Result<(Vif, Vec<(String, String)>), Failure> {
        let vif = config::Vif::read(own)?;
        let frontend = Frontend::read(frontend)?;
        let share = self.budget.take(frontend.queues.len()).map_err(Failure::NotYet)?;
        let rate = vif.rate.map(|rate| Credit::new(rate, Instant::now()));
        let rules = |queue| Rules {
            filter: vif.filter.clone(),
            vlan: vif.vlan,
            rate: rate.clone(),
            chains: frontend.chains,
            offloads: frontend.offloads,
            way: self.neighbours.way(&vif, queue),
        };
        let map = |gref| MappedRegion::map(device.domid, &[gref]).map_err(Failure::refused);
        let mut parts = Vec::new();
        for rings in &frontend.queues {
            let (tx, rx) = (map(rings.tx_ring)?, map(rings.rx_ring)?);
            let open = || Granted::open(device.domid).map_err(|e| Failure::NotYet(e.to_string()));
            parts.push(((tx, rx), (open()?, open()?), Bells::bind(device, rings)?));
        }
        let taps = port(&self.interfaces, &name(device), &vif, frontend.offloads, parts.len());
        let taps = taps.map_err(|e| Failure::NotYet(format!("no port of bridge {}: {e}", vif.bridge)))?;
        let (mut queues, mut inboxes) = (Vec::new(), Vec::new());
        for (n, ((rings, memory, bells), tap)) in parts.into_iter().zip(taps).enumerate() {
            let inbox = Arc::new(Inbox::new().map_err(|e| Failure::NotYet(e.to_string()))?);
            inboxes.push(Arc::clone(&inbox));
            let queue = Queue::attach(rings, memory, tap, inbox, rules(n)).map_err(|e| match e {
                Error::Broken(_) => Failure::refused(e),
                Error::Tap(_) | Error::Memory(_) => Failure::NotYet(e.to_string()),
            })?;
            queues.push((queue, bells));
        }
        let count = queues.len();
        let member = self.neighbours.join(&vif, &frontend, &inboxes);
        let served = Vif::start(queues, inboxes, (member, share), &reporter);
        let served = served.map_err(|e| Failure::NotYet(e.to_string()))?;
        let (domid, handle, mac, vlan) = (device.domid.0, device.handle, vif.mac, vif.vlan.map(Vlan::id));
        info!(domid, handle, %mac, bridge = vif.bridge, vlan, isolated = vif.isolated, queues = count, "vif");
        Ok((served, Vec::new()))
    }
}

/// The event channels of a queue.
#[derive(Debug)]
struct Bells {
    events: EventChannels,
    tx: Port,
    rx: Port,
}

impl Bells {
    fn bind(device: Device, rings: &Rings) -> Result<Self, Failure> {
        let events = EventChannels::open().map_err(|e| Failure::NotYet(e.to_string()))?;
        let bind = |port| events.bind_interdomain(device.domid, port).map_err(Failure::refused);
        let tx = bind(rings.tx_port)?;
        let rx = if rings.rx_port == rings.tx_port { tx } else { bind(rings.rx_port)? };
        events.restrict(device.domid).map_err(Failure::refused)?;
        Ok(Self { events, tx, rx })
    }

    fn notify(&self, tx: bool, rx: bool) -> ennead_xen::Result<()> {
        if tx {
            self.events.notify(self.tx)?;
        }
        if rx && !(tx && self.rx == self.tx) {
            self.events.notify(self.rx)?;
        }
        Ok(())
    }
}

/// Delivers to a guest what its neighbours leave while the queue's thread sleeps.
#[derive(Debug)]
struct ToGuest {
    delivery: Arc<Delivery<MappedRegion, Granted>>,
    inbox: Arc<Inbox>,
    bells: Arc<Bells>,
}

impl Deputy for ToGuest {
    fn deliver(&self) -> bool {
        let Some((round, rests)) = self.delivery.round_for() else { return false };
        self.bells.notify(false, round.notify).is_ok() && rests && self.inbox.may_sleep()
    }
}

impl ToGuest {
    /// Ends it when no neighbour is at it any more, which is at once: the ring is closed.
    fn retire(self: Arc<Self>) {
        let mut left = Arc::try_unwrap(self);
        while let Err(busy) = left {
            std::thread::yield_now();
            left = Arc::try_unwrap(busy);
        }
    }
}

/// What a vif's threads share.
#[derive(Debug)]
struct Stop {
    /// They are to end.
    asked: AtomicBool,
    /// That the guest sends what it may not has been said.
    told: AtomicBool,
}

/// A vif that is served until this is dropped.
#[derive(Debug)]
pub struct Vif {
    device: Device,
    /// As long as neighbours are to find it.
    member: Option<Member>,
    stop: Arc<Stop>,
    /// Of its threads, for their bells.
    inboxes: Vec<Arc<Inbox>>,
    threads: Vec<JoinHandle<(Counts, Counts)>>,
    _share: Share,
}

impl Vif {
    fn start(
        queues: Vec<(VifQueue, Bells)>,
        inboxes: Vec<Arc<Inbox>>,
        (member, share): (Member, Share),
        reporter: &Reporter,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), told: AtomicBool::new(false) });
        let device = reporter.device();
        // If a thread cannot be started, those before it end with this.
        let (member, threads) = (Some(member), Vec::new());
        let mut vif = Self { device, member, stop, inboxes, threads, _share: share };
        for ((queue, bells), inbox) in queues.into_iter().zip(vif.inboxes.clone()) {
            let (stop, reporter) = (Arc::clone(&vif.stop), reporter.clone());
            let (delivery, bells) = (Arc::clone(queue.delivery()), Arc::new(bells));
            let deputy = Arc::new(ToGuest { delivery, inbox: Arc::clone(&inbox), bells: Arc::clone(&bells) });
            let known: Arc<dyn Deputy> = Arc::<ToGuest>::clone(&deputy);
            inbox.appoint(Arc::downgrade(&known));
            drop(known);
            let mut worker = Worker { queue, bells, stop, vain: 0, muted: Vec::new(), deaf: None };
            vif.threads.push(std::thread::Builder::new().name(name(device)).spawn(move || {
                let ended = worker.run(device);
                let counts = worker.queue.counts();
                // All of this queue's is let go before anybody hears of it; the driver waits for the others.
                worker.queue.delivery().close();
                deputy.retire();
                drop(worker);
                if let Err(why) = ended {
                    reporter.broken(why);
                }
                counts
            })?);
        }
        Ok(vif)
    }
}

impl Drop for Vif {
    fn drop(&mut self) {
        self.member = None;
        self.stop.asked.store(true, Ordering::Release);
        self.inboxes.iter().for_each(|inbox| inbox.ring());
        // A panic ends the program.
        let counts = self.threads.drain(..).filter_map(|thread| thread.join().ok());
        let (from, to) = counts.fold(<(Counts, Counts)>::default(), |(a, b), (c, d)| (a + c, b + d));
        let Device { domid, handle } = self.device;
        let (domid, Counts { packets, forbidden, errors, full, .. }) = (domid.0, from);
        info!(
            domid,
            handle,
            sent = packets,
            forbidden,
            errors,
            full,
            received = to.packets,
            lost = to.errors,
            "vif-ended"
        );
    }
}

/// Why a thread ends by itself.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Queue(#[from] Error),
    #[error("{0}")]
    Events(#[from] ennead_xen::Error),
    #[error("{0}")]
    Wait(#[from] io::Error),
}

struct Worker {
    queue: VifQueue,
    bells: Arc<Bells>,
    stop: Arc<Stop>,
    /// Events in a row that brought nothing.
    vain: u32,
    /// Ports that have fired and cannot again yet.
    muted: Vec<Port>,
    /// Until when they stay so.
    deaf: Option<Instant>,
}

impl Worker {
    fn run(&mut self, Device { domid, handle }: Device) -> Result<(), Ended> {
        // After a predecessor's death the frontend may be waiting for what was published long ago.
        self.bells.notify(true, true)?;
        while !self.stop.asked.load(Ordering::Acquire) {
            let pass = self.queue.pass(Instant::now)?;
            self.bells.notify(pass.tx.notify, pass.rx.notify)?;
            self.listen(&pass)?;
            // Once: the guest decides how often it happens.
            if let Some(why) = self.queue.forbidden()
                && !self.stop.told.swap(true, Ordering::Relaxed)
            {
                warn!(domid = domid.0, handle, ?why, "vif-forbidden");
            }
            if !pass.more() {
                self.wait(&pass)?;
            }
        }
        Ok(())
    }

    /// Lets ports fire again, unless they fire for nothing all the time.
    fn listen(&mut self, pass: &Pass) -> Result<(), Ended> {
        if self.muted.is_empty() {
            return Ok(());
        }
        self.vain = if pass.busy() { 0 } else { self.vain.saturating_add(1) };
        if self.vain < VAIN || self.deaf.is_some_and(|until| until <= Instant::now()) {
            self.deaf = None;
            self.muted.drain(..).try_for_each(|port| self.bells.events.unmask(port))?;
        } else if self.deaf.is_none() {
            self.deaf = Instant::now().checked_add(DEAF);
        }
        Ok(())
    }

    /// Waits for the guest, the bridge, a neighbour, the end of a pause, or being asked to end.
    fn wait(&mut self, pass: &Pass) -> Result<(), Ended> {
        if pass.wants_packets && !self.queue.inbox().may_sleep() {
            return Ok(());
        }
        let until = self.deaf.into_iter().chain(pass.tx.until).min();
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut files = [
            PollFd::new(&self.bells.events, PollFlags::IN),
            PollFd::new(self.queue.inbox(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.queue.tap().as_fd(), PollFlags::IN),
        ];
        let asked = files.len() - usize::from(!pass.wants_packets);
        match poll(files.get_mut(..asked).unwrap_or_default(), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        // Each question that need not be asked is a system call less.
        let mut ready = files.iter().map(|file| !file.revents().is_empty());
        let [rang, called, packets] = [(); 3].map(|()| ready.next() == Some(true));
        if called {
            // Before `asked` and the inbox are looked at.
            self.queue.inbox().hush();
        }
        if pass.wants_packets && !packets {
            self.queue.no_packets_yet();
        }
        if !rang {
            return Ok(());
        }
        let mut ports = [Port(0); 2];
        let count = self.bells.events.wait_many_but(&mut ports, Some(Duration::ZERO), |_| true)?;
        self.muted.extend(ports.iter().take(count));
        Ok(())
    }
}
