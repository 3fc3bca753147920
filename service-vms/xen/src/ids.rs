//! The numbers Xen knows things by.

use crate::sys;
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

id! {
    /// A domain's number: `domid_t` in xen/include/public/xen.h. Shown as `d3`.
    DomId(u16), "d{}"
}
id! {
    /// A machine frame number: a physical page of the host (4096 bytes).
    Mfn(u64), "{:#x}"
}
id! {
    /// An event channel port of one domain: `evtchn_port_t` in xen/include/public/event_channel.h.
    Port(u32), "{}"
}
id! {
    /// An index into a domain's grant table: `grant_ref_t` in xen/include/public/grant_table.h.
    GrantRef(u32), "{}"
}
id! {
    /// FLASK's number for a security context; valid until the policy is loaded anew.
    Sid(u32), "{}"
}

impl DomId {
    /// The calling domain, where Xen allows it in place of a number (`DOMID_SELF`).
    pub const SELF: Self = Self(sys::DOMID_SELF);

    /// Whether this can be the number of a domain, and not one of Xen's special values
    /// (`DOMID_FIRST_RESERVED` and above).
    #[must_use]
    pub const fn is_ordinary(self) -> bool {
        self.0 < sys::DOMID_FIRST_RESERVED
    }
}

/// An interrupt that Xen itself raises, host-wide (`VIRQ_*` in xen/include/public/xen.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Virq {
    /// A domain shut down, or the last of it is gone (`VIRQ_DOM_EXC`).
    DomExc,
    /// Xen's console received a byte (`VIRQ_CONSOLE`).
    Console,
}

impl Virq {
    /// Xen's number for it.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::DomExc => sys::VIRQ_DOM_EXC,
            Self::Console => sys::VIRQ_CONSOLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domids_show_as_xen_shows_them() {
        assert_eq!(DomId(3).to_string(), "d3");
        assert_eq!(DomId::SELF.0, 0x7ff0);
        assert!(DomId(0x7fef).is_ordinary());
        assert!(!DomId::SELF.is_ordinary());
    }
}
