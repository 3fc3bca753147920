//! Disks that a guest is given while it runs, and that are taken from it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ennead_api::{ApiError, ErrorKind, What};
use ennead_channel::guests::State;
use ennead_guest::{Disk, GuestConfig, vdev_number};
use ennead_runtime::boot::DeviceKind;
use tracing::warn;

use super::{Guest, Manager};
use crate::devices::{Device, devices};
use crate::problem::{self, Problem};
use crate::tree;

/// How long a guest and the VM that serves its disk may take: that may be restarting. How long once there is a reason why not.
/// And how often to look.
const PATIENCE: Duration = Duration::from_secs(10);
const REASON_PATIENCE: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_millis(20);
/// States of xenbus (`enum xenbus_state`, xenbus.h).
const INIT_WAIT: &str = "2";
const CONNECTED: &str = "4";
const CLOSING: &str = "5";
const CLOSED: &str = "6";

impl Manager {
    /// Gives a guest that runs a disk, which it keeps over its reboots.
    ///
    /// # Errors
    /// When it cannot have it, or does not take it: then all is as before.
    pub async fn attach(self: Rc<Self>, name: String, disk: Disk) -> Result<Disk, Problem> {
        let _alone = self.locks.lock(&name).await;
        let (guest, domid) = self.running(&name).await?;
        let number = vdev_number(&disk.vdev);
        if guest.record.config.disks.iter().any(|other| vdev_number(&other.vdev) == number) {
            let message = format!("The guest `{name}` has a disk `{}`", disk.vdev);
            return Err(ApiError::new(ErrorKind::Exists, message).help("give the new one another name"));
        }
        let mut config = guest.record.config.clone();
        config.disks.push(disk.clone());
        config.check().map_err(|e| ApiError::new(ErrorKind::Invalid, e.to_string()))?;
        let device = self.device(&config, &guest, &disk.vdev)?;
        self.can_be_had(&disk, &device).await?;
        // Kept first: at its end all that its configuration has is removed.
        if let Err(e) = self.keep_config(&name, config).await {
            self.change(&name, |known| known.record.config = guest.record.config);
            return Err(e);
        }
        if let Err(e) = self.plug(&name, domid, &disk, &device).await {
            self.unplug(&name, domid, &device, &guest.record.config, &guest.record.uuid).await;
            if let Err(e) = self.keep_config(&name, guest.record.config).await {
                warn!(guest = name, cause = %e, "not-kept");
            }
            return Err(e);
        }
        self.tell(Some(&name), Some(domid), What::DiskAttached { vdev: disk.vdev.clone() });
        Ok(disk)
    }

    /// Takes a disk from a guest that runs, when the guest has let go of it.
    ///
    /// # Errors
    /// When it has no such disk, needs it, or does not let go: then it keeps it.
    pub async fn detach(self: Rc<Self>, name: String, vdev: String) -> Result<(), Problem> {
        let _alone = self.locks.lock(&name).await;
        let (guest, domid) = self.running(&name).await?;
        let number = vdev_number(&vdev);
        let mut config = guest.record.config.clone();
        let at = config.disks.iter().position(|disk| vdev_number(&disk.vdev) == number);
        let at = at.ok_or_else(|| {
            // What is no name does not come into messages.
            let which = if number.is_some() { vdev.as_str() } else { "?" };
            let message = format!("The guest `{name}` has no disk `{which}`");
            ApiError::new(ErrorKind::NoSuchDisk, message)
                .help(format!("`ennead info {name}` shows its disks"))
        })?;
        let device = self.device(&config, &guest, &vdev)?;
        config.disks.remove(at);
        config.check().map_err(|e| ApiError::new(ErrorKind::Invalid, e.to_string()))?;
        self.close(&name, domid, &vdev, &device).await?;
        self.unplug(&name, domid, &device, &config, &guest.record.uuid).await;
        self.tell(Some(&name), Some(domid), What::DiskDetached { vdev });
        self.keep_config(&name, config).await
    }

    /// A guest that runs, and its domid.
    async fn running(&self, name: &str) -> Result<(Guest, u16), Problem> {
        let guest = self.guest(name).ok_or_else(|| problem::no_such_guest(name))?;
        let domain = match guest.record.phase.domid() {
            Some(domid) => self.domain(domid).await?,
            None => None,
        };
        let no = |what: &str, help: String| {
            Err(ApiError::new(ErrorKind::State, format!("The guest `{name}` {what}")).help(help))
        };
        match domain.map(|domain| (domain.domid, domain.state)) {
            Some((domid, State::Running)) => Ok((guest, domid)),
            Some((_, State::Paused)) => no("is paused", format!("`ennead unpause {name}` lets it go on")),
            _ => no("does not run", format!("`ennead reboot {name}` starts it")),
        }
    }

    /// One disk of a guest with this configuration.
    fn device(&self, config: &GuestConfig, guest: &Guest, vdev: &str) -> Result<Device, Problem> {
        let number = vdev_number(vdev);
        let all = devices(config, &guest.record.uuid, self.domid, &self.peers.backends)?;
        let is_it = |device: &Device| device.kind == DeviceKind::Vbd && Some(device.handle) == number;
        let message = || format!("`{vdev}` is no virtual disk");
        all.into_iter().find(is_it).ok_or_else(|| ApiError::new(ErrorKind::Invalid, message()))
    }

    /// Whether a volume is there, and nobody else's.
    async fn can_be_had(&self, disk: &Disk, device: &Device) -> Result<(), Problem> {
        if let Some(name) = &device.volume
            && self.volume(name).await?.made_bytes.is_some()
        {
            let message = format!("The volume `{name}` is being made");
            return Err(
                ApiError::new(ErrorKind::State, message).help("`ennead volume list` shows how far it is")
            );
        }
        let Some(holder) = self.holder(device) else { return Ok(()) };
        let source = disk.source.as_deref().unwrap_or_default();
        let message = format!("`{source}` is a disk of the guest `{holder}`");
        let help = "only what all of them just read (`r`) can be a disk of two";
        Err(ApiError::new(ErrorKind::State, message).help(help))
    }

    /// A guest with a domain that has the same, if one of them may write to it.
    fn holder(&self, device: &Device) -> Option<String> {
        let params = device.back("params");
        let conflicts = |other: &Device| {
            let same = other.kind == device.kind && other.backend == device.backend;
            same && other.back("params") == params
                && [other, device].iter().any(|one| one.back("mode") == Some("w"))
        };
        let guests = self.guests.borrow();
        let mut live = guests.iter().filter(|(_, guest)| guest.record.phase.domid().is_some());
        let found = live.find(|(_, guest)| {
            let record = &guest.record;
            let all = devices(&record.config, &record.uuid, self.domid, &self.peers.backends);
            all.is_ok_and(|all| all.iter().any(conflicts))
        });
        found.map(|(name, _)| name.clone())
    }

    /// Changes a guest's configuration, here and in XenStore.
    async fn keep_config(&self, name: &str, config: GuestConfig) -> Result<(), Problem> {
        self.change(name, |guest| guest.record.config = config);
        let guest = self.guest(name).ok_or_else(|| problem::no_such_guest(name))?;
        self.peers.store.keep(&guest.record).await.map_err(|e| problem::of_xenstore(&e))
    }

    /// Puts a disk where the guest and the VM that serves it find it, and waits until the guest has it.
    async fn plug(&self, name: &str, domid: u16, disk: &Disk, device: &Device) -> Result<(), Problem> {
        let back = device.backend_path(domid);
        let before = vec![device.frontend_path(domid), back.clone()];
        let planted = self.peers.store.plant(before, tree::device_nodes(self.domid, domid, device)).await;
        planted.map_err(|e| problem::of_xenstore(&e))?;
        let start = Instant::now();
        loop {
            let state = self.read(format!("{back}/state")).await?;
            if state.as_deref() == Some(CONNECTED) {
                return Ok(());
            }
            let reason = self.read(format!("{back}/error")).await?;
            if start.elapsed() < if reason.is_some() { REASON_PATIENCE } else { PATIENCE } {
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
            let vdev = &disk.vdev;
            let (message, help) = match (reason, state.as_deref()) {
                (Some(reason), _) => (format!("The guest cannot have `{vdev}`: {reason}"), ""),
                (None, Some(INIT_WAIT)) => (
                    format!("The guest `{name}` does not take the disk `{vdev}`"),
                    "its kernel needs a driver for Xen's disks, such as Linux's xen-blkfront",
                ),
                (None, _) => (
                    format!("The VM that serves the disk `{vdev}` does not answer"),
                    "`ennead host` shows what it does",
                ),
            };
            return Err(ApiError::new(ErrorKind::State, message).help(help));
        }
    }

    /// Asks a guest to let go of a disk, and waits until it has. What it is not connected to it need not let go of.
    async fn close(&self, name: &str, domid: u16, vdev: &str, device: &Device) -> Result<(), Problem> {
        let of_xenstore = |e| problem::of_xenstore(&e);
        let (store, back) = (&self.peers.store, device.backend_path(domid));
        let asked = store.set_state(back.clone(), CONNECTED.as_bytes(), CLOSING.as_bytes(), b"0");
        if !asked.await.map_err(of_xenstore)? {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        while self.read(format!("{back}/state")).await?.is_some_and(|state| state != CLOSED) {
            if Instant::now() >= deadline {
                let kept = store.set_state(back.clone(), CLOSING.as_bytes(), CONNECTED.as_bytes(), b"1");
                if !kept.await.map_err(of_xenstore)? {
                    // It was just about to.
                    return Ok(());
                }
                let message =
                    format!("The guest `{name}` does not let go of the disk `{vdev}`, and keeps it");
                let help = "unmount it in the guest, and try again";
                return Err(ApiError::new(ErrorKind::State, message).help(help));
            }
            tokio::time::sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Removes what there is of a disk in XenStore; the guest is left with this configuration.
    async fn unplug(&self, name: &str, domid: u16, device: &Device, left: &GuestConfig, uuid: &str) {
        let left = devices(left, uuid, self.domid, &self.peers.backends).unwrap_or_default();
        self.fell(name, tree::device_rest(self.domid, domid, device, &left)).await;
    }
}
