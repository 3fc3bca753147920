//! What operators ask for and what guests do.

use std::rc::Rc;
use std::time::Duration;

use ennead_api::{Action, ApiError, CreateGuest, ErrorKind, Shutdown, What};
use ennead_channel::guests::{Guest as Domain, State};
use ennead_guest::{Action as After, GuestConfig};
use tokio::sync::OwnedMutexGuard;
use tracing::{error, warn};

use super::build::random_uuid;
use super::{Guest, Manager, count, millis, now};
use crate::builder::Changed;
use crate::desired::{self, Phase, Record};
use crate::devices;
use crate::problem::{self, Problem};

impl Manager {
    /// Creates a guest. The same `key` again changes nothing, and is no mistake.
    ///
    /// # Errors
    /// When it cannot be or there is one; nothing of it is left then.
    pub async fn create(
        self: Rc<Self>,
        request: CreateGuest,
        key: Option<String>,
    ) -> Result<String, Problem> {
        let _alone = self.locks.lock(&request.config.name).await;
        self.create_alone(request, key).await
    }

    /// The same for who has the name's lock.
    pub(super) async fn create_alone(
        &self,
        request: CreateGuest,
        key: Option<String>,
    ) -> Result<String, Problem> {
        let CreateGuest { config, kernel, ramdisk, paused } = request;
        let name = config.name.clone();
        if let Some(known) = self.with_key(key.as_deref()) {
            let is_it = (&known.config, known.kernel, known.ramdisk) == (&config, kernel, ramdisk);
            let reused = "The `Idempotency-Key` was that of another guest";
            return if is_it { Ok(name) } else { Err(ApiError::new(ErrorKind::KeyReused, reused)) };
        }
        self.possible(&config, kernel.is_some(), ramdisk.is_some())?;
        // Whether there is somebody for each; its UUID may not be known yet.
        devices::devices(&config, "", self.domid, &self.peers.backends)?;
        let old = self.guest(&name);
        if old.as_ref().is_some_and(|old| !matches!(old.record.phase, Phase::Stopped { .. })) {
            return Err(ApiError::new(ErrorKind::Exists, format!("There is a guest `{name}`")));
        }
        let uuid = config.uuid.clone().map_or_else(random_uuid, Ok)?;
        if self.has_uuid(&uuid, &name) {
            return Err(ApiError::new(ErrorKind::Exists, format!("There is a guest with the UUID {uuid}")));
        }
        let phase = Phase::Creating { domid: None };
        let record = Record { config, kernel, ramdisk, uuid, key, phase, restarts: 0, short_lives: 0 };
        let missing = self.missing(&record);
        if !missing.is_empty() {
            return Err(problem::images_missing(missing));
        }
        if let Some(old) = old {
            self.forget(&name, old.console).await;
        }
        let console = self.new_console();
        self.guests.borrow_mut().insert(name.clone(), Guest { record: record.clone(), console, turn: 0 });
        let kept = self.peers.store.keep(&record).await.map_err(|e| problem::of_xenstore(&e));
        let built = match kept {
            Ok(()) => self.build(&name, paused).await,
            Err(e) => Err(e),
        };
        match built {
            Ok(domid) => {
                self.tell(Some(&name), Some(domid), What::Created);
                if !paused {
                    self.tell(Some(&name), Some(domid), What::Unpaused);
                }
                Ok(name)
            }
            Err(e) => {
                self.forget(&name, console).await;
                Err(e)
            }
        }
    }

    /// Does something with a guest.
    ///
    /// # Errors
    /// When it is not there, or it cannot be done with it.
    pub async fn act(self: Rc<Self>, name: String, action: Action) -> Result<(), Problem> {
        let alone = self.locks.lock(&name).await;
        let guest = self.guest(&name).ok_or_else(|| problem::no_such_guest(&name))?;
        let domain = match guest.record.phase.domid() {
            Some(domid) => self.domain(domid).await?,
            None => None,
        };
        match (action, domain) {
            (Action::Reboot, Some(Domain { domid, state: State::ShutDown(_), .. })) => {
                // It is kept as it was, and answers nobody.
                self.restart(alone, &name, Some(domid), None).await
            }
            (Action::Reboot, None) => self.restart(alone, &name, guest.record.phase.domid(), None).await,
            (_, Some(domain)) => self.act_on(&name, &guest.record, &domain, action).await,
            (_, None) => Err(ApiError::new(
                ErrorKind::State,
                format!("The guest `{name}` has no domain at the moment"),
            )
            .help(format!("`ennead reboot {name}` starts it"))),
        }
    }

    async fn act_on(
        &self,
        name: &str,
        record: &Record,
        domain: &Domain,
        action: Action,
    ) -> Result<(), Problem> {
        let domid = domain.domid;
        let of_builder = |e| problem::of_builder(&e);
        if let State::ShutDown(code) = domain.state {
            let why = Shutdown::from_code(code);
            let message = format!("The guest `{name}` has shut down ({why}), and is kept as it was");
            return Err(ApiError::new(ErrorKind::State, message)
                .help(format!("`ennead reboot {name}` starts it anew, `ennead destroy {name}` removes it")));
        }
        let what = match action {
            // Xen counts: what is paused twice must be unpaused twice.
            Action::Pause if domain.state == State::Paused => return Ok(()),
            Action::Unpause if domain.state == State::Running => return Ok(()),
            Action::Pause => {
                self.peers.builder.pause(domid).await.map_err(of_builder)?;
                What::Paused
            }
            Action::Unpause => {
                self.peers.builder.unpause(domid).await.map_err(of_builder)?;
                What::Unpaused
            }
            Action::Shutdown => {
                self.ask_guest(domid, "poweroff").await?;
                What::ShutdownAsked
            }
            Action::Reboot => {
                let missing = self.missing(record);
                if record.config.on_reboot == After::Restart && !missing.is_empty() {
                    return Err(problem::images_missing(missing));
                }
                self.ask_guest(domid, "reboot").await?;
                What::RebootAsked
            }
        };
        self.tell(Some(name), Some(domid), what);
        Ok(())
    }

    async fn ask_guest(&self, domid: u16, what: &'static str) -> Result<(), Problem> {
        self.peers.store.ask_guest(domid, what).await.map_err(|e| problem::of_xenstore(&e))
    }

    /// Ends a guest at once, for good. What is left of it in XenStore goes a moment later, before its name is given to another.
    ///
    /// # Errors
    /// When it is not there, or its domain does not end.
    pub async fn destroy(self: Rc<Self>, name: String) -> Result<(), Problem> {
        let alone = self.locks.lock(&name).await;
        let Some(guest) = self.guest(&name) else { return self.destroy_stranger(&name).await };
        let domid = guest.record.phase.domid();
        // Asked while the guest is known.
        let roots = domid.map(|domid| self.roots(&name, domid, &guest.record.uuid)).unwrap_or_default();
        if let Some(domid) = domid {
            // So that a successor knows what was meant. One that comes before this is kept finds a guest without a domain.
            let (kept, ended) = tokio::join!(
                self.enter(&name, Phase::Ending { domid }),
                self.end(&name, domid, guest.console)
            );
            if let Err(e) = kept {
                warn!(guest = name, cause = %e, "not-kept");
            }
            if !ended {
                self.change(&name, |known| known.record.phase = guest.record.phase);
                let message = format!("Builder did not end the domain of `{name}`");
                return Err(ApiError::new(ErrorKind::Failed, message).help("try again"));
            }
        }
        self.tell(Some(&name), domid, What::Destroyed);
        let manager = Rc::clone(&self);
        tokio::task::spawn_local(async move {
            manager.fell(&name, roots).await;
            manager.forget(&name, guest.console).await;
            drop(alone);
        });
        Ok(())
    }

    /// Waits until nothing is left of the guests that somebody has ended.
    pub(super) async fn await_ended(&self) {
        let ending = |(_, guest): &(&String, &Guest)| matches!(guest.record.phase, Phase::Ending { .. });
        let names =
            self.guests.borrow().iter().filter(ending).map(|(name, _)| name.clone()).collect::<Vec<_>>();
        for name in names {
            drop(self.locks.lock(&name).await);
        }
    }

    /// A domain of this tenant's that nobody here knows of.
    async fn destroy_stranger(&self, name: &str) -> Result<(), Problem> {
        let domains = self.peers.builder.guests().await.map_err(|e| problem::of_builder(&e))?;
        let stranger = domains.into_iter().find(|domain| &*domain.name == name);
        let domid = stranger.ok_or_else(|| problem::no_such_guest(name))?.domid;
        self.peers.builder.destroy(domid).await.map_err(|e| problem::of_builder(&e))?;
        self.tell(Some(name), Some(domid), What::Destroyed);
        Ok(())
    }

    /// Forgets a guest that has no domain.
    pub(super) async fn forget(&self, name: &str, console: u32) {
        let known = self.guests.borrow_mut().remove(name);
        let started = known.is_some_and(|guest| {
            guest.record.is_of_boot() && !matches!(guest.record.phase, Phase::Creating { .. })
        });
        if let Err(e) = self.peers.store.forget(name, started).await {
            warn!(guest = name, cause = %e, "record-left");
        }
        if let Err(e) = self.peers.console.forget(console).await {
            warn!(guest = name, cause = %e, "console-left");
        }
    }

    /// A guest has changed by itself.
    pub fn changed(self: &Rc<Self>, changed: Changed) {
        let Changed { domid, state } = changed;
        let name = {
            let guests = self.guests.borrow();
            let found = guests.iter().find(|(_, guest)| guest.record.phase.domid() == Some(domid));
            found.map(|(name, _)| name.clone())
        };
        let Some(name) = name else { return };
        let manager = Rc::clone(self);
        match state {
            State::ShutDown(code) => {
                tokio::task::spawn_local(manager.shut_down(name, domid, Shutdown::from_code(code)));
            }
            State::Dying | State::Gone => {
                tokio::task::spawn_local(manager.vanished(name, domid));
            }
            State::Building | State::Running | State::Paused => {}
        }
    }

    /// A guest has shut down: what its configuration says is done.
    pub(super) async fn shut_down(self: Rc<Self>, name: String, domid: u16, reason: Shutdown) {
        let alone = self.locks.lock(&name).await;
        // Somebody may have been faster.
        let Some(guest) = self.guest(&name).filter(|guest| guest.record.phase.domid() == Some(domid)) else {
            return;
        };
        self.tell(Some(&name), Some(domid), What::ShutDown { reason });
        if matches!(reason, Shutdown::Crash | Shutdown::Watchdog) {
            count(&self.counters.crashes);
        }
        let started = match guest.record.phase {
            Phase::Live { started_ms, .. } => started_ms,
            _ => 0,
        };
        match desired::action(&guest.record.config, reason) {
            After::Preserve => {}
            After::Destroy => {
                if self.take_down(&name, domid, &guest.record.uuid, guest.console).await {
                    self.forget(&name, guest.console).await;
                    self.tell(Some(&name), Some(domid), What::Destroyed);
                }
            }
            After::Restart => {
                let lived = Duration::from_millis(millis(now()).saturating_sub(started));
                if let Err(e) = Rc::clone(&self).restart(alone, &name, Some(domid), Some(lived)).await {
                    error!(guest = name, cause = %e, "not-restarted");
                }
            }
        }
    }

    /// A guest's domain is gone, and nobody here wanted that.
    async fn vanished(self: Rc<Self>, name: String, domid: u16) {
        let _alone = self.locks.lock(&name).await;
        let Some(guest) = self.guest(&name).filter(|guest| guest.record.phase.domid() == Some(domid)) else {
            return;
        };
        self.take_down(&name, domid, &guest.record.uuid, guest.console).await;
        self.tell(Some(&name), Some(domid), What::Destroyed);
        self.stop(&name, "its domain was ended by the host").await;
    }

    /// Builds a guest anew, after its domain (if it has one) has been removed. `lived`: how long, if it ended by itself; the
    /// operator need not wait.
    async fn restart(
        self: Rc<Self>,
        alone: OwnedMutexGuard<()>,
        name: &str,
        domid: Option<u16>,
        lived: Option<Duration>,
    ) -> Result<(), Problem> {
        let guest = self.guest(name).ok_or_else(|| problem::no_such_guest(name))?;
        let missing = self.missing(&guest.record);
        if !missing.is_empty() {
            let refused = problem::images_missing(missing);
            if lived.is_none() {
                // The operator can do something about it first.
                return Err(refused);
            }
            self.let_go(name, domid, &guest).await?;
            self.failed(name, &refused).await;
            return Err(refused);
        }
        let (pause, short_lives) =
            lived.map_or((Duration::ZERO, 0), |lived| desired::wait(lived, guest.record.short_lives));
        let turn = guest.turn.wrapping_add(1);
        self.change(name, |guest| {
            guest.turn = turn;
            guest.record.short_lives = short_lives;
            guest.record.restarts = guest.record.restarts.saturating_add(1);
        });
        self.let_go(name, domid, &guest).await?;
        if let Err(e) = self.enter(name, Phase::Restarting { domid: None }).await {
            warn!(guest = name, cause = %e, "not-kept");
        }
        self.tell(Some(name), None, What::Restarting { pause_ms: millis(pause) });
        if pause.is_zero() {
            return self.build_again(alone, name).await;
        }
        drop(alone);
        let (manager, name) = (Rc::clone(&self), name.to_owned());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            let alone = manager.locks.lock(&name).await;
            let is_wanted =
                |guest: Guest| guest.turn == turn && matches!(guest.record.phase, Phase::Restarting { .. });
            if manager.guest(&name).is_some_and(is_wanted) {
                // Told as an event.
                let _ = manager.build_again(alone, &name).await;
            }
        });
        Ok(())
    }

    async fn build_again(&self, _alone: OwnedMutexGuard<()>, name: &str) -> Result<(), Problem> {
        match self.build(name, false).await {
            Ok(domid) => {
                self.tell(Some(name), Some(domid), What::Restarted);
                Ok(())
            }
            Err(e) => {
                self.failed(name, &e).await;
                Err(e)
            }
        }
    }

    /// Removes a guest's domain before another is built.
    async fn let_go(&self, name: &str, domid: Option<u16>, guest: &Guest) -> Result<(), Problem> {
        let Some(domid) = domid else { return Ok(()) };
        if self.take_down(name, domid, &guest.record.uuid, guest.console).await {
            return Ok(());
        }
        Err(ApiError::new(ErrorKind::Failed, format!("Builder did not end the domain of `{name}`"))
            .help("try again"))
    }

    async fn failed(&self, name: &str, why: &Problem) {
        self.tell(Some(name), None, What::RestartFailed { message: why.message.clone() });
        self.stop(name, &why.message).await;
    }

    /// A guest has no domain any more, and waits for the operator.
    pub(super) async fn stop(&self, name: &str, why: &str) {
        if let Err(e) = self.enter(name, Phase::Stopped { why: why.to_owned() }).await {
            warn!(guest = name, cause = %e, "not-kept");
        }
    }

    /// What Builder says of a domain.
    pub(super) async fn domain(&self, domid: u16) -> Result<Option<Domain>, Problem> {
        let domains = self.peers.builder.guests().await.map_err(|e| problem::of_builder(&e))?;
        Ok(domains.into_iter().find(|domain| domain.domid == domid))
    }

    fn with_key(&self, key: Option<&str>) -> Option<Record> {
        let guests = self.guests.borrow();
        let found = guests.values().find(|guest| key.is_some() && guest.record.key.as_deref() == key);
        found.map(|guest| guest.record.clone())
    }

    fn has_uuid(&self, uuid: &str, but: &str) -> bool {
        self.guests.borrow().iter().any(|(name, guest)| name != but && guest.record.uuid == uuid)
    }

    /// Whether a guest's files are those that its configuration names, or it has a loader in their place.
    fn possible(&self, config: &GuestConfig, has_kernel: bool, has_ramdisk: bool) -> Result<(), Problem> {
        let invalid = |message: &str| Err(ApiError::new(ErrorKind::Invalid, message));
        match (config.kernel.is_some(), has_kernel) {
            (true, true) => Ok(()),
            (true, false) => invalid("The guest's `kernel` is not among its images"),
            (false, true) => invalid("The guest has no `kernel`, but an image of one"),
            (false, false) if has_ramdisk => invalid("A guest without `kernel` has no ramdisk either"),
            (false, false) => {
                self.images.borrow().loader(config.kind).map(drop).ok_or_else(problem::no_loader)
            }
        }
    }
}
