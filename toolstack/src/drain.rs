//! The end of this VM's work, when Builder wishes it: what operators have asked is answered, and nothing more begun.

use std::cell::Cell;
use std::future::pending;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context as _;
use ennead_runtime::drain::{DONE, NODE, WISH};
use ennead_xs_client::{Access as _, Error, XenStore};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{info, warn};

/// How often is looked whether all requests are answered.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A watch needs no timeout; this is one.
const FOR_GOOD: Duration = Duration::from_secs(24 * 3600);

/// Requests that are not answered yet.
#[derive(Debug, Default)]
pub struct Work {
    open: Cell<usize>,
    ending: Cell<bool>,
}

/// A request, until it is dropped.
#[derive(Debug)]
pub struct Open<'w>(&'w Work);

impl Work {
    /// Notes that a request has come. One that comes when this VM ends is its successor's: it is never answered here.
    pub async fn begin(&self) -> Open<'_> {
        if self.ending.get() {
            pending::<()>().await;
        }
        self.open.set(self.open.get().saturating_add(1));
        Open(self)
    }

    /// Begins no more, and waits until all that has begun has ended.
    async fn end(&self) {
        self.ending.set(true);
        while self.open.get() > 0 {
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// Waits, in a thread, for Builder's wish: for any that comes after this. Gives the connection back when it comes.
///
/// # Errors
/// XenStore's, and Linux's.
pub fn watch(mut store: XenStore) -> anyhow::Result<oneshot::Receiver<XenStore>> {
    // The wish was a predecessor's.
    store.rm(NODE)?;
    store.watch(NODE, "drain")?;
    let (wished, wish) = oneshot::channel();
    let waiting = move || match wait(&mut store) {
        Ok(()) => drop(wished.send(store)),
        // Then it is destroyed in the middle of its work, which it can bear.
        Err(e) => warn!(cause = %e, "wish-unheard"),
    };
    std::thread::Builder::new().name("drain".to_owned()).spawn(waiting).context("Cannot start a thread")?;
    Ok(wish)
}

fn wait<S: Read + Write + AsFd>(store: &mut XenStore<S>) -> Result<(), Error> {
    while store.find(NODE)?.is_none_or(|wish| wish != WISH) {
        store.event(FOR_GOOD)?;
    }
    Ok(())
}

/// Ends the work when the wish comes, and says so.
pub async fn serve(wish: oneshot::Receiver<XenStore>, work: &Work) {
    let Ok(mut store) = wish.await else { return };
    work.end().await;
    info!("drained");
    if let Err(e) = store.write(NODE, DONE) {
        warn!(cause = %e, "not-told");
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn what_was_begun_ends_and_nothing_more_begins() {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        LocalSet::new().block_on(&tokio, async {
            let work = Rc::new(Work::default());
            let open = work.begin().await;
            let ending = spawn_local({
                let work = Rc::clone(&work);
                async move { work.end().await }
            });
            sleep(LOOK_EVERY * 4).await;
            assert!(!ending.is_finished(), "one is open");
            assert!(timeout(LOOK_EVERY, work.begin()).await.is_err(), "it comes too late");
            drop(open);
            timeout(Duration::from_secs(10), ending).await.unwrap().unwrap();
        });
    }
}
