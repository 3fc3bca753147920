//! What the checker of `host.toml` and the reader of the boot plan both insist on.

use std::ops::RangeInclusive;

use crate::plan::Quota;

/// Highest domid of a VM: one below Xen's `DOMID_FIRST_RESERVED` (0x7ff0, public/xen.h).
pub const MAX_DOMID: u16 = 32_751;

/// MiB that one VM, or the host, may at most have: 1 TiB.
pub const MAX_MEMORY_MIB: u32 = 1 << 20;

/// Virtual CPUs that one service VM may at most have.
pub const MAX_VCPUS: u32 = 8;

/// MiB that Xen keeps for itself.
pub const XEN_MEMORY_MIB: u32 = 96;

impl Quota {
    /// What it may be set to. Below, stock guests do not work; above, State has not the memory.
    #[must_use]
    pub const fn range(self) -> RangeInclusive<u32> {
        match self {
            Self::Nodes => 16..=1_000_000,
            Self::NodeSize => 256..=65_536,
            Self::Watches | Self::Events => 16..=65_536,
            Self::Transactions => 1..=1024,
            Self::TransactionNodes => 16..=65_536,
            Self::Permissions => 2..=256,
            // Xen's `XENSTORE_REL_PATH_MAX`.
            Self::PathMax => 256..=2048,
            Self::Memory => 65_536..=1 << 30,
        }
    }
}

/// Whether `text` can name a VM, kernel, program, tenant, guest or host: 1 to 32 of a-z, 0-9 and `-`, the first not a `-`.
/// Such a name is safe as a file name, as a program's argument and in generated policy.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// VMs that serve one tenant's guests, at most.
pub(crate) const MAX_BACKENDS: usize = 8;

/// Endings of FLASK types: what a tenant's name may not be or end in, or two VMs' types could be one.
const TYPE_ENDINGS: [&str; 4] = ["building", "starting", "self", "channel"];

/// Whether a tenant's name would end like a FLASK type that is made of another's.
pub(crate) fn is_type_ending(name: &str) -> bool {
    TYPE_ENDINGS.contains(&name.rsplit('-').next().unwrap_or(name))
}

/// Whether `text` is a PCI address `dddd:bb:dd.f` in lower-case hex, with a device up to 1f and a function up to 7.
pub(crate) fn is_pci_address(text: &str) -> bool {
    const SHAPE: &[u8] = b"hhhh:hh:0h.7";
    text.len() == SHAPE.len()
        && text.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
            b'h' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            b'0' => matches!(byte, b'0' | b'1'),
            b'7' => matches!(byte, b'0'..=b'7'),
            literal => byte == *literal,
        })
}

/// Whether `text` is a SHA-256 in lower-case hex.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a character has no place in a string that goes into logs and into comments of generated files: control
/// characters, line and paragraph separators, and the invisible ones that reorder or hide text.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` with every unprintable character escaped, for a message.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unprintable(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "netback-0", "0", "abcdefghijklmnopqrstuvwxyz-01234"] {
            assert!(is_name(good), "{good}");
        }
        for bad in
            ["", "-rf", "A", "a_b", "a.b", "a/b", "a b", "\u{e4}", "abcdefghijklmnopqrstuvwxyz-012345", "a\n"]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn pci_addresses() {
        for good in ["0000:00:00.0", "ffff:ff:1f.7", "0000:3a:0c.1"] {
            assert!(is_pci_address(good), "{good}");
        }
        for bad in
            ["00:03.0", "0000:00:20.0", "0000:00:03.8", "0000:00:0A.0", "0000:00:03,0", "0000:00:03.00", ""]
        {
            assert!(!is_pci_address(bad), "{bad}");
        }
    }

    #[test]
    fn text_that_reorders_or_breaks_a_line_is_escaped() {
        assert_eq!(printable("a\nb\u{202e}c \u{e4}"), "a\\nb\\u{202e}c \u{e4}");
    }
}
