//! What can be asked, within a transaction or not.

use ennead_xs_wire::{Errno, PAYLOAD_MAX, Perm, Raw, Reply, Request};

use crate::Error;

/// XenStore's operations. Paths are absolute, or relative to the VM's own directory.
///
/// All fail as XenStore does, or when it cannot be reached.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Access {
    /// Sends a request and waits for the payload of its answer.
    fn ask(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Error>;

    /// The value of a node.
    fn read(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        self.ask(&Request::Read { path: path.as_bytes() })
    }

    /// The value of a node; `None` if there is no such node.
    fn find(&mut self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.read(path) {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.errno() == Some(Errno::Enoent) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets the value of a node; makes it, and those above it, if need be.
    fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.ask(&Request::Write { path: path.as_bytes(), value }).map(drop)
    }

    /// Makes a node without a value; nothing if it is there.
    fn mkdir(&mut self, path: &str) -> Result<(), Error> {
        self.ask(&Request::Mkdir { path: path.as_bytes() }).map(drop)
    }

    /// Removes a node with all below it; nothing if it is not there.
    fn rm(&mut self, path: &str) -> Result<(), Error> {
        match self.ask(&Request::Rm { path: path.as_bytes() }) {
            Err(e) if e.errno() == Some(Errno::Enoent) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sets a node's permissions; the first names its owner and what all others may do.
    fn set_perms(&mut self, path: &str, perms: &[Perm]) -> Result<(), Error> {
        self.ask(&Request::SetPerms { path: path.as_bytes(), perms: perms.to_vec() }).map(drop)
    }

    /// The names of a node's children.
    fn list(&mut self, path: &str) -> Result<Vec<String>, Error> {
        match self.ask(&Request::Directory { path: path.as_bytes() }) {
            Ok(names) => Ok(split(&names)),
            Err(e) if e.errno() == Some(Errno::E2big) => self.list_in_parts(path),
            Err(e) => Err(e),
        }
    }

    /// The same when the list is longer than a message.
    fn list_in_parts(&mut self, path: &str) -> Result<Vec<String>, Error> {
        let nonsense = || Error::Nonsense { asked: format!("for the children of {path}") };
        let (mut names, mut before) = (Vec::new(), None);
        loop {
            let offset = u32::try_from(names.len()).map_err(|_| nonsense())?;
            let request = Request::DirectoryPart { path: path.as_bytes(), offset };
            let payload = self.ask(&request)?;
            let header = ennead_xs_wire::Header {
                op: request.op() as u32,
                request_id: 0,
                tx_id: 0,
                len: payload.len().min(PAYLOAD_MAX),
            };
            let raw = Raw { header, payload: &payload };
            let Some(ennead_xs_wire::Message::Reply {
                reply: Reply::Part { generation, names: part, last },
                ..
            }) = raw.message()
            else {
                return Err(nonsense());
            };
            // The list changed between two parts: from the start.
            if before.replace(generation).is_some_and(|before| before != generation) {
                names.clear();
                before = None;
                continue;
            }
            names.extend_from_slice(part);
            if last {
                return Ok(split(&names));
            }
            if part.is_empty() {
                return Err(nonsense());
            }
        }
    }
}

fn split(names: &[u8]) -> Vec<String> {
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

/// What was asked, for people.
pub(crate) fn describe(request: &Request<'_>) -> String {
    let path = match request {
        Request::Read { path }
        | Request::Directory { path }
        | Request::DirectoryPart { path, .. }
        | Request::GetPerms { path }
        | Request::Mkdir { path }
        | Request::Rm { path }
        | Request::Write { path, .. }
        | Request::SetPerms { path, .. }
        | Request::Watch { path, .. }
        | Request::Unwatch { path, .. } => path,
        _ => &b""[..],
    };
    let space = if path.is_empty() { "" } else { " " };
    format!("{:?}{space}{}", request.op(), path.escape_ascii())
}
