//! A toolstack that has no guests but those that it remembers, in this process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path as Part, Query, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use ennead_api::{
    Action, ApiError, CreateGuest, CreateVolume, ErrorBody, ErrorKind, Event, GrowVolume, Guest, GuestInfo,
    Host, IDEMPOTENCY_KEY, Image, Images, Resources, Service, Sha256, Shutdown, State, UsedImage, Volume,
    Volumes, What, path,
};
use ennead_guest::Disk;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// What a console says first.
pub(crate) const GREETING: &[u8] = b"Booting Linux\r\nweb login: ";

/// When everything happened: 2023-11-14T22:13:20Z.
const NOW: u64 = 1_700_000_000_000;

/// What it remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) guests: BTreeMap<String, GuestInfo>,
    pub(crate) images: BTreeMap<Sha256, Vec<u8>>,
    pub(crate) events: Vec<Event>,
    /// Each request's method and path.
    pub(crate) asked: Vec<String>,
    /// So many glances after it was asked to, a guest shuts down.
    pub(crate) shuts_down_after: u32,
    /// Images that are forgotten as soon as they have come.
    pub(crate) forgets: u32,
    /// One that is being made is there the second time that somebody looks.
    pub(crate) volumes: BTreeMap<String, Volume>,
    next: u16,
}

/// A toolstack and its socket.
#[derive(Debug)]
pub(crate) struct Fake {
    folder: tempfile::TempDir,
    memory: Arc<Mutex<Memory>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let memory = Arc::new(Mutex::new(Memory { next: 1024, ..Memory::default() }));
        let router = router(Arc::clone(&memory));
        let socket = folder.path().join("toolstack.sock");
        let (bound, listening) = std::sync::mpsc::channel();
        // Ends with the process.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::bind(socket).unwrap();
                bound.send(()).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        });
        listening.recv().unwrap();
        Self { folder, memory }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("toolstack.sock")
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }
}

type Remembered = Shared<Arc<Mutex<Memory>>>;

struct No(ApiError);

impl From<ApiError> for No {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.status()).unwrap();
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

fn router(memory: Arc<Mutex<Memory>>) -> Router {
    let note = axum::middleware::from_fn_with_state(Arc::clone(&memory), note);
    Router::new()
        .route(path::GUESTS, get(list).post(create))
        .route(path::GUEST, get(info).delete(destroy))
        .route(path::LOG, get(log))
        .route(path::CONSOLE, get(console))
        .route(path::GUEST_ACTION, post(act))
        .route(path::DISKS, post(attach))
        .route(path::DISK, delete(detach))
        .route(path::IMAGES, get(images))
        .route(path::IMAGE, put(put_image).head(head_image))
        .route(path::VOLUMES, get(volumes).post(create_volume))
        .route(path::VOLUME, delete(delete_volume))
        .route(path::VOLUME_GROW, post(grow_volume))
        .route(path::EVENTS, get(events))
        .route(path::HOST, get(host))
        .layer(note)
        .layer(DefaultBodyLimit::max(64 << 20))
        .with_state(memory)
}

async fn note(Shared(memory): Remembered, request: Request, next: axum::middleware::Next) -> Response {
    memory.lock().unwrap().asked.push(format!("{} {}", request.method(), request.uri()));
    next.run(request).await
}

impl Memory {
    fn guest(&mut self, name: &str) -> Result<&mut GuestInfo, ApiError> {
        let unknown = || {
            ApiError::new(ErrorKind::NoSuchGuest, format!("There is no guest `{name}`"))
                .help("`ennead list` shows all")
        };
        self.guests.get_mut(name).ok_or_else(unknown)
    }

    fn event(&mut self, guest: &Guest, what: What) {
        let seq = u64::try_from(self.events.len()).unwrap() + 1;
        let event =
            Event { seq, at_ms: NOW + seq * 1000, guest: Some(guest.name.clone()), domid: guest.domid, what };
        self.events.push(event);
    }

    fn has(&self, images: &[Sha256]) -> Result<(), ApiError> {
        let missing: Vec<Sha256> =
            images.iter().filter(|image| !self.images.contains_key(*image)).copied().collect();
        let error = ApiError::new(ErrorKind::ImagesMissing, "The host does not have the guest's images");
        if missing.is_empty() { Ok(()) } else { Err(ApiError { images: missing, ..error }) }
    }
}

async fn list(Shared(memory): Remembered) -> Json<Vec<Guest>> {
    let memory = memory.lock().unwrap();
    Json(memory.guests.values().map(|info| info.guest.clone()).collect())
}

async fn create(
    Shared(memory): Remembered,
    headers: HeaderMap,
    Json(asked): Json<CreateGuest>,
) -> Result<(StatusCode, Json<Guest>), No> {
    assert_eq!(headers.get(IDEMPOTENCY_KEY).unwrap().len(), 32);
    let mut memory = memory.lock().unwrap();
    let CreateGuest { config, kernel, ramdisk, paused } = asked;
    if memory.guests.contains_key(&config.name) {
        return Err(ApiError::new(ErrorKind::Exists, format!("There is a guest `{}`", config.name)).into());
    }
    if config.memory_mib > 512 {
        let error =
            ApiError::new(ErrorKind::Quota, "The tenant may use 512 MiB of memory, and 0 MiB are in use");
        return Err(error.help("give the guest less memory").into());
    }
    memory.has(&[kernel.as_slice(), ramdisk.as_slice()].concat())?;
    let guest = Guest {
        name: config.name.clone(),
        uuid: "6a1f2f0e-9b0c-4d53-9c86-0d4f5d1c8f11".to_owned(),
        domid: Some(memory.next),
        kind: config.kind,
        state: if paused { State::Paused } else { State::Running },
        shutdown: None,
        memory_kib: u64::from(config.memory_mib) * 1024,
        vcpus: config.vcpus,
        cpu_time_ns: 1_250_000_000,
        started_ms: Some(NOW),
        restarts: 0,
    };
    memory.next += 1;
    let used = |sha256| UsedImage { sha256, present: true };
    let info =
        GuestInfo { guest: guest.clone(), config, kernel: kernel.map(used), ramdisk: ramdisk.map(used) };
    memory.event(&guest, What::Created);
    memory.guests.insert(guest.name.clone(), info);
    Ok((StatusCode::CREATED, Json(guest)))
}

async fn info(Shared(memory): Remembered, Part(name): Part<String>) -> Result<Json<GuestInfo>, No> {
    let mut memory = memory.lock().unwrap();
    let left = memory.shuts_down_after;
    let stored = memory.images.keys().copied().collect::<Vec<_>>();
    let info = memory.guest(&name)?;
    for used in info.kernel.iter_mut().chain(&mut info.ramdisk) {
        used.present = stored.contains(&used.sha256);
    }
    if info.guest.state == State::Dying {
        if left == 0 {
            memory.guests.remove(&name);
            memory.guest(&name)?;
        }
        memory.shuts_down_after = left.saturating_sub(1);
    }
    Ok(Json(memory.guest(&name)?.clone()))
}

async fn destroy(Shared(memory): Remembered, Part(name): Part<String>) -> Result<StatusCode, No> {
    let mut memory = memory.lock().unwrap();
    let guest = memory.guest(&name)?.guest.clone();
    memory.guests.remove(&name);
    memory.event(&guest, What::Destroyed);
    Ok(StatusCode::NO_CONTENT)
}

async fn act(
    Shared(memory): Remembered,
    Part((name, action)): Part<(String, String)>,
) -> Result<Json<Guest>, No> {
    let mut memory = memory.lock().unwrap();
    let info = memory.guest(&name)?.clone();
    let Ok(action) = action.parse::<Action>() else {
        return Err(ApiError::new(ErrorKind::NotFound, "There is no such path").into());
    };
    let (state, what) = match (action, info.guest.state) {
        (Action::Pause, _) => (State::Paused, What::Paused),
        (Action::Unpause, _) => (State::Running, What::Unpaused),
        (_, State::Paused) => {
            let error = ApiError::new(ErrorKind::State, format!("`{name}` is paused"));
            return Err(error.help("unpause it first").into());
        }
        (Action::Shutdown, _) => (State::Dying, What::ShutDown { reason: Shutdown::Poweroff }),
        (Action::Reboot, _) => {
            let images: Vec<Sha256> =
                info.kernel.iter().chain(&info.ramdisk).map(|image| image.sha256).collect();
            memory.has(&images)?;
            (State::Running, What::RebootAsked)
        }
    };
    memory.guest(&name)?.guest.state = state;
    let guest = memory.guest(&name)?.guest.clone();
    memory.event(&guest, what);
    Ok(Json(guest))
}

async fn attach(
    Shared(memory): Remembered,
    Part(name): Part<String>,
    Json(disk): Json<Disk>,
) -> Result<(StatusCode, Json<Disk>), No> {
    memory.lock().unwrap().guest(&name)?.config.disks.push(disk.clone());
    Ok((StatusCode::CREATED, Json(disk)))
}

async fn detach(
    Shared(memory): Remembered,
    Part((name, vdev)): Part<(String, String)>,
) -> Result<StatusCode, No> {
    let mut memory = memory.lock().unwrap();
    let disks = &mut memory.guest(&name)?.config.disks;
    let before = disks.len();
    disks.retain(|disk| disk.vdev != vdev);
    if disks.len() == before {
        let message = format!("The guest `{name}` has no disk `{vdev}`");
        return Err(ApiError::new(ErrorKind::NoSuchDisk, message).into());
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn log(Shared(memory): Remembered, Part(name): Part<String>) -> Result<Bytes, No> {
    memory.lock().unwrap().guest(&name)?;
    Ok(Bytes::from_static(GREETING))
}

/// Sends the greeting, then what it is sent in capital letters, up to a `q`.
async fn console(
    Shared(memory): Remembered,
    Part(name): Part<String>,
    request: Request,
) -> Result<Response, No> {
    memory.lock().unwrap().guest(&name)?;
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(GREETING).await.unwrap();
        while let Ok(byte) = stream.read_u8().await {
            if byte == b'q' || stream.write_u8(byte.to_ascii_uppercase()).await.is_err() {
                break;
            }
        }
        let _ = stream.shutdown().await;
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    Ok(response
        .header("connection", "upgrade")
        .header("upgrade", ennead_api::CONSOLE_PROTOCOL)
        .body(Body::empty())
        .unwrap())
}

async fn images(Shared(memory): Remembered) -> Json<Images> {
    let memory = memory.lock().unwrap();
    let image = |(sha256, bytes): (&Sha256, &Vec<u8>)| Image {
        sha256: *sha256,
        bytes: bytes.len().try_into().unwrap(),
        used_by: Vec::new(),
    };
    Json(Images { images: memory.images.iter().map(image).collect(), bytes: 0, max_bytes: 1 << 24 })
}

async fn head_image(Shared(memory): Remembered, Part(sha256): Part<Sha256>) -> StatusCode {
    let present = memory.lock().unwrap().images.contains_key(&sha256);
    if present { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

async fn put_image(
    Shared(memory): Remembered,
    Part(sha256): Part<Sha256>,
    body: Bytes,
) -> Result<StatusCode, No> {
    if Sha256::of(&body) != sha256 {
        return Err(ApiError::new(ErrorKind::Invalid, "The image has another hash").into());
    }
    let mut memory = memory.lock().unwrap();
    if memory.forgets > 0 {
        memory.forgets -= 1;
    } else {
        memory.images.insert(sha256, body.to_vec());
    }
    Ok(StatusCode::CREATED)
}

/// Events as they come.
struct Follow {
    memory: Arc<Mutex<Memory>>,
    shown: usize,
    glance: tokio::time::Interval,
}

impl hyper::body::Body for Follow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        loop {
            let event = self.memory.lock().unwrap().events.get(self.shown).cloned();
            if let Some(event) = event {
                self.shown += 1;
                let line = serde_json::to_string(&event).unwrap() + "\n";
                return Poll::Ready(Some(Ok(hyper::body::Frame::data(line.into()))));
            }
            ready!(self.glance.poll_tick(cx));
        }
    }
}

async fn events(Shared(memory): Remembered, Query(query): Query<BTreeMap<String, String>>) -> Body {
    if query.get(path::FOLLOW).unwrap() == "true" {
        let glance = tokio::time::interval(Duration::from_millis(10));
        return Body::new(Follow { memory, shown: 0, glance });
    }
    let memory = memory.lock().unwrap();
    let lines: String =
        memory.events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
    lines.into()
}

async fn host() -> Json<Host> {
    let service = |name: &str, domid, state, restarts| Service {
        name: name.to_owned(),
        domid,
        state,
        memory_kib: 65536,
        uptime_s: 3700,
        restarts,
    };
    Json(Host {
        toolstack: "toolstack".to_owned(),
        version: "0.1.0".to_owned(),
        uptime_s: 61,
        iommu: true,
        limits: Resources { memory_mib: 512, vcpus: 8, guests: 10 },
        used: Resources { memory_mib: 64, vcpus: 1, guests: 1 },
        services: vec![
            service("pciback", 1, State::Running, 0),
            service("xenstore-logic", 12, State::Restarting, 3),
        ],
    })
}

async fn volumes(Shared(memory): Remembered) -> Json<Volumes> {
    let mut memory = memory.lock().unwrap();
    let volumes = memory.volumes.values().cloned().collect();
    for volume in memory.volumes.values_mut() {
        volume.made_bytes = None;
    }
    Json(Volumes { volumes, free_bytes: 5 << 30 })
}

fn no_volume(name: &str) -> No {
    ApiError::new(ErrorKind::NoSuchVolume, format!("There is no volume `{name}`")).into()
}

async fn create_volume(
    Shared(memory): Remembered,
    Json(asked): Json<CreateVolume>,
) -> Result<(StatusCode, Json<Volume>), No> {
    let mut memory = memory.lock().unwrap();
    let bytes = match (asked.bytes, asked.copy_of) {
        (Some(bytes), None) => bytes,
        (None, Some(from)) => memory.volumes.get(&from).ok_or_else(|| no_volume(&from))?.bytes,
        other => panic!("{other:?}"),
    };
    let volume = Volume {
        name: asked.name.clone(),
        backend: "blkback".to_owned(),
        bytes,
        made_bytes: Some(bytes / 3),
        used_by: Vec::new(),
    };
    memory.volumes.insert(asked.name, volume.clone());
    Ok((StatusCode::CREATED, Json(volume)))
}

async fn grow_volume(
    Shared(memory): Remembered,
    Part(name): Part<String>,
    Json(GrowVolume { bytes }): Json<GrowVolume>,
) -> Result<Json<Volume>, No> {
    let mut memory = memory.lock().unwrap();
    let volume = memory.volumes.get_mut(&name).ok_or_else(|| no_volume(&name))?;
    (volume.made_bytes, volume.bytes) = (Some(volume.bytes), bytes);
    Ok(Json(volume.clone()))
}

async fn delete_volume(Shared(memory): Remembered, Part(name): Part<String>) -> Result<StatusCode, No> {
    memory
        .lock()
        .unwrap()
        .volumes
        .remove(&name)
        .map(|_| StatusCode::NO_CONTENT)
        .ok_or_else(|| no_volume(&name))
}
