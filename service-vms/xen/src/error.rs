//! One error type: which operation, for which domain, and what the system said.

use crate::DomId;
use std::fmt;
use std::io;

/// The result of every fallible operation here.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation that Xen, or Linux on the way to it, refused.
///
/// The text is complete (the system's error is in it), so [`std::error::Error::source`] is `None`.
#[derive(Debug, thiserror::Error)]
#[error("{} {}{}: {}{}", .kind.verb(), .op, Target(*.domid), .cause, Hint(.kind.hint(.cause.raw_os_error())))]
pub struct Error {
    kind: Kind,
    op: &'static str,
    domid: Option<DomId>,
    cause: io::Error,
}

/// Who said no, which decides what the error number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A domctl or sysctl, whose interface version Xen checks.
    #[cfg_attr(not(feature = "control"), allow(dead_code, reason = "only `Control` makes such calls"))]
    Domctl,
    /// Any other call through `/dev/xen/privcmd`.
    #[cfg_attr(not(feature = "control"), allow(dead_code, reason = "only `Control` makes such calls"))]
    Privcmd,
    /// A hypercall that one of Linux's other drivers made for us.
    Driver,
    /// Opening a device.
    Open,
    /// Linux or our own checks: nothing reached Xen.
    Local,
}

impl Kind {
    const fn verb(self) -> &'static str {
        match self {
            Self::Domctl | Self::Privcmd | Self::Driver => "Xen refused",
            Self::Open | Self::Local => "Cannot",
        }
    }

    // FLASK's access vector cache answers EACCES (xen/xsm/flask/avc.c); its hooks for unknown objects, Xen's own
    // checks and Linux's restricted privcmd EPERM. EACCES is also Xen's answer to a wrong domctl version.
    const fn hint(self, errno: Option<i32>) -> Option<&'static str> {
        match (self, errno) {
            (Self::Domctl, Some(libc::EACCES)) => Some(
                "FLASK denied it: see the AVC line on Xen's console; if there is none, interface version: built for \
                 Xen 4.17 (0x15)",
            ),
            (Self::Domctl | Self::Privcmd, Some(libc::EPERM)) => Some(
                "FLASK denied it: see the AVC line on Xen's console; if there is none, the kernel may lack \
                 xen_privcmd.unrestricted",
            ),
            (Self::Privcmd | Self::Driver, Some(libc::EACCES)) | (Self::Driver, Some(libc::EPERM)) => {
                Some("FLASK denied it: see the AVC line on Xen's console")
            }
            (Self::Open, Some(libc::ENOENT | libc::ENODEV)) => {
                Some("the kernel does not run on Xen, or has no driver for it")
            }
            _ => None,
        }
    }
}

struct Target(Option<DomId>);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |d| write!(f, " for {d}"))
    }
}

struct Hint(Option<&'static str>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |h| write!(f, " ({h})"))
    }
}

impl Error {
    /// A refusal by Xen, for code that stands in for it in tests.
    #[must_use]
    pub const fn refused(op: &'static str, domid: Option<DomId>, cause: io::Error) -> Self {
        Self { kind: Kind::Driver, op, domid, cause }
    }

    pub(crate) const fn new(kind: Kind, op: &'static str, domid: Option<DomId>, cause: io::Error) -> Self {
        Self { kind, op, domid, cause }
    }

    pub(crate) fn local(op: &'static str, domid: Option<DomId>, errno: i32) -> Self {
        Self::new(Kind::Local, op, domid, io::Error::from_raw_os_error(errno))
    }

    /// The operation, in Xen's words where it has some: `createdomain`, `alloc_unbound`, ...
    #[must_use]
    pub const fn op(&self) -> &'static str {
        self.op
    }

    /// The domain it was for.
    #[must_use]
    pub const fn domid(&self) -> Option<DomId> {
        self.domid
    }

    /// The error number; Xen's and Linux's numbers are the same for all that occur here.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }

    /// What to look at, where the number alone misleads; already part of the text.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.kind.hint(self.errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    fn error(kind: Kind, op: &'static str, domid: Option<DomId>, errno: i32) -> Error {
        Error::new(kind, op, domid, io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn says_what_for_whom_and_why() {
        let e = error(Kind::Domctl, "createdomain", Some(DomId(3)), libc::EINVAL);
        assert_eq!(e.to_string(), "Xen refused createdomain for d3: Invalid argument (os error 22)");
        assert_eq!((e.errno(), e.op(), e.domid()), (Some(libc::EINVAL), "createdomain", Some(DomId(3))));
        assert!(e.hint().is_none());
        assert!(e.source().is_none(), "the text already has the cause: a printed chain must not repeat it");
    }

    #[test]
    fn a_denial_names_flask() {
        let e = error(Kind::Domctl, "createdomain", Some(DomId(3)), libc::EPERM);
        let text = e.to_string();
        assert!(
            text.starts_with("Xen refused createdomain for d3: Operation not permitted (os error 1)"),
            "{text}"
        );
        assert!(text.contains("FLASK denied it: see the AVC line on Xen's console"), "{text}");
        let e = Error::refused("bind_interdomain", None, io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(e.hint(), Some("FLASK denied it: see the AVC line on Xen's console"));
    }

    #[test]
    fn eacces_of_a_domctl_may_be_the_version() {
        let e = error(Kind::Domctl, "pausedomain", Some(DomId(3)), libc::EACCES);
        assert!(e.to_string().contains("built for Xen 4.17 (0x15)"), "{e}");
        assert!(e.to_string().contains("AVC line"), "{e}");
    }

    #[test]
    fn a_missing_device_is_not_blamed_on_xen() {
        let e = error(Kind::Open, "open /dev/xen/privcmd", None, libc::ENOENT);
        assert!(e.to_string().starts_with("Cannot open /dev/xen/privcmd: No such file or directory"), "{e}");
    }
}
