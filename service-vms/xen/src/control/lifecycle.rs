//! A domain's life: created, run, shut down, destroyed.

use super::{Control, ShutdownReason, domctl, invalid, privcmd};
use crate::error::{Error, Result};
use crate::{DomId, DomainKind, Sid};
use std::io;
use std::thread;
use std::time::{Duration, Instant};
use xenctrl_sys as xc;

/// What a new domain is (`struct xen_domctl_createdomain`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateDomain {
    /// Its number, which must be free and not 0.
    pub domid: DomId,
    /// Its FLASK label.
    pub sid: Sid,
    /// How it runs. PVH needs nested paging (HAP).
    pub kind: DomainKind,
    /// How many vCPUs it can have, at least 1.
    pub max_vcpus: u32,
    /// Whether it may get devices (`XEN_DOMCTL_CDF_iommu`). Needs an IOMMU.
    pub iommu: bool,
    /// The highest event channel port it may have.
    pub max_event_channels: u32,
    /// Pages of its grant table, each for 512 grants (version 1).
    pub max_grant_frames: u32,
    /// Pages of its table of others' grants that it maps.
    pub max_maptrack_frames: u32,
}

impl CreateDomain {
    /// PV, one vCPU, no devices, and room that was seen to suffice: 1023 event channels, 64 grant frames, 1024 maptrack
    /// frames.
    #[must_use]
    pub const fn new(domid: DomId, sid: Sid) -> Self {
        Self {
            domid,
            sid,
            kind: DomainKind::Pv,
            max_vcpus: 1,
            iommu: false,
            max_event_channels: 1023,
            max_grant_frames: 64,
            max_maptrack_frames: 1024,
        }
    }

    /// `None` if a number is out of range.
    fn config(&self) -> Option<xc::xen_domctl_createdomain> {
        // 0 would let Xen choose a number.
        if self.domid.0 == 0 || !self.domid.is_ordinary() {
            return None;
        }
        let (container, emulated) = match self.kind {
            DomainKind::Pv => (0, 0),
            DomainKind::Pvh => (xc::XEN_DOMCTL_CDF_hvm | xc::XEN_DOMCTL_CDF_hap, xc::XEN_X86_EMU_LAPIC),
        };
        Some(xc::xen_domctl_createdomain {
            ssidref: self.sid.0,
            flags: container | if self.iommu { xc::XEN_DOMCTL_CDF_iommu } else { 0 },
            arch: xc::xen_arch_domainconfig { emulation_flags: emulated, ..Default::default() },
            max_vcpus: self.max_vcpus,
            max_evtchn_port: self.max_event_channels,
            max_grant_frames: i32::try_from(self.max_grant_frames).ok()?,
            max_maptrack_frames: i32::try_from(self.max_maptrack_frames).ok()?,
            grant_opts: GRANT_VERSION_2,
            ..Default::default()
        })
    }
}

/// `XEN_DOMCTL_GRANT_version(2)`: up to this version.
const GRANT_VERSION_2: u32 = 2;
/// How long a destruction that Xen wants repeated is repeated.
const DESTROY_PATIENCE: Duration = Duration::from_secs(60);
const DESTROY_PAUSE: Duration = Duration::from_millis(1);

impl Control {
    /// Creates a paused domain without memory, with exactly the wanted number (`XEN_DOMCTL_createdomain`), and
    /// its vCPUs (`XEN_DOMCTL_max_vcpus`). On failure nothing is left.
    ///
    /// # Errors
    /// `EEXIST` if the number is taken, also by a dead domain of which a page is still mapped somewhere; `EINVAL`
    /// for a number that cannot be a domain's or limits that Xen does not take; what else Xen says.
    pub fn create_domain(&self, c: &CreateDomain) -> Result<()> {
        const OP: &str = "createdomain";
        let config = c.config().ok_or_else(|| invalid(OP, Some(c.domid)))?;
        let given = self.xc.create(c.domid, config).map_err(domctl(OP, c.domid))?;
        let guard = self.guard(given);
        if given != c.domid {
            drop(guard);
            return Err(Error::local("create a domain with the wanted number", Some(c.domid), libc::EEXIST));
        }
        self.xc.max_vcpus(c.domid, c.max_vcpus).map_err(domctl("max_vcpus", c.domid))?;
        guard.keep();
        Ok(())
    }

    /// Destroys a domain (`XEN_DOMCTL_destroydomain`), repeated for up to a minute while Xen asks for that.
    ///
    /// Its number is free when the last of its pages is no longer mapped anywhere, which may be later.
    ///
    /// # Errors
    /// `ESRCH` if there is none; `EINVAL` for the caller's own domain; what else Xen says.
    pub fn destroy_domain(&self, d: DomId) -> Result<()> {
        repeat(DESTROY_PATIENCE, || self.xc.destroy(d)).map_err(domctl("destroydomain", d))
    }

    /// Stops a domain's vCPUs; pauses count (`XEN_DOMCTL_pausedomain`).
    ///
    /// # Errors
    /// What Xen says.
    pub fn pause(&self, d: DomId) -> Result<()> {
        self.xc.pause(d).map_err(domctl("pausedomain", d))
    }

    /// Takes one pause back (`XEN_DOMCTL_unpausedomain`). A new domain has one.
    ///
    /// # Errors
    /// What Xen says.
    pub fn unpause(&self, d: DomId) -> Result<()> {
        self.xc.unpause(d).map_err(domctl("unpausedomain", d))
    }

    /// Shuts a domain down as if it had done so itself; its kernel is not asked (`SCHEDOP_remote_shutdown`).
    ///
    /// # Errors
    /// What Xen says.
    pub fn remote_shutdown(&self, d: DomId, reason: ShutdownReason) -> Result<()> {
        self.xc.shutdown(d, reason.code()).map_err(privcmd("remote_shutdown", d))
    }

    /// Destroys the domain when the result is dropped, unless [`DomainGuard::keep`] says otherwise.
    #[must_use = "dropped at once, it destroys the domain at once"]
    pub const fn guard(&self, d: DomId) -> DomainGuard<'_> {
        DomainGuard { control: self, domid: Some(d) }
    }
}

/// Destroys a half-built domain on drop.
#[derive(Debug)]
pub struct DomainGuard<'a> {
    control: &'a Control,
    domid: Option<DomId>,
}

impl DomainGuard<'_> {
    /// The domain is complete: it stays.
    pub fn keep(mut self) {
        self.domid = None;
    }
}

impl Drop for DomainGuard<'_> {
    fn drop(&mut self) {
        if let Some(d) = self.domid {
            // The error that led here matters more than one on top of it.
            let _secondary = self.control.destroy_domain(d);
        }
    }
}

/// Repeats a call while it says `EAGAIN` or `ERESTART`, then gives its last result.
fn repeat(patience: Duration, mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match call() {
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ERESTART))
                    && start.elapsed() < patience =>
            {
                thread::sleep(DESTROY_PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pv_domain_as_xen_takes_it() {
        let c = CreateDomain { iommu: true, max_vcpus: 2, ..CreateDomain::new(DomId(7), Sid(40)) };
        let config = c.config().unwrap();
        assert_eq!((config.ssidref, config.max_vcpus, config.grant_opts), (40, 2, 2));
        assert_eq!(config.flags, 0x20, "CDF_iommu, and neither HVM nor HAP");
        assert_eq!(
            (config.max_evtchn_port, config.max_grant_frames, config.max_maptrack_frames),
            (1023, 64, 1024)
        );
        assert_eq!((config.iommu_opts, config.arch.emulation_flags), (0, 0));
        assert_eq!(CreateDomain::new(DomId(7), Sid(40)).config().unwrap().flags, 0);
    }

    #[test]
    fn a_pvh_domain_has_a_local_apic_and_nested_paging() {
        let c = CreateDomain { kind: DomainKind::Pvh, ..CreateDomain::new(DomId(7), Sid(40)) };
        let config = c.config().unwrap();
        assert_eq!((config.flags, config.arch.emulation_flags), (0x3, 0x1));
        let c = CreateDomain { iommu: true, ..c };
        assert_eq!(c.config().unwrap().flags, 0x23);
    }

    #[test]
    fn numbers_that_let_xen_choose_are_refused() {
        for domid in [0, 0x7ff0, 0xffff] {
            assert!(CreateDomain::new(DomId(domid), Sid(1)).config().is_none(), "{domid}");
        }
        let c = CreateDomain { max_grant_frames: u32::MAX, ..CreateDomain::new(DomId(1), Sid(1)) };
        assert!(c.config().is_none(), "negative would mean Xen's default");
    }

    #[test]
    fn destruction_is_repeated_while_xen_asks_for_it() {
        let fail = |errno| Err(io::Error::from_raw_os_error(errno));
        let mut answers = vec![Ok(()), fail(libc::ERESTART), fail(libc::EAGAIN)];
        repeat(DESTROY_PATIENCE, || answers.pop().unwrap()).unwrap();
        assert!(answers.is_empty());
        let mut calls = 0;
        let mut refused = || {
            calls += 1;
            fail(libc::ESRCH)
        };
        assert_eq!(repeat(DESTROY_PATIENCE, &mut refused).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(calls, 1);
        let stuck = repeat(Duration::from_millis(5), || fail(libc::EAGAIN));
        assert_eq!(stuck.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }
}
