//! The console process: starts before everything else, and ends with the main process.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use ennead_channel::MAX_MESSAGE;
use ennead_channel::proto::{decode, encode};
use ennead_runtime::Sandbox;
use ennead_xen::{DomId, EventChannels, GrantRef, MappedPage, Port};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::info;

use super::protocol::{Reply, Request};
use super::serve::{Consoles, Xen};

/// The argument that makes the program this process.
pub const ARGUMENT: &str = "console";
/// The grant reference of a guest's console (`GNTTAB_RESERVED_CONSOLE`).
const GREF: GrantRef = GrantRef(0);
/// How a process finds its own program.
const PROGRAM: &str = "/proc/self/exe";
/// What maps guests' pages: opened for each.
pub const DEVICE: &str = "/dev/xen/gntdev";

/// Starts the process; gives it and the way to it.
///
/// # Errors
/// Linux's.
pub fn spawn() -> anyhow::Result<(Child, UnixDatagram)> {
    let (ours, theirs) = UnixDatagram::pair().context("Cannot make a pair of sockets")?;
    let mut command = Command::new(PROGRAM);
    // It finds the socket as its standard input.
    command.arg(ARGUMENT).env_clear().stdin(Stdio::from(OwnedFd::from(theirs)));
    let child = command.spawn().context("Cannot start the console process")?;
    Ok((child, ours))
}

/// The whole process.
pub fn main() -> ! {
    let started = ennead_runtime::init().map_err(anyhow::Error::from);
    match started.and_then(|_| serve()) {
        Ok(never) => match never {},
        Err(e) => ennead_runtime::fail(e),
    }
}

fn serve() -> anyhow::Result<Infallible> {
    let socket = io::stdin().as_fd().try_clone_to_owned().context("Cannot find the main process's socket")?;
    let socket = UnixDatagram::from(socket);
    let events = EventChannels::open().context("Cannot open the event channels")?;
    let mut buffer = [0; MAX_MESSAGE];
    // What this process gives up are nodes of /dev as well, which the main process opens first.
    let first = receive(&socket, &mut buffer)?;
    anyhow::ensure!(first == Request::Seal, "The first request is another than to seal");
    Sandbox::new().keep_device(DEVICE).enter().context("Cannot drop privileges")?;
    send(&socket, &Reply::Done)?;
    info!("consoles-ready");
    socket.set_nonblocking(true)?;
    let mut consoles = Consoles::new(Real(events));
    loop {
        let more = consoles.work();
        if consoles.news() {
            send(&socket, &Reply::Grown)?;
        }
        wait(&socket, &consoles.xen().0, more)?;
        let mut ports = [Port(0); 64];
        let count = consoles.xen().0.wait_many(&mut ports, Some(Duration::ZERO))?;
        for port in ports.iter().take(count) {
            consoles.event(*port);
        }
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let request = decode(buffer.get(..length).unwrap_or_default())?;
                if let Some(reply) = consoles.answer(request) {
                    send(&socket, &reply)?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("The main process is gone"),
        }
    }
}

/// Waits for an event or a request; if there is `more` to do, only looks.
fn wait(socket: &UnixDatagram, events: &EventChannels, more: bool) -> anyhow::Result<()> {
    let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(events, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, more.then_some(&now)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context("Cannot wait"),
    }
}

fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> anyhow::Result<Request> {
    let length = socket.recv(buffer).context("The main process is gone")?;
    Ok(decode(buffer.get(..length).unwrap_or_default())?)
}

fn send(socket: &UnixDatagram, reply: &Reply) -> anyhow::Result<()> {
    socket.send(&encode(reply)?).context("The main process is gone")?;
    Ok(())
}

/// Xen itself.
#[derive(Debug)]
struct Real(EventChannels);

impl Xen for Real {
    type Page = MappedPage;

    fn open(&mut self, domid: u16, port: u32) -> Result<(MappedPage, Port), ennead_xen::Error> {
        let page = MappedPage::map(DomId(domid), GREF)?;
        let port = self.0.bind_interdomain(DomId(domid), Port(port))?;
        Ok((page, port))
    }

    fn notify(&mut self, port: Port) {
        // A guest that is gone needs no event.
        let _ = self.0.notify(port);
    }

    fn close(&mut self, port: Port) {
        let _ = self.0.unbind(port);
    }
}
