//! What a path may look like, and how paths relate to each other. Paths are bytes without their NUL.
//!
//! A path is absolute (`/local/domain/3/name`), relative to the client's own directory (`name`), or special
//! (`@introduceDomain`). Everything but [`canonical`] takes absolute or special paths.

use alloc::vec::Vec;

use crate::{ABS_PATH_MAX, Errno, REL_PATH_MAX, text::Decimal};

/// The root of the tree.
pub const ROOT: &[u8] = b"/";
/// Watched to learn of new domains.
pub const INTRODUCE_DOMAIN: &[u8] = b"@introduceDomain";
/// Watched to learn of domains that shut down, crashed or are gone.
pub const RELEASE_DOMAIN: &[u8] = b"@releaseDomain";

/// Below this each domain has its directory, named by its domid.
const DOMAINS: &[u8] = b"/local/domain/";
/// Most digits of a domid in a path.
const DOMID_DIGITS: usize = 5;

/// Whether this is the absolute path of something that can exist: it starts with `/`, has no empty segment and no `/` at
/// the end (but for the root itself), holds only letters, digits and `-/_@`, and is not too long: `ABS_PATH_MAX` in
/// all, `REL_PATH_MAX` after a domain's directory. XenStore-State also holds [`counted_len`] against its quota path-max.
#[must_use]
pub fn is_valid(path: &[u8]) -> bool {
    let counted = counted_len(path);
    let fits = path.len() <= ABS_PATH_MAX && (counted == path.len() || counted <= REL_PATH_MAX);
    fits && path.first() == Some(&b'/')
        && (path == ROOT || (path.last() != Some(&b'/') && has_good_segments(path)))
}

fn has_good_segments(path: &[u8]) -> bool {
    let mut previous = 0;
    path.iter().all(|&byte| {
        let doubled = byte == b'/' && previous == b'/';
        previous = byte;
        !doubled && (byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'@'))
    })
}

/// Whether this names an event of the daemon, not a node. Any such name can be watched; only [`INTRODUCE_DOMAIN`] and
/// [`RELEASE_DOMAIN`] ever happen and have permissions.
#[must_use]
pub fn is_special(path: &[u8]) -> bool {
    path.first() == Some(&b'@')
}

/// Bytes of a path that count towards the quota path-max: without a leading `/local/domain/<domid>/`.
#[must_use]
pub fn counted_len(path: &[u8]) -> usize {
    let Some(rest) = path.strip_prefix(DOMAINS) else { return path.len() };
    let digits = rest.iter().take(DOMID_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(digits..).and_then(|tail| tail.strip_prefix(b"/")) {
        Some(tail) if digits > 0 => tail.len(),
        _ => path.len(),
    }
}

/// Appends the directory of a domain, `/local/domain/<domid>`: what its relative paths start from.
pub fn push_domain(domid: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(DOMAINS);
    out.extend_from_slice(Decimal::new(u64::from(domid)).as_bytes());
}

/// Replaces `out` by the absolute form of what a client wrote; special paths stay as they are. `domid` is the client's,
/// 0 for an operator.
///
/// # Errors
/// EINVAL if the result is neither [`is_valid`] nor special and at most `REL_PATH_MAX` long. The length is that of the
/// result: a short relative path can be too long (XSA-323).
pub fn canonical(path: &[u8], domid: u16, out: &mut Vec<u8>) -> Result<(), Errno> {
    out.clear();
    if !is_special(path) && path.first() != Some(&b'/') {
        push_domain(domid, out);
        out.push(b'/');
    }
    out.extend_from_slice(path);
    let good = if is_special(out) { out.len() <= REL_PATH_MAX } else { is_valid(out) };
    if good { Ok(()) } else { Err(Errno::Einval) }
}

/// The path one segment up; None for the root and for special paths.
#[must_use]
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    split_last(path).map(|(parent, _)| parent)
}

/// The last segment; None for the root and for special paths.
#[must_use]
pub fn name(path: &[u8]) -> Option<&[u8]> {
    split_last(path).map(|(_, name)| name)
}

fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    let (head, tail) = path.split_at_checked(slash)?;
    let name = tail.strip_prefix(ROOT).filter(|name| !name.is_empty())?;
    Some((if head.is_empty() { ROOT } else { head }, name))
}

/// The names on the way from the root to `path`; none for the root.
pub fn segments(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
    path.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty())
}

/// What is left of `path` below `prefix`: empty if they are equal, None if `path` is not in that subtree.
#[must_use]
pub fn relative_to<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    if prefix == ROOT {
        return path.strip_prefix(ROOT);
    }
    let rest = path.strip_prefix(prefix)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(ROOT) }
}

#[cfg(test)]
mod tests;
