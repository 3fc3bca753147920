//! What operators see.

use std::rc::Rc;

use ennead_api::{
    ApiError, ErrorKind, Guest as Shown, GuestInfo, Host, Image, Images, Resources, Service, Sha256,
    Shutdown, State, UsedImage,
};
use ennead_channel::guests::{Guest as Domain, State as Does};

use super::{Guest, Manager, now};
use crate::console::client::Console;
use crate::desired::Phase;
use crate::metrics;
use crate::problem::{self, Problem};

/// What a domain does, and why it has shut down.
fn state(does: Does) -> (State, Option<Shutdown>) {
    match does {
        Does::Building => (State::Building, None),
        Does::Running => (State::Running, None),
        Does::Paused => (State::Paused, None),
        Does::ShutDown(code) => (State::ShutDown, Some(Shutdown::from_code(code))),
        Does::Dying => (State::Dying, None),
        Does::Gone => (State::Gone, None),
    }
}

/// A guest without a domain to look at.
fn resting(phase: &Phase) -> State {
    match phase {
        Phase::Creating { .. } => State::Building,
        Phase::Restarting { .. } => State::Restarting,
        Phase::Ending { .. } => State::Dying,
        Phase::Live { .. } | Phase::Stopped { .. } => State::Gone,
    }
}

fn shown(guest: &Guest, domains: &[Domain]) -> Shown {
    let record = &guest.record;
    let domid = record.phase.domid();
    let domain = domains.iter().find(|domain| Some(domain.domid) == domid);
    let (state, shutdown) = domain.map_or((resting(&record.phase), None), |domain| state(domain.state));
    Shown {
        name: record.config.name.clone(),
        uuid: record.uuid.clone(),
        domid,
        kind: record.config.kind,
        state,
        shutdown,
        memory_kib: domain.map_or(0, |domain| domain.memory_kib),
        vcpus: domain.map_or(record.config.vcpus, |domain| domain.vcpus),
        cpu_time_ns: domain.map_or(0, |domain| domain.cpu_time_ns),
        started_ms: match record.phase {
            Phase::Live { started_ms, .. } => Some(started_ms),
            _ => None,
        },
        restarts: record.restarts,
    }
}

/// Nobody has ended it. One that somebody has is gone for operators, though its name is not free for a moment.
fn stays(guest: &Guest) -> bool {
    !matches!(guest.record.phase, Phase::Ending { .. })
}

/// A length in bytes.
fn bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl Manager {
    async fn domains(&self) -> Result<Vec<Domain>, Problem> {
        self.peers.builder.guests().await.map_err(|e| problem::of_builder(&e))
    }

    /// All guests, by name, but those that somebody has just ended.
    ///
    /// # Errors
    /// When Builder does not answer.
    pub async fn list(&self) -> Result<Vec<Shown>, Problem> {
        let domains = self.domains().await?;
        let guests = self.guests.borrow();
        let staying = guests.values().filter(|guest| stays(guest));
        Ok(staying.map(|guest| shown(guest, &domains)).collect())
    }

    /// One guest.
    ///
    /// # Errors
    /// When it is not there, or Builder does not answer.
    pub async fn show(&self, name: &str) -> Result<Shown, Problem> {
        let known = || self.guest(name).filter(stays).ok_or_else(|| problem::no_such_guest(name));
        known()?;
        let domains = self.domains().await?;
        Ok(shown(&known()?, &domains))
    }

    /// One guest and what it is made of.
    ///
    /// # Errors
    /// As `show`.
    pub async fn info(&self, name: &str) -> Result<GuestInfo, Problem> {
        let guest = self.show(name).await?;
        let record = self.guest(name).ok_or_else(|| problem::no_such_guest(name))?.record;
        let images = self.images.borrow();
        let used = |sha256: Sha256| UsedImage { sha256, present: images.has(sha256) };
        let (kernel, ramdisk) = (record.kernel.map(used), record.ramdisk.map(used));
        Ok(GuestInfo { guest, config: record.config, kernel, ramdisk })
    }

    /// The images.
    pub fn show_images(&self) -> Images {
        let (images, guests) = (self.images.borrow(), self.guests.borrow());
        let users = |id: Sha256| {
            let uses = |guest: &&Guest| guest.record.images().any(|image| image == id);
            guests.values().filter(uses).map(|guest| guest.record.config.name.clone()).collect()
        };
        Images {
            images: images
                .list()
                .map(|(sha256, length)| Image { sha256, bytes: bytes(length), used_by: users(sha256) })
                .collect(),
            bytes: bytes(images.used()),
            max_bytes: bytes(images.limit()),
        }
    }

    /// The host.
    ///
    /// # Errors
    /// When Builder does not answer.
    pub async fn host(&self) -> Result<Host, Problem> {
        let services = self.peers.builder.services().await.map_err(|e| problem::of_builder(&e))?;
        let service = |service: ennead_channel::guests::Service| Service {
            name: service.name.to_string(),
            domid: service.domid,
            state: state(service.state).0,
            memory_kib: service.memory_kib,
            uptime_s: service.uptime_s,
            restarts: service.restarts,
        };
        let domains = self.domains().await?;
        let memory_kib: u64 = domains.iter().map(|domain| domain.memory_kib).sum();
        let used = Resources {
            memory_mib: u32::try_from(memory_kib.div_ceil(1024)).unwrap_or(u32::MAX),
            vcpus: domains.iter().map(|domain| domain.vcpus).sum(),
            guests: u32::try_from(domains.len()).unwrap_or(u32::MAX),
        };
        let limits = Resources {
            memory_mib: self.limits.memory_mib,
            vcpus: self.limits.vcpus,
            guests: self.limits.guests,
        };
        Ok(Host {
            toolstack: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now().saturating_sub(self.started).as_secs(),
            iommu: self.limits.iommu,
            limits,
            used,
            services: services.into_iter().map(service).collect(),
        })
    }

    /// The way to a guest's console, and its number there.
    ///
    /// # Errors
    /// When there is no such guest.
    pub fn console(&self, name: &str) -> Result<(Console, u32), Problem> {
        let guest = self.guest(name).ok_or_else(|| problem::no_such_guest(name))?;
        Ok((self.peers.console.clone(), guest.console))
    }

    /// Whether a guest still has the console of this number.
    pub fn has_console(&self, name: &str, console: u32) -> bool {
        self.guests.borrow().get(name).is_some_and(|guest| guest.console == console)
    }

    /// Numbers for monitoring, as OpenMetrics.
    ///
    /// # Errors
    /// When Builder or the console process do not answer.
    pub async fn metrics(self: Rc<Self>) -> Result<String, Problem> {
        let guests = self.list().await?;
        let consoles = self.peers.console.counts().await;
        let consoles = consoles.map_err(|e| ApiError::new(ErrorKind::Failed, e.to_string()))?;
        let host = self.host().await?;
        let requests = self.counters.requests.borrow().clone();
        Ok(metrics::text(&metrics::Numbers {
            guests: &guests,
            host: &host,
            images: &self.show_images(),
            consoles,
            requests: &requests,
            builds: self.counters.builds.get(),
            failed_builds: self.counters.failed_builds.get(),
            crashes: self.counters.crashes.get(),
        }))
    }
}
