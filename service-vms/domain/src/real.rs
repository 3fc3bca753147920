//! Xen itself.

use crate::{Hypervisor, NewDomain, Pages, Vcpu0};
use ennead_xen::{Control, CreateDomain, DomId, Error, ForeignPages, GrantRef, Mfn, Port, Result, VcpuStart};

impl Pages for ForeignPages {
    type Error = Error;

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        ForeignPages::write(self, offset, bytes)
    }

    fn zero(&mut self) -> Result<()> {
        self.fill(0)
    }
}
