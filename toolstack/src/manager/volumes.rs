//! The tenant's volumes, which backends keep: what they are asked in XenStore, and what they say there (`ennead_volumes`).

use std::rc::Rc;
use std::time::{Duration, Instant};

use ennead_api::{ApiError, CreateVolume, ErrorKind, GrowVolume, Volume, Volumes};
use ennead_runtime::boot::{BackendVm, DeviceKind};
use ennead_volumes::{Kind, Name, Request, State, Unfit, numbered, of_answer, of_source, split};
use ennead_xs_client::{Perm, Right};

use super::Manager;
use super::build::random_key;
use crate::problem::{self, Problem};
use crate::tree::{Node, volumes_root};

/// How long a backend may take to answer: it may be restarting. And how often to look.
const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(20);

impl Manager {
    /// The volumes, by name.
    ///
    /// # Errors
    /// XenStore's.
    pub async fn volumes(&self) -> Result<Volumes, Problem> {
        let mut all = Volumes { volumes: Vec::new(), free_bytes: 0 };
        for backend in self.keepers() {
            let root = volumes_root(backend.domid, self.domid);
            let found = self.peers.store.children(format!("{root}/volume")).await;
            for (name, value) in found.map_err(|e| problem::of_xenstore(&e))? {
                let state = String::from_utf8(value).ok().and_then(|state| state.parse::<State>().ok());
                // What is no volume was not told by the backend.
                let (Ok(name), Some(state)) = (name.parse::<Name>(), state) else { continue };
                all.volumes.push(Volume {
                    used_by: self.users(&name, backend),
                    name: name.to_string(),
                    backend: backend.name.to_string(),
                    bytes: state.bytes,
                    made_bytes: state.making,
                });
            }
            let free = self.read(format!("{root}/free")).await?;
            let free = free.and_then(|free| free.parse().ok()).unwrap_or(0_u64);
            all.free_bytes = all.free_bytes.saturating_add(free);
        }
        all.volumes.sort_by(|a, b| (&a.name, &a.backend).cmp(&(&b.name, &b.backend)));
        Ok(all)
    }

    /// Has a volume made.
    ///
    /// # Errors
    /// Why the backend does not.
    pub async fn create_volume(self: Rc<Self>, wanted: CreateVolume) -> Result<Volume, Problem> {
        let name = name(&wanted.name)?;
        let (request, backend) = match (wanted.bytes, wanted.copy_of) {
            (Some(bytes), None) => (Request::Create { name: name.clone(), bytes }, None),
            (None, Some(from)) => {
                let from = self::name(&from)?;
                let backend = self.keeper_of(&from).await?;
                (Request::Copy { name: name.clone(), from }, Some(backend))
            }
            _ => return Err(invalid("A volume has a size, or is a copy of another")),
        };
        let mut those =
            self.keepers().filter(|vm| wanted.backend.as_ref().is_none_or(|name| vm.name.as_str() == name));
        let backend = backend.or_else(|| those.next().cloned());
        let backend = backend.ok_or_else(|| invalid("No VM keeps volumes for this tenant"))?;
        self.ask(&backend, &request).await?;
        self.volume(&name).await
    }

    /// Has a volume made larger.
    ///
    /// # Errors
    /// Why the backend does not.
    pub async fn grow_volume(self: Rc<Self>, name: String, wanted: GrowVolume) -> Result<Volume, Problem> {
        let name = self::name(&name)?;
        let backend = self.keeper_of(&name).await?;
        self.ask(&backend, &Request::Grow { name: name.clone(), bytes: wanted.bytes }).await?;
        self.volume(&name).await
    }

    /// Has a volume deleted.
    ///
    /// # Errors
    /// Why the backend does not; when it is a disk of a guest, also of one that does not run.
    pub async fn delete_volume(self: Rc<Self>, name: String) -> Result<(), Problem> {
        let name = self::name(&name)?;
        let backend = self.keeper_of(&name).await?;
        self.await_ended().await;
        if let Some(guest) = self.users(&name, &backend).first() {
            let message = format!("The volume `{name}` is a disk of the guest `{guest}`");
            return Err(ApiError::new(ErrorKind::State, message).help("destroy the guest first"));
        }
        self.ask(&backend, &Request::Delete { name }).await
    }

    /// The VMs that may keep volumes.
    fn keepers(&self) -> impl Iterator<Item = &BackendVm> {
        self.peers.backends.iter().filter(|backend| backend.device == DeviceKind::Vbd)
    }

    /// The guests that have a volume of this name from this backend: without a name in the guest's configuration it is the first.
    fn users(&self, name: &Name, backend: &BackendVm) -> Vec<String> {
        let first = self.keepers().next().map(|first| first.name.as_str());
        let guests = self.guests.borrow();
        let has = |config: &ennead_guest::GuestConfig| {
            config.disks.iter().any(|disk| {
                let volume = disk.source.as_deref().and_then(of_source).and_then(Result::ok);
                volume.as_ref() == Some(name)
                    && disk.backend.as_deref().or(first) == Some(backend.name.as_str())
            })
        };
        guests.iter().filter(|(_, guest)| has(&guest.record.config)).map(|(name, _)| name.clone()).collect()
    }

    pub(super) async fn volume(&self, name: &Name) -> Result<Volume, Problem> {
        let all = self.volumes().await?.volumes;
        all.into_iter().find(|volume| volume.name == name.as_str()).ok_or_else(|| no_such_volume(name))
    }

    /// The VM that keeps a volume.
    async fn keeper_of(&self, name: &Name) -> Result<BackendVm, Problem> {
        let backend = self.volume(name).await?.backend;
        let found = self.keepers().find(|vm| vm.name.as_str() == backend);
        found.cloned().ok_or_else(|| no_such_volume(name))
    }

    pub(super) async fn read(&self, path: String) -> Result<Option<String>, Problem> {
        let value = self.peers.store.value(path).await.map_err(|e| problem::of_xenstore(&e))?;
        Ok(value.and_then(|value| String::from_utf8(value).ok()))
    }

    /// Asks a backend, and waits for its answer.
    async fn ask(&self, backend: &BackendVm, request: &Request) -> Result<(), Problem> {
        let _turn = self.asking.lock().await;
        let root = volumes_root(backend.domid, self.domid);
        let number = random_key()?;
        // The directory is the backend's, as those of devices are.
        let perms = |path: &str, value: String| Node {
            path: path.to_owned(),
            value,
            perms: Some(vec![Perm { access: Right::None, domid: backend.domid.0 }]),
        };
        let nodes =
            vec![perms(&root, String::new()), perms(&format!("{root}/request"), numbered(number, request))];
        self.peers.store.plant(Vec::new(), nodes).await.map_err(|e| problem::of_xenstore(&e))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.read(format!("{root}/answer")).await?.unwrap_or_default();
            if let Some((answered, text)) = split(&answer).filter(|(answered, _)| *answered == number) {
                let outcome = of_answer(text);
                tracing::info!(answered, %request, ?outcome, "volume");
                let outcome = outcome.map_err(|e| ApiError::new(ErrorKind::Failed, e.to_string()))?;
                return outcome.map_err(|refusal| ApiError::new(kind(refusal.kind), refusal.message));
            }
            if Instant::now() >= deadline {
                let message = format!("`{}` does not answer", backend.name);
                return Err(ApiError::new(ErrorKind::Busy, message));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

fn name(text: &str) -> Result<Name, Problem> {
    text.parse().map_err(|e: Unfit| invalid(&e.to_string()))
}

fn invalid(message: &str) -> Problem {
    ApiError::new(ErrorKind::Invalid, message)
}

fn no_such_volume(name: &Name) -> Problem {
    ApiError::new(ErrorKind::NoSuchVolume, format!("There is no volume `{name}`"))
}

fn kind(kind: Kind) -> ErrorKind {
    match kind {
        Kind::Invalid => ErrorKind::Invalid,
        Kind::NoSuchVolume => ErrorKind::NoSuchVolume,
        Kind::Exists => ErrorKind::Exists,
        Kind::State => ErrorKind::State,
        Kind::TooLarge => ErrorKind::TooLarge,
        Kind::Failed => ErrorKind::Failed,
    }
}
