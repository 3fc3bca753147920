//! The NICs of this VM, as they come: each goes into the default bridge.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context as _;
use ennead_os::Interfaces;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tracing::info;

use crate::config::DEFAULT_BRIDGE;

/// Where Linux shows interfaces.
const INTERFACES: &str = "/sys/class/net";

/// Tells when an interface comes, goes or changes.
#[derive(Debug)]
struct Changes(OwnedFd);

impl Changes {
    fn open() -> io::Result<Self> {
        /// `RTMGRP_LINK`
        const LINKS: u32 = 1;
        let flags = SocketFlags::CLOEXEC;
        // NETLINK_ROUTE is protocol 0.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, LINKS))?;
        Ok(Self(socket))
    }

    /// Waits for the next change. What it was does not matter: all interfaces are looked at again.
    fn wait(&self) -> io::Result<()> {
        let mut message = [0; 4096];
        match rustix::net::recv(&self.0, &mut message, RecvFlags::empty()) {
            // Some were lost; there was one, then.
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Makes the default bridge and puts every NIC into it, those that come later too.
///
/// # Errors
/// There are no bridges or no threads. If it ends later, so does the program.
pub fn watch(interfaces: Interfaces) -> anyhow::Result<()> {
    interfaces
        .create_bridge(DEFAULT_BRIDGE)
        .context("Cannot make the bridge: does the kernel have CONFIG_BRIDGE?")?;
    interfaces.up(DEFAULT_BRIDGE).context("Cannot take the bridge into use")?;
    let changes = Changes::open().context("Cannot watch the network interfaces")?;
    let watching = move || {
        loop {
            let done = take_in(&interfaces, Path::new(INTERFACES)).and_then(|()| changes.wait());
            if let Err(e) = done {
                ennead_runtime::fail(anyhow::Error::from(e).context("Cannot look after the NICs"));
            }
        }
    };
    std::thread::Builder::new().name("nics".to_owned()).spawn(watching).context("Cannot start a thread")?;
    Ok(())
}

/// Puts each NIC into the bridge that is in none.
fn take_in(interfaces: &Interfaces, directory: &Path) -> io::Result<()> {
    for nic in unbridged(directory)? {
        let mac = std::fs::read_to_string(directory.join(&nic).join("address")).unwrap_or_default();
        let done = interfaces.attach(DEFAULT_BRIDGE, &nic).and_then(|()| interfaces.up(&nic));
        match done {
            Ok(()) => info!(name = nic, mac = mac.trim(), bridge = DEFAULT_BRIDGE, "nic"),
            // It went while we looked; the next change tells.
            Err(e) if e.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Interfaces of real devices (the others have no `device`) that are in no bridge.
fn unbridged(directory: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if path.join("device").exists() && !path.join("brport").exists() {
            found.extend(entry.file_name().into_string());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_devices_without_a_bridge_are_found() {
        let root = std::env::temp_dir().join(format!("ennead-nics-{}", std::process::id()));
        for path in ["eth1/device", "eth0/device", "lo", "vif3.0/brport", "eth2/device", "eth2/brport"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        let found = unbridged(&root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.unwrap(), ["eth0", "eth1"]);
        assert!(unbridged(&root).is_err());
    }
}
