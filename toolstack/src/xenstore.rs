//! XenStore: the guests' trees, and what the toolstack keeps of each guest in its own.
//!
//! A thread has the connection, since that blocks (XenStore may be restarting); the rest of the program sends it jobs.

use std::sync::mpsc;
use std::thread;

use anyhow::Context as _;
use ennead_xs_client::{Access as _, Error, XenStore};
use tokio::sync::oneshot;

use crate::desired::Record;
use crate::tree::{Node, home};

/// Where records are, below the toolstack's own directory.
const RECORDS: &str = "guests";
/// Marks of guests that have been started with the host, there as well.
const STARTED: &str = "started";
/// Bytes of a record in one node: with room to spare below what State lets a service VM's node have.
const PART: usize = 1900;

type Job = Box<dyn FnOnce(&mut XenStore) + Send>;

/// The way to the thread.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

/// A record as it stands in XenStore.
pub type Kept = (String, Result<Record, serde_json::Error>);

impl Store {
    /// Starts the thread. It ends with the last of these.
    ///
    /// # Errors
    /// Linux's.
    pub fn start(mut xenstore: XenStore) -> anyhow::Result<Self> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let serve = move || waiting.into_iter().for_each(|job| job(&mut xenstore));
        thread::Builder::new().name("xenstore".to_owned()).spawn(serve).context("Cannot start a thread")?;
        Ok(Self { jobs })
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut XenStore) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let gone = || Error::Broken(std::io::ErrorKind::BrokenPipe.into());
        let (answer, done) = oneshot::channel();
        let job: Job = Box::new(move |xenstore| drop(answer.send(job(xenstore))));
        self.jobs.send(job).map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    /// The domid of this VM, which Builder wrote into its directory.
    ///
    /// # Errors
    /// XenStore's.
    pub async fn own_domid(&self) -> Result<u16, Error> {
        self.run(|xenstore| {
            let domid = xenstore.read("domid")?;
            let domid = std::str::from_utf8(&domid).ok().and_then(|domid| domid.parse().ok());
            domid.ok_or_else(|| Error::Nonsense { asked: "for this VM's domid".to_owned() })
        })
        .await
    }

    /// Writes a guest's tree, all at once, in place of what may be there.
    ///
    /// # Errors
    /// XenStore's; nothing is changed then.
    pub async fn plant(&self, roots: Vec<String>, nodes: Vec<Node>) -> Result<(), Error> {
        self.run(move |xenstore| {
            xenstore.transaction(|t| {
                roots.iter().try_for_each(|root| t.rm(root))?;
                nodes.iter().try_for_each(|Node { path, value, perms }| {
                    t.write(path, value.as_bytes())?;
                    perms.as_ref().map_or(Ok(()), |perms| t.set_perms(path, perms))
                })
            })
        })
        .await
    }

    /// Removes a guest's tree.
    ///
    /// # Errors
    /// XenStore's; the rest is removed all the same.
    pub async fn fell(&self, roots: Vec<String>) -> Result<(), Error> {
        // Not in one transaction: one that cannot be removed does not keep the others.
        self.run(move |xenstore| {
            let failed: Vec<Error> = roots.iter().filter_map(|root| xenstore.rm(root).err()).collect();
            failed.into_iter().next().map_or(Ok(()), Err)
        })
        .await
    }

    /// The value of a node that need not be there.
    ///
    /// # Errors
    /// XenStore's.
    pub async fn value(&self, path: String) -> Result<Option<Vec<u8>>, Error> {
        self.run(move |xenstore| match xenstore.read(&path) {
            Err(e) if e.errno() == Some(ennead_xs_client::Errno::Enoent) => Ok(None),
            value => value.map(Some),
        })
        .await
    }

    /// The nodes in a directory that need not be there: names and values.
    ///
    /// # Errors
    /// XenStore's.
    pub async fn children(&self, path: String) -> Result<Vec<(String, Vec<u8>)>, Error> {
        self.run(move |xenstore| {
            let names = match xenstore.list(&path) {
                Err(e) if e.errno() == Some(ennead_xs_client::Errno::Enoent) => Vec::new(),
                names => names?,
            };
            let mut found = Vec::new();
            for name in names {
                // It may have gone meanwhile.
                found.extend(xenstore.find(&format!("{path}/{name}"))?.map(|value| (name, value)));
            }
            Ok(found)
        })
        .await
    }

    /// Sets the state of a backend's device, and whether it is wanted (`online`), if its state is `from`. Gives whether it was.
    ///
    /// # Errors
    /// XenStore's; nothing is changed then.
    pub async fn set_state(
        &self,
        device: String,
        from: &'static [u8],
        to: &'static [u8],
        online: &'static [u8],
    ) -> Result<bool, Error> {
        self.run(move |xenstore| {
            xenstore.transaction(|t| {
                if t.find(&format!("{device}/state"))?.as_deref() != Some(from) {
                    return Ok(false);
                }
                t.write(&format!("{device}/online"), online)?;
                t.write(&format!("{device}/state"), to)?;
                Ok(true)
            })
        })
        .await
    }

    /// Asks a guest for something by `control/shutdown`: `poweroff`, `reboot`.
    ///
    /// # Errors
    /// XenStore's.
    pub async fn ask_guest(&self, domid: u16, what: &'static str) -> Result<(), Error> {
        let path = format!("{}/control/shutdown", home(domid));
        self.run(move |xenstore| xenstore.write(&path, what.as_bytes())).await
    }

    /// Keeps a record, in place of an older one.
    ///
    /// # Errors
    /// XenStore's; the older one is still there then.
    pub async fn keep(&self, record: &Record) -> Result<(), Error> {
        let directory = record_path(&record.config.name);
        let json = serde_json::to_vec(record).map_err(|e| Error::Broken(std::io::Error::other(e)))?;
        self.run(move |xenstore| {
            if json.len() <= PART {
                // At once by itself; what an older record had more of is not read.
                return xenstore.write(&format!("{directory}/0"), &json);
            }
            xenstore.transaction(|t| {
                t.rm(&directory)?;
                let mut parts = json.chunks(PART).enumerate();
                parts.try_for_each(|(n, part)| t.write(&format!("{directory}/{n}"), part))
            })
        })
        .await
    }

    /// Forgets a guest's record. One that was started with the host is marked at the same moment.
    ///
    /// # Errors
    /// XenStore's; nothing is changed then.
    pub async fn forget(&self, name: &str, started: bool) -> Result<(), Error> {
        let (directory, mark) = (record_path(name), started.then(|| started_path(name)));
        self.run(move |xenstore| match mark {
            None => xenstore.rm(&directory),
            Some(mark) => xenstore.transaction(|t| {
                t.rm(&directory)?;
                t.write(&mark, b"")
            }),
        })
        .await
    }

    /// Marks a guest that has been started with the host.
    ///
    /// # Errors
    /// XenStore's.
    pub async fn mark_started(&self, name: &str) -> Result<(), Error> {
        let mark = started_path(name);
        self.run(move |xenstore| xenstore.write(&mark, b"")).await
    }

    /// Whether it is marked.
    ///
    /// # Errors
    /// XenStore's.
    pub async fn has_started(&self, name: &str) -> Result<bool, Error> {
        Ok(self.value(started_path(name)).await?.is_some())
    }

    /// All records, and the names of their guests.
    ///
    /// # Errors
    /// XenStore's.
    pub async fn records(&self) -> Result<Vec<Kept>, Error> {
        self.run(|xenstore| {
            let names = match xenstore.list(RECORDS) {
                Err(e) if e.errno() == Some(ennead_xs_client::Errno::Enoent) => Vec::new(),
                names => names?,
            };
            let read = |name: String| {
                let directory = format!("{RECORDS}/{name}");
                let parts = xenstore.list(&directory)?.len();
                let (mut json, mut n) = (Vec::new(), 0);
                let record = loop {
                    json.extend(xenstore.read(&format!("{directory}/{n}"))?);
                    n += 1;
                    let record = serde_json::from_slice(&json);
                    if record.is_ok() || n >= parts {
                        break record;
                    }
                };
                Ok((name.replace('@', "."), record))
            };
            names.into_iter().map(read).collect()
        })
        .await
    }
}

fn record_path(name: &str) -> String {
    format!("{RECORDS}/{}", node_name(name))
}

fn started_path(name: &str) -> String {
    format!("{STARTED}/{}", node_name(name))
}

/// A name may have a `.`, a path in XenStore may not; with `@` it is the other way round.
fn node_name(name: &str) -> String {
    name.replace('.', "@")
}
