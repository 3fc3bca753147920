//! Hypercalls that no service VM may make, so that a test can make them on the running host. Their arguments are such that
//! FLASK's check, or Xen's own for the same thing, is what stops them, and that they do as little as possible should
//! Xen obey: a hole in the policy must show as such and not as a dead host.
//!
//! Where each call is checked was read in Xen 4.17; the names are those of its public headers.

mod domain;
mod host;
mod memory;
mod own;

pub use domain::{DOMAIN_CALLS, DomainCall};
pub use own::OwnPage;

use super::Control;
use crate::error::{Error, Kind, Result};

/// The calls; see [`Control::probe`].
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    control: &'a Control,
}

/// Bytes of the data page that are announced: zeros, neither a policy nor microcode.
const NOTHING: u32 = 64;

impl Control {
    /// What must be refused.
    #[must_use]
    pub const fn probe(&self) -> Probe<'_> {
        Probe { control: self }
    }
}

impl Probe<'_> {
    /// Makes any hypercall whose structure points to nothing, or only to the data page.
    fn any<T: Copy>(
        &self,
        op: &'static str,
        number: u32,
        structure: T,
        arguments: impl FnOnce(u64) -> [u64; 5],
    ) -> Result<(u32, T)> {
        // SAFETY: every caller here keeps to structures of Xen's headers, which hold integers and handles; the handles are
        // null or lead to the data page, of which no more than its size is announced.
        unsafe { self.control.privcmd.any(number, structure, arguments) }
            .map_err(|e| Error::new(Kind::Privcmd, op, None, e))
    }

    fn data<T>(&self, op: &'static str, bytes: &[u8]) -> Result<*mut T> {
        self.control.privcmd.data_page(bytes).map_err(|e| Error::new(Kind::Local, op, None, e))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{hypercall::Privcmd, libxc::Libxc};
    use super::*;
    use crate::{DomId, GrantRef};

    #[test]
    fn calls_reach_the_device_and_keep_its_answer() {
        let control = Control { privcmd: Privcmd::dummy(), xc: Libxc::dummy() };
        let probe = control.probe();
        for answer in [
            probe.set_permissive(),
            probe.debug_keys(),
            probe.acpi_sleep(),
            probe.map_pirq(DomId(1), 4),
            probe.map_grant(DomId(1), GrantRef(8)),
            probe.assign_device(DomId(1), 0),
            probe.add_page(DomId(1)).map(drop),
        ] {
            assert_eq!(answer.unwrap_err().errno(), Some(libc::ENOTTY));
        }
    }

    #[test]
    fn names_are_unique() {
        for call in &DOMAIN_CALLS {
            assert_eq!(
                DOMAIN_CALLS.iter().filter(|other| other.name == call.name).count(),
                1,
                "{}",
                call.name
            );
        }
    }
}
