//! Who asks: one connection a call.

mod address;
mod body;
mod error;
mod events;
mod tls;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ennead_guest::Disk;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

pub use address::{Address, NotAnAddress};
pub use error::Error;
pub use events::Events;
pub use tls::BadProfile;

use crate::{
    Action, BYTES, CONSOLE_PROTOCOL, CreateGuest, CreateVolume, ErrorBody, GrowVolume, Guest, GuestInfo,
    Host, IDEMPOTENCY_KEY, Images, JSON, MAX_JSON, Profile, Sha256, Volume, Volumes, path,
};
use body::Outgoing;
use tls::Tls;

/// A guest's console: bytes both ways, what was printed before first.
pub type Console = TokioIo<Upgraded>;

impl Sha256 {
    /// Of an image.
    #[must_use]
    pub fn of(image: &[u8]) -> Self {
        Self(<sha2::Sha256 as sha2::Digest>::digest(image).into())
    }
}

/// How long nothing may come, unless set otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often whoever uploads hears how far it is.
const TICK: Duration = Duration::from_millis(200);

/// How long to wait before something is asked again.
const AGAIN: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// Bytes that a guest's log may at most have here: many times what a toolstack keeps.
const MAX_LOG: usize = 16 << 20;

/// What an upload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// The host had it.
    Present,
    /// It has been sent.
    Sent,
}

/// Asks a host. To be used in a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    /// How to an address of a network.
    tls: Option<Tls>,
    patience: Duration,
}

/// What is asked.
#[derive(Debug, Clone)]
struct Asked<'a> {
    method: Method,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Bytes,
}

impl<'a> Asked<'a> {
    fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, headers: &[], body: Bytes::new() }
    }

    /// Whether to ask twice does no more than to ask once.
    fn is_repeatable(&self) -> bool {
        let keyed = self.headers.iter().any(|(name, _)| *name == IDEMPOTENCY_KEY);
        keyed || [Method::GET, Method::HEAD, Method::PUT].contains(&self.method)
    }
}

impl Client {
    /// For the host at this address. Nothing is asked yet.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address, tls: None, patience: PATIENCE }
    }

    /// For the host of this profile. Nothing is asked yet.
    ///
    /// # Errors
    /// When the profile has no such address, certificates or key.
    pub fn of(profile: &Profile) -> Result<Self, BadProfile> {
        let (address, tls) = tls::read(profile)?;
        Ok(Self { address, tls: Some(tls), patience: PATIENCE })
    }

    /// Gives up when nothing has come for so long, instead of 60 s.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// All guests, by name.
    ///
    /// # Errors
    /// As all calls: when the host refuses, cannot be reached, does not answer, or answers something else.
    pub async fn guests(&self) -> Result<Vec<Guest>, Error> {
        self.get(path::GUESTS).await
    }

    /// A guest.
    ///
    /// # Errors
    /// As [`Client::guests`]; `NoSuchGuest`.
    pub async fn guest(&self, name: &str) -> Result<GuestInfo, Error> {
        self.get(&path::guest(name)).await
    }

    /// Creates a guest. If the connection breaks, asks again, which creates no second one.
    ///
    /// # Errors
    /// As [`Client::guests`]; `Exists`, `Quota`, `Memory`, `ImagesMissing`.
    pub async fn create(&self, guest: &CreateGuest) -> Result<Guest, Error> {
        let random = RandomState::new();
        let key = format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1));
        let headers = [(IDEMPOTENCY_KEY, key.as_str()), (CONTENT_TYPE.as_str(), JSON)];
        let body = self.encode(guest)?;
        let asked = Asked { headers: &headers, body, ..Asked::new(Method::POST, path::GUESTS) };
        self.decode(self.ask(asked).await?).await
    }

    /// Does something with a guest, or asks it to.
    ///
    /// # Errors
    /// As [`Client::guest`]; `State`, and for a reboot `ImagesMissing`.
    pub async fn act(&self, name: &str, action: Action) -> Result<Guest, Error> {
        let path = path::guest_action(name, action);
        self.decode(self.ask(Asked::new(Method::POST, &path)).await?).await
    }

    /// Destroys a guest at once.
    ///
    /// # Errors
    /// As [`Client::guest`].
    pub async fn destroy(&self, name: &str) -> Result<(), Error> {
        self.ask(Asked::new(Method::DELETE, &path::guest(name))).await.map(drop)
    }

    /// Gives a guest that runs a disk, and waits until it has it.
    ///
    /// # Errors
    /// As [`Client::guest`]; `Exists`, `State`, `NoSuchVolume`.
    pub async fn attach_disk(&self, name: &str, disk: &Disk) -> Result<Disk, Error> {
        self.post(&path::disks(name), disk).await
    }

    /// Takes a disk from a guest that runs, when the guest has let go of it.
    ///
    /// # Errors
    /// As [`Client::guest`]; `NoSuchDisk`, `State`.
    pub async fn detach_disk(&self, name: &str, vdev: &str) -> Result<(), Error> {
        self.ask(Asked::new(Method::DELETE, &path::disk(name, vdev))).await.map(drop)
    }

    /// The last bytes of a guest's console.
    ///
    /// # Errors
    /// As [`Client::guest`].
    pub async fn log(&self, name: &str) -> Result<Bytes, Error> {
        let answer = self.ask(Asked::new(Method::GET, &path::log(name))).await?;
        self.read(answer.into_body(), MAX_LOG).await
    }

    /// A guest's console.
    ///
    /// # Errors
    /// As [`Client::guest`].
    pub async fn console(&self, name: &str) -> Result<Console, Error> {
        let headers = [(CONNECTION.as_str(), "upgrade"), (UPGRADE.as_str(), CONSOLE_PROTOCOL)];
        let path = path::console(name);
        let answer = self.ask(Asked { headers: &headers, ..Asked::new(Method::GET, &path) }).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.foreign(format!("it answered the console with {}", answer.status())));
        }
        hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(|source| self.broken(source))
    }

    /// Whether the host has an image.
    ///
    /// # Errors
    /// As [`Client::guests`].
    pub async fn has_image(&self, sha256: &Sha256) -> Result<bool, Error> {
        let path = path::image(sha256);
        let (answer, _) = self.send(Asked::new(Method::HEAD, &path), |_| {}).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(self.foreign(format!("it answered with {status} whether it has an image"))),
        }
    }

    /// Uploads an image unless the host has it; `progress` hears now and then how many bytes are on their way.
    ///
    /// # Errors
    /// As [`Client::guests`]; `TooLarge`.
    pub async fn upload(
        &self,
        sha256: &Sha256,
        image: Bytes,
        progress: impl FnMut(u64),
    ) -> Result<Uploaded, Error> {
        if self.has_image(sha256).await? {
            return Ok(Uploaded::Present);
        }
        let path = path::image(sha256);
        let headers = [(CONTENT_TYPE.as_str(), BYTES)];
        let asked = Asked { headers: &headers, body: image, ..Asked::new(Method::PUT, &path) };
        let (answer, _) = self.send(asked, progress).await?;
        self.success(answer).await?;
        Ok(Uploaded::Sent)
    }

    /// The images that the host has.
    ///
    /// # Errors
    /// As [`Client::guests`].
    pub async fn images(&self) -> Result<Images, Error> {
        self.get(path::IMAGES).await
    }

    /// The last events; with `follow` then those to come.
    ///
    /// # Errors
    /// As [`Client::guests`].
    pub async fn events(&self, follow: bool) -> Result<Events, Error> {
        let answer = self.ask(Asked::new(Method::GET, &path::events(follow))).await?;
        Ok(Events::new(self.address.clone(), answer.into_body()))
    }

    /// The volumes.
    ///
    /// # Errors
    /// As [`Client::guests`].
    pub async fn volumes(&self) -> Result<Volumes, Error> {
        self.get(path::VOLUMES).await
    }

    /// Creates a volume, or a copy of one. It is there when all its bytes have been written, which [`Client::volumes`] tells.
    ///
    /// # Errors
    /// As [`Client::guests`]; `Exists`, `TooLarge`, `NoSuchVolume`, `State`.
    pub async fn create_volume(&self, volume: &CreateVolume) -> Result<Volume, Error> {
        self.post(path::VOLUMES, volume).await
    }

    /// Makes a volume larger.
    ///
    /// # Errors
    /// As [`Client::guests`]; `NoSuchVolume`, `State`, `TooLarge`.
    pub async fn grow_volume(&self, name: &str, bytes: u64) -> Result<Volume, Error> {
        self.post(&path::volume_grow(name), &GrowVolume { bytes }).await
    }

    /// Deletes a volume.
    ///
    /// # Errors
    /// As [`Client::guests`]; `NoSuchVolume`, `State`.
    pub async fn delete_volume(&self, name: &str) -> Result<(), Error> {
        self.ask(Asked::new(Method::DELETE, &path::volume(name))).await.map(drop)
    }

    /// The host.
    ///
    /// # Errors
    /// As [`Client::guests`].
    pub async fn host(&self) -> Result<Host, Error> {
        self.get(path::HOST).await
    }

    /// Numbers for monitoring, as OpenMetrics.
    ///
    /// # Errors
    /// As [`Client::guests`].
    pub async fn metrics(&self) -> Result<String, Error> {
        let answer = self.ask(Asked::new(Method::GET, path::METRICS)).await?;
        let text = self.read(answer.into_body(), MAX_JSON).await?;
        String::from_utf8(text.into()).map_err(|_| self.foreign("its metrics are no text".to_owned()))
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, value: &impl Serialize) -> Result<T, Error> {
        let headers = [(CONTENT_TYPE.as_str(), JSON)];
        let body = self.encode(value)?;
        self.decode(self.ask(Asked { headers: &headers, body, ..Asked::new(Method::POST, path) }).await?)
            .await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.decode(self.ask(Asked::new(Method::GET, path)).await?).await
    }

    /// Asks; an answer that says no is an error.
    async fn ask(&self, asked: Asked<'_>) -> Result<Response<Incoming>, Error> {
        let (answer, _) = self.send(asked, |_| {}).await?;
        self.success(answer).await
    }

    /// Connects and asks; the second value keeps the connection until the answer has been read. What changes nothing, or nothing
    /// twice, is asked again if the connection breaks: a toolstack that has just been restarted ends those of its predecessor.
    async fn send(
        &self,
        asked: Asked<'_>,
        mut progress: impl FnMut(u64),
    ) -> Result<(Response<Incoming>, SendRequest<Outgoing>), Error> {
        let mut pauses = if asked.is_repeatable() { AGAIN.iter() } else { [].iter() };
        let mut first = None;
        loop {
            let error = match self.send_once(asked.clone(), &mut progress).await {
                Err(error) => error,
                answer => return answer,
            };
            let broken = matches!(error, Error::Broken { .. });
            // What happened first is what there is to say.
            let told = first.take().unwrap_or(error);
            match pauses.next().filter(|_| broken) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(told),
            }
            first = Some(told);
        }
    }

    async fn send_once(
        &self,
        asked: Asked<'_>,
        mut progress: impl FnMut(u64),
    ) -> Result<(Response<Incoming>, SendRequest<Outgoing>), Error> {
        let (body, sent) = Outgoing::new(asked.body);
        let mut request = Request::builder().method(asked.method).uri(asked.path).header(HOST, "ennead");
        for (name, value) in asked.headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(body)
            .map_err(|error| self.foreign(format!("`{}` cannot be asked: {error}", asked.path)))?;
        let mut sender = self.connect().await?;
        let answer = {
            let answer = sender.send_request(request);
            tokio::pin!(answer);
            let (mut before, mut since) = (0, Instant::now());
            loop {
                tokio::select! {
                    answer = &mut answer => break answer.map_err(|source| self.broken(source))?,
                    () = tokio::time::sleep(TICK.min(self.patience)) => {
                        let now = sent.load(Ordering::Relaxed);
                        progress(now);
                        if now != before {
                            (before, since) = (now, Instant::now());
                        } else if since.elapsed() >= self.patience {
                            return Err(self.no_answer());
                        }
                    }
                }
            }
        };
        progress(sent.load(Ordering::Relaxed));
        Ok((answer, sender))
    }

    async fn connect(&self) -> Result<SendRequest<Outgoing>, Error> {
        let connected = tokio::time::timeout(self.patience, async {
            let unreachable = |source| Error::Unreachable { address: self.address.clone(), source };
            match &self.address {
                Address::Unix(path) => {
                    self.speak(UnixStream::connect(path).await.map_err(unreachable)?).await
                }
                Address::Https { host, port } => {
                    let Some(tls) = &self.tls else {
                        return Err(unreachable(std::io::Error::other("there is no profile for it")));
                    };
                    let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                    // Requests and keys are short, and waited for.
                    socket.set_nodelay(true).map_err(unreachable)?;
                    let stream = tls.connector.connect(tls.name.clone(), socket).await;
                    self.speak(stream.map_err(|source| match tls::distrust(&source) {
                        Some(problem) => Error::Distrust { address: self.address.clone(), problem },
                        None => unreachable(source),
                    })?)
                    .await
                }
            }
        });
        connected.await.map_err(|_| self.no_answer())?
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<Outgoing>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|source| self.broken(source))?;
        // It ends with the answer; whoever waits for that hears of errors, too.
        tokio::spawn(async { connection.with_upgrades().await.ok() });
        Ok(sender)
    }

    /// The error that an answer is, if it is one.
    async fn success(&self, answer: Response<Incoming>) -> Result<Response<Incoming>, Error> {
        let status = answer.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let body = self.read(answer.into_body(), MAX_JSON).await?;
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => Err(Error::Refused(error)),
            Err(_) => Err(self.foreign(format!("it answered with {status} and without a reason"))),
        }
    }

    async fn decode<T: DeserializeOwned>(&self, answer: Response<Incoming>) -> Result<T, Error> {
        let body = self.read(answer.into_body(), MAX_JSON).await?;
        serde_json::from_slice(&body).map_err(|error| self.foreign(format!("its answer is wrong: {error}")))
    }

    fn encode<T: Serialize>(&self, value: &T) -> Result<Bytes, Error> {
        let text = serde_json::to_vec(value);
        text.map(Bytes::from).map_err(|error| self.foreign(format!("the request cannot be written: {error}")))
    }

    async fn read(&self, mut body: Incoming, limit: usize) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        loop {
            let frame =
                tokio::time::timeout(self.patience, body.frame()).await.map_err(|_| self.no_answer())?;
            let Some(frame) = frame else { return Ok(bytes.into()) };
            let frame = frame.map_err(|source| self.broken(source))?;
            bytes.extend(frame.data_ref().into_iter().flatten());
            if bytes.len() > limit {
                return Err(self.foreign("its answer is too long".to_owned()));
            }
        }
    }

    fn broken(&self, source: hyper::Error) -> Error {
        let address = self.address.clone();
        // With TLS 1.3 who asks hears that it was refused only when it reads.
        match tls::distrust(&source) {
            Some(problem) => Error::Distrust { address, problem },
            None => Error::Broken { address, source },
        }
    }

    fn no_answer(&self) -> Error {
        Error::NoAnswer { address: self.address.clone(), patience: self.patience }
    }

    fn foreign(&self, problem: String) -> Error {
        Error::Foreign { address: self.address.clone(), problem }
    }
}
