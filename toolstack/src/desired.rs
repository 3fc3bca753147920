//! What is wanted of each guest, and what follows from what it does. No I/O.

use std::time::Duration;

use ennead_api::{Sha256, Shutdown};
use ennead_channel::guests::State;
use ennead_guest::{Action, GuestConfig};
use serde::{Deserialize, Serialize};

/// A guest that lived shorter than this may be in a loop of crashes or reboots.
const SHORT_LIFE: Duration = Duration::from_secs(60);
/// Longest wait before a guest in such a loop is created again.
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// What is kept of a guest: enough to know it again, and to create it anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// As the operator wants it.
    pub config: GuestConfig,
    /// Its kernel's image; `None` if it boots from its disk.
    pub kernel: Option<Sha256>,
    /// Its ramdisk's.
    pub ramdisk: Option<Sha256>,
    /// Its UUID, which stays over reboots.
    pub uuid: String,
    /// The key of the request that created it: its operator's, or [`boot_key`].
    pub key: Option<String>,
    /// Where it is in its life.
    pub phase: Phase,
    /// How often it was created anew.
    pub restarts: u32,
    /// Short lives one after the other.
    pub short_lives: u32,
}

/// The key of the request that a toolstack makes for a guest that starts with the host. With its space it is no operator's.
#[must_use]
pub fn boot_key(name: &str) -> String {
    format!("boot {name}")
}

impl Record {
    /// Whether it was created because it starts with the host.
    #[must_use]
    pub fn is_of_boot(&self) -> bool {
        self.key.as_ref() == Some(&boot_key(&self.config.name))
    }

    /// All images that it is made of.
    pub fn images(&self) -> impl Iterator<Item = Sha256> {
        self.kernel.into_iter().chain(self.ramdisk)
    }
}

/// Where a guest is in its life, as far as the toolstack knows by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "is")]
pub enum Phase {
    /// It is being created for the first time.
    Creating {
        /// The domid that Builder gave it, under which its nodes are written.
        domid: Option<u16>,
    },
    /// It is being created anew, or waits for that.
    Restarting {
        /// As for `Creating`.
        domid: Option<u16>,
    },
    /// It is a domain.
    Live {
        /// Its domid.
        domid: u16,
        /// Its console's port.
        console_port: u32,
        /// When it was built, milliseconds since 1970.
        started_ms: u64,
    },
    /// The operator has asked for its end.
    Ending {
        /// The domid that it had.
        domid: u16,
    },
    /// It is no domain; it waits for the operator.
    Stopped {
        /// Why.
        why: String,
    },
}

impl Phase {
    /// Its domid while it is a domain.
    #[must_use]
    pub fn domid(&self) -> Option<u16> {
        match self {
            Self::Live { domid, .. } => Some(*domid),
            _ => None,
        }
    }

    /// The domid under which there may be nodes of it.
    #[must_use]
    pub fn last_domid(&self) -> Option<u16> {
        match self {
            Self::Creating { domid } | Self::Restarting { domid } => *domid,
            Self::Live { domid, .. } | Self::Ending { domid } => Some(*domid),
            Self::Stopped { .. } => None,
        }
    }

    /// The same with this domid, for a guest that is being created.
    #[must_use]
    pub fn of(&self, domid: u16) -> Self {
        match self {
            Self::Creating { .. } => Self::Creating { domid: Some(domid) },
            _ => Self::Restarting { domid: Some(domid) },
        }
    }
}

/// What the configuration says is to be done after a shutdown.
#[must_use]
pub fn action(config: &GuestConfig, why: Shutdown) -> Action {
    match why {
        Shutdown::Poweroff => config.on_poweroff,
        // To keep its memory (kexec) is more than we can; a restart comes nearest to it.
        Shutdown::Reboot | Shutdown::SoftReset => config.on_reboot,
        // Its memory is all that there is of it.
        Shutdown::Suspend => Action::Preserve,
        Shutdown::Crash | Shutdown::Watchdog | Shutdown::Unknown => config.on_crash,
    }
}

/// How long to wait before a guest that lived so long is created again, and the number of its short lives after this one.
/// The first short life costs nothing: whoever reboots a guest does not wait.
#[must_use]
pub fn wait(lived: Duration, short_lives: u32) -> (Duration, u32) {
    if lived >= SHORT_LIFE {
        return (Duration::ZERO, 0);
    }
    let seconds = match short_lives {
        0 => 0,
        more => 1_u64.checked_shl(more - 1).unwrap_or(u64::MAX),
    };
    (Duration::from_secs(seconds).min(LONGEST_WAIT), short_lives.saturating_add(1))
}

/// What a new toolstack has to do about a guest that it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It goes on.
    Live,
    /// It has shut down while nobody looked.
    ShutDown(Shutdown),
    /// Its creation or its end was not finished: it is to be removed, record and domain.
    Remove,
    /// Nothing of it is left but its record.
    Stop(&'static str),
}

/// What becomes of a record's guest, whose domain (of its name) does this; `None` if there is none.
#[must_use]
pub fn found(phase: &Phase, domain: Option<(u16, State)>) -> Found {
    let state = domain.map(|(_, state)| state).filter(|state| !matches!(state, State::Dying | State::Gone));
    match (phase, state) {
        // Whoever asked for it was never told that it is there.
        (Phase::Creating { .. } | Phase::Ending { .. }, _) => Found::Remove,
        (Phase::Live { domid, .. }, Some(state)) if domain.is_some_and(|(found, _)| found == *domid) => {
            match state {
                State::ShutDown(code) => Found::ShutDown(Shutdown::from_code(code)),
                _ => Found::Live,
            }
        }
        (Phase::Live { .. }, _) => Found::Stop("it ended while the toolstack was not there"),
        (Phase::Restarting { .. }, _) => Found::Stop("the toolstack ended while it was restarted"),
        (Phase::Stopped { .. }, _) => Found::Stop("it was stopped before"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(actions: &str) -> GuestConfig {
        let text = format!("name = \"a\"\nkind = \"pv\"\nkernel = \"image:k\"\nmemory-mib = 32\n{actions}");
        ennead_guest::parse_toml("a.toml", &text).unwrap_or_else(|e| panic!("{e}")).config
    }

    #[test]
    fn each_end_has_its_action() {
        let config = config("on-poweroff = \"preserve\"\non-reboot = \"restart\"\non-crash = \"destroy\"");
        let actions = [
            (0, Action::Preserve),
            (1, Action::Restart),
            (2, Action::Preserve),
            (3, Action::Destroy),
            (4, Action::Destroy),
            (5, Action::Restart),
            (6, Action::Destroy),
            (255, Action::Destroy),
        ];
        for (code, action) in actions {
            assert_eq!(super::action(&config, Shutdown::from_code(code)), action, "{code}");
        }
    }

    #[test]
    fn a_loop_of_short_lives_slows_down_and_a_long_life_forgives() {
        let second = Duration::from_secs(1);
        let (mut waits, mut short_lives) = (Vec::new(), 0);
        for _ in 0..10 {
            let (next, count) = wait(second, short_lives);
            waits.push(next.as_secs());
            short_lives = count;
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(wait(second, u32::MAX), (LONGEST_WAIT, u32::MAX));
        assert_eq!(wait(SHORT_LIFE, short_lives), (Duration::ZERO, 0));
    }

    #[test]
    fn a_successor_finds_out_what_became_of_each_guest() {
        let live = Phase::Live { domid: 1024, console_port: 3, started_ms: 5 };
        let domain = |domid, state| Some((domid, state));
        assert_eq!(found(&live, domain(1024, State::Running)), Found::Live);
        assert_eq!(found(&live, domain(1024, State::Paused)), Found::Live);
        assert_eq!(found(&live, domain(1024, State::ShutDown(1))), Found::ShutDown(Shutdown::Reboot));
        for domain in
            [None, domain(1024, State::Gone), domain(1024, State::Dying), domain(1025, State::Running)]
        {
            assert!(matches!(found(&live, domain), Found::Stop(_)), "{domain:?}");
        }
        assert_eq!(found(&Phase::Creating { domid: None }, domain(1024, State::Paused)), Found::Remove);
        assert_eq!(found(&Phase::Ending { domid: 9 }, None), Found::Remove);
        assert!(matches!(
            found(&Phase::Restarting { domid: Some(9) }, domain(9, State::Building)),
            Found::Stop(_)
        ));
    }

    #[test]
    fn a_guest_of_boot_is_known_by_its_key() {
        let record = |key: Option<String>| Record {
            config: config(""),
            kernel: None,
            ramdisk: None,
            uuid: String::new(),
            key,
            phase: Phase::Creating { domid: None },
            restarts: 0,
            short_lives: 0,
        };
        assert!(record(Some(boot_key("a"))).is_of_boot());
        for other in [None, Some(String::new()), Some(boot_key("b")), Some("boot-a".to_owned())] {
            assert!(!record(other).is_of_boot());
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let image = Sha256([0xab; 32]);
        let record = Record {
            config: config(""),
            kernel: Some(image),
            ramdisk: None,
            uuid: "01234567-89ab-cdef-0123-456789abcdef".into(),
            key: Some("k".into()),
            phase: Phase::Live { domid: 1024, console_port: 3, started_ms: 5 },
            restarts: 7,
            short_lives: 2,
        };
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }
}
