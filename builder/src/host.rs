//! Builder on the running host: takes over, then serves until the host ends.

mod handover;
mod lending;
mod lives;
mod restart;
mod toolstacks;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ennead_channel::xenstore;
use ennead_launch::{Store, XenStore};
use ennead_manifest::{Kind, Vm, context};
use ennead_runtime::boot::ServerVm;
use ennead_runtime::{Health, Params, Runtime};
use ennead_xen::{Control, DomId, DomainState, EventChannels, Port, ShutdownReason, Virq};
use tracing::{error, info};

use crate::command::{Command, Lines};
use crate::devices::Loans;
use crate::guests::Guests;
use crate::ledger::Ledger;
use crate::pciback::Pciback;
use crate::restarts::Restarts;
use restart::Draining;
use toolstacks::Toolstack;

/// Domain 0, the bootstrapper.
const DOMAIN_0: DomId = DomId(0);
/// Bytes taken from the console at once.
const CONSOLE_CHUNK: usize = 256;
/// Children of a node that `store` shows, and bytes of each value.
const SHOWN_CHILDREN: usize = 64;
const SHOWN_BYTES: usize = 120;

/// Builder with everything it holds.
#[derive(Debug)]
pub struct Host {
    control: Rc<Control>,
    events: EventChannels,
    died: Port,
    typed: Port,
    store: Store,
    ledger: Ledger,
    lines: Lines,
    me: DomId,
    params: Params,
    health: Option<Health>,
    pciback: Option<Pciback>,
    xenstore: Option<XenStore>,
    loans: Loans,
    restarts: Restarts,
    draining: Option<Draining>,
    guests: Guests,
    toolstacks: BTreeMap<DomId, Toolstack>,
}

impl Host {
    /// Opens everything and asks Xen for its events.
    ///
    /// # Errors
    /// When the store is not the signed one, or Xen refuses something.
    pub fn open(runtime: Runtime, dir: &Path) -> anyhow::Result<Self> {
        let store = Store::open(dir).context("The images are not the signed ones")?;
        let images = store.verify_all().context("The images are not the signed ones")?;
        let builder = store.boot_plan().plan.vms_of_kind(Kind::Builder).next();
        let me = DomId(builder.context("The plan has no builder")?.domid);
        let control = Rc::new(Control::open().context("Cannot open Xen's control interface")?);
        let events = EventChannels::open().context("Cannot open the event channels")?;
        // First the ports, then the handler, then (in `take_over`) the list of domains: no death can be missed.
        let died = events.bind_virq(Virq::DomExc)?;
        let typed = events.bind_virq(Virq::Console)?;
        control.set_virq_handler(Virq::DomExc, me)?;
        control.set_virq_handler(Virq::Console, me)?;
        info!(
            images,
            flask = if control.flask_enforcing()? { "enforcing" } else { "permissive" },
            "verified"
        );
        // Xen numbers a label when it is first named, and remembers a refusal by number. A VM that asked for a number which is
        // still free would be refused for good what the label of that number may: pciback could keep itself from being
        // sealed. So every label has its number before pciback runs.
        for label in store.boot_plan().plan.labels() {
            control.sid_of(&context(&label))?;
        }
        let ledger = Ledger::new(store.boot_plan());
        let guests = Guests::new(&store.boot_plan().plan);
        let Runtime { params, health, .. } = runtime;
        Ok(Self {
            control,
            events,
            died,
            typed,
            store,
            ledger,
            lines: Lines::default(),
            me,
            params,
            health: Some(health),
            pciback: None,
            xenstore: None,
            loans: Loans::new(),
            restarts: Restarts::default(),
            draining: None,
            guests,
            toolstacks: BTreeMap::new(),
        })
    }

    /// Reports that Builder is well, takes over from the bootstrapper, and builds what the plan leaves to Builder.
    ///
    /// # Errors
    /// When Xen refuses something without which the host cannot go on.
    pub fn take_over(&mut self) -> anyhow::Result<()> {
        if let Some(health) = self.health.take() {
            health.report()?;
        }
        self.await_goodbye()?;
        self.connect_xenstore()?;
        self.connect_pciback()?;
        self.look()?;
        self.restart_due()?;
        self.build_all(&self.own_vms());
        info!(vms = self.control.domains()?.len(), "host-ready");
        Ok(())
    }

    /// Serves until the host ends.
    ///
    /// # Errors
    /// When Xen refuses something without which the host cannot go on.
    pub fn serve(&mut self) -> anyhow::Result<Infallible> {
        let mut busy = true;
        loop {
            // A toolstack that asks on and on keeps neither the operator nor dead VMs waiting.
            let due = self.restarts.wait(Instant::now());
            let pause =
                if busy { Some(Duration::ZERO) } else { due.into_iter().chain(self.drain_wait()).min() };
            match self.events.wait(pause)? {
                Some(port) if port == self.died => self.look()?,
                Some(port) if port == self.typed => self.read_console()?,
                Some(port) if self.heard(port) => {}
                // The last event of a toolstack that is gone.
                Some(_) | None => {}
            }
            busy = self.serve_toolstacks();
            self.end_drain();
            self.restart_due()?;
        }
    }

    /// VMs that Builder starts with the host, in the plan's order.
    fn own_vms(&self) -> Vec<Vm> {
        let vms = self.store.boot_plan().plan.vms.iter();
        let lacks = |vm: &Vm| self.loans.get(&DomId(vm.domid)).is_some_and(Result::is_err);
        vms.filter(|vm| {
            !vm.built_by_bootstrapper && vm.autostart && vm.kind != Kind::Bootstrapper && !lacks(vm)
        })
        .cloned()
        .collect()
    }

    /// Waits for the end of domain 0 and destroys it.
    fn await_goodbye(&mut self) -> anyhow::Result<()> {
        loop {
            match self.control.domain(DOMAIN_0)?.map(|info| info.state) {
                Some(DomainState::Shutdown(reason)) => {
                    if reason != ShutdownReason::PowerOff {
                        error!(reason = %reason, "bootstrapper-failed");
                    }
                    break;
                }
                None => return Ok(()),
                Some(_) => {}
            }
            // A key pressed meanwhile stays in Xen's buffer.
            self.events.wait(Some(Duration::from_secs(1)))?;
        }
        let before = self.free_kib()?;
        self.control.destroy_domain(DOMAIN_0).context("Cannot destroy domain 0")?;
        while self.control.domain(DOMAIN_0)?.is_some() {
            self.events.wait(Some(Duration::from_millis(100)))?;
        }
        let freed_kib = self.free_kib()?.saturating_sub(before);
        info!(freed_kib, "bootstrapper-destroyed");
        Ok(())
    }

    fn free_kib(&self) -> anyhow::Result<u64> {
        Ok(self.control.host()?.free_pages * 4)
    }

    fn connect_xenstore(&mut self) -> anyhow::Result<()> {
        let state = self.store.boot_plan().plan.xenstore_state();
        let Some(server) = state.and_then(|state| self.params.server(&state.name)) else { return Ok(()) };
        let xenstore = XenStore::connect(server).context("Cannot open the channel to XenStore-State")?;
        self.xenstore = Some(xenstore);
        Ok(())
    }

    fn connect_pciback(&mut self) -> anyhow::Result<()> {
        let server = self.pciback_server().context("The plan gives Builder no channel to pciback")?;
        let domid = server.domid;
        let mut pciback = Pciback::connect(server)?;
        let controllers = pciback.controllers()?;
        for c in &controllers {
            info!(
                address = %c.address, class = %format!("{:06x}", c.class), id = %format!("{:04x}:{:04x}", c.vendor, c.device),
                "controller"
            );
        }
        info!(count = controllers.len(), "controllers");
        self.share_out(&mut pciback, &controllers);
        pciback.seal()?;
        // Xen takes away what only its start needed.
        let sealed = self.control.sid_of(&context(&Kind::Pciback.running_type()))?;
        // It stands still: for a moment Xen (flask_relabel_domain) takes it for another VM of its own type, and would refuse what it
        // does with its own memory.
        self.control.pause(domid)?;
        self.control.relabel(domid, sealed).context("Cannot seal pciback")?;
        self.control.unpause(domid)?;
        info!(domid = domid.0, r#type = %Kind::Pciback.running_type(), "sealed");
        self.pciback = Some(pciback);
        Ok(())
    }

    fn pciback_server(&self) -> Option<&ServerVm> {
        let vm = self.store.boot_plan().plan.vms_of_kind(Kind::Pciback).next()?;
        self.params.server(&vm.name)
    }

    fn name(&self, domid: DomId) -> String {
        let vm = self.ledger.get(domid).map(|entry| entry.vm.name.clone());
        vm.or_else(|| Some(self.guests.get(domid)?.name.clone())).unwrap_or_else(|| "unknown".to_owned())
    }

    fn read_console(&mut self) -> anyhow::Result<()> {
        let mut typed = [0; CONSOLE_CHUNK];
        loop {
            let n = self.control.console_read(&mut typed)?;
            let Some(bytes) = typed.get(..n).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            for command in self.lines.push(bytes) {
                let done = command.map_err(anyhow::Error::from).and_then(|command| self.obey(command));
                if let Err(e) = done {
                    error!(cause = %format!("{e:#}"), "command-refused");
                }
            }
        }
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::List => self.list(),
            Command::Build(name) => {
                self.build(&name);
                Ok(())
            }
            Command::Destroy(name) => self.destroy(&name),
            Command::Restart(name) => self.restart(&name),
            Command::Kill(name) => self.kill(&name),
            Command::Plan(name) => self.plan(&name),
            Command::Store(path) => self.show(&path),
            Command::PowerOff => self.pciback()?.power_off(),
            Command::Reboot => self.pciback()?.reboot(),
        }
    }

    fn pciback(&mut self) -> anyhow::Result<&mut Pciback> {
        self.pciback.as_mut().context("pciback is not connected")
    }

    fn list(&mut self) -> anyhow::Result<()> {
        let domains = self.control.domains()?;
        for d in &domains {
            let context = self.control.context_of(d.sid)?;
            let entry = self.ledger.get(d.domid);
            info!(
                domid = d.domid.0,
                name = %self.name(d.domid),
                memory_kib = d.pages * 4,
                state = %d.state,
                r#type = %context.rsplit(':').next().unwrap_or(&context),
                image = %entry.map_or("none", |entry| entry.image.as_str()),
                mappers = %entry.map_or(0, |entry| entry.mappers().len()),
                "vm"
            );
        }
        let nodes = self.xenstore.as_mut().and_then(|xenstore| xenstore.count().ok()).unwrap_or_default();
        info!(count = domains.len(), free_kib = self.free_kib()?, own_kib = own_kib(), nodes, "list-end");
        Ok(())
    }

    /// Shows a node of XenStore and its children.
    fn show(&mut self, path: &str) -> anyhow::Result<()> {
        let xenstore = self.xenstore.as_mut().context("XenStore-State is not there")?;
        let node: xenstore::Path = path.parse()?;
        let value = xenstore.read(&node)?;
        info!(path = %node, value = %shown(&value), "node");
        let names = xenstore.list(&node)?;
        for name in names.iter().take(SHOWN_CHILDREN) {
            let child: xenstore::Path = format!("{}/{name}", path.trim_end_matches('/')).parse()?;
            // One that is gone meanwhile is no mistake.
            if let Ok(value) = xenstore.read(&child) {
                info!(path = %child, value = %shown(&value), "node");
            }
        }
        info!(path = %node, children = names.len(), "node-end");
        Ok(())
    }
}

/// KiB of memory that Builder's program has (resident, `proc(5)`).
fn own_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.map_or(0, |pages| pages.saturating_mul(4))
}

/// The beginning of a value, which anybody may have written, in printable characters.
fn shown(value: &[u8]) -> String {
    value.get(..SHOWN_BYTES).unwrap_or(value).escape_ascii().to_string()
}
