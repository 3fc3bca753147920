//! A toolstack with everything around it in this process: Builder and the guests' rings are made up, XenStore is the real
//! State, operators come over a socket with the real client.

mod builder;
mod consoles;
mod kernel;
mod xenstore;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ennead_api::{Client, CreateGuest, ErrorKind, Sha256, State};
use ennead_runtime::boot::{BackendVm, DeviceKind};
use ennead_toolstack::builder as builder_client;
use ennead_toolstack::console::client as console_client;
use ennead_toolstack::images::Images;
use ennead_toolstack::loader::Loaders;
use ennead_toolstack::manager::{Manager, Peers};
use ennead_toolstack::xenstore::Store;
use ennead_toolstack::{http, tls};
use ennead_xen::DomId;
use sha2::Digest as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

pub(crate) use builder::Host;
pub(crate) use consoles::Guests;
pub(crate) use kernel::elf;
pub(crate) use xenstore::XenStore;

/// The toolstack's domid.
pub(crate) const TOOLSTACK: u16 = 8;
/// Bytes of images that fit.
pub(crate) const IMAGES: usize = 3 << 20;

/// Who serves the guests' devices.
pub(crate) fn backends() -> Vec<BackendVm> {
    [("disks", 9, DeviceKind::Vbd), ("net", 10, DeviceKind::Vif)]
        .map(|(name, domid, device)| BackendVm { name: name.parse().unwrap(), domid: DomId(domid), device })
        .to_vec()
}

/// A boot loader for PVH guests, none for PV ones.
fn loaders() -> Loaders {
    Loaders { pv: None, pvh: Some(Rc::new(elf(2000))) }
}

/// What outlives a toolstack.
pub(crate) struct World {
    pub(crate) host: Rc<RefCell<Host>>,
    pub(crate) xenstore: XenStore,
    pub(crate) guests: Guests,
    toolstack: Option<Vec<JoinHandle<()>>>,
    manager: Option<Rc<Manager>>,
    pub(crate) client: Client,
    /// Guests that start with the host, and their images.
    pub(crate) boot: (Vec<CreateGuest>, Vec<Vec<u8>>),
    socket: PathBuf,
}

/// Runs a test in a world, in which a toolstack has started.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, async { test(World::new().await).await }).await.expect("in time");
    });
}

impl World {
    async fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("ennead-ts-{}-{number}.sock", std::process::id()));
        let client = Client::new(format!("unix:{}", socket.display()).parse().unwrap());
        let (xenstore, guests) = (XenStore::start(), Guests::default());
        let host = Rc::new(RefCell::new(Host::new(xenstore.clone(), guests.clone())));
        let boot = (Vec::new(), Vec::new());
        let mut world = Self { host, xenstore, guests, toolstack: None, manager: None, client, boot, socket };
        world.start().await;
        world
    }

    /// Where operators come.
    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// A toolstack that knows nothing yet.
    pub(crate) async fn start(&mut self) {
        let store = Store::start(self.xenstore.connect()).unwrap();
        let (console, consoles) = console_client::over(self.guests.serve()).unwrap();
        let (builder, serving, mut changes) = builder_client::over(builder::Line::new(&self.host));
        let mut tasks = vec![
            tokio::task::spawn_local(async { drop(consoles.await) }),
            tokio::task::spawn_local(async { drop(serving.run().await) }),
        ];
        let limits = builder.hello().await.unwrap();
        let domid = store.own_domid().await.unwrap();
        assert_eq!(domid, TOOLSTACK);
        let backends = backends();
        let peers = Peers { builder, store, console, backends };
        let mut images = Images::new(IMAGES, loaders());
        for image in &self.boot.1 {
            images.add_own(sha256(image), Rc::new(image.clone()));
        }
        let manager = Manager::new("toolstack".into(), domid, limits, images, peers);
        manager.find().await.unwrap();
        tasks.push(tokio::task::spawn_local(Rc::clone(&manager).start_with_host(self.boot.0.clone())));
        self.manager = Some(Rc::clone(&manager));
        let (accepted, connections) = mpsc::channel(4);
        let serving = http::serve(Rc::clone(&manager), connections);
        tasks.push(tokio::task::spawn_local(serving));
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        tasks.push(tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.send(stream).await.unwrap();
            }
        }));
        tasks.push(tokio::task::spawn_local(async move {
            while let Some(change) = changes.recv().await {
                manager.changed(change);
            }
        }));
        self.toolstack = Some(tasks);
    }

    /// Serves operators who come over the network; gives the port.
    pub(crate) fn serve_network(&mut self, endpoint: &ennead_api::Endpoint) -> u16 {
        let (operators, connections) = mpsc::channel(tls::QUEUE);
        let listener = tls::listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tls::accept(listener, tls::acceptor(endpoint).unwrap(), operators);
        let serving = http::serve(Rc::clone(self.manager.as_ref().unwrap()), connections);
        let tasks = self.toolstack.as_mut().unwrap();
        tasks.extend([tokio::task::spawn_local(accepting), tokio::task::spawn_local(serving)]);
        port
    }

    /// The toolstack is gone at once, whatever it was doing.
    pub(crate) async fn kill(&mut self) {
        self.xenstore.cut();
        for task in self.toolstack.take().into_iter().flatten() {
            task.abort();
            let _ = task.await;
        }
        self.guests.forget_all();
        self.host.borrow_mut().toolstack_died();
    }

    /// Uploads an image.
    pub(crate) async fn upload(&self, image: &[u8]) -> Sha256 {
        let sha256 = sha256(image);
        self.client.upload(&sha256, image.to_vec().into(), |_| {}).await.unwrap();
        sha256
    }

    /// A guest of this name; `more` is TOML.
    pub(crate) async fn request(&self, name: &str, more: &str) -> CreateGuest {
        let text = format!("name = \"{name}\"\nkind = \"pvh\"\nkernel = \"/k\"\nmemory-mib = 32\n{more}");
        let config = ennead_guest::parse_toml("a.toml", &text).unwrap_or_else(|e| panic!("{e}")).config;
        let kernel = Some(self.upload(&elf(3000)).await);
        let ramdisk = Some(self.upload(b"a ramdisk").await);
        CreateGuest { config, kernel, ramdisk, paused: false }
    }

    /// Creates it; gives its domid.
    pub(crate) async fn create(&self, name: &str, more: &str) -> u16 {
        let request = self.request(name, more).await;
        let guest = self.client.create(&request).await.unwrap();
        assert_eq!((guest.name.as_str(), guest.state), (name, State::Running));
        guest.domid.unwrap()
    }

    /// Waits until a guest's domid is another than this.
    pub(crate) async fn next_domid(&self, name: &str, old: u16) -> u16 {
        loop {
            let guest = self.client.guest(name).await.unwrap().guest;
            if let Some(domid) = guest.domid.filter(|domid| *domid != old) {
                return domid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until there is no such guest.
    pub(crate) async fn gone(&self, name: &str) {
        while self
            .client
            .guest(name)
            .await
            .map_err(refused)
            .map_or_else(|kind| kind != ErrorKind::NoSuchGuest, |_| true)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Nothing is left of any guest, at once but for its nodes, which may take a moment.
    pub(crate) async fn nothing_is_left(&self) {
        assert_eq!(self.host.borrow().domains(), Vec::<u16>::new());
        assert_eq!(self.guests.open(), Vec::<u16>::new(), "a console is still mapped");
        for _ in 0..400 {
            if self.xenstore.nodes_of_guests().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{:?}", self.xenstore.nodes_of_guests());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

pub(crate) fn sha256(image: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(image).into())
}

/// Why the host says no.
#[track_caller]
pub(crate) fn refused(error: ennead_api::Error) -> ErrorKind {
    match error {
        ennead_api::Error::Refused(error) => error.kind,
        other => panic!("{other}"),
    }
}
