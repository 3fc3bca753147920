//! FLASK: labels and their numbers (xen/include/public/xsm/flask_op.h).

use super::{Control, invalid};
use crate::error::{Error, Kind, Result};
use crate::page::PAGE_SIZE;
use crate::{DomId, Sid};
use std::io;
use xenctrl_sys as xc;

/// The room for a context: a page.
const CONTEXT_MAX: u32 = 4096;
const _: () = assert!(CONTEXT_MAX as usize == PAGE_SIZE);

impl Control {
    /// The number of a context such as `system_u:system_r:domU_t` (`FLASK_CONTEXT_TO_SID`).
    ///
    /// # Errors
    /// `EINVAL` if the policy has no such context; `ENOSYS` if Xen runs without FLASK; what else Xen says.
    pub fn sid_of(&self, context: &str) -> Result<Sid> {
        const OP: &str = "context_to_sid";
        let size = u32::try_from(context.len()).map_err(|_| invalid(OP, None))?;
        if context.is_empty() || context.len() >= PAGE_SIZE || context.contains('\0') {
            return Err(invalid(OP, None));
        }
        let op =
            self.context_op(xc::FLASK_CONTEXT_TO_SID, Sid(0), context.as_bytes(), size).map_err(error(OP))?;
        // SAFETY: this operation's structure is the one that was sent, and every bit pattern of it is valid.
        Ok(Sid(unsafe { op.u.sid_context }.sid))
    }

    /// The context behind a number (`FLASK_SID_TO_CONTEXT`); of a number that the policy does not know, the
    /// unlabeled one.
    ///
    /// # Errors
    /// What Xen says.
    pub fn context_of(&self, sid: Sid) -> Result<String> {
        const OP: &str = "sid_to_context";
        self.context_op(xc::FLASK_SID_TO_CONTEXT, sid, &[], CONTEXT_MAX).map_err(error(OP))?;
        let mut context = vec![0; PAGE_SIZE];
        self.privcmd.data(&mut context).map_err(error(OP))?;
        text(context).ok_or_else(|| Error::local(OP, None, libc::EILSEQ))
    }

    /// Gives a domain another label (`FLASK_RELABEL_DOMAIN`). Event channels keep the labels they were made with.
    ///
    /// # Errors
    /// What Xen says.
    pub fn relabel(&self, d: DomId, sid: Sid) -> Result<()> {
        let relabel = xc::xen_flask_relabel { domid: u32::from(d.0), sid: sid.0 };
        let mut op = operation(xc::FLASK_RELABEL_DOMAIN);
        op.u.relabel = relabel;
        // SAFETY: this operation is its structure.
        let result = unsafe { self.privcmd.flask(&[], |_| op) };
        result.map(drop).map_err(super::privcmd("relabel_domain", d))
    }

    /// Whether FLASK enforces its policy rather than only report (`FLASK_GETENFORCE`).
    ///
    /// # Errors
    /// `ENOSYS` if Xen runs without FLASK; what else Xen says.
    pub fn flask_enforcing(&self) -> Result<bool> {
        // SAFETY: this operation is its structure.
        let result = unsafe { self.privcmd.flask(&[], |_| operation(xc::FLASK_GETENFORCE)) };
        Ok(result.map_err(error("getenforce"))?.0 != 0)
    }

    /// An operation with a context, of at most `size` bytes, in the data page.
    fn context_op(&self, cmd: u32, sid: Sid, data: &[u8], size: u32) -> io::Result<xc::xen_flask_op> {
        let size = size.min(CONTEXT_MAX);
        let op = |p| {
            let mut op = operation(cmd);
            let context = xc::__guest_handle_char { p };
            op.u.sid_context = xc::xen_flask_sid_context { sid: sid.0, size, context };
            op
        };
        // SAFETY: the context is at the start of the data page and `size` is no more than that page's.
        unsafe { self.privcmd.flask(data, op) }.map(|(_, op)| op)
    }
}

fn operation(cmd: u32) -> xc::xen_flask_op {
    xc::xen_flask_op { cmd, interface_version: xc::XEN_FLASK_INTERFACE_VERSION, ..Default::default() }
}

fn error(op: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::new(Kind::Privcmd, op, None, e)
}

/// What is before the first zero byte.
fn text(mut bytes: Vec<u8>) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0)?;
    bytes.truncate(end);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{hypercall::Privcmd, libxc::Libxc};
    use super::*;

    #[test]
    fn contexts_that_cannot_be_are_not_sent() {
        let control = Control { privcmd: Privcmd::dummy(), xc: Libxc::dummy() };
        for context in ["", "a\0b", &"x".repeat(PAGE_SIZE)] {
            assert_eq!(control.sid_of(context).unwrap_err().errno(), Some(libc::EINVAL));
        }
        let sent = control.sid_of("system_u:system_r:domU_t").unwrap_err();
        assert_eq!(sent.errno(), Some(libc::ENOTTY), "the device's answer, not ours");
        let mut placed = [0; 25];
        control.privcmd.data(&mut placed).unwrap();
        assert_eq!(&placed, b"system_u:system_r:domU_t\0");
    }

    #[test]
    fn a_context_ends_at_its_zero() {
        assert_eq!(text(b"abc\0def\0".to_vec()).as_deref(), Some("abc"));
        assert_eq!(text(b"abc".to_vec()), None);
        assert_eq!(text(vec![0xff, 0]), None);
    }
}
