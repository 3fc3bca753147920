//! The direct way from vif to vif. What a guest sends to the MAC address of another that this netback serves, on the same bridge and
//! in the same VLAN, goes into that one's [`Inbox`]: no tap, no bridge, and no system call for a packet. All else goes to the
//! bridge: what is for many or for nobody known, and what is for a frontend that does not take everything that a sender may leave
//! undone.
//!
//! The bridge learns where a guest is from what still comes through its tap: from broadcasts (each of its ARP requests), and all
//! that it sends elsewhere. If it has heard nothing from a guest for minutes, it sends what comes for it from outside to all of its
//! ports, as it does for any quiet host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{self, Frontend};
use crate::filter::Mac;
use crate::headers::{ETHERNET, bytes};
use crate::inbox::Inbox;
use crate::netif::Gso;
use crate::vlan::Vlan;

/// Longest packet that the bridge lets pass if it is not to be cut into segments, bytes: taps have Linux's MTU of 1500.
const LONGEST: usize = ETHERNET + 1500;

/// A vif as its neighbours see it.
#[derive(Debug)]
struct Neighbour {
    /// Of its queues; none if it takes nothing on the direct way.
    inboxes: Vec<Arc<Inbox>>,
    vlan: Option<Vlan>,
    isolated: bool,
}

/// The vifs on a bridge.
#[derive(Debug, Clone, Default)]
pub struct OnBridge(HashMap<Mac, Vec<Arc<Neighbour>>>);

/// All vifs that are served.
#[derive(Debug, Clone, Default)]
pub struct Neighbours(Arc<Mutex<HashMap<String, Arc<OnBridge>>>>);

impl Neighbours {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<OnBridge>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the others find a vif, whose queues have these inboxes, until the member is dropped.
    #[must_use]
    pub fn join(&self, vif: &config::Vif, frontend: &Frontend, inboxes: &[Arc<Inbox>]) -> Member {
        let takes_all =
            frontend.chains && frontend.offloads.checksum && frontend.offloads.tcp4 && frontend.offloads.tcp6;
        let inboxes = if takes_all { inboxes.to_vec() } else { Vec::new() };
        let neighbour = Arc::new(Neighbour { inboxes, vlan: vif.vlan, isolated: vif.isolated });
        let mut all = self.lock();
        let bridge = Arc::make_mut(all.entry(vif.bridge.clone()).or_default());
        bridge.0.entry(vif.mac).or_default().push(Arc::clone(&neighbour));
        Member { all: self.clone(), bridge: vif.bridge.clone(), mac: vif.mac, neighbour }
    }

    /// The way from a queue of a vif.
    #[must_use]
    pub fn way(&self, vif: &config::Vif, queue: usize) -> Way {
        let config::Vif { mac, vlan, isolated, .. } = *vif;
        Way { all: self.clone(), bridge: vif.bridge.clone(), mac, vlan, isolated, queue }
    }
}

/// A vif that others find.
#[derive(Debug)]
pub struct Member {
    all: Neighbours,
    bridge: String,
    mac: Mac,
    neighbour: Arc<Neighbour>,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        let Some(bridge) = all.get_mut(&self.bridge).map(Arc::make_mut) else { return };
        if let Some(same) = bridge.0.get_mut(&self.mac) {
            same.retain(|other| !Arc::ptr_eq(other, &self.neighbour));
            if same.is_empty() {
                bridge.0.remove(&self.mac);
            }
        }
        if bridge.0.is_empty() {
            all.remove(&self.bridge);
        }
    }
}

/// The way from a queue of a vif to its neighbours.
#[derive(Debug, Clone)]
pub struct Way {
    all: Neighbours,
    bridge: String,
    mac: Mac,
    vlan: Option<Vlan>,
    isolated: bool,
    queue: usize,
}

impl Way {
    /// Who is there now: for a round.
    #[must_use]
    pub fn look(&self) -> Arc<OnBridge> {
        self.all.lock().get(&self.bridge).cloned().unwrap_or_default()
    }

    /// Where a packet goes that the filter lets pass; `None`: to the bridge.
    ///
    /// As long as both vifs are there, packets go all one way, so that none overtakes another. The queue is that of the sender, so
    /// that a connection stays in its own.
    #[must_use]
    pub fn find<'a>(&self, there: &'a OnBridge, packet: &[u8], gso: Option<Gso>) -> Option<&'a Inbox> {
        let to = Mac(bytes(packet, 0)?);
        // The bridge returns nothing to where it came from, and with an address in two places it knows where it was last.
        let [only] = there.0.get(&to).filter(|_| to != self.mac)?.as_slice() else { return None };
        let passes = only.vlan == self.vlan
            && !(only.isolated && self.isolated)
            && (gso.is_some() || packet.len() <= LONGEST);
        let queue = self.queue.checked_rem(only.inboxes.len()).filter(|_| passes)?;
        only.inboxes.get(queue).map(Arc::as_ref)
    }
}
