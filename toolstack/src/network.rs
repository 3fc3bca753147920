//! The toolstack's own network interface: its tree in XenStore, as a guest's, then its address.
//!
//! Its backend may be restarted under it without any notice; only a device that its backend has lost, or that did not come up, is
//! plugged anew.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ennead_api::Endpoint;
use ennead_runtime::boot::{BackendVm, DeviceKind};
use ennead_xs_client::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::devices::Device;
use crate::rtnetlink;
use crate::tree;
use crate::xenstore::Store;

/// What Linux calls it.
const INTERFACE: &str = "eth0";
/// How long backend and kernel may take for it: the backend may be restarting.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often is looked whether it is there, before and after.
const GLANCE: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_secs(10);
/// What the backend has of the last one goes first.
const PAUSE: Duration = Duration::from_millis(200);

/// An interface that is to be there.
#[derive(Debug)]
pub struct Network {
    store: Store,
    device: Device,
    domid: u16,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
}

impl Network {
    /// As the endpoint says, for the VM `name` with this domid. Nothing is done yet.
    ///
    /// # Errors
    /// When this VM is not told of the backend.
    pub fn new(
        endpoint: &Endpoint,
        name: &str,
        domid: u16,
        backends: &[BackendVm],
        store: Store,
    ) -> anyhow::Result<Self> {
        let serves =
            |one: &&BackendVm| one.device == DeviceKind::Vif && one.name.as_str() == endpoint.backend;
        let backend = backends.iter().find(serves).context("Nobody serves this VM's network")?;
        let Endpoint { address, prefix, gateway, .. } = *endpoint;
        // Of what is unique in its network, so that its hardware's address is, too.
        let device = Device::own_vif(backend.domid, &format!("{name}/{address}"), address);
        Ok(Self { store, device, domid, address, prefix, gateway })
    }

    /// Keeps the interface there.
    pub async fn keep(self) {
        let mut told = String::new();
        loop {
            match self.plug().await {
                Ok(()) => {
                    info!(address = %self.address, "network-up");
                    told.clear();
                    while self.is_plugged().await {
                        sleep(LOOK).await;
                    }
                }
                Err(e) => {
                    let cause = format!("{e:#}");
                    if cause != told {
                        warn!(cause, "network-down");
                        told = cause;
                    }
                    sleep(LOOK).await;
                }
            }
        }
    }

    async fn plug(&self) -> anyhow::Result<()> {
        let roots = tree::device_roots(self.domid, &self.device);
        // There may be none of a predecessor.
        let _ = self.store.fell(roots).await;
        sleep(PAUSE).await;
        let planted =
            self.store.plant(Vec::new(), tree::device_nodes(self.domid, self.domid, &self.device)).await;
        match planted {
            // This host may have no controller for it.
            Err(e) if e.errno() == Some(Errno::Enoent) => bail!("Its backend is not there"),
            planted => planted.context("XenStore")?,
        }
        let deadline = Instant::now() + PATIENCE;
        let index = loop {
            let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
            if let Ok(index) = name_to_index(&socket, INTERFACE) {
                break index;
            }
            anyhow::ensure!(Instant::now() < deadline, "Its backend does not serve it");
            sleep(GLANCE).await;
        };
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        for (what, message) in [
            ("Cannot set its address", rtnetlink::address(index, self.address, self.prefix)),
            ("Cannot take it into use", rtnetlink::up(index)),
            ("Cannot set the gateway", rtnetlink::default_route(index, self.gateway)),
        ] {
            rtnetlink::ask(&socket, &message).context(what)?;
        }
        Ok(())
    }

    /// Whether the backend still knows it. Without an answer: it may.
    async fn is_plugged(&self) -> bool {
        let state = format!("{}/state", self.device.backend_path(self.domid));
        !matches!(self.store.value(state).await, Ok(None))
    }
}
