//! Builder's channel to pciback, the hardware domain.

use std::time::Duration;

use anyhow::{Context as _, bail};
use ennead_channel::Client;
use ennead_channel::pciback::{Address, Controller, Reply, Request};
use ennead_runtime::boot::ServerVm;
use ennead_xen::{DomId, EventChannels};

/// How long pciback may take to offer its channel, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The open channel.
#[derive(Debug)]
pub(crate) struct Pciback {
    client: Client<ennead_channel::Pciback>,
    /// Ports of this channel only, so that waiting for an answer takes no other event away.
    events: EventChannels,
    domid: DomId,
}

impl Pciback {
    /// Opens the channel; `server` is pciback's line of the boot parameters.
    pub(crate) fn connect(server: &ServerVm) -> anyhow::Result<Self> {
        let events = EventChannels::open()?;
        let client = Client::connect(server.domid, server.gref, &events, PATIENCE)
            .with_context(|| format!("Cannot open the channel to {}", server.name))?;
        Ok(Self { client, events, domid: server.domid })
    }

    pub(crate) fn controllers(&mut self) -> anyhow::Result<Vec<Controller>> {
        self.client
            .controllers(&self.events, PATIENCE)?
            .map_err(anyhow::Error::msg)
            .context("pciback cannot read the PCI bus")
    }

    /// Its domid.
    pub(crate) fn domid(&self) -> DomId {
        self.domid
    }

    pub(crate) fn seize(&mut self, address: Address, without_reset: bool) -> anyhow::Result<()> {
        self.ask(Request::Seize { address, without_reset }, &Reply::Seized)
    }

    pub(crate) fn lend(&mut self, borrower: DomId, address: Address) -> anyhow::Result<()> {
        self.ask(Request::Lend { domid: borrower.0, address }, &Reply::Lent)
    }

    pub(crate) fn seal(&mut self) -> anyhow::Result<()> {
        self.ask(Request::Seal, &Reply::Sealed)
    }

    pub(crate) fn power_off(&mut self) -> anyhow::Result<()> {
        self.ask(Request::PowerOff, &Reply::PoweringOff)
    }

    pub(crate) fn reboot(&mut self) -> anyhow::Result<()> {
        self.ask(Request::Reboot, &Reply::Rebooting)
    }

    fn ask(&mut self, request: Request, expected: &Reply) -> anyhow::Result<()> {
        match self
            .client
            .call(&self.events, request, PATIENCE)
            .with_context(|| format!("pciback did not obey {request:?}"))?
        {
            reply if reply == *expected => Ok(()),
            Reply::Error(text) => bail!("pciback refused {request:?}: {text}"),
            other => bail!("pciback answered {request:?} with {other:?}"),
        }
    }
}
