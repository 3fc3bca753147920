//! A vif that is served: each of its queues has a queue of the tap, two rings and event channels of its own.
//!
//! A queue takes 0.6 MiB of memory for packets under way, and at most 1 MiB more that neighbours' packets have filled once. What
//! waits in the tap is the kernel's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ennead_backend::budget::{Budget, Share};
use ennead_backend::device::{Backend, Device, Failure, Nodes, Reporter};
use ennead_backend::memory::Granted;
use ennead_os::{Interfaces, Offload, TapDevice};
use ennead_xen::{EventChannels, MappedRegion, Port};
use tracing::info;

use crate::Few;
use crate::config::{self, Frontend, MAX_QUEUES, Rings};
use crate::inbox::Inbox;
use crate::neighbours::{Member, Neighbours};
use crate::queue::{Queue, Rules};
use crate::rate::Credit;
use crate::rx::Error;
use crate::tx::Counts;
use crate::vlan::Vlan;
use crate::worker::{Events, Line, Worker};

/// Bytes that a queue takes at most, with what Linux and Xen need for it.
pub const MEMORY: usize = 7 << 18;
/// While there is memory for so many queues a frontend is offered more than one.
const PLENTY: usize = 2 * MAX_QUEUES as usize;

/// Packets that wait in a tap at most, in all of its queues: Linux's number for one.
const WAITING: usize = 500;

type Queues = Worker<Line<MappedRegion, Granted, TapDevice, Bells>>;

/// The vifs, for `ennead_backend`.
#[derive(Debug)]
pub struct Vifs {
    interfaces: Interfaces,
    budget: Budget,
    neighbours: Neighbours,
    workers: Vec<Queues>,
}

impl Vifs {
    /// None yet; so many queues at most.
    ///
    /// # Errors
    /// There are no threads.
    pub fn new(interfaces: Interfaces, budget: Budget) -> io::Result<Self> {
        let processors = std::thread::available_parallelism()?.get();
        let workers = (0..processors).map(|_| Queues::start()).collect::<io::Result<_>>()?;
        Ok(Self { interfaces, budget, neighbours: Neighbours::default(), workers })
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
            let memory = Granted::open(device.domid).map_err(|e| Failure::NotYet(e.to_string()))?;
            parts.push(((tx, rx), memory, Bells::bind(device, rings)?));
        }
        let taps = port(&self.interfaces, &name(device), &vif, frontend.offloads, parts.len());
        let taps = taps.map_err(|e| Failure::NotYet(format!("no port of bridge {}: {e}", vif.bridge)))?;
        let first = usize::from(device.domid.0) % self.workers.len().max(1);
        let workers = self.workers.iter().cycle().skip(first).take(parts.len().min(self.workers.len()));
        let workers: Vec<Queues> = workers.cloned().collect();
        let (mut lines, mut inboxes) = (Vec::new(), Vec::new());
        let told = Arc::default();
        for (n, (((rings, memory, bells), tap), worker)) in
            parts.into_iter().zip(taps).zip(workers.iter().cycle()).enumerate()
        {
            let inbox = Inbox::new(Arc::clone(worker.bell())).map_err(|e| Failure::NotYet(e.to_string()))?;
            let inbox = Arc::new(inbox);
            inboxes.push(Arc::clone(&inbox));
            let queue = Queue::attach(rings, memory, tap, inbox, rules(n)).map_err(|e| match e {
                Error::Broken(_) => Failure::refused(e),
                Error::Tap(_) | Error::Memory(_) => Failure::NotYet(e.to_string()),
            })?;
            lines.push((worker, Line::new(queue, bells, reporter.clone(), Arc::clone(&told))));
        }
        let count = lines.len();
        let member = self.neighbours.join(&vif, &frontend, &inboxes);
        lines.into_iter().for_each(|(worker, line)| worker.serve(line));
        let served = Vif { device, member: Some(member), workers, _share: share };
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
}

impl Events for Bells {
    fn notify(&self, tx: bool, rx: bool) -> ennead_xen::Result<()> {
        if tx {
            self.events.notify(self.tx)?;
        }
        if rx && !(tx && self.rx == self.tx) {
            self.events.notify(self.rx)?;
        }
        Ok(())
    }

    fn take(&self) -> ennead_xen::Result<Few<Port>> {
        let mut ports = [Port(0); 2];
        let count = self.events.wait_many_but(&mut ports, Some(Duration::ZERO), |_| true)?;
        Ok(ports.into_iter().take(count).collect())
    }

    fn unmask(&self, port: Port) -> ennead_xen::Result<()> {
        self.events.unmask(port)
    }
}

/// Readable when events have come.
impl AsFd for Bells {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// A vif that is served until this is dropped.
#[derive(Debug)]
pub struct Vif {
    device: Device,
    /// As long as neighbours are to find it.
    member: Option<Member>,
    /// They serve its queues.
    workers: Vec<Queues>,
    _share: Share,
}

impl Drop for Vif {
    fn drop(&mut self) {
        self.member = None;
        let counts = self.workers.iter().map(|worker| worker.end(self.device));
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
