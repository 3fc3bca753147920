//! A guest from xl.cfg(5). The syntax is libxlu's (Xen 4.17), the meaning of the keys is xl's.

mod disk;
mod keys;
mod lex;
mod syntax;
mod vif;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::config::{Action, Kind};
use crate::draft::{Draft, number};
use crate::notes::{At, Notes, Span};
use crate::report::Level;
use crate::rules::{MEMORY_MIB, VCPUS};
use crate::text::{code, suggest};
use crate::words::{self, Refusal};

use syntax::{Setting, Value};

/// Reads the file.
pub(crate) fn read(text: &str, notes: &mut Notes<'_>) -> Option<Draft> {
    let settings = syntax::parse(text, notes);
    // What is missing may stand where the syntax is wrong.
    let is_whole = !notes.has_errors();
    let settings = Settings::new(settings, notes);
    for setting in settings.0.values() {
        keys::check(setting, notes);
    }
    Some(settings.guest(is_whole, notes))
}

/// The settings of the file by key, with `+=` done.
struct Settings<'s>(BTreeMap<&'s str, Setting<'s>>);

impl<'s> Settings<'s> {
    /// Of two values of a key the last counts, as in xl.
    fn new(all: Vec<Setting<'s>>, notes: &mut Notes<'_>) -> Self {
        let mut settings: BTreeMap<&str, Setting<'_>> = BTreeMap::new();
        for setting in all {
            let key = setting.key.value;
            let Some(earlier) = settings.get_mut(key) else {
                settings.insert(key, setting);
                continue;
            };
            if !setting.adds {
                let other = Some((setting.key.span, "this one counts"));
                let message = format!("`{key}` is here more than once");
                let help = "take the others out: as in xl the last one counts".to_owned();
                notes.note(Level::Warning, Some(earlier.key.span), other, message, help);
                *earlier = setting;
                continue;
            }
            match (&mut earlier.value, setting.value) {
                (Value::Atom(at), Value::Atom(more)) => {
                    at.value.push_str(&more.value);
                    at.span = more.span;
                }
                (Value::List(list, _), Value::List(more, _)) => list.extend(more),
                (_, more) => {
                    let help = "add a list to a list, and a string to a string";
                    notes.error(more.span(), format!("This cannot be added to `{key}`"), help);
                }
            }
            earlier.adds = true;
        }
        Self(settings)
    }

    fn guest(&self, is_whole: bool, notes: &mut Notes<'_>) -> Draft {
        let mut draft = Draft::new();
        if is_whole {
            for (key, example) in [("name", "\"web\""), ("memory", "512")] {
                if !self.0.contains_key(key) {
                    let help = format!("add it, for example `{key} = {example}`");
                    notes.error_nowhere(format!("There is no `{key}`"), help);
                }
            }
        }
        self.text("name", notes).into_iter().for_each(|name| draft.name(name));
        self.text("uuid", notes).into_iter().for_each(|uuid| draft.uuid(uuid));
        self.kind(notes).into_iter().for_each(|kind| draft.kind(kind));
        let asks =
            |key: &&str| self.0.get(key).is_some_and(|setting| !keys::asks_for_nothing(&setting.value));
        let boots = self.0.contains_key("kernel") || ["bootloader", "firmware"].iter().any(asks);
        if boots || !is_whole {
            draft.unreadable_kernel();
        }
        self.text("kernel", notes).into_iter().for_each(|path| draft.kernel(path));
        self.text("ramdisk", notes).into_iter().for_each(|path| draft.ramdisk(path));
        self.cmdline(notes).into_iter().for_each(|cmdline| draft.cmdline(cmdline));
        self.number("memory", &MEMORY_MIB, notes).into_iter().for_each(|mib| draft.memory_mib(mib));
        self.number("maxmem", &MEMORY_MIB, notes).into_iter().for_each(|mib| draft.max_memory_mib(mib));
        self.number("vcpus", &VCPUS, notes).into_iter().for_each(|vcpus| draft.vcpus(vcpus));
        self.number("maxvcpus", &VCPUS, notes).into_iter().for_each(|vcpus| draft.max_vcpus(vcpus));
        self.actions(&mut draft, notes);
        for spec in self.list("disk", "'vg/web,raw,xvda,w'", &mut draft, notes) {
            disk::read(&spec, &mut draft, notes);
        }
        for spec in self.list("vif", "'bridge=lan'", &mut draft, notes) {
            vif::read(&spec, &mut draft, notes);
        }
        draft
    }

    fn kind(&self, notes: &mut Notes<'_>) -> Option<Kind> {
        let kind = self.word("type", words::kind, notes);
        let builder = self.word("builder", builder, notes);
        // The PVH of Xen 4.4 to 4.9 was an option of PV guests.
        let pvh = self.number("pvh", &(0..=u32::MAX), notes).filter(|flag| flag.value != 0);
        let builder = match (builder, &pvh) {
            (Some(builder), Some(_)) if builder.value == Kind::Pv => Some(At::new(Kind::Pvh, builder.span)),
            (None, Some(flag)) => Some(At::new(Kind::Pvh, flag.span)),
            (builder, _) => builder,
        };
        if let (Some(kind), Some(builder)) = (&kind, &builder) {
            if kind.value != builder.value {
                let message = format!(
                    "`type` is `{}`, and this says `{}`",
                    kind.value.as_str(),
                    builder.value.as_str()
                );
                let help = "take `builder` and `pvh` out: `type` says it".to_owned();
                notes.note(
                    Level::Error,
                    Some(builder.span),
                    Some((kind.span, "against this")),
                    message,
                    help,
                );
            }
        }
        Some(kind.or(builder)?.value)
    }

    /// The command line: `cmdline`, or else `root` and `extra`.
    fn cmdline(&self, notes: &mut Notes<'_>) -> Option<At<String>> {
        let [cmdline, root, extra] = ["cmdline", "root", "extra"].map(|key| self.text(key, notes));
        if cmdline.is_some() {
            for (key, at) in [("root", &root), ("extra", &extra)] {
                if let Some(at) = at {
                    let help = "put what is needed of it into `cmdline`, which counts alone";
                    notes.warning(at.span, format!("`{key}` is ignored"), help);
                }
            }
            return cmdline;
        }
        match (root, extra) {
            (Some(root), Some(extra)) => {
                Some(At::new(format!("root={} {}", root.value, extra.value), extra.span))
            }
            (Some(root), None) => Some(At::new(format!("root={}", root.value), root.span)),
            (None, extra) => extra,
        }
    }

    fn actions(&self, draft: &mut Draft, notes: &mut Notes<'_>) {
        let [poweroff, reboot, crash, watchdog] = ["on_poweroff", "on_reboot", "on_crash", "on_watchdog"]
            .map(|key| self.word(key, words::action, notes));
        poweroff.into_iter().for_each(|action| draft.on_poweroff(action.value));
        reboot.into_iter().for_each(|action| draft.on_reboot(action.value));
        crash.iter().for_each(|action| draft.on_crash(action.value));
        let crash_word = crash.as_ref().map_or(Action::Destroy, |action| action.value).as_str();
        // Without a readable `on_crash` there is nothing to compare with.
        if self.0.contains_key("on_crash") && crash.is_none() {
            return;
        }
        if let Some(watchdog) = watchdog.filter(|watchdog| watchdog.value.as_str() != crash_word) {
            let message =
                format!("`on_watchdog` is `{}`, but `on_crash` is `{crash_word}`", watchdog.value.as_str());
            let help = "write the same for both: a watchdog that runs out counts as a crash".to_owned();
            let other = crash.map(|crash| (crash.span, "against this"));
            notes.note(Level::Error, Some(watchdog.span), other, message, help);
        }
    }

    fn text(&self, key: &str, notes: &mut Notes<'_>) -> Option<At<String>> {
        match &self.0.get(key)?.value {
            Value::Atom(at) => Some(at.clone()),
            Value::List(_, span) => {
                notes.error(*span, format!("`{key}` is a list, not a single value"), "take the `[ ]` out");
                None
            }
        }
    }

    fn word<T>(
        &self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, Refusal>,
        notes: &mut Notes<'_>,
    ) -> Option<At<T>> {
        let text = self.text(key, notes)?;
        match read(&text.value) {
            Ok(value) => Some(At::new(value, text.span)),
            Err(refusal) => {
                refusal.note(text.span, notes);
                None
            }
        }
    }

    fn number(&self, key: &str, range: &RangeInclusive<u32>, notes: &mut Notes<'_>) -> Option<At<u32>> {
        let text = self.text(key, notes)?;
        if self.0.get(key).is_some_and(|setting| setting.adds) {
            notes.error(text.span, format!("`+=` of the number `{key}`"), "write its value with `=`");
            return None;
        }
        number(key, &text, strtoul(&text.value), range, notes)
    }

    /// The strings of a list.
    fn list(
        &self,
        key: &'static str,
        example: &str,
        draft: &mut Draft,
        notes: &mut Notes<'_>,
    ) -> Vec<At<String>> {
        let Some(setting) = self.0.get(key) else { return Vec::new() };
        draft.list(key, setting.key.span);
        let mut texts = Vec::new();
        let mut wrong = |span: Span, message: String| {
            draft.unreadable_kernel();
            notes.error(span, message, format!("write a list of strings, such as `{key} = [ {example} ]`"));
        };
        match &setting.value {
            Value::Atom(at) => wrong(at.span, format!("`{key}` is a single value, not a list")),
            Value::List(values, _) => {
                for value in values {
                    match value {
                        Value::Atom(at) => texts.push(at.clone()),
                        Value::List(_, span) => wrong(*span, format!("`{key}` contains a list")),
                    }
                }
            }
        }
        texts
    }
}

fn builder(text: &str) -> Result<Kind, Refusal> {
    match text {
        "generic" | "linux" => Ok(Kind::Pv),
        "hvm" => Err(words::hvm()),
        _ => Err(Refusal::new(format!("Unknown builder {}", code(text)), suggest(text, ["generic"]))),
    }
}

/// A number as C's `strtoul` reads it with base 0, but all of it and without a sign: hex after `0x`, octal after `0`, or decimal.
fn strtoul(text: &str) -> Option<u64> {
    let text = text.trim_ascii_start();
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // Rust would take a sign.
    if digits.starts_with(['+', '-']) { None } else { u64::from_str_radix(digits, radix).ok() }
}
