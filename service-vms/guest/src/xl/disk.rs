//! A disk, as xl-disk-configuration(5) writes it: `[target, [format, [vdev, [access]]]]`, with `key=value` and flags
//! anywhere between, and `target=` last.

use crate::config::{Access, Disk};
use crate::draft::Draft;
use crate::notes::{At, Notes, Span};
use crate::text::{closest, code};
use crate::vdev::vdev_number;
use crate::words;

const KEYS: &[&str] = &[
    "format",
    "devtype",
    "access",
    "backend",
    "backendtype",
    "specification",
    "vdev",
    "target",
    "script",
    "cdrom",
    "direct-io-safe",
    "discard",
    "no-discard",
    "trusted",
    "untrusted",
];

/// A part of the string and its place.
type Word<'s> = At<&'s str>;

#[derive(Default)]
struct Spec<'s> {
    target: Option<Word<'s>>,
    format: Option<Word<'s>>,
    vdev: Option<Word<'s>>,
    access: Option<Word<'s>>,
    backend: Option<Word<'s>>,
    /// By `target` was a prefix of xend's, after which comes no format.
    has_prefix: bool,
    cdrom: bool,
}

/// Reads one disk; if it cannot be read, it is reported and not in the draft.
pub(super) fn read(text: &At<String>, draft: &mut Draft, notes: &mut Notes<'_>) {
    let mut spec = Spec::default();
    let mut is_good = true;
    let mut at = 0;
    while let Some(rest) = text.value.get(at..) {
        let begin = rest.trim_start_matches([' ', '\t', '\n']);
        at += rest.len() - begin.len();
        if begin.is_empty() {
            break;
        }
        // A target that is named goes on to the end, whatever is in it.
        if let Some(target) = begin.strip_prefix("target=") {
            let word = At::new(target, text.part(at + 7, target.len()));
            is_good &= set(&mut spec.target, "target", word, notes);
            break;
        }
        let length = begin.find(',').unwrap_or(begin.len());
        let word = begin.get(..length).unwrap_or("").trim_end_matches([' ', '\t', '\n']);
        let word = At::new(word, text.part(at, word.len().max(1)));
        if !spec.word(word, notes) {
            // What follows would only be taken for something else.
            return draft.unreadable_kernel();
        }
        at += length + 1;
    }
    match spec.disk(text.span, notes).filter(|_| is_good) {
        Some((disk, places)) => draft.disk(disk, &places),
        None => draft.unreadable_kernel(),
    }
}

/// Sets what may be said once; an empty value does not count.
fn set<'s>(slot: &mut Option<Word<'s>>, what: &str, word: Word<'s>, notes: &mut Notes<'_>) -> bool {
    if slot.as_ref().is_some_and(|earlier| !earlier.value.is_empty()) {
        let message = format!("The disk's {what} is here a second time: {}", code(word.value));
        notes.error(word.span, message, "take one of the two out");
        return false;
    }
    *slot = Some(word);
    true
}

fn refuse(word: &Word<'_>, message: String, help: &str, notes: &mut Notes<'_>) -> bool {
    notes.error(word.span, message, help);
    false
}

const SCRIPT: &str =
    "take it out: no program on the host is run for a guest; name a volume of the storage service VM";

impl<'s> Spec<'s> {
    /// One of the parts between commas; `false` if the rest is not worth reading.
    fn word(&mut self, word: Word<'s>, notes: &mut Notes<'_>) -> bool {
        let text = word.value;
        if let Some((key, value)) = text.split_once('=') {
            let value = At::new(value, word.part(key.len() + 1, value.len()));
            return self.key(key, value, &word, notes);
        }
        let ignored = |what: &str, notes: &mut Notes<'_>| {
            notes.warning(word.span, format!("`{text}` of a disk is ignored"), what.to_owned());
            true
        };
        match text {
            "cdrom" => self.cdrom = true,
            "discard" | "trusted" => {}
            "no-discard" | "direct-io-safe" => {
                return ignored("how a disk is written to is for the storage service VM", notes);
            }
            "untrusted" => return refuse_untrusted(&word, notes),
            "colo" | "no-colo" => return refuse_colo(&word, notes),
            _ if self.target.is_none() => return self.target(word, notes),
            _ if !self.has_prefix && self.format.is_none() => {
                // xend's empty drive: `,hdc:cdrom,r`.
                let is_empty = self.target.as_ref().is_some_and(|target| target.value.is_empty());
                if is_empty && text.contains(':') {
                    self.format = Some(At::new("empty", word.span));
                    return self.vdev(word, notes);
                }
                self.format = Some(word);
            }
            _ if self.vdev.is_none() => return self.vdev(word, notes),
            _ if self.access.is_none() => self.access = Some(word),
            _ => {
                let help = "write target, format, vdev and access; a target with a comma goes to the end, as `target=...`";
                return refuse(&word, format!("{} is one value too many", code(text)), help, notes);
            }
        }
        true
    }

    fn key(&mut self, key: &str, value: Word<'s>, whole: &Word<'_>, notes: &mut Notes<'_>) -> bool {
        match (key, value.value) {
            ("format", _) => set(&mut self.format, "format", value, notes),
            ("vdev", _) => set(&mut self.vdev, "vdev", value, notes),
            ("access", _) => set(&mut self.access, "access", value, notes),
            ("backend", _) => set(&mut self.backend, "backend", value, notes),
            ("devtype", "cdrom") => {
                self.cdrom = true;
                true
            }
            ("devtype", "disk") | ("specification", "xen") => true,
            ("devtype", _) => refuse(
                &value,
                format!("Unknown devtype {}", code(value.value)),
                "write `disk` or `cdrom`",
                notes,
            ),
            ("backendtype", "phy" | "qdisk" | "tap") => {
                let help = "how a disk is served is for the storage service VM";
                notes.warning(whole.span, "`backendtype` of a disk is ignored", help);
                true
            }
            ("backendtype" | "specification", _) => {
                let help = "take it out: disks are served by the storage service VM, with Xen's own protocol";
                refuse(whole, format!("{} is not supported", code(whole.value)), help, notes)
            }
            ("script", _) => refuse(whole, "`script` of a disk is not supported".to_owned(), SCRIPT, notes),
            ("colo-host" | "colo-port" | "colo-export" | "active-disk" | "hidden-disk", _) => {
                refuse_colo(whole, notes)
            }
            _ => {
                let help = closest(key, KEYS.iter().copied()).map_or_else(
                    || "a target with a `=` or a comma goes to the end, as `target=...`".to_owned(),
                    |word| format!("did you mean `{word}`?"),
                );
                refuse(whole, format!("Unknown parameter {} of a disk", code(key)), &help, notes)
            }
        }
    }

    /// A target by its place, perhaps with prefixes of xend's.
    fn target(&mut self, word: Word<'s>, notes: &mut Notes<'_>) -> bool {
        let mut word = word;
        while let Some((prefix, rest)) = word.value.split_once(':') {
            match prefix {
                "raw" | "qcow" | "qcow2" | "vhd" => {
                    let format = At::new(prefix, word.part(0, prefix.len()));
                    if !set(&mut self.format, "format", format, notes) {
                        return false;
                    }
                }
                "tapdisk" | "tap" | "tap2" | "aio" | "ioemu" | "file" | "phy" => {}
                "iscsi" | "nbd" | "enbd" | "drbd" => {
                    return refuse(&word, format!("Disks of `{prefix}:` are not supported"), SCRIPT, notes);
                }
                _ if is_prefix(prefix) && !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) => {
                    let help =
                        "a target that begins with a word and a colon goes to the end, as `target=...`";
                    return refuse(&word, format!("Unknown prefix {} of a disk", code(prefix)), help, notes);
                }
                _ => break,
            }
            self.has_prefix = true;
            word = At::new(rest, word.part(prefix.len() + 1, rest.len()));
        }
        self.target = Some(word);
        true
    }

    /// A vdev by its place, perhaps with xend's `:devtype`.
    fn vdev(&mut self, word: Word<'s>, notes: &mut Notes<'_>) -> bool {
        let vdev = match word.value.rsplit_once(':') {
            Some((vdev, "cdrom")) => {
                self.cdrom = true;
                vdev
            }
            Some((vdev, "disk")) => vdev,
            Some((_, other)) => {
                return refuse(
                    &word,
                    format!("Unknown devtype {}", code(other)),
                    "write `disk` or `cdrom`",
                    notes,
                );
            }
            None => word.value,
        };
        self.vdev = Some(At::new(vdev, word.part(0, vdev.len())));
        true
    }

    /// The disk, once all is read; `whole` is the place of the string.
    fn disk(self, whole: Span, notes: &mut Notes<'_>) -> Option<(Disk, [(&'static str, Span); 4])> {
        let mut is_good = true;
        let mut source = self.target.filter(|target| !target.value.is_empty());
        match &self.format {
            Some(format) if format.value == "empty" && self.cdrom => source = None,
            Some(format) if !format.value.is_empty() => {
                if let Err(mut refusal) = words::format(format.value) {
                    if vdev_number(format.value).is_some() {
                        refusal.help = format!(
                            "the order is target, format, vdev, access: write `raw,{}`",
                            format.value
                        );
                    }
                    refusal.note(format.span, notes);
                    is_good = false;
                }
            }
            _ => {}
        }
        let access = match self.access.as_ref().map(|access| (access.value, access.span)) {
            _ if self.cdrom => Some(Access::ReadOnly),
            None | Some(("w" | "rw" | "", _)) => Some(Access::ReadWrite),
            Some(("r" | "ro", _)) => Some(Access::ReadOnly),
            Some((other, span)) => words::access(other).map_err(|refusal| refusal.note(span, notes)).ok(),
        };
        let vdev = self.vdev.filter(|vdev| !vdev.value.is_empty());
        if vdev.is_none() && is_good {
            let help = "write target, format and vdev, such as `'vg/web,raw,xvda'`";
            notes.error(whole, "The disk has no vdev", help);
        }
        let (vdev, access) = (vdev.filter(|_| is_good)?, access?);
        let places = [
            ("vdev", vdev.span),
            ("source", source.as_ref().map_or(whole, |source| source.span)),
            ("access", self.access.map_or(whole, |access| access.span)),
            ("backend", self.backend.as_ref().map_or(whole, |backend| backend.span)),
        ];
        let disk = Disk {
            vdev: vdev.value.to_owned(),
            source: source.map(|source| source.value.to_owned()),
            access,
            backend: self
                .backend
                .filter(|backend| !backend.value.is_empty())
                .map(|backend| backend.value.to_owned()),
            cdrom: self.cdrom,
        };
        Some((disk, places))
    }
}

/// Whether a word looks like a prefix of xend's.
fn is_prefix(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn refuse_untrusted(word: &Word<'_>, notes: &mut Notes<'_>) -> bool {
    let help = "take it out: Ennead does not yet tell guests to distrust a backend; their kernels can, with `xen_blkfront.trusted=0`";
    refuse(word, "`untrusted` is not supported".to_owned(), help, notes)
}

fn refuse_colo(word: &Word<'_>, notes: &mut Notes<'_>) -> bool {
    refuse(
        word,
        format!("{} is not supported", code(word.value)),
        "take it out: there is no COLO replication",
        notes,
    )
}
