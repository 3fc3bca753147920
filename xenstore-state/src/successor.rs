//! A State and its successor, on Xen. The successor grants a region to its predecessor, as it does to Logic; the predecessor maps it
//! when Builder says so.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use ennead_os::XenMemory;
use ennead_xen::{
    DomId, EventChannels, GrantRef, GrantedPage, GrantedRegion, MappedPage, MappedRegion, Port,
};
use ennead_xenstore_state::Settings;
use ennead_xenstore_state::handover::{self, Bell, Taker};
use ennead_xenstore_state::service::{Mode, Service};
use ennead_xs_link::{Directory, region_len};
use tracing::info;

/// Slots of the link between the two.
const SLOTS: usize = 4;
/// How long all of it may take. Nobody is served meanwhile, and Builder waits longer.
const GIVE: Duration = Duration::from_secs(30);

/// The other State's port.
struct Doorbell<'e> {
    events: &'e EventChannels,
    port: Port,
    /// Until when to wait; None: until this VM is destroyed.
    until: Option<Instant>,
}

impl Bell for Doorbell<'_> {
    fn ring(&mut self) {
        let _ = self.events.notify(self.port);
    }

    fn wait(&mut self) -> bool {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        left.is_none_or(|left| !left.is_zero()) && self.events.wait(left).is_ok()
    }
}

/// The State from which this one takes over.
pub(crate) struct Predecessor {
    taker: Taker<XenMemory<GrantedRegion>>,
    /// It finds the region there.
    _directory: XenMemory<GrantedPage>,
    domid: DomId,
    port: Port,
}

impl Predecessor {
    /// Offers a region; `page` is the one that its plan names.
    pub(crate) fn new(page: GrantedPage, events: &EventChannels) -> anyhow::Result<Self> {
        let domid = page.peer();
        let region = GrantedRegion::new(domid, region_len(SLOTS).div_ceil(ennead_xen::PAGE_SIZE))?;
        let port = events.bind_unbound(domid).context("Cannot make a port for the State of before")?;
        let grants = region.grefs().iter().map(|gref| gref.0).collect();
        let (taker, directory) = (Taker::new(XenMemory(region)), XenMemory(page));
        Directory { port: port.0, grants }.publish(&directory);
        Ok(Self { taker, _directory: directory, domid, port })
    }

    /// Takes over what it knows.
    pub(crate) fn take(self, settings: Settings, events: &EventChannels) -> anyhow::Result<Service> {
        let mut bell = Doorbell { events, port: self.port, until: None };
        let service = self.taker.take(settings, Mode::Xen, &mut bell).context("Cannot take over")?;
        info!(domid = self.domid.0, nodes = service.state.nodes(), "taken-over");
        Ok(service)
    }
}

/// Gives everything to the State in `successor`, which offers a region by its grant `page`.
pub(crate) fn give(
    service: &Service,
    events: &EventChannels,
    successor: DomId,
    page: GrantRef,
) -> anyhow::Result<()> {
    let until = Some(Instant::now() + GIVE);
    let page = MappedPage::map(successor, page).map(XenMemory).context("Cannot map its page")?;
    let Directory { port, grants } = Directory::read(&page).context("Its page is empty")?;
    let grefs: Vec<GrantRef> = grants.into_iter().map(GrantRef).collect();
    let region = MappedRegion::map(successor, &grefs).context("Cannot map its region")?;
    let port = events.bind_interdomain(successor, Port(port)).context("Cannot bind its port")?;
    let given = handover::give(service, XenMemory(region), &mut Doorbell { events, port, until });
    // The successor may have ended.
    let _ = events.unbind(port);
    Ok(given?)
}
