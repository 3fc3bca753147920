//! XenStore-State cannot be built again under its domid: what it knows is nowhere else. A successor under its other domid takes
//! everything over; until it has everything, the old one serves.

use std::time::Instant;

use anyhow::Context as _;
use ennead_channel::xenstore::Request;
use ennead_launch::{Life, XenStore, channel_gref};
use ennead_manifest::{Kind, Plan, Vm};
use ennead_runtime::boot::ServerVm;
use ennead_xen::DomId;
use tracing::{info, warn};

use super::Host;

impl Host {
    /// Replaces XenStore-State by its successor.
    ///
    /// # Errors
    /// When the successor does not take over: it is destroyed then, and the old one goes on.
    pub(super) fn succeed(&mut self, old: &Vm) -> anyhow::Result<()> {
        let start = Instant::now();
        let new = successor(&self.store.boot_plan().plan, old).context("It has no second domid")?;
        let (old_domid, domid) = (DomId(old.domid), DomId(new.domid));
        let server = self.params.server(&old.name).context("The plan gives Builder no channel to it")?;
        let server = ServerVm { domid, ..server.clone() };
        let begun = self.start(&new, Life::New)?;
        self.wait_healthy(&begun)?;
        let page = channel_gref(&new, &new.name).0;
        let xenstore = self.xenstore.as_mut().context("XenStore-State is not there")?;
        if let Err(e) = xenstore.tell(Request::HandOver { domid: domid.0, page }) {
            self.control.destroy_domain(domid)?;
            self.await_gone(domid)?;
            return Err(anyhow::Error::from(e).context("The old one goes on"));
        }
        self.store.succeed(&new);
        self.ledger.succeed(old_domid, new);
        self.xenstore = Some(XenStore::connect(&server).context("Its successor does not serve")?);
        self.control.destroy_domain(old_domid)?;
        if !self.await_gone(old_domid)? {
            // Logic still has its memory: it did not go on with the successor. A new one does.
            let logic = self.store.boot_plan().plan.xenstore_logic().map(|vm| vm.name.clone());
            warn!(domid = old_domid.0, "still-held");
            self.kill(&logic.context("The plan has no Logic")?)?;
        }
        info!(vm = %old.name, domid = domid.0, before = old_domid.0, ms = start.elapsed().as_millis(), "handed-over");
        Ok(())
    }
}

/// `old` under its other domid. It answers its predecessor, in the place of the bootstrapper, which is no more: so everybody else finds
/// the page that is his under the same number.
fn successor(plan: &Plan, old: &Vm) -> Option<Vm> {
    let mut new = old.clone();
    (new.domid, new.successor_domid) = (old.successor_domid?, Some(old.domid));
    if !new.answers.contains(&old.name) {
        let bootstrapper = |name: &&mut String| plan.vm(name).is_some_and(|vm| vm.kind == Kind::Bootstrapper);
        match new.answers.iter_mut().find(bootstrapper) {
            Some(place) => place.clone_from(&old.name),
            None => new.answers.push(old.name.clone()),
        }
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_and_its_own_have_everybodys_pages_in_the_same_place() {
        let text = include_str!("../../../images/host.toml");
        let plan = ennead_manifest::check("host.toml", text).expect("the shipped manifest is valid");
        let first = plan.xenstore_state().expect("it is there");
        let second = successor(&plan, first).expect("it has a second domid");
        let third = successor(&plan, &second).expect("it has the first one");
        assert_eq!((second.domid, third.domid), (5, 4));
        for name in ["builder", "xenstore-logic"] {
            let place = |vm: &Vm| vm.client_index(name);
            assert!(
                place(first).is_some() && place(&second) == place(first) && place(&third) == place(first)
            );
        }
        assert_eq!(second.answers, third.answers);
        let line = |vm: &Vm| {
            let line = ennead_launch::command_line(&plan, vm).expect("valid names");
            line.split(' ').find_map(|word| Some(word.strip_prefix("ennead.answers=")?.to_owned()))
        };
        assert_eq!(line(&second).as_deref(), Some("xenstore-state:4,builder:1,xenstore-logic:6"));
    }
}
