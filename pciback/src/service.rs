//! What pciback answers to Builder.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ennead_channel::pciback::{Address, Controller, Reply, Request, controllers_in_parts};
use ennead_channel::{FIRST_GREF, Offer, Pciback, Server, Tagged, Text};
use ennead_runtime::{CapabilitySet, Health, Runtime, Sandbox, power_off, restart};
use ennead_xen::{Control, DomId, EventChannels, GrantRef, GrantedPage};
use tracing::{error, info, warn};

use crate::bus::{self, Function};
use crate::hotplug::Reporter;
use crate::lend::Lender;
use crate::line::Line;
use crate::publish::Publisher;

/// The client that is no toolstack.
const BUILDER: &str = "builder";
const SYSFS: &str = "/sys";
/// How long Builder may leave an answer unread before it is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to do after an answer has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Continue,
    Seal,
    PowerOff,
    Reboot,
}

/// pciback with its channel to Builder, and the toolstacks' lines.
#[derive(Debug)]
pub struct Service {
    health: Option<Health>,
    events: EventChannels,
    builder: Server<Pciback, GrantedPage>,
    /// Until sealed; then it has its thread.
    reporter: Option<Reporter>,
    /// Until sealed; then each has its thread.
    lines: Vec<Line>,
    /// What is on the bus, once somebody has asked: sealed, pciback can no longer read all of it.
    functions: Vec<Function>,
    lender: Lender,
    sealed: bool,
}

impl Service {
    /// Offers the channels. Must come before anything else grants pages: the order fixes the grefs.
    ///
    /// # Errors
    /// When Xen refuses, a page has another gref than its client expects, or Builder is no client.
    pub fn offer(runtime: Runtime) -> anyhow::Result<Self> {
        let events = EventChannels::open().context("Cannot open the event channels")?;
        let (mut builder, mut lines) = (None, Vec::new());
        for (client, gref) in runtime.params.answers.iter().zip(FIRST_GREF..) {
            if client.name.as_str() == BUILDER {
                let offer = Offer::new(client.domid).context("Cannot offer the channel to Builder")?;
                expect(offer.gref(), gref)?;
                builder = Some(offer);
            } else {
                let line = Line::offer(client)?;
                expect(line.gref(), gref)?;
                lines.push(line);
            }
        }
        let builder =
            builder.context("The boot parameters do not name Builder among those that pciback answers")?;
        let domid = builder.peer();
        let port = events.bind_unbound(domid).context("Cannot make an event channel for Builder")?;
        // Nobody else's ports, whoever takes this program over.
        events.restrict(domid).context("Cannot restrict the event channels")?;
        let xenstore = runtime.params.xenstore.map(|_| Publisher::open()).transpose()?;
        let reporter = Some(Reporter::open(xenstore)?);
        let control = Control::open().context("Cannot open Xen's control interface")?;
        Ok(Self {
            health: Some(runtime.health),
            events,
            builder: builder.open(port),
            reporter,
            lines,
            functions: Vec::new(),
            lender: Lender::new(Path::new(SYSFS), control),
            sealed: false,
        })
    }

    /// Reports that pciback is well, then answers until the host ends.
    ///
    /// # Errors
    /// When the channel breaks: Builder then has to be rebuilt.
    pub fn run(&mut self) -> anyhow::Result<Infallible> {
        if let Some(health) = self.health.take() {
            health.report()?;
        }
        loop {
            let Some(request) = self.builder.recv(&self.events, Duration::from_secs(3600))? else { continue };
            let (replies, then) = self.answer(&request.body);
            if then == Then::Seal {
                self.seal()?;
            }
            for body in replies {
                if let Err(e) = self.builder.send(&self.events, &Tagged { id: request.id, body }, PATIENCE) {
                    warn!(request = %format!("{:?}", request.body), cause = %e, "answer-dropped");
                }
            }
            match then {
                Then::Continue => {}
                // Builder has its answer, and goes on to restart XenStore if that is what is missing.
                Then::Seal => self.report(),
                Then::PowerOff => {
                    info!("power-off");
                    power_off().context("Cannot switch the host off")?;
                }
                Then::Reboot => {
                    info!("reboot");
                    restart().context("Cannot restart the host")?;
                }
            }
        }
    }

    fn answer(&mut self, request: &Request) -> (Vec<Reply>, Then) {
        let replies = match *request {
            Request::Controllers => self.controllers(),
            Request::Seize { address, without_reset } => {
                done(self.seize(address, without_reset), Reply::Seized)
            }
            Request::Lend { domid, address } => done(self.lend(DomId(domid), address), Reply::Lent),
            Request::Seal => return (vec![Reply::Sealed], Then::Seal),
            Request::PowerOff => return (vec![Reply::PoweringOff], Then::PowerOff),
            Request::Reboot => return (vec![Reply::Rebooting], Then::Reboot),
            Request::Ping => vec![Reply::Pong],
        };
        (replies, Then::Continue)
    }

    fn controllers(&mut self) -> Vec<Reply> {
        if self.functions.is_empty() {
            match bus::functions(Path::new(SYSFS)) {
                Ok(functions) => self.functions = functions,
                Err(e) => {
                    error!(cause = %e, "bus-unreadable");
                    return vec![Reply::Error(Text::new(&e.to_string()))];
                }
            }
        }
        let controllers: Vec<Controller> =
            self.functions.iter().filter(|f| f.is_controller()).map(told).collect();
        info!(count = controllers.len(), "controllers");
        controllers_in_parts(&controllers)
    }

    fn seize(&mut self, address: Address, without_reset: bool) -> anyhow::Result<()> {
        ensure!(!self.sealed, "pciback is sealed");
        let can_reset = self.lender.seize(address, without_reset)?;
        info!(%address, can_reset, "seized");
        Ok(())
    }

    fn lend(&self, domid: DomId, address: Address) -> anyhow::Result<()> {
        self.lender.lend(domid, address)?;
        info!(%address, domid = domid.0, "lent");
        Ok(())
    }

    /// Tells XenStore and the log what is on the bus, and what changes there. The host goes on without; so does this VM, meanwhile.
    fn report(&mut self) {
        let Some(reporter) = self.reporter.take() else { return };
        let functions = self.functions.clone();
        std::thread::spawn(move || reporter.run(Path::new(SYSFS), &functions));
    }

    /// Drops what only the start needed; nothing when a Builder that is new asks again.
    fn seal(&mut self) -> anyhow::Result<()> {
        if self.sealed {
            return Ok(());
        }
        let lines = Line::open(std::mem::take(&mut self.lines));
        Sandbox::new()
            // The channel, Xen and resets go on over the files that are open; the bus can still be read, and the host
            // switched off.
            .keep_read(SYSFS)
            .keep_capabilities(CapabilitySet::SYS_BOOT)
            .enter()
            .context("Cannot drop privileges")?;
        self.sealed = true;
        info!("sealed");
        lines.into_iter().for_each(Line::carry);
        Ok(())
    }
}

/// Fails unless a channel's page is where its client looks for it.
fn expect(found: GrantRef, expected: u32) -> anyhow::Result<()> {
    ensure!(
        found.0 == expected,
        "A channel's page has gref {}, but its client will look for {expected}: something granted a page before",
        found.0
    );
    Ok(())
}

/// The answer to what is done or not.
fn done(result: anyhow::Result<()>, reply: Reply) -> Vec<Reply> {
    vec![match result {
        Ok(()) => reply,
        Err(e) => {
            let cause = format!("{e:#}");
            error!(%cause, "refused");
            Reply::Error(Text::new(&cause))
        }
    }]
}

fn told(function: &Function) -> Controller {
    Controller {
        address: function.address,
        class: function.class,
        vendor: function.vendor,
        device: function.device,
        driver: Text::new(&function.driver),
        has_msi: function.has_msi,
        has_reset: function.has_reset,
    }
}
