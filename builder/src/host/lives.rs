//! VMs come, stop, are destroyed and come back; XenStore hears of each.

use std::time::{Duration, Instant};

use anyhow::bail;
use ennead_channel::xenstore::Request;
use ennead_launch::{Launcher, Lend, Life, Started};
use ennead_manifest::{Kind, RestartPolicy, Vm};
use ennead_xen::{DomId, DomainInfo, DomainState, EventChannels, ShutdownReason};
use tracing::{error, info, warn};

use super::Host;
use super::lending::Loan;
use crate::restarts::Next;

/// How long a destroyed domain may still be there because somebody holds a page of it: Logic, which is told to let go.
const HELD: Duration = Duration::from_secs(2);
/// How often is looked whether it is gone.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A VM that runs and has not yet said that it is well.
#[derive(Debug)]
pub(super) struct Begun {
    vm: Vm,
    events: EventChannels,
    started: Started,
}

impl Host {
    /// Looks at all domains: notes which are gone, and destroys those that stopped (what they had is free again then).
    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        let domains = self.control.domains()?;
        self.note_gone(&domains);
        self.look_at_guests(&domains);
        for info in &domains {
            let (domid, DomainState::Shutdown(reason)) = (info.domid, info.state) else { continue };
            // What becomes of a guest is its toolstack's to say.
            if self.guests.get(domid).is_some() {
                continue;
            }
            warn!(domid = domid.0, name = %self.name(domid), reason = %reason, "vm-stopped");
            let vm = self.ledger.get(domid).map(|entry| entry.vm.clone());
            if let Some(vm) = &vm {
                if comes_back(vm, reason) {
                    self.crashed(vm);
                    continue;
                }
                self.tell(Request::ShutDown { domid: domid.0 });
            }
            self.let_go(domid);
            if let Err(e) = self.control.destroy_domain(domid) {
                error!(domid = domid.0, cause = %e, "not-destroyed");
            }
            self.reclaim(domid);
            if let Some(vm) = vm {
                self.dead(&vm);
            }
        }
        Ok(())
    }

    fn note_gone(&mut self, domains: &[DomainInfo]) {
        let present: Vec<DomId> = domains.iter().map(|d| d.domid).collect();
        for domid in self.ledger.observe(&present) {
            info!(domid = domid.0, name = %self.name(domid), "vm-gone");
        }
    }

    /// Tells XenStore that a VM is destroyed for good.
    fn dead(&mut self, vm: &Vm) {
        if vm.kind == Kind::XenstoreState {
            error!(vm = %vm.name, "xenstore-lost");
            self.xenstore = None;
        }
        self.tell(Request::Died { domid: vm.domid });
    }

    /// Tells XenStore-State something. What it does not take is reported, and does not keep the VM's life from going on.
    pub(super) fn tell(&mut self, request: Request) {
        let Some(xenstore) = self.xenstore.as_mut() else { return };
        if let Err(e) = xenstore.tell(request) {
            error!(cause = %format!("{:#}", anyhow::Error::from(e)), "not-announced");
        }
    }

    /// Destroys a VM that comes back. With a ring its nodes stay meanwhile; without one it is just another VM.
    fn make_way(&mut self, vm: &Vm) -> Result<(), ennead_xen::Error> {
        if vm.xenstore.is_some() {
            self.tell(Request::Restarting { domid: vm.domid });
        }
        self.draining.take_if(|draining| draining.is_of(vm.domid));
        self.let_go(DomId(vm.domid));
        self.control.destroy_domain(DomId(vm.domid))?;
        self.reclaim(DomId(vm.domid));
        if vm.xenstore.is_none() {
            self.tell(Request::Died { domid: vm.domid });
        }
        Ok(())
    }

    fn crashed(&mut self, vm: &Vm) {
        let domid = DomId(vm.domid);
        let next = match self.make_way(vm) {
            Ok(()) => self.restarts.crashed(domid, Instant::now()),
            Err(e) => {
                error!(domid = domid.0, cause = %e, "not-destroyed");
                self.restarts.failed(domid, Instant::now())
            }
        };
        self.follow(vm, next);
    }

    fn follow(&mut self, vm: &Vm, next: Next) {
        match next {
            Next::After(pause) => {
                // Without a pause it ran well until now.
                if !pause.is_zero() {
                    self.fall_back(&vm.name);
                }
                warn!(vm = %vm.name, pause_ms = pause.as_millis(), "restarting");
            }
            Next::GaveUp => {
                error!(vm = %vm.name, "gave-up");
                // Announced as restarting, it would keep its nodes even when it is dead.
                if vm.xenstore.is_some() {
                    self.tell(Request::Release { domid: vm.domid });
                }
                self.dead(vm);
            }
        }
    }

    /// Builds again what is to come back now.
    pub(super) fn restart_due(&mut self) -> anyhow::Result<()> {
        let due = self.restarts.due(Instant::now());
        // In the plan's order: a ring needs Logic.
        let vms = self.store.boot_plan().plan.vms.iter().filter(|vm| due.contains(&DomId(vm.domid)));
        for vm in vms.cloned().collect::<Vec<_>>() {
            let domid = DomId(vm.domid);
            self.await_gone(domid)?;
            match self.begin_build(&vm.name).and_then(|begun| self.end_build(&begun)) {
                Ok((_, memory_kib)) => info!(vm = %vm.name, domid = domid.0, memory_kib, "healthy"),
                Err(e) => {
                    error!(vm = %vm.name, cause = %format!("{e:#}"), "restart-failed");
                    let next = self.restarts.failed(domid, Instant::now());
                    self.follow(&vm, next);
                }
            }
        }
        Ok(())
    }

    /// Waits until a destroyed domain's number is free; whether it is.
    pub(super) fn await_gone(&mut self, domid: DomId) -> anyhow::Result<bool> {
        let deadline = Instant::now() + HELD;
        while self.control.domain(domid)?.is_some() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let domains = self.control.domains()?;
        self.note_gone(&domains);
        Ok(true)
    }

    pub(super) fn build(&mut self, name: &str) {
        let begun = self.begin_build(name);
        self.finish_build((name.to_owned(), begun));
    }

    /// Builds VMs side by side, since each boots for seconds, but for those that start after another of them.
    pub(super) fn build_all(&mut self, vms: &[Vm]) {
        let mut all: Vec<(String, anyhow::Result<Begun>)> = Vec::new();
        for vm in vms {
            if all.iter().any(|(name, _)| vm.after.contains(name)) {
                all.drain(..).for_each(|one| self.finish_build(one));
            }
            all.push((vm.name.clone(), self.begin_build(&vm.name)));
        }
        all.into_iter().for_each(|one| self.finish_build(one));
    }

    fn finish_build(&mut self, (name, begun): (String, anyhow::Result<Begun>)) {
        match begun.and_then(|begun| self.end_build(&begun)) {
            Ok((domid, memory_kib)) => info!(vm = %name, domid = domid.0, memory_kib, "healthy"),
            Err(e) if self.fall_back(&name) => {
                warn!(vm = %name, cause = %format!("{e:#}"), "start-failed");
                self.build(&name);
            }
            Err(e) => error!(vm = %name, cause = %format!("{e:#}"), "failed"),
        }
    }

    /// What failed goes back to its previous images, once; whether it has any.
    fn fall_back(&mut self, name: &str) -> bool {
        let vm = self.store.fall_back(name);
        if let Some(vm) = &vm {
            warn!(vm = %name, kernel = %vm.kernel_image(), ramdisk = %vm.ramdisk_image(), "previous-images");
            self.ledger.replace(vm, self.store.boot_plan());
        }
        vm.is_some()
    }

    fn begin_build(&mut self, name: &str) -> anyhow::Result<Begun> {
        let vm = self.ledger.begin_build(name, self.me)?;
        let domid = DomId(vm.domid);
        if let Some(Err(missing)) = self.loans.get(&domid) {
            self.ledger.end_build(domid, false);
            return Err(missing.clone().into());
        }
        let known = vm.xenstore.is_some() && self.restarts.is_pending(domid);
        let begun = self.start(&vm, if known { Life::Again } else { Life::New });
        Ok(begun.inspect_err(|_| self.not_built(domid))?)
    }

    fn end_build(&mut self, begun: &Begun) -> anyhow::Result<(DomId, u64)> {
        let Started { domid, memory_kib, .. } = begun.started;
        self.wait_healthy(begun).inspect_err(|_| self.not_built(domid))?;
        self.ledger.end_build(domid, true);
        self.restarts.healthy(domid, Instant::now());
        self.attach(&begun.vm)?;
        Ok((domid, memory_kib))
    }

    fn not_built(&mut self, domid: DomId) {
        self.ledger.end_build(domid, false);
        self.reclaim(domid);
    }

    pub(super) fn start(&mut self, vm: &Vm, life: Life) -> Result<Begun, ennead_launch::Error> {
        let domid = DomId(vm.domid);
        // Its own set of ports, so that waiting for a report swallows no other event.
        let events = EventChannels::open().map_err(|source| ennead_launch::Error::Xen { domid, source })?;
        let functions = self.loans.get(&domid).and_then(|loan| loan.as_deref().ok());
        let mut loan = match (functions, self.pciback.as_mut()) {
            (Some(functions), Some(pciback)) => Some(Loan { pciback, borrower: domid, functions }),
            _ => None,
        };
        let mut launcher = Launcher {
            control: &self.control,
            events: &events,
            store: &self.store,
            me: self.me,
            // State itself is no VM that it knows.
            xenstore: self.xenstore.as_mut().filter(|_| vm.kind != Kind::XenstoreState),
            devices: loan.as_mut().map(|loan| loan as &mut dyn Lend),
        };
        let started = launcher.start(vm, life)?;
        info!(vm = %vm.name, domid = domid.0, memory_kib = started.memory_kib, "built");
        Ok(Begun { vm: vm.clone(), events, started })
    }

    pub(super) fn wait_healthy(&mut self, begun: &Begun) -> Result<(), ennead_launch::Error> {
        let xenstore = self.xenstore.as_mut().filter(|_| begun.vm.kind != Kind::XenstoreState);
        begun.started.wait_healthy(&self.control, &begun.events, xenstore)
    }

    pub(super) fn destroy(&mut self, name: &str) -> anyhow::Result<()> {
        let vm = self.ledger.check_destroy(name)?;
        let domid = DomId(vm.domid);
        self.let_go(domid);
        self.control.destroy_domain(domid)?;
        self.reclaim(domid);
        self.restarts.forget(domid);
        self.dead(&vm);
        if !self.await_gone(domid)? {
            bail!("{name} ({domid}) is dying, but somebody still holds a page of it");
        }
        info!(vm = %name, domid = domid.0, "destroyed");
        if vm.kind == Kind::XenstoreLogic {
            warn!(cause = %format!("XenStore answers no VM until you type `build {name}`"), "without-xenstore");
        }
        Ok(())
    }

    /// Destroys a VM as it is and builds it again, for the operator.
    pub(super) fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let vm = self.ledger.check_destroy(name)?;
        self.make_way(&vm)?;
        self.restarts.forget(DomId(vm.domid));
        let next = self.restarts.crashed(DomId(vm.domid), Instant::now());
        self.follow(&vm, next);
        Ok(())
    }
}

/// Whether a VM that stopped for this reason is built again.
fn comes_back(vm: &Vm, reason: ShutdownReason) -> bool {
    let crashed = matches!(reason, ShutdownReason::Crash | ShutdownReason::Watchdog);
    // Builder cannot build itself, and State's contents are lost with it.
    let can = !matches!(vm.kind, Kind::Builder | Kind::Pciback | Kind::Bootstrapper | Kind::XenstoreState);
    crashed && can && vm.restart.policy != RestartPolicy::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crashed_comes_back_if_the_manifest_says_so_and_it_can() {
        let text = include_str!("../../../images/host.toml");
        let plan = ennead_manifest::check("host.toml", text).expect("the shipped manifest is valid");
        let vm = |name: &str, policy: RestartPolicy| {
            let mut vm = plan.vm(name).expect("it is there").clone();
            vm.restart.policy = policy;
            vm
        };
        for policy in [RestartPolicy::OnCrash, RestartPolicy::OnRequest, RestartPolicy::Every] {
            for name in ["xenstore-logic", "blkback", "netback", "toolstack"] {
                let vm = vm(name, policy);
                assert!(comes_back(&vm, ShutdownReason::Crash) && comes_back(&vm, ShutdownReason::Watchdog));
                // It is done, or destroyed.
                assert!(
                    !comes_back(&vm, ShutdownReason::PowerOff) && !comes_back(&vm, ShutdownReason::Suspend)
                );
            }
            for name in ["bootstrapper", "builder", "pciback", "xenstore-state"] {
                assert!(!comes_back(&vm(name, policy), ShutdownReason::Crash), "{name}");
            }
        }
        assert!(!comes_back(&vm("xenstore-logic", RestartPolicy::Never), ShutdownReason::Crash));
    }
}
