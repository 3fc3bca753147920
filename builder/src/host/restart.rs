//! Restarts that the operator asks for: what one would mean, and the VM's time to end its work.

use std::time::{Duration, Instant};

use anyhow::bail;
use ennead_channel::List;
use ennead_channel::xenstore::{Path, Request};
use ennead_manifest::{Kind, Vm};
use ennead_runtime::drain;
use ennead_xen::DomId;
use tracing::{error, info, warn};

use super::Host;

/// How often is looked whether a VM has ended its work.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A VM that ends its work, and is restarted then.
#[derive(Debug)]
pub(super) struct Draining {
    vm: Vm,
    since: Instant,
}

impl Draining {
    pub(super) fn is_of(&self, domid: u16) -> bool {
        self.vm.domid == domid
    }
}

impl Host {
    /// Asks a VM to end its work, and has it restarted when it has, or has had its time. One without a ring has nothing to end.
    pub(super) fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        if let Some(state) = self.store.boot_plan().plan.xenstore_state().filter(|vm| vm.name == name) {
            return self.succeed(&state.clone());
        }
        let vm = self.ledger.check_destroy(name)?;
        if let Some(other) = &self.draining {
            bail!("{} is being restarted", other.vm.name);
        }
        let (true, Some(xenstore)) = (vm.xenstore.is_some(), self.xenstore.as_mut()) else {
            return self.kill(name);
        };
        info!(vm = %name, at_most_ms = vm.restart.drain_ms, "draining");
        let (value, perms) = (List::new(drain::WISH.to_vec()).unwrap_or_default(), List::default());
        if let Err(e) = xenstore.tell(Request::Write { path: drain_node(&vm), value, perms }) {
            warn!(vm = %name, cause = %e, "not-asked");
            return self.kill(name);
        }
        self.draining = Some(Draining { vm, since: Instant::now() });
        Ok(())
    }

    /// How long until is looked again.
    pub(super) fn drain_wait(&self) -> Option<Duration> {
        self.draining.as_ref().map(|_| LOOK_EVERY)
    }

    /// Goes on with the restart of a VM that has ended its work, or has had its time.
    pub(super) fn end_drain(&mut self) {
        let Some(Draining { vm, since }) = &self.draining else { return };
        let (name, passed) = (vm.name.clone(), since.elapsed());
        let value = self.xenstore.as_mut().and_then(|xenstore| xenstore.read(&drain_node(vm)).ok());
        let done = value.is_some_and(|value| value == drain::DONE);
        if !done && passed < Duration::from_millis(vm.restart.drain_ms.into()) {
            return;
        }
        self.draining = None;
        info!(vm = %name, done, took_ms = passed.as_millis(), "drained");
        if let Err(e) = self.kill(&name) {
            error!(vm = %name, cause = %format!("{e:#}"), "restart-failed");
        }
    }

    /// Says what a restart would do and whom it affects, and does nothing.
    pub(super) fn plan(&mut self, name: &str) -> anyhow::Result<()> {
        let vm = self.ledger.check_destroy(name)?;
        let domid = DomId(vm.domid);
        let device = self.loans.get(&domid).and_then(|loan| loan.as_ref().ok());
        let device = device.into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let steps = match (vm.xenstore.is_some(), device.is_empty()) {
            (false, _) => "destroy,build,health",
            (true, true) => "drain,destroy,build,health",
            (true, false) => "drain,destroy,reset,build,health",
        };
        let image = self.ledger.get(domid).map(|entry| entry.image.clone()).unwrap_or_default();
        info!(vm = %name, domid = domid.0, steps, at_most_ms = vm.restart.drain_ms, device, image, "plan");
        let affected = self.affected(&vm)?;
        for (domid, pauses) in &affected {
            info!(domid = domid.0, name = %self.name(*domid), pauses, "affected");
        }
        info!(vm = %name, affected = affected.len(), "plan-end");
        Ok(())
    }

    /// Who notices that a VM is restarted, and by what.
    fn affected(&mut self, vm: &Vm) -> anyhow::Result<Vec<(DomId, &'static str)>> {
        let mut served = Vec::new();
        if let (Some(device), Some(xenstore)) = (vm.kind.device(), self.xenstore.as_mut()) {
            let path = Path::new(&format!("/local/domain/{}/backend/{device}", vm.domid));
            served = xenstore.list(&path)?.iter().filter_map(|name| name.parse().ok()).collect();
        }
        let pauses = |domid: DomId| {
            let guest = self.guests.get(domid);
            let has_ring = || self.ledger.get(domid).is_some_and(|entry| entry.vm.xenstore.is_some());
            match vm.kind {
                Kind::XenstoreLogic => (guest.is_some() || has_ring()).then_some("xenstore"),
                Kind::Toolstack => guest.filter(|guest| guest.parent.0 == vm.domid).map(|_| "console"),
                kind => kind.device().filter(|_| served.contains(&domid.0)),
            }
        };
        let domains = self.control.domains()?;
        Ok(domains.iter().filter_map(|info| Some((info.domid, pauses(info.domid)?))).collect())
    }
}

fn drain_node(vm: &Vm) -> Path {
    Path::new(&format!("/local/domain/{}/{}", vm.domid, drain::NODE))
}
