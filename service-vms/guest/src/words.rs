//! Words with a meaning, read in the same way from both syntaxes.

use crate::config::{Access, Action, Kind};
use crate::notes::{Notes, Span};
use crate::text::{code, suggest};

/// Why a word is not accepted.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) help: String,
}

impl Refusal {
    pub(crate) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }

    pub(crate) fn note(self, span: Span, notes: &mut Notes<'_>) {
        notes.error(span, self.message, self.help);
    }
}

fn word<T: Copy>(what: &str, text: &str, all: &[(&'static str, T)]) -> Result<T, Refusal> {
    let found = all.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let help = suggest(text, all.iter().map(|(word, _)| *word));
        Refusal::new(format!("Unknown {what} {}", code(text)), help)
    })
}

pub(crate) fn kind(text: &str) -> Result<Kind, Refusal> {
    if text == "hvm" {
        return Err(hvm());
    }
    word("kind of guest", text, &Kind::ALL)
}

/// Why there are no HVM guests.
pub(crate) fn hvm() -> Refusal {
    Refusal::new(
        "Guests of kind `hvm` are not supported yet",
        "they need a device model, the service VM `qemu-stub`, which comes later; a kernel that knows Xen runs as `pvh`",
    )
}

pub(crate) fn action(text: &str) -> Result<Action, Refusal> {
    let why = match text {
        "rename-restart" => {
            "a guest has its name for good: `restart` it, or `preserve` it and create another"
        }
        "coredump-destroy" | "coredump-restart" => {
            "nobody may read the memory of a guest, so nobody can dump it: write `preserve`, or let the guest's own kdump do it"
        }
        "soft-reset" => "Ennead does not reset guests in place: write `restart`",
        _ => return word("action", text, &Action::ALL),
    };
    Err(Refusal::new(format!("The action `{text}` is not supported"), why))
}

pub(crate) fn access(text: &str) -> Result<Access, Refusal> {
    // Of what xl also knows: the word that is nearest in letters is not the nearest in meaning.
    let other = ["ro", "rw"].iter().zip(["r", "w"]).find(|(other, _)| **other == text);
    if let Some((_, own)) = other {
        return Err(Refusal::new(format!("Unknown access `{text}`"), format!("write `{own}`")));
    }
    word("access", text, &Access::ALL)
}

/// Whether a format of a disk is `raw`, the only one.
pub(crate) fn format(text: &str) -> Result<(), Refusal> {
    match text {
        "raw" => Ok(()),
        "qcow" | "qcow2" | "qed" | "vhd" => Err(Refusal::new(
            format!("Disks of the format `{text}` are not supported"),
            "a backend parses nothing that a guest can write: make the image raw, with `qemu-img convert -O raw`",
        )),
        _ => Err(Refusal::new(format!("Unknown format {}", code(text)), "the only format is `raw`")),
    }
}

/// A UUID as it is kept, from 32 hex digits in either case, with or without `-`.
pub(crate) fn uuid(text: &str) -> Option<String> {
    let hex: String = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) || !matches!(text.len(), 32 | 36) {
        return None;
    }
    let group = |from: usize, to: usize| hex.get(from..to);
    Some([group(0, 8)?, group(8, 12)?, group(12, 16)?, group(16, 20)?, group(20, 32)?].join("-"))
}

/// A MAC address as it is kept, from six hex numbers in either case with `:`.
pub(crate) fn mac(text: &str) -> Option<String> {
    let number = |part: &str| {
        let is_hex = matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex { u8::from_str_radix(part, 16).ok() } else { None }
    };
    let parts: Option<Vec<String>> =
        text.split(':').map(|part| Some(format!("{:02x}", number(part)?))).collect();
    parts.filter(|parts| parts.len() == 6).map(|parts| parts.join(":"))
}
