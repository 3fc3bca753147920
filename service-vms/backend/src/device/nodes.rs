//! What stands in a device's directory.

use std::cell::RefCell;

use ennead_xs_client::{Access, Errno, Error};

/// Why a device is not served.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What the frontend or the toolstack wrote cannot be served: until it begins anew.
    #[error("{0}")]
    Refused(String),
    /// It cannot be served yet: it is tried again.
    #[error("{0}")]
    NotYet(String),
    /// XenStore.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Failure {
    /// Refused, for this reason.
    #[expect(clippy::needless_pass_by_value, reason = "errors and texts alike")]
    pub fn refused(reason: impl ToString) -> Self {
        Self::Refused(reason.to_string())
    }
}

/// A directory of a device.
pub trait Nodes {
    /// The value of a node below it; `None` if it is not there, or hidden from us.
    ///
    /// # Errors
    /// XenStore cannot be reached.
    fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Error>;

    /// The value of any node, by a path below our own directory.
    ///
    /// # Errors
    /// XenStore cannot be reached.
    fn elsewhere(&mut self, _path: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }
}

/// A directory in XenStore. Two of them can share a connection.
#[derive(Debug)]
pub(super) struct Directory<'a, 'b, A> {
    pub(super) store: &'a RefCell<&'b mut A>,
    pub(super) path: String,
}

impl<A: Access> Nodes for Directory<'_, '_, A> {
    fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.elsewhere(&format!("{}/{key}", self.path))
    }

    fn elsewhere(&mut self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        find(&mut **self.store.borrow_mut(), path)
    }
}

/// The value of a node; its owner may be a guest, and may have hidden it.
pub(super) fn find(store: &mut impl Access, path: &str) -> Result<Option<Vec<u8>>, Error> {
    match store.find(path) {
        Err(e) if e.errno() == Some(Errno::Eacces) => Ok(None),
        other => other,
    }
}

/// A number that is at most `most`; `None` if there is no such node.
///
/// # Errors
/// Refused if it is none or more; XenStore cannot be reached.
pub fn number(nodes: &mut (impl Nodes + ?Sized), key: &str, most: u32) -> Result<Option<u32>, Failure> {
    let Some(value) = nodes.get(key)? else { return Ok(None) };
    let number = std::str::from_utf8(&value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match number.and_then(|text| text.parse().ok()) {
        Some(number) if number <= most => Ok(Some(number)),
        _ => Err(Failure::Refused(format!("{key} is no number up to {most}"))),
    }
}

/// A text of at most 256 bytes without control characters; `None` if there is no such node.
///
/// # Errors
/// Refused if it is none; XenStore cannot be reached.
pub fn text(nodes: &mut (impl Nodes + ?Sized), key: &str) -> Result<Option<String>, Failure> {
    let Some(value) = nodes.get(key)? else { return Ok(None) };
    let is_text = |text: &String| text.len() <= 256 && !text.chars().any(char::is_control);
    match String::from_utf8(value).ok().filter(is_text) {
        Some(text) => Ok(Some(text)),
        None => Err(Failure::Refused(format!("{key} is no text"))),
    }
}
