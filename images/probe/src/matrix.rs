//! Counts attempts and logs each.

use ennead_xen::Error;
use tracing::{info, warn};

/// `EPERM`: Xen's own checks, and FLASK's where Xen passes only that on.
const EPERM: i32 = 1;
/// `EACCES`: FLASK.
const EACCES: i32 = 13;

/// What shows who refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// FLASK, which logs the permission.
    Avc(&'static str),
    /// FLASK, which does not log it: Linux asks for it at every boot.
    Quietly,
    /// Xen's own check, before it asks FLASK.
    ByXen,
}

impl Denied {
    fn word(self) -> &'static str {
        match self {
            Self::Avc(permission) => permission,
            Self::Quietly => "quiet",
            Self::ByXen => "none",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Refused,
    Allowed,
    /// Xen did not obey, but for a reason that is no refusal.
    Unclear,
}

/// The attempts of one VM under one type.
#[derive(Debug)]
pub struct Matrix {
    r#as: String,
    count: usize,
    allowed: usize,
    unclear: usize,
}

impl Matrix {
    /// None yet; `as` is the type under which the VM runs.
    #[must_use]
    pub fn new(r#as: String) -> Self {
        Self { r#as, count: 0, allowed: 0, unclear: 0 }
    }

    /// Logs one attempt.
    pub fn note<T>(&mut self, op: &str, target: &str, denied: Denied, result: Result<T, Error>) {
        let errno = result.map_or_else(|e| e.errno().unwrap_or(-1), |_| 0);
        self.log(op, target, denied, outcome(errno), errno);
    }

    /// Logs one attempt that Xen refuses without an error number: it says that nothing was done.
    pub fn note_done(&mut self, op: &str, target: &str, denied: Denied, result: Result<bool, Error>) {
        let (outcome, errno) = match result {
            Ok(true) => (Outcome::Allowed, 0),
            Ok(false) => (Outcome::Refused, 0),
            Err(e) => (Outcome::Unclear, e.errno().unwrap_or(-1)),
        };
        self.log(op, target, denied, outcome, errno);
    }

    fn log(&mut self, op: &str, target: &str, denied: Denied, outcome: Outcome, errno: i32) {
        let (r#as, avc) = (self.r#as.as_str(), denied.word());
        self.count += 1;
        match outcome {
            Outcome::Refused => info!(r#as, op, target, result = "refused", errno, avc, "probe"),
            Outcome::Allowed => {
                self.allowed += 1;
                warn!(r#as, op, target, result = "ALLOWED", errno, avc, "probe");
            }
            Outcome::Unclear => {
                self.unclear += 1;
                warn!(r#as, op, target, result = "unclear", errno, avc, "probe");
            }
        }
    }

    /// Logs how many there were.
    pub fn end(self) {
        let Self { r#as, count, allowed, unclear } = self;
        info!(r#as, count, allowed, unclear, "probes");
    }
}

fn outcome(errno: i32) -> Outcome {
    match errno {
        0 => Outcome::Allowed,
        EPERM | EACCES => Outcome::Refused,
        _ => Outcome::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn only_eacces_and_eperm_are_refusals() {
        let error = |errno| Error::refused("op", None, io::Error::from_raw_os_error(errno));
        let mut matrix = Matrix::new("x_t".into());
        matrix.note("a", "b", Denied::ByXen, Err::<(), _>(error(EACCES)));
        matrix.note("a", "b", Denied::ByXen, Err::<(), _>(error(EPERM)));
        matrix.note_done("a", "b", Denied::ByXen, Ok(false));
        assert_eq!((matrix.count, matrix.allowed, matrix.unclear), (3, 0, 0));
        matrix.note("a", "b", Denied::ByXen, Ok(()));
        matrix.note_done("a", "b", Denied::ByXen, Ok(true));
        assert_eq!((matrix.count, matrix.allowed, matrix.unclear), (5, 2, 0));
        for errno in [3, 14, 22, 38] {
            matrix.note("a", "b", Denied::ByXen, Err::<(), _>(error(errno)));
        }
        matrix.note_done("a", "b", Denied::ByXen, Err(error(EACCES)));
        assert_eq!((matrix.count, matrix.allowed, matrix.unclear), (10, 2, 5));
    }
}
