//! The operators' lines: bytes between a virtio-serial port and a toolstack's channel, passed on without a look at them.
//!
//! The port has the toolstack's name. A toolstack without a port has no line. A line that fails ends alone.

mod port;
mod relay;

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use ennead_channel::{Error, Offer, Server, Tagged, line};
use ennead_runtime::boot::{ClientVm, VmName};
use ennead_xen::{EventChannels, GrantRef, GrantedPage, Port};
use rustix::event::{Timespec, epoll};
use tracing::{info, warn};

use relay::{Inside, Relay};

/// How often to look whether the toolstack's domain has come to be.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A toolstack's channel, and its port once [`Line::open`] has found it.
#[derive(Debug)]
pub(crate) struct Line {
    vm: VmName,
    offer: Offer<line::Line>,
    events: EventChannels,
    port: Option<File>,
}

impl Line {
    /// Grants the channel's page: in the order of the boot parameters, which fixes its gref.
    ///
    /// # Errors
    /// When Xen or Linux refuses.
    pub(crate) fn offer(client: &ClientVm) -> anyhow::Result<Self> {
        let offer = Offer::new(client.domid);
        let offer = offer.with_context(|| format!("Cannot offer the line to {}", client.name))?;
        // Its own: what it is restricted to is this toolstack.
        let events = EventChannels::open().context("Cannot open the event channels")?;
        Ok(Self { vm: client.name.clone(), offer, events, port: None })
    }

    /// The page's grant reference.
    pub(crate) fn gref(&self) -> GrantRef {
        self.offer.gref()
    }

    /// Opens the ports of all lines; to be done before the sandbox closes. Gives the lines that have one.
    pub(crate) fn open(lines: Vec<Self>) -> Vec<Self> {
        let names: Vec<&str> = lines.iter().map(|line| line.vm.as_str()).collect();
        let ports = port::open(&names);
        let with_port = lines.into_iter().zip(ports).filter_map(|(line, port)| match port {
            Ok(port) => Some(Self { port: Some(port), ..line }),
            Err(e) => {
                warn!(vm = %line.vm, cause = %format!("{e:#}"), "no-line");
                None
            }
        });
        with_port.collect()
    }

    /// Carries the line in a thread of its own, until it fails; to be called once the sandbox is closed.
    pub(crate) fn carry(self) {
        let name = self.vm.clone();
        let carry = move || {
            let vm = self.vm.clone();
            let Err(e) = self.serve();
            warn!(%vm, cause = %format!("{e:#}"), "line-ended");
        };
        if let Err(e) = thread::Builder::new().spawn(carry) {
            warn!(vm = %name, cause = %e, "line-ended");
        }
    }

    fn serve(self) -> anyhow::Result<Infallible> {
        let Self { vm, offer, events, port } = self;
        let port = port.context("The line has no port")?;
        let toolstack = offer.peer();
        // Xen makes no port for a domain that is not there, and keeps one that is, however often the toolstack is built anew.
        let bound = loop {
            match events.bind_unbound(toolstack) {
                Ok(bound) => break bound,
                Err(_) => thread::sleep(LOOK_EVERY),
            }
        };
        events.restrict(toolstack).context("Cannot restrict the event channels")?;
        let channel = Channel { server: offer.open(bound), events };
        info!(%vm, "line-open");
        run(Relay::new(port, channel))
    }
}

/// Passes on what there is, then sleeps until there may be more.
fn run<O: Read + Write + AsFd, I: Inside>(mut relay: Relay<O, I>) -> anyhow::Result<Infallible> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // At its edges: as long as nobody is at its other end, a port says so at once each time that it is asked.
    let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    epoll::add(&epoll, relay.outside(), epoll::EventData::new_u64(0), edges)?;
    epoll::add(&epoll, relay.inside(), epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
    let mut woken = Vec::with_capacity(2);
    loop {
        relay.pass_on()?;
        woken.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut woken), None::<&Timespec>) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("Cannot wait for the line"),
        }
        relay.inside().hush()?;
    }
}

/// The toolstack's channel.
#[derive(Debug)]
struct Channel {
    server: Server<line::Line, GrantedPage>,
    events: EventChannels,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Inside for Channel {
    fn receive(&mut self) -> anyhow::Result<Option<line::Bytes>> {
        Ok(self.server.try_recv(&self.events)?.map(|message| message.body))
    }

    fn send(&mut self, message: &Tagged<line::Bytes>) -> anyhow::Result<bool> {
        match self.server.send(&self.events, message, Duration::ZERO) {
            Ok(()) => Ok(true),
            Err(Error::Timeout { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn hush(&self) -> anyhow::Result<()> {
        self.events.wait_many(&mut [Port(0); 2], Some(Duration::ZERO))?;
        Ok(())
    }
}
