//! What pciback answers to Builder.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ennead_channel::pciback::{Controller, Reply, Request, controllers_in_parts};
use ennead_channel::{FIRST_GREF, Offer, Pciback, Server, Tagged, Text};
use ennead_runtime::{CapabilitySet, Health, Runtime, Sandbox, power_off, restart};
use ennead_xen::{EventChannels, GrantRef};
use tracing::{error, info, warn};

use crate::bus;
use crate::line::Line;
use crate::publish::Publisher;

/// The client that is no toolstack.
const BUILDER: &str = "builder";
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
    builder: Server<Pciback>,
    xenstore: Option<Publisher>,
    /// Until sealed; then each has its thread.
    lines: Vec<Line>,
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
        let (health, builder) = (Some(runtime.health), builder.open(port));
        Ok(Self { health, events, builder, xenstore, lines, sealed: false })
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
            let (replies, then) = answer(&request.body, Path::new("/sys"));
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
                Then::Seal => self.publish(),
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

    /// Publishes in XenStore what is on the bus, once. The host goes on without; so does this VM, meanwhile.
    fn publish(&mut self) {
        let Some(xenstore) = self.xenstore.take() else { return };
        std::thread::spawn(move || {
            let functions = bus::functions(Path::new("/sys")).map_err(anyhow::Error::from);
            match functions.and_then(|functions| xenstore.publish(&functions)) {
                Ok(count) => info!(count, "published"),
                Err(e) => warn!(cause = %format!("{e:#}"), "not-published"),
            }
        });
    }

    /// Drops what only the start needed; nothing when a Builder that is new asks again.
    fn seal(&mut self) -> anyhow::Result<()> {
        if self.sealed {
            return Ok(());
        }
        let lines = Line::open(std::mem::take(&mut self.lines));
        Sandbox::new()
            // The channel goes on over the files that are open; the bus can still be read, and the host switched off.
            .keep_read("/sys")
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

fn answer(request: &Request, sysfs: &Path) -> (Vec<Reply>, Then) {
    match request {
        Request::Controllers => (controllers(sysfs), Then::Continue),
        Request::Seal => (vec![Reply::Sealed], Then::Seal),
        Request::PowerOff => (vec![Reply::PoweringOff], Then::PowerOff),
        Request::Reboot => (vec![Reply::Rebooting], Then::Reboot),
        Request::Ping => (vec![Reply::Pong], Then::Continue),
    }
}

fn controllers(sysfs: &Path) -> Vec<Reply> {
    match bus::functions(sysfs) {
        Ok(functions) => {
            let controllers: Vec<Controller> =
                functions.iter().filter(|f| f.is_controller()).map(told).collect();
            info!(count = controllers.len(), "controllers");
            controllers_in_parts(&controllers)
        }
        Err(e) => {
            error!(cause = %e, "bus-unreadable");
            vec![Reply::Error(Text::new(&e.to_string()))]
        }
    }
}

fn told(function: &bus::Function) -> Controller {
    Controller {
        address: function.address,
        class: function.class,
        vendor: function.vendor,
        device: function.device,
        driver: Text::new(&function.driver),
    }
}
