//! Keeps the volumes that are files: does what toolstacks ask in XenStore (`ennead_volumes` says where), tells there what there is,
//! and makes what is to be made, a piece at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use ennead_backend::device::Changes;
use ennead_volumes::{KIND, Kind, Name, Refusal, Request, answer, numbered, split};
use ennead_xs_client::{Access, Error, XenStore};
use tracing::{info, warn};

use crate::files::{Files, Making};
use crate::vbd::list;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(500);
/// How long what failed is left alone.
const AGAIN: Duration = Duration::from_secs(10);
/// How long nothing may happen at all.
const LONG: Duration = Duration::from_secs(3600);

/// Keeps volumes, if this VM has a file system for them.
#[derive(Debug)]
pub struct Keeper {
    files: Option<Files>,
    /// Who lends what has been made.
    changes: Option<Changes>,
    /// What stands in XenStore, so that only changes are written.
    told: BTreeMap<String, String>,
    making: Option<Making>,
    failed: Option<Instant>,
}

/// The directory of a toolstack.
fn home(toolstack: u16) -> String {
    format!("backend/{KIND}/{toolstack}")
}

impl Keeper {
    /// Keeps these; what has been made is told to `changes`.
    #[must_use]
    pub fn new(files: Option<Files>, changes: Option<Changes>) -> Self {
        Self { files, changes, told: BTreeMap::new(), making: None, failed: None }
    }

    /// Does so for good.
    ///
    /// # Errors
    /// XenStore's.
    pub fn run(mut self, mut store: XenStore) -> Result<Infallible, Error> {
        let root = format!("backend/{KIND}");
        store.mkdir(&root)?;
        store.watch(&root, KIND)?;
        loop {
            self.turn(&mut store)?;
            let next = Instant::now() + TELL;
            // Whoever asks does not wait for what is being made. Our own words are events, too.
            let (mut woken, mut made) = (drain(&mut store)?, false);
            while !woken && Instant::now() < next && self.make() {
                (woken, made) = (drain(&mut store)?, true);
            }
            // What was made is told first.
            if !woken && !made {
                wait(&mut store, self.failed.map_or(LONG, |_| AGAIN))?;
            }
        }
    }

    /// Does what is asked, and tells what there is.
    fn turn(&mut self, store: &mut impl Access) -> Result<(), Error> {
        let root = format!("backend/{KIND}");
        for toolstack in list(store, &root)?.iter().filter_map(|name| name.parse::<u16>().ok()) {
            let done = self.serve(store, toolstack).and_then(|()| self.tell(store, toolstack));
            match done {
                // What a toolstack does with its directory is its own trouble.
                Err(e) if e.errno().is_some() => warn!(toolstack, cause = %e, "volumes-unreachable"),
                other => other?,
            }
        }
        Ok(())
    }

    fn serve(&mut self, store: &mut impl Access, toolstack: u16) -> Result<(), Error> {
        let home = home(toolstack);
        let mut get = |key: &str| {
            let value = store.find(&format!("{home}/{key}"))?;
            Ok::<_, Error>(value.and_then(|value| String::from_utf8(value).ok()))
        };
        let Some(asked) = get("request")? else { return Ok(()) };
        let Some((number, request)) = split(&asked) else { return Ok(()) };
        if get("answer")?.as_deref().and_then(split).is_some_and(|(answered, _)| answered == number) {
            return Ok(());
        }
        let begun = get("begun")?;
        let outcome = match (request.parse::<Request>(), &self.files) {
            (Err(e), _) => Err(Refusal::new(Kind::Invalid, e.to_string())),
            (_, None) => Err(Refusal::new(Kind::Failed, "This host has no partition for volumes")),
            (Ok(request), Some(files)) => {
                let used = lent(store, &home)?;
                // One that a predecessor began it may have done, too.
                let again = begun.is_some_and(|begun| begun == number.to_string());
                store.write(&format!("{home}/begun"), number.to_string().as_bytes())?;
                let outcome = files.obey(toolstack, &request, &used, again);
                info!(toolstack, %request, outcome = answer(&outcome), "volume-asked");
                outcome
            }
        };
        self.failed = None;
        // What there is comes first: whoever has the answer finds it.
        self.tell(store, toolstack)?;
        store.write(&format!("{home}/answer"), numbered(number, answer(&outcome)).as_bytes())
    }

    /// Writes what has changed.
    fn tell(&mut self, store: &mut impl Access, toolstack: u16) -> Result<(), Error> {
        let home = home(toolstack);
        let Some(files) = &self.files else { return Ok(()) };
        let (volumes, free) = match files.list(toolstack).and_then(|list| Ok((list, files.free()?))) {
            Ok(found) => found,
            Err(e) => {
                warn!(toolstack, cause = %e, "volumes-unreadable");
                return Ok(());
            }
        };
        let mut nodes: BTreeMap<String, String> = volumes
            .into_iter()
            .map(|(name, state)| (format!("{home}/volume/{name}"), state.to_string()))
            .collect();
        let there: BTreeSet<String> = list(store, &format!("{home}/volume"))?.into_iter().collect();
        for name in there {
            let path = format!("{home}/volume/{name}");
            if !nodes.contains_key(&path) {
                store.rm(&path)?;
                self.told.remove(&path);
            }
        }
        nodes.insert(format!("{home}/free"), free.to_string());
        for (path, value) in nodes {
            if self.told.get(&path) != Some(&value) {
                store.write(&path, value.as_bytes())?;
                self.told.insert(path, value);
            }
        }
        Ok(())
    }

    /// Makes a piece of what is to be made. Gives whether there is more.
    fn make(&mut self) -> bool {
        if self.failed.is_some_and(|failed| failed.elapsed() < AGAIN) {
            return false;
        }
        self.failed = None;
        let Some(files) = &self.files else { return false };
        let made = match &mut self.making {
            Some(making) => making.turn(),
            None => files.next().map(|next| {
                self.making = next;
                self.making.is_some()
            }),
        };
        match made {
            Ok(true) => true,
            Ok(false) => {
                let made = self.making.take().is_some();
                if let Some(changes) = self.changes.as_ref().filter(|_| made) {
                    changes.tell();
                }
                // Perhaps there is another.
                made
            }
            Err(e) => {
                warn!(cause = %e, "volume-not-made");
                self.making = None;
                self.failed = Some(Instant::now());
                false
            }
        }
    }
}

/// Takes all events; whether there were any.
fn drain(store: &mut XenStore) -> Result<bool, Error> {
    let mut any = false;
    while wait(store, Duration::ZERO)? {
        any = true;
    }
    Ok(any)
}

/// Waits for an event; whether one came.
fn wait(store: &mut XenStore, patience: Duration) -> Result<bool, Error> {
    match store.event(patience) {
        Ok(event) => Ok(event.is_some()),
        Err(Error::EventsLost) => Ok(true),
        Err(e) => Err(e),
    }
}

/// The volumes that a toolstack has given to guests.
fn lent(store: &mut impl Access, home: &str) -> Result<Vec<Name>, Error> {
    let mut names = Vec::new();
    for guest in list(store, &format!("{home}/lend"))? {
        for handle in list(store, &format!("{home}/lend/{guest}"))? {
            let name = store.find(&format!("{home}/lend/{guest}/{handle}"))?;
            names.extend(name.and_then(|name| String::from_utf8(name).ok()?.parse::<Name>().ok()));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
