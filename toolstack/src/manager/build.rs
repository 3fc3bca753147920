//! Building a guest: kernel and ramdisk to Builder, its tree to XenStore, its console, and off it goes.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ennead_api::{ApiError, ErrorKind};
use ennead_channel::Text;
use ennead_channel::guests::{NewGuest, Part};
use ennead_guest::Kind;
use ennead_runtime::boot::DeviceKind;
use ennead_xen::DomainKind;
use tracing::warn;

use super::{Manager, count, millis, now};
use crate::builder::{Error, WINDOW};
use crate::desired::{Phase, Record};
use crate::devices::{Device, devices};
use crate::kernel::Kernel;
use crate::problem::{self, Problem};
use crate::tree;

/// How long the backends may take to see a guest's disks (libxl waits as long): they may be restarting. And how often to look.
const BACKEND_PATIENCE: Duration = Duration::from_secs(10);
const BACKEND_INTERVAL: Duration = Duration::from_millis(20);
/// `XenbusStateInitWait` (`xenbus.h`): a backend waits for its frontend.
const INIT_WAIT: &[u8] = b"2";

/// A guest's files.
struct Files {
    kernel: Rc<Vec<u8>>,
    ramdisk: Option<Rc<Vec<u8>>>,
}

impl Manager {
    /// Builds the domain of a guest that is known and has none; gives its domid. Its lock is the caller's.
    pub(super) async fn build(&self, name: &str, paused: bool) -> Result<u16, Problem> {
        let built = self.build_one(name, paused).await;
        count(if built.is_ok() { &self.counters.builds } else { &self.counters.failed_builds });
        built
    }

    async fn build_one(&self, name: &str, paused: bool) -> Result<u16, Problem> {
        let _turn = self.building.lock().await;
        let guest = self.guest(name).ok_or_else(|| problem::no_such_guest(name))?;
        let (record, console) = (guest.record, guest.console);
        let files = self.files(&record)?;
        let kernel = self.kernel(&record, &files.kernel)?;
        let new = new_guest(&record, &kernel, files.ramdisk.as_ref().map_or(0, |ramdisk| ramdisk.len()))?;
        let domid = match self.peers.builder.create(random_key()?, &new).await {
            Ok(domid) => domid,
            Err(e) => {
                if e.refusal().is_none() {
                    // It may have begun all the same: this ends it.
                    let _ = self.peers.builder.hello().await;
                }
                return Err(problem::of_builder(&e));
            }
        };
        match self.fill(domid, &record, console, &kernel, &files, paused).await {
            Ok(()) => Ok(domid),
            Err(e) => {
                self.take_down(name, domid, &record.uuid, console).await;
                Err(e)
            }
        }
    }

    /// Makes a guest of the domain that Builder has begun.
    async fn fill(
        &self,
        domid: u16,
        record: &Record,
        console: u32,
        kernel: &Kernel,
        files: &Files,
        paused: bool,
    ) -> Result<(), Problem> {
        let of_builder = |e: Error| problem::of_builder(&e);
        let builder = &self.peers.builder;
        let mut parts = kernel.parts(&files.kernel, WINDOW).map_err(|e| problem::of_kernel(&e))?;
        while let Some((part, bytes)) = parts.next_part().map_err(|e| problem::of_kernel(&e))? {
            let loaded = builder.load(domid, part, bytes);
            // What comes next is unpacked while Builder copies this; first it must hear of it.
            let ahead = async {
                tokio::task::yield_now().await;
                parts.unpack_ahead()
            };
            let (loaded, ahead) = tokio::join!(loaded, ahead);
            loaded.map_err(of_builder)?;
            ahead.map_err(|e| problem::of_kernel(&e))?;
        }
        drop(parts);
        let ramdisk = files.ramdisk.as_ref().map(|ramdisk| ramdisk.as_slice()).unwrap_or_default();
        for (bytes, offset) in ramdisk.chunks(WINDOW).zip((0_u64..).step_by(WINDOW)) {
            builder.load(domid, Part::Ramdisk { offset }, bytes).await.map_err(of_builder)?;
        }
        let (console_port, store_port) = builder.finish(domid).await.map_err(of_builder)?;
        let (toolstack, uuid, config) = (self.domid, record.uuid.as_str(), &record.config);
        let started = now();
        let devices = devices(config, uuid, toolstack, &self.peers.backends)?;
        let roots = tree::roots(toolstack, domid, uuid, &devices);
        let devices = devices.as_slice();
        let guest =
            tree::Guest { domid, toolstack, config, uuid, console_port, store_port, started, devices };
        let nodes = tree::nodes(&guest);
        let of_xenstore = |e| problem::of_xenstore(&e);
        // A successor finds under which domid they are.
        self.enter(&config.name, record.phase.of(domid)).await.map_err(of_xenstore)?;
        self.peers.store.plant(roots, nodes).await.map_err(of_xenstore)?;
        let opened = self.peers.console.open(console, domid, console_port).await;
        opened.map_err(|e| problem::of_console(&e))?;
        if record.kernel.is_none() {
            self.await_disks(domid, devices).await?;
        }
        let phase = Phase::Live { domid, console_port, started_ms: millis(started) };
        self.enter(&config.name, phase).await.map_err(of_xenstore)?;
        if !paused {
            builder.unpause(domid).await.map_err(of_builder)?;
        }
        Ok(())
    }

    /// Waits until the backends have seen a guest's disks: its boot loader, unlike Linux, looks for each only once.
    async fn await_disks(&self, domid: u16, devices: &[Device]) -> Result<(), Problem> {
        let deadline = Instant::now() + BACKEND_PATIENCE;
        for disk in devices.iter().filter(|device| device.kind == DeviceKind::Vbd) {
            let path = format!("{}/state", disk.backend_path(domid));
            loop {
                let state = self.peers.store.value(path.clone()).await;
                if state.map_err(|e| problem::of_xenstore(&e))?.is_some_and(|state| state == INIT_WAIT) {
                    break;
                }
                if Instant::now() >= deadline {
                    let message =
                        format!("The VM that serves the guest's disk {} does not answer", disk.handle);
                    let help = "look whether it has the volume, and what it says of it in the host's log";
                    return Err(ApiError::new(ErrorKind::Failed, message).help(help));
                }
                tokio::time::sleep(BACKEND_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Ends a domain and removes what there is of it but its record. Gives whether the domain has ended.
    pub(super) async fn take_down(&self, name: &str, domid: u16, uuid: &str, console: u32) -> bool {
        let ended = self.end(name, domid, console).await;
        self.fell(name, self.roots(name, domid, uuid)).await;
        ended
    }

    /// Ends a domain. Gives whether it has ended.
    pub(super) async fn end(&self, name: &str, domid: u16, console: u32) -> bool {
        // First what is mapped of it: else its domid would stay taken.
        if let Err(e) = self.peers.console.close(console).await {
            warn!(guest = name, domid, cause = %e, "console-not-closed");
        }
        match self.peers.builder.destroy(domid).await {
            Ok(()) => true,
            Err(e) if e.refusal() == Some(ennead_channel::guests::Refusal::Unknown) => true,
            Err(e) => {
                warn!(guest = name, domid, cause = %e, "not-ended");
                false
            }
        }
    }

    /// Removes what there is of a guest in XenStore but its record.
    pub(super) async fn fell(&self, name: &str, roots: Vec<String>) {
        if let Err(e) = self.peers.store.fell(roots).await {
            warn!(guest = name, cause = %e, "tree-left");
        }
    }

    /// All of a guest's directories in XenStore.
    pub(super) fn roots(&self, name: &str, domid: u16, uuid: &str) -> Vec<String> {
        let devices = self
            .guest(name)
            .map(|guest| devices(&guest.record.config, uuid, self.domid, &self.peers.backends));
        let devices = devices.and_then(Result::ok).unwrap_or_default();
        tree::roots(self.domid, domid, uuid, &devices)
    }

    fn files(&self, record: &Record) -> Result<Files, Problem> {
        let mut images = self.images.borrow_mut();
        let kernel = match record.kernel {
            Some(id) => images.get(id),
            None => Some(images.loader(record.config.kind).ok_or_else(problem::no_loader)?),
        };
        let ramdisk = record.ramdisk.map(|id| images.get(id));
        drop(images);
        match (kernel, ramdisk) {
            (Some(kernel), None) => Ok(Files { kernel, ramdisk: None }),
            (Some(kernel), Some(Some(ramdisk))) => Ok(Files { kernel, ramdisk: Some(ramdisk) }),
            _ => Err(problem::images_missing(self.missing(record))),
        }
    }

    /// What a guest's kernel asks for. To find that out, most of a packed one is unpacked; so it is done once.
    fn kernel(&self, record: &Record, file: &[u8]) -> Result<Rc<Kernel>, Problem> {
        let kind = match record.config.kind {
            Kind::Pv => DomainKind::Pv,
            Kind::Pvh => DomainKind::Pvh,
        };
        let analyse = || Kernel::analyse(file, kind).map(Rc::new).map_err(|e| problem::of_kernel(&e));
        let Some(id) = record.kernel else { return analyse() };
        if let Some(kernel) = self.images.borrow().analysed(id, kind) {
            return Ok(kernel);
        }
        let kernel = analyse()?;
        self.images.borrow_mut().set_analysed(id, kind, Rc::clone(&kernel));
        Ok(kernel)
    }
}

fn new_guest(record: &Record, kernel: &Kernel, ramdisk: usize) -> Result<NewGuest, Problem> {
    let config = &record.config;
    let unfit = |what: &str| {
        ApiError::new(ErrorKind::Invalid, format!("The guest's {what} cannot be sent to Builder"))
    };
    Ok(NewGuest {
        name: config.name.parse().map_err(|_| unfit("name"))?,
        memory_mib: config.memory_mib,
        vcpus: config.max_vcpus,
        kernel: kernel.plan.clone(),
        ramdisk_bytes: u64::try_from(ramdisk).map_err(|_| unfit("ramdisk"))?,
        cmdline: config.cmdline.parse::<Text<_>>().map_err(|_| unfit("command line"))?,
    })
}

/// New for each domain.
pub(super) fn random_key() -> Result<u64, Problem> {
    let mut key = [0; 8];
    // The kernel gives so few bytes all at once, or none. (Crates for this look for /dev/urandom, which is not here.)
    match rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => Ok(u64::from_ne_bytes(key)),
        Ok(_) => Err(ApiError::new(ErrorKind::Failed, "There are no random numbers")),
        Err(e) => Err(ApiError::new(ErrorKind::Failed, format!("There are no random numbers: {e}"))),
    }
}

/// A random UUID (RFC 9562, version 4), as it is written.
pub(super) fn random_uuid() -> Result<String, Problem> {
    let bits = (u128::from(random_key()?) << 64) | u128::from(random_key()?);
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    let parts = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)];
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_are_random_and_say_so() {
        let [a, b] = [(); 2].map(|()| super::random_uuid().unwrap());
        assert_ne!(a, b);
        for uuid in [a, b] {
            assert!(ennead_guest::is_uuid(&uuid), "{uuid}");
            assert_eq!(&uuid[14..15], "4");
            assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        }
    }
}
