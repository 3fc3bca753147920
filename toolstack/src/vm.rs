//! The toolstack in its VM.

use std::convert::Infallible;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Child;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ennead_api::{CreateGuest, Endpoint};
use ennead_channel::proto::{decode, encode};
use ennead_channel::{Client, Line as LineProtocol, MAX_MESSAGE};
use ennead_runtime::boot::ServerVm;
use ennead_runtime::{CapabilitySet, Health, Params, Runtime, Sandbox};
use ennead_xen::EventChannels;
use ennead_xs_client::XenStore;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tracing::{info, warn};

use crate::bell::Bell;
use crate::builder::{self, Builder, Error, Limits, Wire, wire::Offered};
use crate::console::protocol::{Reply, Request};
use crate::console::{client, process};
use crate::images::Images;
use crate::line::{self, Channel};
use crate::loader::Loaders;
use crate::manager::{Manager, Peers};
use crate::network::Network;
use crate::xenstore::Store;
use crate::{boot, drain, http, line::Ends, tls};

/// Names of the VMs that a toolstack talks to.
const BUILDER: &str = "builder";
const PCIBACK: &str = "pciback";
/// How long XenStore may take for an answer, and pciback to offer the line: they may be restarting.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is opened before the sandbox closes.
struct Opened {
    params: Params,
    health: Health,
    offered: Offered,
    store: XenStore,
    /// For Builder's wishes: what waits for an event does not answer.
    wishes: XenStore,
    line: Option<(Client<LineProtocol>, EventChannels)>,
    console: UnixDatagram,
    images: Images,
    guests: Vec<CreateGuest>,
    endpoint: Option<Endpoint>,
}

/// Serves until something breaks that this VM cannot be without.
///
/// # Errors
/// What broke. Builder then builds the VM anew, and the guests are found again.
pub fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    // First of all: from here on consoles can be served.
    let (child, console) = process::spawn()?;
    let Runtime { params, health, .. } = runtime;
    // Before anything else grants pages.
    let builder = params.server(BUILDER).context("The boot parameters name no builder")?;
    let offered = Wire::offer(builder.domid)?;
    let line = params.server(PCIBACK).map(open_line).transpose()?;
    let (store, wishes) = (XenStore::open(PATIENCE)?, XenStore::open(PATIENCE)?);
    let endpoint = endpoint()?;
    let loaders = Loaders::take(Path::new("/")).context("Cannot read the boot loaders")?;
    let mut images = Images::new(Images::limit_for(available_memory()?), loaders);
    let guests = boot::take(Path::new("/"), &mut images)?;
    info!(image_kib = images.limit() / 1024, "memory");
    seal(&console)?;
    // The console process goes on to open its device, whose node is in the same /dev.
    let mut sandbox = Sandbox::new().keep_device(process::DEVICE);
    if endpoint.is_some() {
        // For the address of its own interface, which is there only when its backend is.
        sandbox = sandbox.keep_capabilities(CapabilitySet::NET_ADMIN);
    }
    sandbox.enter().context("Cannot drop privileges")?;
    watch(child)?;
    let opened = Opened { params, health, offered, store, wishes, line, console, images, guests, endpoint };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&tokio, serve(opened))
}

/// The operator's line, on event channels of its own.
fn open_line(pciback: &ServerVm) -> anyhow::Result<(Client<LineProtocol>, EventChannels)> {
    let events = EventChannels::open().context("Cannot open the event channels")?;
    let client = Client::connect(pciback.domid, pciback.gref, &events, PATIENCE)
        .context("Cannot open the channel to pciback")?;
    events.restrict(pciback.domid).context("Cannot restrict the event channels")?;
    Ok((client, events))
}

/// How this VM is reached over a network, if it is. Its keys are gone from the file system's reach once the sandbox is closed.
fn endpoint() -> anyhow::Result<Option<Endpoint>> {
    let json = match std::fs::read(Path::new("/").join(ennead_api::ENDPOINT)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        json => json.context("Cannot read how this VM is reached")?,
    };
    serde_json::from_slice(&json).context("Cannot read how this VM is reached")
}

/// Has the console process give up what only its start needed.
fn seal(console: &UnixDatagram) -> anyhow::Result<()> {
    let mut buffer = [0; MAX_MESSAGE];
    console.send(&encode(&Request::Seal)?).context("The console process is gone")?;
    let length = console.recv(&mut buffer).context("The console process is gone")?;
    match decode(buffer.get(..length).unwrap_or_default())? {
        Reply::Done => Ok(()),
        other => bail!("The console process answered {other:?}"),
    }
}

/// Without its console process this VM is of no use: guests would wait for it for ever.
fn watch(mut child: Child) -> anyhow::Result<()> {
    let ended = move || {
        let status = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        ennead_runtime::fail(anyhow::anyhow!("The console process ended: {status}"))
    };
    std::thread::Builder::new()
        .name("console-watch".to_owned())
        .spawn(ended)
        .context("Cannot start a thread")?;
    Ok(())
}

/// Bytes of memory that programs can have.
fn available_memory() -> anyhow::Result<usize> {
    let info = std::fs::read_to_string("/proc/meminfo").context("Cannot read /proc/meminfo")?;
    let kib = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: usize = kib.context("/proc/meminfo does not say what is available")?;
    Ok(kib.saturating_mul(1024))
}

async fn serve(opened: Opened) -> anyhow::Result<Infallible> {
    let Opened { params, health, offered, store, wishes, line, console, images, guests, endpoint } = opened;
    let (store, wish) = (Store::start(store)?, drain::watch(wishes)?);
    let (console, consoles) = client::over(console)?;
    let mut consoles = tokio::task::spawn_local(consoles);
    let (builder, building, mut changes) = builder::over(Wire::open(offered)?);
    let mut building = tokio::task::spawn_local(building.run());
    // Builder comes to its channel when it knows that this VM is well.
    health.report()?;
    let limits = greet(&builder).await?;
    let domid = store.own_domid().await.context("Cannot find this VM's domid")?;
    let (name, backends) = (params.vm.to_string(), params.backends);
    let network = match &endpoint {
        Some(endpoint) => Some((Network::new(endpoint, &name, domid, &backends, store.clone())?, endpoint)),
        None => None,
    };
    let manager = Manager::new(name, domid, limits, images, Peers { builder, store, console, backends });
    tokio::task::spawn_local({
        let manager = Rc::clone(&manager);
        async move { drain::serve(wish, &manager.work).await }
    });
    manager.find().await.context("Cannot find the guests")?;
    tokio::task::spawn_local(Rc::clone(&manager).start_with_host(guests));
    let (operators, ends) = line::line();
    let (connections, operating) = ennead_line::serve(operators);
    tokio::task::spawn_local(operating);
    tokio::task::spawn_local(http::serve(Rc::clone(&manager), connections));
    if let Some((network, endpoint)) = network {
        let (operators, connections) = mpsc::channel(tls::QUEUE);
        tokio::task::spawn_local(http::serve(Rc::clone(&manager), connections));
        let listener = tls::listen(endpoint.port).context("Cannot listen for operators")?;
        tokio::task::spawn_local(tls::accept(listener, tls::acceptor(endpoint)?, operators));
        tokio::task::spawn_local(network.keep());
    }
    let mut carrying = tokio::task::spawn_local(carry(line, ends));
    info!("ready");
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => manager.changed(change),
                None => bail!("The channel to Builder is closed"),
            },
            ended = &mut building => return Err(ended?.err().unwrap_or(Error::Closed).into()),
            ended = &mut consoles => {
                ended??;
                bail!("The console process is gone")
            }
            ended = &mut carrying => {
                ended??;
                bail!("The operator's line has ended")
            }
        }
    }
}

/// Builder may take its time.
async fn greet(builder: &Builder) -> anyhow::Result<Limits> {
    loop {
        match builder.hello().await {
            Err(Error::Silent) => warn!("builder-silent"),
            other => return other.context("Builder does not accept this VM"),
        }
    }
}

async fn carry(line: Option<(Client<LineProtocol>, EventChannels)>, ends: Ends) -> anyhow::Result<()> {
    let Some((client, events)) = line else {
        warn!("no-line");
        // The ends are kept: nobody can come, and nothing ends.
        std::future::pending::<()>().await;
        drop(ends);
        return Ok(());
    };
    line::carry(Channel::new(client, Bell::new(events)?), ends).await
}
