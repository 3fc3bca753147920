//! The guests that start with the host. Each is created once for each power-on, in their order: what an operator has ended since is
//! not started again by a toolstack that is.
//!
//! While such a guest has a record, that says so ([`Record::is_of_boot`](crate::desired::Record::is_of_boot)); a mark in XenStore
//! outlives the record, and is written together with its removal. One whose creation was cut short has neither. A mark is also
//! written once the guest runs: until then it is this toolstack's to unpause.

use std::rc::Rc;
use std::time::Duration;

use ennead_api::{Action, CreateGuest, ErrorKind, What};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Manager, millis};
use crate::desired::boot_key;
use crate::problem::{self, Problem};

/// The pause before one that could not be created is tried again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// So often is tried, over some five minutes; then the guest is the operator's to create.
const ATTEMPTS: u32 = 10;

impl Manager {
    /// Creates those that this power-on has not seen yet. One that cannot be created is told as an event and tried again later,
    /// after the others.
    pub async fn start_with_host(self: Rc<Self>, guests: Vec<CreateGuest>) {
        let (mut due, mut pause) = (guests, FIRST_PAUSE);
        for attempt in 1..=ATTEMPTS {
            let (mut failed, mut count) = (Vec::new(), 0);
            for guest in due {
                let name = guest.config.name.clone();
                let e = match self.start_one(&guest).await {
                    Ok(new) => {
                        count += u32::from(new);
                        continue;
                    }
                    Err(e) => e,
                };
                let again = attempt < ATTEMPTS && !is_final(e.kind);
                let pause_ms = again.then(|| millis(pause));
                self.tell(Some(&name), None, What::NotStarted { message: e.message, pause_ms });
                if again {
                    failed.push(guest);
                }
            }
            if count > 0 {
                info!(count, "guests-started");
            }
            due = failed;
            if due.is_empty() {
                return;
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// Gives whether it is new.
    async fn start_one(self: &Rc<Self>, guest: &CreateGuest) -> Result<bool, Problem> {
        let _open = self.work.begin().await;
        let name = &guest.config.name;
        let of_xenstore = |e| problem::of_xenstore(&e);
        // Before it is asked: an operator may be ending it at this moment, and it is not to come again.
        let alone = self.locks.lock(name).await;
        if self.peers.store.has_started(name).await.map_err(of_xenstore)? {
            return Ok(false);
        }
        let half_done = self.guest(name).is_some_and(|known| known.record.is_of_boot());
        self.create_alone(guest.clone(), Some(boot_key(name))).await?;
        drop(alone);
        if half_done && let Err(e) = Rc::clone(self).act(name.clone(), Action::Unpause).await {
            // It may have ended by now.
            warn!(guest = name, cause = %e, "not-unpaused");
        }
        self.peers.store.mark_started(name).await.map_err(of_xenstore)?;
        Ok(true)
    }
}

/// What does not get better by itself. (If an operator has made one of the same name, that is it.)
fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Invalid | ErrorKind::Exists)
}
