//! What there is: domains and the host.

use super::{Control, domctl};
use crate::error::{Error, Kind, Result};
use crate::{DomId, Mfn, Sid};
use std::fmt;
use xenctrl_sys as xc;

/// How many domains are asked for at once.
const CHUNK: usize = 64;

/// A domain as Xen sees it (`struct xen_domctl_getdomaininfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its number.
    pub domid: DomId,
    /// Its FLASK label.
    pub sid: Sid,
    /// The pages of 4096 bytes it has.
    pub pages: u64,
    /// The pages it may have.
    pub max_pages: u64,
    /// Its shared-info page.
    pub shared_info: Mfn,
    /// The processor time all its vCPUs have used, in nanoseconds.
    pub cpu_time_ns: u64,
    /// What it does, in one word.
    pub state: DomainState,
    /// Whether it is paused by control (whatever `state` says).
    pub paused: bool,
    /// Whether it is being destroyed.
    pub dying: bool,
}

/// The best single word for what a domain does: the first that is true of dying, shut down, paused, blocked, running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    /// A vCPU runs or could run.
    Running,
    /// All vCPUs wait for events.
    Blocked,
    /// Paused by control.
    Paused,
    /// Shut down, not yet destroyed.
    Shutdown(ShutdownReason),
    /// Being destroyed, or destroyed with pages still in use elsewhere.
    Dying,
}

/// Why a domain shut down (`SHUTDOWN_*` in xen/include/public/sched.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// It is done (`SHUTDOWN_poweroff`).
    PowerOff,
    /// It wants to be started anew (`SHUTDOWN_reboot`).
    Reboot,
    /// It is suspended (`SHUTDOWN_suspend`).
    Suspend,
    /// It crashed (`SHUTDOWN_crash`).
    Crash,
    /// Its watchdog bit (`SHUTDOWN_watchdog`).
    Watchdog,
    /// It wants its state reset (`SHUTDOWN_soft_reset`).
    SoftReset,
    /// A number without a name.
    Other(u32),
}

impl ShutdownReason {
    /// Xen's number for it.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::PowerOff => xc::SHUTDOWN_poweroff,
            Self::Reboot => xc::SHUTDOWN_reboot,
            Self::Suspend => xc::SHUTDOWN_suspend,
            Self::Crash => xc::SHUTDOWN_crash,
            Self::Watchdog => xc::SHUTDOWN_watchdog,
            Self::SoftReset => xc::SHUTDOWN_soft_reset,
            Self::Other(code) => code,
        }
    }
}

impl From<u32> for ShutdownReason {
    fn from(code: u32) -> Self {
        match code {
            xc::SHUTDOWN_poweroff => Self::PowerOff,
            xc::SHUTDOWN_reboot => Self::Reboot,
            xc::SHUTDOWN_suspend => Self::Suspend,
            xc::SHUTDOWN_crash => Self::Crash,
            xc::SHUTDOWN_watchdog => Self::Watchdog,
            xc::SHUTDOWN_soft_reset => Self::SoftReset,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for ShutdownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("poweroff"),
            Self::Reboot => f.write_str("reboot"),
            Self::Suspend => f.write_str("suspend"),
            Self::Crash => f.write_str("crash"),
            Self::Watchdog => f.write_str("watchdog"),
            Self::SoftReset => f.write_str("soft-reset"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

impl fmt::Display for DomainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Blocked => f.write_str("blocked"),
            Self::Paused => f.write_str("paused"),
            Self::Shutdown(reason) => write!(f, "shutdown ({reason})"),
            Self::Dying => f.write_str("dying"),
        }
    }
}

impl DomainState {
    fn from_flags(flags: u32) -> Self {
        let has = |flag| flags & flag != 0;
        if has(xc::XEN_DOMINF_dying) {
            Self::Dying
        } else if has(xc::XEN_DOMINF_shutdown) {
            let code = flags >> xc::XEN_DOMINF_shutdownshift & xc::XEN_DOMINF_shutdownmask;
            Self::Shutdown(ShutdownReason::from(code))
        } else if has(xc::XEN_DOMINF_paused) {
            Self::Paused
        } else if has(xc::XEN_DOMINF_blocked) {
            Self::Blocked
        } else {
            Self::Running
        }
    }
}

impl From<&xc::xc_domaininfo_t> for DomainInfo {
    fn from(i: &xc::xc_domaininfo_t) -> Self {
        Self {
            domid: DomId(i.domain),
            sid: Sid(i.ssidref),
            pages: i.tot_pages,
            max_pages: i.max_pages,
            shared_info: Mfn(i.shared_info_frame),
            cpu_time_ns: i.cpu_time,
            state: DomainState::from_flags(i.flags),
            paused: i.flags & xc::XEN_DOMINF_paused != 0,
            dying: i.flags & xc::XEN_DOMINF_dying != 0,
        }
    }
}

/// The host (`struct xen_sysctl_physinfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInfo {
    /// Pages of 4096 bytes that the host has.
    pub total_pages: u64,
    /// Pages that nobody has.
    pub free_pages: u64,
    /// Free pages that Xen has still to wipe.
    pub scrub_pages: u64,
    /// Whether devices can be given to domains behind an IOMMU.
    pub iommu: bool,
    /// Whether the processor translates guest addresses itself (nested paging).
    pub hap: bool,
}

impl From<&xc::xc_physinfo_t> for HostInfo {
    fn from(i: &xc::xc_physinfo_t) -> Self {
        Self {
            total_pages: i.total_pages,
            free_pages: i.free_pages,
            scrub_pages: i.scrub_pages,
            iommu: i.capabilities & xc::XEN_SYSCTL_PHYSCAP_directio != 0,
            hap: i.capabilities & xc::XEN_SYSCTL_PHYSCAP_hap != 0,
        }
    }
}

impl Control {
    /// All domains that FLASK lets the caller see, by number (`XEN_SYSCTL_getdomaininfolist`, as often as it takes).
    ///
    /// A domain that comes or goes meanwhile may be missing or present.
    ///
    /// # Errors
    /// What Xen says.
    pub fn domains(&self) -> Result<Vec<DomainInfo>> {
        let mut all = Vec::new();
        let mut first = 0;
        loop {
            let mut chunk = vec![xc::xc_domaininfo_t::default(); CHUNK];
            let count = self
                .xc
                .list(first, &mut chunk)
                .map_err(|e| Error::new(Kind::Domctl, "getdomaininfolist", None, e))?;
            let found = chunk.get(..count).unwrap_or(&chunk);
            all.extend(found.iter().map(DomainInfo::from));
            match found.last() {
                Some(last) if count >= CHUNK => first = u32::from(last.domain) + 1,
                _ => return Ok(all),
            }
        }
    }

    /// One domain; `None` if it does not exist or FLASK hides it (`XEN_SYSCTL_getdomaininfolist`).
    ///
    /// # Errors
    /// What Xen says.
    pub fn domain(&self, d: DomId) -> Result<Option<DomainInfo>> {
        let mut one = [xc::xc_domaininfo_t::default()];
        let count = self.xc.list(u32::from(d.0), &mut one).map_err(domctl("getdomaininfolist", d))?;
        // Xen answers with the next domain if there is no such.
        Ok(one.iter().take(count).find(|i| i.domain == d.0).map(DomainInfo::from))
    }

    /// The host's memory and abilities (`XEN_SYSCTL_physinfo`).
    ///
    /// # Errors
    /// What Xen says.
    pub fn host(&self) -> Result<HostInfo> {
        let info = self.xc.physinfo().map_err(|e| Error::new(Kind::Domctl, "physinfo", None, e))?;
        Ok(HostInfo::from(&info))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_word_for_a_state() {
        for (flags, word) in [
            (0x20, "running"),
            (0, "running"),
            (0x10, "blocked"),
            (0x18, "paused"),
            (0x0003_000c, "shutdown (crash)"),
            (0x0000_0004, "shutdown (poweroff)"),
            (0x00ff_0004, "shutdown (reason 255)"),
            (0x0003_000d, "dying"),
        ] {
            assert_eq!(DomainState::from_flags(flags).to_string(), word, "{flags:#x}");
        }
    }

    #[test]
    fn reasons_keep_their_numbers() {
        for code in 0..8 {
            assert_eq!(ShutdownReason::from(code).code(), code);
        }
        assert_eq!(ShutdownReason::from(5).to_string(), "soft-reset");
    }

    #[test]
    fn flags_stand_beside_the_state() {
        let raw = xc::xc_domaininfo_t { domain: 7, flags: 0x0003_000d, tot_pages: 5, ..Default::default() };
        let info = DomainInfo::from(&raw);
        assert_eq!((info.domid, info.pages, info.paused, info.dying), (DomId(7), 5, true, true));
    }

    #[test]
    fn abilities_of_the_host() {
        let host = HostInfo::from(&xc::xc_physinfo_t { capabilities: 0b0110, ..Default::default() });
        assert!(host.iommu && !host.hap);
        let host = HostInfo::from(&xc::xc_physinfo_t { capabilities: 0b1011, ..Default::default() });
        assert!(!host.iommu && host.hap);
    }
}
