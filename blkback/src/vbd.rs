//! Virtual disks in XenStore (the nodes: xen/include/public/io/blkif.h).

use std::sync::{Arc, Weak};

use ennead_backend::budget::{Budget, Share};
use ennead_backend::device::{Backend, Device, Failure, NewNodes, Nodes, Reporter, number, text};
use ennead_volumes::Name;
use ennead_xen::{GrantRef, Port};

use crate::files::Files;
use crate::protocol::{Limits, MAX_SEGMENTS};
use crate::queue::{Abi, Error, Place, Queue};
use crate::volumes::Volume;

/// Rings of up to 16 pages.
const MAX_ORDER: u32 = 4;
/// Most rings of a disk.
const MAX_QUEUES: u32 = 4;

/// `VDISK_*`.
const CDROM: u32 = 1;
const REMOVABLE: u32 = 2;
const READ_ONLY: u32 = 4;

/// All virtual disks.
#[derive(Debug)]
pub struct Vbds {
    volumes: Vec<Volume>,
    files: Option<Files>,
    queues: u32,
    budget: Budget,
    /// Those that are served.
    loans: Vec<Weak<Loan>>,
}

/// Who has a volume.
#[derive(Debug)]
struct Loan {
    device: Device,
    volume: Volume,
    writable: bool,
}

/// A virtual disk that is served.
#[derive(Debug)]
pub struct Vbd {
    // First its rings end, then others may have their memory and the volume.
    queues: Vec<Queue>,
    _share: Share,
    _loan: Arc<Loan>,
}

impl Vbds {
    /// Lends these volumes, and those that are files; a disk has up to one ring for each of `cpus`, as long as there is memory.
    #[must_use]
    pub fn new(volumes: Vec<Volume>, files: Option<Files>, cpus: usize, budget: Budget) -> Self {
        Self {
            volumes,
            files,
            budget,
            queues: u32::try_from(cpus).unwrap_or(MAX_QUEUES).clamp(1, MAX_QUEUES),
            loans: Vec::new(),
        }
    }

    /// Lends a volume: to one who writes, or to any number who only read. Two who mount the same would destroy it.
    fn lend(&mut self, loan: Loan) -> Result<Arc<Loan>, Failure> {
        self.loans.retain(|loan| loan.strong_count() > 0);
        let conflicts =
            |other: &Arc<Loan>| (other.writable || loan.writable) && other.volume.overlaps(&loan.volume);
        if let Some(other) = self.loans.iter().filter_map(Weak::upgrade).find(conflicts) {
            let (name, domid) = (&loan.volume.name, other.device.domid.0);
            return Err(Failure::NotYet(format!("volume {name:?} is in use by domain {domid}")));
        }
        let loan = Arc::new(loan);
        self.loans.push(Arc::downgrade(&loan));
        Ok(loan)
    }

    /// The volume that the toolstack named, and whether it may be written.
    fn volume(&self, device: Device, own: &mut dyn Nodes) -> Result<(Volume, bool), Failure> {
        let name = text(own, "params")?.ok_or_else(|| Failure::refused("params is missing"))?;
        let writable = match text(own, "mode")?.as_deref() {
            Some("r") => false,
            Some("w") => true,
            _ => return Err(Failure::refused("mode is neither r nor w")),
        };
        let volume = match ennead_volumes::of_params(&name) {
            Some((toolstack, file)) => self.file(device, toolstack, &file, own)?,
            None => self.volumes.iter().find(|volume| volume.name == name).cloned(),
        };
        let volume = volume.ok_or_else(|| Failure::NotYet(format!("there is no volume {name:?}")))?;
        if writable && volume.read_only {
            return Err(Failure::Refused(format!("volume {name:?} can only be read")));
        }
        Ok((volume, writable))
    }

    /// The volume of a tenant, if its toolstack has given it to this guest.
    fn file(
        &self,
        device: Device,
        toolstack: u16,
        name: &Name,
        own: &mut dyn Nodes,
    ) -> Result<Option<Volume>, Failure> {
        let lend = ennead_volumes::lend(device.domid.0, device.handle);
        let lent = own.elsewhere(&format!("backend/{}/{toolstack}/{lend}", ennead_volumes::KIND))?;
        if lent.as_deref() != Some(name.as_str().as_bytes()) {
            return Err(Failure::Refused(format!("volume {name:?} is not lent to it", name = name.as_str())));
        }
        let Some(files) = &self.files else { return Ok(None) };
        let found = files.volume(toolstack, name);
        found.map_err(|e| Failure::NotYet(format!("volume {:?}: {e}", name.as_str())))
    }
}

impl Backend for Vbds {
    const KIND: &'static str = "vbd";
    type Served = Vbd;

    fn offer(&mut self, device: Device, own: &mut dyn Nodes) -> Result<NewNodes, Failure> {
        let queues = self.queues;
        let (volume, writable) = self.volume(device, own)?;
        let mut nodes = vec![
            ("feature-flush-cache", "1".to_owned()),
            ("feature-persistent", "1".to_owned()),
            ("feature-max-indirect-segments", MAX_SEGMENTS.to_string()),
            ("max-ring-page-order", MAX_ORDER.to_string()),
            ("multi-queue-max-queues", queues.to_string()),
        ];
        if let Some(granularity) = volume.discard.filter(|_| writable) {
            nodes.extend([
                ("feature-discard", "1".to_owned()),
                ("discard-granularity", granularity.to_string()),
                ("discard-alignment", "0".to_owned()),
                ("discard-secure", "0".to_owned()),
            ]);
        }
        Ok(named(nodes))
    }

    fn serve(
        &mut self,
        device: Device,
        own: &mut dyn Nodes,
        frontend: &mut dyn Nodes,
        reporter: Reporter,
    ) -> Result<(Vbd, NewNodes), Failure> {
        let places = places(frontend, self.queues)?;
        let (volume, writable) = self.volume(device, own)?;
        let loan = self.lend(Loan { device, volume: volume.clone(), writable })?;
        let limits = Limits {
            sectors: volume.sectors,
            block: volume.block,
            writable,
            discard: volume.discard.is_some(),
        };
        let share = self.budget.take(places.len()).map_err(Failure::NotYet)?;
        let medium = volume.open(writable);
        let medium = medium.map_err(|e| Failure::NotYet(format!("volume {:?}: {e}", volume.name)))?;
        let alone = places.len() == 1;
        let start = |place: &Place| Queue::start(place, medium.clone(), limits, alone, reporter.clone());
        let queues = places.iter().map(start).collect::<Result<Vec<_>, Error>>();
        let queues = queues.map_err(Failure::refused)?;
        let is =
            |own: &mut dyn Nodes, key, value| Ok::<_, Failure>(text(own, key)?.as_deref() == Some(value));
        let mut info = if writable { 0 } else { READ_ONLY };
        if is(own, "device-type", "cdrom")? {
            info |= CDROM;
        }
        if is(own, "removable", "1")? {
            info |= REMOVABLE;
        }
        let nodes = named(vec![
            ("sectors", volume.sectors.to_string()),
            ("sector-size", volume.block.to_string()),
            ("physical-sector-size", volume.physical_block.to_string()),
            ("info", info.to_string()),
        ]);
        Ok((Vbd { queues, _share: share, _loan: loan }, nodes))
    }

    fn refresh(&mut self, device: Device, own: &mut dyn Nodes, served: &Vbd) -> Result<NewNodes, Failure> {
        let (volume, _) = self.volume(device, own)?;
        let told = text(own, "sectors")?.and_then(|sectors| sectors.parse::<u64>().ok());
        if told.is_none_or(|told| told >= volume.sectors) {
            return Ok(NewNodes::new());
        }
        for queue in &served.queues {
            queue.grow(volume.sectors);
        }
        Ok(named(vec![("sectors", volume.sectors.to_string())]))
    }
}

fn named(nodes: Vec<(&str, String)>) -> NewNodes {
    nodes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Where the frontend says its rings are.
fn places(frontend: &mut dyn Nodes, max_queues: u32) -> Result<Vec<Place>, Failure> {
    let abi = match text(frontend, "protocol")?.as_deref() {
        None | Some("x86_64-abi") => Abi::X86_64,
        Some("x86_32-abi") => Abi::X86_32,
        Some(other) => {
            return Err(Failure::Refused(format!("protocol {other:?} is neither x86_64-abi nor x86_32-abi")));
        }
    };
    let queues = match number(frontend, "multi-queue-num-queues", max_queues)? {
        Some(0) => return Err(Failure::refused("multi-queue-num-queues is 0")),
        queues => queues.unwrap_or(1),
    };
    let order = number(frontend, "ring-page-order", MAX_ORDER)?;
    let persistent = number(frontend, "feature-persistent", 1)? == Some(1);
    let place = |queue: u32| {
        let prefix = if queues == 1 { String::new() } else { format!("queue-{queue}/") };
        let mut need = |key: String| {
            let number = number(frontend, &key, u32::MAX)?;
            number.ok_or_else(|| Failure::Refused(format!("{key} is missing")))
        };
        // A ring of one page has a name of its own.
        let grefs = match order {
            None | Some(0) => vec![GrantRef(need(format!("{prefix}ring-ref"))?)],
            Some(order) => {
                let pages = 0..1_u32 << order;
                let gref = |page| need(format!("{prefix}ring-ref{page}")).map(GrantRef);
                pages.map(gref).collect::<Result<_, _>>()?
            }
        };
        let port = Port(need(format!("{prefix}event-channel"))?);
        Ok(Place { abi, grefs, port, persistent })
    };
    (0..queues).map(place).collect()
}

/// The names of the volumes that are lent already, as far as XenStore says: a predecessor's.
pub fn lent(store: &mut impl ennead_xs_client::Access) -> Result<Vec<String>, ennead_xs_client::Error> {
    let root = format!("backend/{}", Vbds::KIND);
    let mut names = Vec::new();
    for domid in list(store, &root)? {
        for handle in list(store, &format!("{root}/{domid}"))? {
            let name = store.find(&format!("{root}/{domid}/{handle}/params"))?;
            names.extend(name.and_then(|name| String::from_utf8(name).ok()));
        }
    }
    Ok(names)
}

/// The names in a directory; none if it is not there.
pub(crate) fn list(
    store: &mut impl ennead_xs_client::Access,
    path: &str,
) -> Result<Vec<String>, ennead_xs_client::Error> {
    match store.list(path) {
        Err(e) if e.errno() == Some(ennead_xs_client::Errno::Enoent) => Ok(Vec::new()),
        names => names,
    }
}

#[cfg(test)]
mod tests;
