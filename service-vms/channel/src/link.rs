//! The two ends with their I/O: page, event channel, waiting.

use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::time::{Duration, Instant, SystemTime};

use ennead_xen::{DomId, EventChannels, GrantRef, MappedPage, Port, SharedPage};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::proto::pciback::{Assembly, Controller, Pciback, Reply, Request};
use crate::proto::{Protocol, Tagged, decode, encode};
use crate::{Endpoint, Error, Header, Violation};

/// How often a client looks whether the server has offered its page.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a channel needs of event channels; a trait so that tests do without Xen.
pub trait Events {
    /// Sends an event to the other end of `port`.
    ///
    /// # Errors
    /// Xen's.
    fn notify(&self, port: Port) -> Result<(), ennead_xen::Error>;

    /// Waits for an event on any port; `None` if none came within `timeout`.
    ///
    /// # Errors
    /// Xen's.
    fn wait(&self, timeout: Option<Duration>) -> Result<Option<Port>, ennead_xen::Error>;
}

impl Events for EventChannels {
    fn notify(&self, port: Port) -> Result<(), ennead_xen::Error> {
        Self::notify(self, port)
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Option<Port>, ennead_xen::Error> {
        Self::wait(self, timeout)
    }
}

/// One end: raw messages, and the peer notified of each.
#[derive(Debug)]
struct Link<P: SharedPage> {
    endpoint: Endpoint<P>,
    port: Port,
}

impl<P: SharedPage> Link<P> {
    fn notify(&self, events: &impl Events) -> Result<(), Error> {
        events.notify(self.port).map_err(xen("notify the peer"))
    }

    fn try_send<T: Serialize>(&mut self, events: &impl Events, message: &T) -> Result<bool, Error> {
        let sent = self.endpoint.try_send(&encode(message)?)?;
        if sent {
            self.notify(events)?;
        }
        Ok(sent)
    }

    fn try_recv<T: DeserializeOwned>(&mut self, events: &impl Events) -> Result<Option<T>, Error> {
        let Some(bytes) = self.endpoint.try_recv()? else { return Ok(None) };
        // The peer may be waiting for room. One event for each message is cheap, and none is ever missing.
        self.notify(events)?;
        decode(&bytes).map(Some).map_err(|violation| self.condemn(violation))
    }

    fn condemn(&mut self, violation: Violation) -> Error {
        self.endpoint.condemn(violation);
        violation.into()
    }

    fn send<T: Serialize>(
        &mut self,
        events: &impl Events,
        message: &T,
        timeout: Duration,
    ) -> Result<(), Error> {
        let late = Error::Timeout { action: "send", timeout };
        self.wait_until(events, timeout, |link| Ok(link.try_send(events, message)?.then_some(())))?
            .ok_or(late)
    }

    fn recv<T: DeserializeOwned>(
        &mut self,
        events: &impl Events,
        timeout: Duration,
    ) -> Result<Option<T>, Error> {
        self.wait_until(events, timeout, |link| link.try_recv(events))
    }

    /// Tries at once and after each event of the peer's, until it works or `timeout` is over.
    fn wait_until<T>(
        &mut self,
        events: &impl Events,
        timeout: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let start = Instant::now();
        loop {
            if let Some(done) = attempt(self)? {
                return Ok(Some(done));
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            events.wait(Some(left)).map_err(xen("wait for the peer"))?;
        }
    }
}

/// Makes Xen's error one of the channel's.
fn xen(action: &'static str) -> impl FnOnce(ennead_xen::Error) -> Error {
    move |source| Error::Xen { action, source }
}

/// New at each start, never 0. To tell two starts apart, not secret.
fn new_generation() -> u32 {
    let [a, b, c, d, ..] =
        std::collections::hash_map::RandomState::new().hash_one(SystemTime::now()).to_le_bytes();
    u32::from_le_bytes([a, b, c, d]).max(1)
}

/// The end that answers. Mostly it owns the page: whoever restarts less is the server.
#[derive(Debug)]
pub struct Server<R: Protocol, P: SharedPage = MappedPage> {
    link: Link<P>,
    peer: DomId,
    protocol: PhantomData<fn() -> R>,
}

impl<R: Protocol> Server<R, MappedPage> {
    /// Maps the page that the client granted as `gref` ([`Client::offer`]), and binds its port: for a server that grants
    /// nothing to its clients, since it would stay alive as long as one of them held its page.
    ///
    /// # Errors
    /// Xen's; `PeerBroke` if the page is none of this protocol, or not ready.
    pub fn attach(client: DomId, gref: GrantRef, events: &EventChannels) -> Result<Self, Error> {
        let page = MappedPage::map(client, gref).map_err(xen("map the client's page"))?;
        Self::on(page, client, |port| {
            events.bind_interdomain(client, port).map_err(xen("bind the client's port"))
        })
    }
}

impl<R: Protocol, P: SharedPage> Server<R, P> {
    /// The server's end of a page that the client has formatted.
    fn on(page: P, peer: DomId, bind: impl FnOnce(Port) -> Result<Port, Error>) -> Result<Self, Error> {
        let header = Header::expect::<R>(&page)?.ok_or(Violation::NotReady)?;
        let port = bind(header.port)?;
        Ok(Self { link: Link { endpoint: Endpoint::server(page), port }, peer, protocol: PhantomData })
    }

    /// The client's domid.
    pub fn peer(&self) -> DomId {
        self.peer
    }

    /// The port on which the client's events arrive.
    pub fn port(&self) -> Port {
        self.link.port
    }

    /// The next request, if there is one. After an event on `port()`, call this until it says `None`.
    ///
    /// # Errors
    /// `PeerBroke`, once and for all; `Xen`.
    pub fn try_recv(&mut self, events: &impl Events) -> Result<Option<Tagged<R::Request>>, Error> {
        self.link.try_recv(events)
    }

    /// Sends a reply; `false` if there is no room for it now.
    ///
    /// # Errors
    /// `TooLong`; `PeerBroke`; `Xen`.
    pub fn try_send(&mut self, events: &impl Events, reply: &Tagged<R::Reply>) -> Result<bool, Error> {
        self.link.try_send(events, reply)
    }
}

/// The end that asks.
#[derive(Debug)]
pub struct Client<R: Protocol, P: SharedPage = MappedPage> {
    link: Link<P>,
    next_id: u32,
    protocol: PhantomData<fn() -> R>,
}

impl<R: Protocol> Client<R, MappedPage> {
    /// Maps the page that the server granted as `gref`, and binds its port. Looks for the page every 20 ms, since the
    /// server may start later.
    ///
    /// # Errors
    /// `NoServer` after `timeout`; `PeerBroke` at once if the page is one of another version or protocol.
    pub fn connect(
        server: DomId,
        gref: GrantRef,
        events: &EventChannels,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let start = Instant::now();
        loop {
            let refused = match Self::attempt(server, gref, events) {
                Ok(Some(client)) => return Ok(client),
                Ok(None) => None,
                Err(Error::Xen { source, .. }) => Some(source),
                Err(other) => return Err(other),
            };
            if start.elapsed() >= timeout {
                return Err(Error::NoServer { server, gref, timeout, source: refused });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// One look. The page is mapped anew each time: a server that was rebuilt meanwhile has granted another one.
    fn attempt(server: DomId, gref: GrantRef, events: &EventChannels) -> Result<Option<Self>, Error> {
        let page = MappedPage::map(server, gref).map_err(xen("map the server's page"))?;
        Self::over(page, |port| events.bind_interdomain(server, port).map_err(xen("bind the server's port")))
    }
}

impl<R: Protocol, P: SharedPage> Client<R, P> {
    fn over(page: P, bind: impl FnOnce(Port) -> Result<Port, Error>) -> Result<Option<Self>, Error> {
        let Some(header) = Header::expect::<R>(&page)? else { return Ok(None) };
        let endpoint = Endpoint::client(page)?;
        let link = Link { endpoint, port: bind(header.port)? };
        // Replies to a predecessor's requests must not match: it did not start where this one does.
        Ok(Some(Self { link, next_id: new_generation(), protocol: PhantomData }))
    }

    /// The port on which the server's events arrive.
    pub fn port(&self) -> Port {
        self.link.port
    }

    /// Sends a request, waits for room. The number is what the replies carry. Events of other ports are taken meanwhile.
    ///
    /// # Errors
    /// `Timeout`; `TooLong`; `PeerBroke`; `Xen`.
    pub fn send(
        &mut self,
        events: &impl Events,
        request: R::Request,
        timeout: Duration,
    ) -> Result<u32, Error> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.link.send(events, &Tagged { id, body: request }, timeout)?;
        Ok(id)
    }

    /// The next reply, if there is one. After an event on `port()`, call this until it says `None`.
    ///
    /// # Errors
    /// `PeerBroke`, once and for all; `Xen`.
    pub fn try_recv(&mut self, events: &impl Events) -> Result<Option<Tagged<R::Reply>>, Error> {
        self.link.try_recv(events)
    }

    /// The next reply; waits for it. `None` after `timeout`. Events of other ports are taken meanwhile.
    ///
    /// # Errors
    /// As `try_recv`.
    pub fn recv(
        &mut self,
        events: &impl Events,
        timeout: Duration,
    ) -> Result<Option<Tagged<R::Reply>>, Error> {
        self.link.recv(events, timeout)
    }

    /// Sends a request and waits for the first reply to it; throws away replies to earlier requests that came too late.
    ///
    /// # Errors
    /// As `send` and `recv`; `Timeout` if no reply came.
    pub fn call(
        &mut self,
        events: &impl Events,
        request: R::Request,
        timeout: Duration,
    ) -> Result<R::Reply, Error> {
        let start = Instant::now();
        let id = self.send(events, request, timeout)?;
        self.reply_to(events, id, start, timeout)
    }

    fn reply_to(
        &mut self,
        events: &impl Events,
        id: u32,
        start: Instant,
        timeout: Duration,
    ) -> Result<R::Reply, Error> {
        loop {
            match self.recv(events, timeout.saturating_sub(start.elapsed()))? {
                Some(reply) if reply.id == id => return Ok(reply.body),
                // A server that floods this end with other replies does not hold it beyond the timeout.
                Some(_) if start.elapsed() < timeout => {}
                _ => return Err(Error::Timeout { action: "receive", timeout }),
            }
        }
    }
}

impl<P: SharedPage> Client<Pciback, P> {
    /// Asks pciback for the list of controllers and puts its parts together. `Err` inside: pciback's own words.
    ///
    /// # Errors
    /// As `call`; `PeerBroke` for another reply or parts that do not fit together.
    pub fn controllers(
        &mut self,
        events: &impl Events,
        timeout: Duration,
    ) -> Result<Result<Vec<Controller>, String>, Error> {
        let start = Instant::now();
        let id = self.send(events, Request::Controllers, timeout)?;
        let mut list = Assembly::default();
        loop {
            let what = match self.reply_to(events, id, start, timeout)? {
                Reply::Controllers { index, more, controllers } => match list.add(index, more, controllers) {
                    Ok(true) => return Ok(Ok(list.into_controllers())),
                    Ok(false) => continue,
                    Err(what) => what,
                },
                Reply::Error(text) => return Ok(Err(text.to_string())),
                _ => "that does not belong to the request",
            };
            return Err(self.link.condemn(Violation::Reply { what }));
        }
    }
}

#[cfg(any(feature = "offer", test))]
mod offer;
mod xenstore;

#[cfg(any(feature = "offer", test))]
pub use offer::Offer;

#[cfg(test)]
mod tests;
