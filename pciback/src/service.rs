//! What pciback answers to Builder.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ennead_channel::pciback::{Controller, Reply, Request, controllers_in_parts};
use ennead_channel::{FIRST_GREF, Pciback, Server, Tagged, Text};
use ennead_runtime::Runtime;
use ennead_xen::EventChannels;
use tracing::{error, info, warn};

use crate::bus;

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

/// pciback with its channel to Builder.
#[derive(Debug)]
pub struct Service<'a> {
    runtime: &'a Runtime,
    events: EventChannels,
    builder: Server<Pciback>,
}

impl<'a> Service<'a> {
    /// Offers the channel to Builder. Must come before anything else grants pages: the order fixes the gref.
    ///
    /// # Errors
    /// When Xen refuses, or the page has another gref than Builder expects.
    pub fn offer(runtime: &'a Runtime) -> anyhow::Result<Self> {
        let events = EventChannels::open().context("Cannot open the event channels")?;
        let [client] = runtime.params().answers.as_slice() else {
            anyhow::bail!("pciback answers one VM, Builder; the boot parameters name {}", runtime.params().answers.len())
        };
        let builder = Server::offer(client.domid, &events).context("Cannot offer the channel to Builder")?;
        ensure!(
            builder.gref().0 == FIRST_GREF,
            "The channel's page has gref {}, but Builder will look for {FIRST_GREF}: something granted a page before",
            builder.gref().0
        );
        Ok(Self { runtime, events, builder })
    }

    /// Answers until the host ends.
    ///
    /// # Errors
    /// When the channel breaks: Builder then has to be rebuilt.
    pub fn run(&mut self) -> anyhow::Result<()> {
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
                Then::Continue | Then::Seal => {}
                Then::PowerOff => {
                    info!("power-off");
                    self.runtime.power_off();
                }
                Then::Reboot => {
                    info!("reboot");
                    self.runtime.restart();
                }
            }
        }
    }

    /// Drops what only the start needed.
    fn seal(&mut self) -> anyhow::Result<()> {
        self.runtime.seal(&["/sys"]).context("Cannot drop privileges")?;
        info!("sealed");
        Ok(())
    }
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
            let controllers: Vec<Controller> = functions.into_iter().filter(bus::Function::is_controller).map(told).collect();
            info!(count = controllers.len(), "controllers");
            controllers_in_parts(&controllers)
        }
        Err(e) => {
            error!(cause = %e, "bus-unreadable");
            vec![Reply::Error(Text::new(&e.to_string()))]
        }
    }
}

fn told(function: bus::Function) -> Controller {
    Controller {
        address: function.address,
        class: function.class,
        vendor: function.vendor,
        device: function.device,
        driver: Text::new(&function.driver),
    }
}
