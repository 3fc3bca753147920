//! The real channel: a page and the window, both granted to Builder.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use ennead_channel::guests::{Reply, Request, WINDOW_PAGES};
use ennead_channel::{Client, Error as ChannelError, Guests, List};
use ennead_xen::{DomId, EventChannels, GrantedPage, GrantedRegion, SharedPage as _};
use tokio::time::{Instant, timeout_at};
use tracing::error;

use super::{Changed, Channel, Error, Window};
use crate::bell::Bell;

/// How long Builder may take for one request. It may be building something for another tenant, or restarting.
const PATIENCE: Duration = Duration::from_secs(120);

/// The channel to Builder.
#[derive(Debug)]
pub struct Wire {
    client: Client<Guests, GrantedPage>,
    bell: Bell,
    window: Rc<GrantedRegion>,
    changes: VecDeque<Changed>,
}

/// What is granted to Builder, before there are tasks.
#[derive(Debug)]
pub struct Offered {
    client: Client<Guests, GrantedPage>,
    events: EventChannels,
    window: GrantedRegion,
}

impl Wire {
    /// Grants page and window to Builder. Must come before anything else grants pages: Builder looks for the page under the first
    /// grant reference.
    ///
    /// # Errors
    /// Xen's.
    pub fn offer(builder: DomId) -> anyhow::Result<Offered> {
        let events = EventChannels::open().context("Cannot open the event channels")?;
        let client = Client::offer(builder, &events).context("Cannot offer the channel to Builder")?;
        let window =
            GrantedRegion::new(builder, WINDOW_PAGES).context("Cannot grant the window to Builder")?;
        Ok(Offered { client, events, window })
    }

    /// To be called in a runtime.
    ///
    /// # Errors
    /// Linux's.
    pub fn open(offered: Offered) -> anyhow::Result<Self> {
        let Offered { client, events, window } = offered;
        let bell = Bell::new(events).context("Cannot wait for Builder's events")?;
        Ok(Self { client, bell, window: Rc::new(window), changes: VecDeque::new() })
    }

    /// Waits for an event; fails when there was none for too long.
    async fn rung(&self, deadline: Instant) -> Result<(), Error> {
        match timeout_at(deadline, self.bell.rung()).await {
            Ok(rung) => rung.map_err(|e| closed(e.as_ref())),
            Err(_) => Err(Error::Silent),
        }
    }

    /// The next message: the reply to `id`, or `None` if there is none. Changes are kept for later; late replies are dropped.
    fn receive(&mut self, id: Option<u32>) -> Result<Option<Reply>, Error> {
        while let Some(message) = self.client.try_recv(self.bell.events()).map_err(|e| closed(&e))? {
            match message.body {
                Reply::Changed { domid, state } => self.changes.push_back(Changed { domid, state }),
                body if Some(message.id) == id => return Ok(Some(body)),
                _ => {}
            }
        }
        Ok(None)
    }
}

fn closed(cause: &(dyn std::error::Error + 'static)) -> Error {
    error!(cause, "builder-lost");
    Error::Closed
}

impl Window for GrantedRegion {
    fn put(&self, bytes: &[u8]) {
        self.write(0, bytes);
    }
}

impl Channel for Wire {
    fn window(&self) -> Rc<dyn Window> {
        Rc::clone(&self.window) as _
    }

    fn hello(&self) -> Request {
        let window = self.window.grefs().iter().map(|gref| gref.0).collect();
        Request::Hello { window: List::new(window).unwrap_or_default() }
    }

    async fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        let deadline = Instant::now() + PATIENCE;
        let id = loop {
            match self.client.send(self.bell.events(), request.clone(), Duration::ZERO) {
                Ok(id) => break id,
                Err(ChannelError::Timeout { .. }) => self.rung(deadline).await?,
                Err(e) => return Err(closed(&e)),
            }
        };
        loop {
            if let Some(reply) = self.receive(Some(id))? {
                return Ok(reply);
            }
            self.rung(deadline).await?;
        }
    }

    async fn changed(&mut self) -> Result<Changed, Error> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            self.receive(None)?;
            if self.changes.is_empty() {
                self.bell.rung().await.map_err(|e| closed(e.as_ref()))?;
            }
        }
    }
}
