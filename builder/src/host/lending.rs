//! Driver VMs get their devices from pciback, each time anew.

use ennead_channel::pciback::{Address, Controller};
use ennead_launch::{Lend, XenStore, pci};
use ennead_manifest::Kind;
use ennead_xen::DomId;
use tracing::{error, warn};

use super::Host;
use crate::devices::{self, Missing};
use crate::pciback::Pciback;

/// What one VM is lent, when it is built.
#[derive(Debug)]
pub(super) struct Loan<'a> {
    pub(super) pciback: &'a mut Pciback,
    pub(super) borrower: DomId,
    pub(super) functions: &'a [Address],
}

impl Lend for Loan<'_> {
    fn lend(&mut self, xenstore: &mut XenStore) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (lender, borrower) = (self.pciback.domid(), self.borrower);
        // Left by one that did not start: xen-pciback lets go of the devices, and pciback waits for that.
        pci::take_back(xenstore, lender, borrower)?;
        for address in self.functions {
            self.pciback.lend(borrower, *address)?;
        }
        pci::lend(xenstore, lender, borrower, self.functions)?;
        Ok(())
    }
}

impl Host {
    /// Shares the controllers out, and lets pciback seize them. To be done before it is sealed.
    pub(super) fn share_out(&mut self, pciback: &mut Pciback, controllers: &[Controller]) {
        let plan = &self.store.boot_plan().plan;
        self.loans = devices::share_out(plan, controllers);
        for (domid, loan) in &mut self.loans {
            let unsafely = plan.vm_by_domid(domid.0).is_some_and(|vm| vm.accept_no_reset.is_some());
            let seized = loan.iter().flatten().try_for_each(|address| pciback.seize(*address, unsafely));
            if let Err(e) = seized {
                *loan = Err(Missing::Refused(format!("{e:#}")));
            }
        }
        for vm in self.store.boot_plan().plan.vms.iter().filter(|vm| vm.autostart) {
            if let Some(Err(reason)) = self.loans.get(&DomId(vm.domid)) {
                warn!(vm = %vm.name, %reason, "driver-vm-skipped");
            }
        }
    }

    /// Takes the nodes of a destroyed VM's devices away: xen-pciback lets go of its page, or its domid would stay taken. Not
    /// before: Xen masks the device's interrupts in its memory, which xen-pciback switches off.
    pub(super) fn reclaim(&mut self, borrower: DomId) {
        if !self.loans.contains_key(&borrower) {
            return;
        }
        let lender = self.store.boot_plan().plan.vms_of_kind(Kind::Pciback).next().map(|vm| DomId(vm.domid));
        if let (Some(xenstore), Some(lender)) = (self.xenstore.as_mut(), lender) {
            if let Err(e) = pci::take_back(xenstore, lender, borrower) {
                error!(domid = borrower.0, cause = %e, "not-reclaimed");
            }
        }
    }
}
