//! The ends that own the page: a VM whose pages others may map does not vanish as long as they do.

use std::marker::PhantomData;
use std::time::Duration;

use ennead_xen::{DomId, EventChannels, GrantRef, GrantedPage, Port, SharedPage};

use super::{Client, Events, Link, Server, new_generation, xen};
use crate::proto::{Protocol, Tagged};
use crate::{Endpoint, Error, Header};

/// A page that is granted to a client which may not be there yet: Xen makes no port for a domain that does not exist.
#[derive(Debug)]
pub struct Offer<R: Protocol> {
    page: GrantedPage,
    protocol: PhantomData<fn() -> R>,
}

impl<R: Protocol> Offer<R> {
    /// Grants a page to `peer`. A server that does this before anything else that takes grants, in the order of
    /// `Vm::answers`, gives client number i (from 0) the gref `FIRST_GREF` + i.
    ///
    /// # Errors
    /// Xen's.
    pub fn new(peer: DomId) -> Result<Self, Error> {
        Ok(Self { page: GrantedPage::new(peer).map_err(xen("grant a page"))?, protocol: PhantomData })
    }

    /// The page's grant reference.
    pub fn gref(&self) -> GrantRef {
        self.page.gref()
    }

    /// The client's domid.
    pub fn peer(&self) -> DomId {
        self.page.peer()
    }

    /// Opens the channel on `port`, an unbound port for the client. The client sees the page only now.
    #[must_use]
    pub fn open(self, port: Port) -> Server<R, GrantedPage> {
        let peer = self.peer();
        Server::over(self.page, peer, port)
    }
}

impl<R: Protocol, P: SharedPage> Server<R, P> {
    pub(super) fn over(page: P, peer: DomId, port: Port) -> Self {
        Header { generation: new_generation(), port, protocol: R::ID }.publish(&page);
        Self { link: Link { endpoint: Endpoint::server(page), port }, peer, protocol: PhantomData }
    }

    /// The next request; waits for it. `None` after `timeout`. Events of other ports are taken meanwhile.
    ///
    /// # Errors
    /// As `try_recv`.
    pub fn recv(
        &mut self,
        events: &impl Events,
        timeout: Duration,
    ) -> Result<Option<Tagged<R::Request>>, Error> {
        self.link.recv(events, timeout)
    }

    /// Sends a reply; waits for room. Events of other ports are taken meanwhile.
    ///
    /// # Errors
    /// `Timeout`; `TooLong`; `PeerBroke`; `Xen`.
    pub fn send(
        &mut self,
        events: &impl Events,
        reply: &Tagged<R::Reply>,
        timeout: Duration,
    ) -> Result<(), Error> {
        self.link.send(events, reply, timeout)
    }
}

impl<R: Protocol> Client<R, GrantedPage> {
    /// Grants a page to the server, with a port for it: for a server that [attaches](Server::attach). Its gref is
    /// `FIRST_GREF` if this comes before anything else that takes grants.
    ///
    /// # Errors
    /// Xen's; `EPERM` if there is no domain `server`.
    pub fn offer(server: DomId, events: &EventChannels) -> Result<Self, Error> {
        let page = GrantedPage::new(server).map_err(xen("grant a page"))?;
        let port = events.bind_unbound(server).map_err(xen("make an event channel"))?;
        Self::on(page, port)
    }
}

impl<R: Protocol, P: SharedPage> Client<R, P> {
    /// The client's end of a page of its own.
    pub(super) fn on(page: P, port: Port) -> Result<Self, Error> {
        Header { generation: new_generation(), port, protocol: R::ID }.publish(&page);
        let link = Link { endpoint: Endpoint::client(page)?, port };
        Ok(Self { link, next_id: new_generation(), protocol: PhantomData })
    }
}
