//! Xen itself.

use crate::{Hypervisor, NewDomain, Pages, Vcpu0};
use ennead_xen::{
    Control, CreateDomain, DomId, Error, ForeignPages, GrantRef, HvmParam, MemoryRegion, Mfn, Port, PvhStart,
    VcpuStart,
};

/// `EBUSY`: there was less memory than asked for.
const EBUSY: i32 = 16;

/// What a call on the new domain fails with.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    /// Xen says so.
    #[error(transparent)]
    Xen(#[from] Error),
    /// The domain went away while it was built.
    #[error("{0} is gone")]
    Gone(DomId),
}

type Result<T> = std::result::Result<T, RealError>;

impl Pages for ForeignPages {
    type Error = RealError;

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        Ok(ForeignPages::write(self, offset, bytes)?)
    }

    fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        Ok(self.fill(offset, len, 0)?)
    }
}

impl Hypervisor for Control {
    type Error = RealError;
    type Pages = ForeignPages;

    fn create_domain(&self, new: &NewDomain) -> Result<()> {
        let create = CreateDomain {
            domid: new.domid,
            sid: new.sid,
            kind: new.kind,
            max_vcpus: new.vcpus,
            iommu: new.iommu,
            max_event_channels: new.limits.event_channels,
            max_grant_frames: new.limits.grant_frames,
            max_maptrack_frames: new.limits.maptrack_frames,
        };
        Ok(Control::create_domain(self, &create)?)
    }

    fn destroy_domain(&self, d: DomId) -> Result<()> {
        Ok(Control::destroy_domain(self, d)?)
    }

    fn set_max_mem_kib(&self, d: DomId, kib: u64) -> Result<()> {
        Ok(Control::set_max_mem_kib(self, d, kib)?)
    }

    /// `Control::populate` gives all or an error, so superpages, which Xen may run out of, are asked for one by one.
    fn populate(&self, d: DomId, order: u32, pfns: &[u64]) -> Result<Vec<Mfn>> {
        let mut out = Vec::with_capacity(pfns.len());
        for extents in pfns.chunks(if order == 0 { pfns.len().max(1) } else { 1 }) {
            match Control::populate(self, d, order, extents) {
                Ok(mfns) => out.extend(mfns),
                Err(e) if e.errno() == Some(EBUSY) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(out)
    }

    fn shared_info(&self, d: DomId) -> Result<Mfn> {
        Ok(self.domain(d)?.ok_or(RealError::Gone(d))?.shared_info)
    }

    fn alloc_unbound_for(&self, d: DomId, remote: DomId) -> Result<Port> {
        Ok(Control::alloc_unbound_for(self, d, remote)?)
    }

    fn map(&self, d: DomId, mfns: &[Mfn]) -> Result<ForeignPages> {
        Ok(Control::map(self, d, mfns)?)
    }

    fn hypercall_page(&self, d: DomId, mfn: Mfn) -> Result<()> {
        Ok(Control::hypercall_page(self, d, mfn)?)
    }

    fn pin_l4(&self, d: DomId, mfn: Mfn) -> Result<()> {
        Ok(Control::pin_l4(self, d, mfn)?)
    }

    fn seed_grants(&self, d: DomId, grants: &[(GrantRef, DomId, Mfn)]) -> Result<()> {
        let entries = self.grant_entries(d)?;
        for &(gref, to, mfn) in grants {
            entries.seed(gref, to, mfn)?;
        }
        Ok(())
    }

    fn start_vcpu0(&self, d: DomId, vcpu: &Vcpu0) -> Result<()> {
        let Vcpu0 { rip, rsp, rsi, cr3 } = *vcpu;
        Ok(self.set_vcpu_context(d, 0, &VcpuStart { rip, rsp, rsi, cr3 })?)
    }

    fn set_paging_pool_kib(&self, d: DomId, kib: u64) -> Result<()> {
        Ok(Control::set_paging_pool_kib(self, d, kib)?)
    }

    fn set_memory_map(&self, d: DomId, map: &[MemoryRegion]) -> Result<()> {
        Ok(Control::set_memory_map(self, d, map)?)
    }

    fn set_hvm_param(&self, d: DomId, param: HvmParam, value: u64) -> Result<()> {
        Ok(Control::set_hvm_param(self, d, param, value)?)
    }

    fn start_pvh(&self, d: DomId, start: &PvhStart) -> Result<()> {
        Ok(self.set_pvh_start(d, start)?)
    }
}
