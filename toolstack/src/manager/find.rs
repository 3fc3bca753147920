//! A new toolstack finds its guests again: what it kept in XenStore, and what Builder has.

use std::rc::Rc;

use ennead_api::What;
use ennead_channel::guests::Guest as Domain;
use tracing::{info, warn};

use super::{Guest, Manager};
use crate::desired::{Found, Phase, Record, found};
use crate::problem::{self, Problem};

impl Manager {
    /// Finds the guests. Those that run do not notice; those that were half created go.
    ///
    /// # Errors
    /// When Builder or XenStore do not tell.
    pub async fn find(self: &Rc<Self>) -> Result<(), Problem> {
        let records = self.peers.store.records().await.map_err(|e| problem::of_xenstore(&e))?;
        let domains = self.peers.builder.guests().await.map_err(|e| problem::of_builder(&e))?;
        for (name, record) in records {
            match record {
                Ok(record) if record.config.name == name => self.find_one(record, &domains).await,
                // Whoever wrote it is newer or older than this.
                Ok(_) => warn!(guest = name, "record-of-another"),
                Err(e) => warn!(guest = name, cause = %e, "record-unreadable"),
            }
        }
        for stranger in domains.iter().filter(|domain| self.guest(&domain.name).is_none()) {
            info!(guest = %stranger.name, domid = stranger.domid, "without-record");
        }
        let guests = u32::try_from(self.guests.borrow().len()).unwrap_or(u32::MAX);
        self.tell(None, None, What::ToolstackStarted { guests });
        Ok(())
    }

    async fn find_one(self: &Rc<Self>, record: Record, domains: &[Domain]) {
        let name = record.config.name.clone();
        let domain = domains.iter().find(|domain| *domain.name == *name);
        let found = found(&record.phase, domain.map(|domain| (domain.domid, domain.state)));
        let console = self.new_console();
        let (phase, uuid) = (record.phase.clone(), record.uuid.clone());
        self.guests.borrow_mut().insert(name.clone(), Guest { record, console, turn: 0 });
        if let (Found::Live | Found::ShutDown(_), Phase::Live { domid, console_port, .. }) = (&found, &phase)
            && let Err(e) = self.peers.console.open(console, *domid, *console_port).await
        {
            // The guest goes on; only what it prints is lost.
            warn!(guest = name, cause = %e, "console-not-opened");
        }
        match found {
            Found::Live => {}
            Found::ShutDown(reason) => {
                if let Some(domid) = phase.domid() {
                    tokio::task::spawn_local(Rc::clone(self).shut_down(name, domid, reason));
                }
            }
            Found::Remove => {
                self.remove_rest(&name, &phase, domain, &uuid, console).await;
                self.forget(&name, console).await;
            }
            Found::Stop(why) => {
                self.remove_rest(&name, &phase, domain, &uuid, console).await;
                if !matches!(phase, Phase::Stopped { .. }) {
                    self.stop(&name, why).await;
                }
            }
        }
    }

    /// Removes a domain that nobody wants, and the tree of one that is gone.
    async fn remove_rest(
        &self,
        name: &str,
        phase: &Phase,
        domain: Option<&Domain>,
        uuid: &str,
        console: u32,
    ) {
        let mut domids: Vec<u16> =
            phase.last_domid().into_iter().chain(domain.map(|domain| domain.domid)).collect();
        domids.dedup();
        for domid in domids {
            self.take_down(name, domid, uuid, console).await;
        }
    }
}
