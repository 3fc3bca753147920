//! Functions that are plugged into the running host, and pulled: reported in the log and in XenStore, nothing more.
//!
//! Once pciback is sealed Xen is told of no new function, so it reaches no memory and no interrupt; what can be lent was seized
//! before. Linux tells of them by `lib/kobject_uevent.c`, and `pci_uevent` of `drivers/pci/pci-driver.c`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context as _;
use ennead_channel::pciback::Address;
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tracing::{info, warn};

use crate::bus::{self, Function};
use crate::publish::Publisher;

/// Linux's own events; the other group is udev's.
const KERNEL: u32 = 1;
/// Bytes of an event at most (`UEVENT_BUFFER_SIZE`), and of the line before it.
const EVENT: usize = 2 * 2048;

/// What happened to a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Plugged(Address),
    Pulled(Address),
}

/// Tells XenStore and the log what is on the bus.
#[derive(Debug)]
pub(crate) struct Reporter {
    events: OwnedFd,
    xenstore: Option<Publisher>,
}

impl Reporter {
    /// Hears from now on. Without `xenstore` only the log is told.
    ///
    /// # Errors
    /// Linux's.
    pub(crate) fn open(xenstore: Option<Publisher>) -> anyhow::Result<Self> {
        let open = || -> io::Result<OwnedFd> {
            let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
            let events = socket_with(family, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
            bind(&events, &SocketAddrNetlink::new(0, KERNEL))?;
            Ok(events)
        };
        Ok(Self { events: open().context("Cannot hear of hotplug")?, xenstore })
    }

    /// Publishes the controllers among `functions`, then reports what changes, until Linux tells of nothing any more.
    pub(crate) fn run(mut self, sysfs: &Path, functions: &[Function]) {
        self.tell(|xenstore| {
            let count = xenstore.publish(functions)?;
            info!(count, "published");
            Ok(())
        });
        let mut event = [0; EVENT];
        loop {
            match recv(&self.events, &mut event, RecvFlags::empty()) {
                Ok((count, _)) => {
                    if let Some(change) = event.get(..count).and_then(change) {
                        self.report(sysfs, change);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => warn!("hotplug-missed"),
                Err(e) => {
                    warn!(cause = %e, "no-hotplug");
                    return;
                }
            }
        }
    }

    fn report(&mut self, sysfs: &Path, change: Change) {
        match change {
            Change::Plugged(address) => match bus::function(sysfs, address) {
                Ok(f) => {
                    let (class, id) =
                        (format!("{:06x}", f.class), format!("{:04x}:{:04x}", f.vendor, f.device));
                    info!(%address, class, id, "plugged");
                    self.tell(|xenstore| xenstore.publish(&[f]).map(|_| ()));
                }
                // It has gone again, perhaps.
                Err(e) => warn!(%address, cause = %e, "plugged-unreadable"),
            },
            Change::Pulled(address) => {
                info!(%address, "pulled");
                self.tell(|xenstore| xenstore.withdraw(address));
            }
        }
    }

    /// What XenStore has refused once it is not asked again: an answer may still be on its way.
    fn tell(&mut self, what: impl FnOnce(&mut Publisher) -> anyhow::Result<()>) {
        if let Some(Err(e)) = self.xenstore.as_mut().map(what) {
            warn!(cause = %format!("{e:#}"), "not-published");
            self.xenstore = None;
        }
    }
}

/// Reads an event: `ACTION@PATH`, then words `KEY=VALUE`, each with a NUL behind it. `None` for what is no function's coming or going.
fn change(event: &[u8]) -> Option<Change> {
    let text = std::str::from_utf8(event).ok()?;
    let value = |key: &str| text.split('\0').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    if value("SUBSYSTEM") != Some("pci") {
        return None;
    }
    let address = value("PCI_SLOT_NAME")?.parse().ok()?;
    match value("ACTION")? {
        "add" => Some(Change::Plugged(address)),
        "remove" => Some(Change::Pulled(address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, subsystem: &str) -> String {
        format!(
            "{action}@/devices/pci0000:00/0000:00:05.0/0000:03:00.0\0ACTION={action}\0\
             DEVPATH=/devices/pci0000:00/0000:00:05.0/0000:03:00.0\0SUBSYSTEM={subsystem}\0PCI_CLASS=20000\0\
             PCI_ID=8086:10D3\0PCI_SUBSYS_ID=8086:0000\0PCI_SLOT_NAME=0000:03:00.0\0SEQNUM=731\0"
        )
    }

    #[test]
    fn functions_that_come_and_go_are_understood() {
        let address: Address = "0000:03:00.0".parse().expect("an address");
        assert_eq!(change(event("add", "pci").as_bytes()), Some(Change::Plugged(address)));
        assert_eq!(change(event("remove", "pci").as_bytes()), Some(Change::Pulled(address)));
    }

    #[test]
    fn nothing_else_is() {
        for (action, subsystem) in [("bind", "pci"), ("change", "pci"), ("add", "pci_bus"), ("add", "xen")] {
            assert_eq!(change(event(action, subsystem).as_bytes()), None, "{action} {subsystem}");
        }
        let without_address = event("add", "pci").replace("PCI_SLOT_NAME=", "PCI_SLOT_NAME");
        let no_address = event("add", "pci").replace("PCI_SLOT_NAME=0000", "PCI_SLOT_NAME=zero");
        for text in [without_address.as_str(), no_address.as_str(), "", "\0\0", "libudev\0"] {
            assert_eq!(change(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(change(&[0xff; 40]), None);
    }
}
