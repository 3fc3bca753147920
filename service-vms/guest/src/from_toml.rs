//! A guest from TOML. Walks the parsed TOML by hand and not with serde, which stops at the first mistake.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::{Access, Disk, Vif};
use crate::draft::{Draft, number};
use crate::notes::{At, Notes, Span};
use crate::rate::Rate;
use crate::rules::{MEMORY_MIB, VCPUS, VLAN};
use crate::text::{any_of, closest, code, printable};
use crate::words::{self, Refusal};

/// A key and a value that it could have, for the help.
struct Key(&'static str, &'static str);

const GUEST: &[Key] = &[
    Key("name", "\"web\""),
    Key("kind", "\"pvh\""),
    Key("uuid", "\"5c2b6c2e-64c2-4a71-a5f7-8b1e5bd0a6f1\""),
    Key("kernel", "\"/boot/vmlinuz\""),
    Key("ramdisk", "\"/boot/initrd.img\""),
    Key("cmdline", "\"console=hvc0 root=/dev/xvda1\""),
    Key("memory-mib", "512"),
    Key("max-memory-mib", "1024"),
    Key("vcpus", "2"),
    Key("max-vcpus", "4"),
    Key("on-poweroff", "\"destroy\""),
    Key("on-reboot", "\"restart\""),
    Key("on-crash", "\"destroy\""),
    Key("disk", "[{ vdev = \"xvda\", source = \"vg/web\" }]"),
    Key("vif", "[{ bridge = \"lan\" }]"),
];
const DISK: &[Key] = &[
    Key("vdev", "\"xvda\""),
    Key("source", "\"vg/web\""),
    Key("access", "\"w\""),
    Key("format", "\"raw\""),
    Key("backend", "\"blkback\""),
    Key("cdrom", "true"),
];
const VIF: &[Key] = &[
    Key("mac", "\"00:16:3e:12:34:56\""),
    Key("bridge", "\"lan\""),
    Key("backend", "\"netback\""),
    Key("ip", "[\"192.0.2.7\"]"),
    Key("rate", "\"10Mb/s\""),
    Key("vlan", "5"),
];

/// What the words of others are called here.
const OTHERS: &[(&str, &str)] = &[
    ("type", "kind"),
    ("builder", "kind"),
    ("memory", "memory-mib"),
    ("maxmem", "max-memory-mib"),
    ("max-memory", "max-memory-mib"),
    ("maxvcpus", "max-vcpus"),
    ("extra", "cmdline"),
    ("root", "cmdline"),
    ("target", "source"),
    ("mode", "access"),
    ("network", "vif"),
];

/// Syntax errors that are shown; the rest are mostly their consequence.
const MAX_SYNTAX_ERRORS: usize = 10;

/// Reads the file; `None` if it is no TOML.
pub(crate) fn read(text: &str, notes: &mut Notes<'_>) -> Option<Draft> {
    let (document, wrong) = DeTable::parse_recoverable(text);
    for error in wrong.iter().take(MAX_SYNTAX_ERRORS) {
        let span: Span = error.span().unwrap_or(0..0).into();
        let help = "correct the TOML here (strings stand in quotes); the other checks come after that";
        notes.error(span, format!("This is not TOML: {}", printable(error.message())), help);
    }
    if !wrong.is_empty() {
        return None;
    }
    let section = Section { title: "the guest", span: None, keys: GUEST, table: document.get_ref() };
    section.report_unknown(notes);
    Some(guest(&section, notes))
}

fn guest(section: &Section<'_>, notes: &mut Notes<'_>) -> Draft {
    let mut draft = Draft::new();
    if let Some(name) = section.need("name", notes).and_then(|value| value.text(notes)) {
        draft.name(name);
    }
    if let Some(kind) = section.need("kind", notes).and_then(|value| value.word(words::kind, notes)) {
        draft.kind(kind);
    }
    if let Some(uuid) = section.text("uuid", notes) {
        draft.uuid(uuid);
    }
    if let Some(value) = section.value("kernel") {
        draft.unreadable_kernel();
        value.text(notes).into_iter().for_each(|path| draft.kernel(path));
    }
    if let Some(ramdisk) = section.text("ramdisk", notes) {
        draft.ramdisk(ramdisk);
    }
    if let Some(cmdline) = section.text("cmdline", notes) {
        draft.cmdline(cmdline);
    }
    let memory = section.need("memory-mib", notes);
    if let Some(memory) = memory.and_then(|value| value.number(&MEMORY_MIB, notes)) {
        draft.memory_mib(memory);
    }
    if let Some(memory) = section.value("max-memory-mib").and_then(|value| value.number(&MEMORY_MIB, notes)) {
        draft.max_memory_mib(memory);
    }
    if let Some(vcpus) = section.value("vcpus").and_then(|value| value.number(&VCPUS, notes)) {
        draft.vcpus(vcpus);
    }
    if let Some(vcpus) = section.value("max-vcpus").and_then(|value| value.number(&VCPUS, notes)) {
        draft.max_vcpus(vcpus);
    }
    let mut action = |key| section.value(key).and_then(|value| value.word(words::action, notes));
    action("on-poweroff").into_iter().for_each(|action| draft.on_poweroff(action));
    action("on-reboot").into_iter().for_each(|action| draft.on_reboot(action));
    action("on-crash").into_iter().for_each(|action| draft.on_crash(action));
    for section in section.tables("disk", "a disk", DISK, &mut draft, notes) {
        disk(&section, &mut draft, notes);
    }
    for section in section.tables("vif", "a NIC", VIF, &mut draft, notes) {
        vif(&section, &mut draft, notes);
    }
    draft
}

fn disk(section: &Section<'_>, draft: &mut Draft, notes: &mut Notes<'_>) {
    let cdrom = section.value("cdrom").and_then(|value| value.boolean(notes)).unwrap_or(false);
    let source = section.text("source", notes);
    let backend = section.text("backend", notes);
    let access = section.value("access").and_then(|value| value.word(words::access, notes));
    section.value("format").and_then(|value| value.word(words::format, notes));
    let vdev = section.need("vdev", notes).and_then(|value| value.text(notes));
    let Some(vdev) = vdev else { return draft.unreadable_kernel() };
    // A source of the wrong type is reported, and not also missing.
    if source.is_none() && section.value("source").is_some() {
        return draft.unreadable_kernel();
    }
    let places = [
        ("vdev", vdev.span),
        ("source", place(source.as_ref()).unwrap_or(vdev.span)),
        ("access", section.value("access").map_or(vdev.span, |value| value.at.span().into())),
        ("backend", place(backend.as_ref()).unwrap_or(vdev.span)),
    ];
    let access = access.unwrap_or(if cdrom { Access::ReadOnly } else { Access::ReadWrite });
    let (source, backend) = (source.map(|at| at.value), backend.map(|at| at.value));
    draft.disk(Disk { vdev: vdev.value, source, access, backend, cdrom }, &places);
}

fn vif(section: &Section<'_>, draft: &mut Draft, notes: &mut Notes<'_>) {
    let mac = section.text("mac", notes);
    let bridge = section.text("bridge", notes);
    let backend = section.text("backend", notes);
    let ip = section.value("ip").map(|value| (Span::from(value.at.span()), value.texts(notes)));
    let rate = section.value("rate").and_then(|value| value.word(Rate::read, notes));
    let vlan = section.value("vlan").and_then(|value| value.number(&VLAN, notes));
    let vlan = vlan.and_then(|vlan| u16::try_from(vlan.value).ok());
    let places = [
        ("mac", place(mac.as_ref())),
        ("bridge", place(bridge.as_ref())),
        ("backend", place(backend.as_ref())),
        ("ip", ip.as_ref().map(|(span, _)| *span)),
    ];
    let places: Vec<_> = places.into_iter().filter_map(|(key, span)| Some((key, span?))).collect();
    let value = |at: Option<At<String>>| at.map(|at| at.value);
    let ip = ip.map(|(_, ip)| ip).unwrap_or_default();
    let (mac, bridge, backend) = (value(mac), value(bridge), value(backend));
    draft.vif(Vif { mac, bridge, backend, ip, rate, vlan }, &places);
}

fn place(at: Option<&At<String>>) -> Option<Span> {
    at.map(|at| at.span)
}

/// A table of the file.
struct Section<'a> {
    title: &'static str,
    /// Where it stands, if it is not the whole file.
    span: Option<Span>,
    keys: &'static [Key],
    table: &'a DeTable<'a>,
}

impl<'a> Section<'a> {
    fn report_unknown(&self, notes: &mut Notes<'_>) {
        let mut unknown: Vec<_> =
            self.table.keys().filter(|key| !self.keys.iter().any(|known| known.0 == key.get_ref())).collect();
        unknown.sort_by_key(|key| key.span().start);
        for key in unknown {
            // Words are compared as they are written here.
            let word = key.get_ref().replace('_', "-");
            let known = || self.keys.iter().map(|key| key.0);
            let other = OTHERS.iter().find(|(other, own)| *other == word && known().any(|key| key == *own));
            let help = match other
                .map(|(_, own)| *own)
                .or_else(|| if notes.is_full() { None } else { closest(&word, known()) })
            {
                Some(word) => format!("did you mean `{word}`?"),
                None if word == "script" => {
                    "take it out: no program on the host is run for a guest".to_owned()
                }
                None if word == "model" => "take it out: there are only paravirtual NICs".to_owned(),
                None => format!("write {}, or take it out", any_of(known())),
            };
            notes.error(
                key.span().into(),
                format!("Unknown key {} of {}", code(key.get_ref()), self.title),
                help,
            );
        }
    }

    fn value(&self, key: &'static str) -> Option<Value<'a>> {
        let example = self.keys.iter().find(|known| known.0 == key).map_or("...", |known| known.1);
        Some(Value { key, example, at: self.table.get(key)? })
    }

    fn text(&self, key: &'static str, notes: &mut Notes<'_>) -> Option<At<String>> {
        self.value(key)?.text(notes)
    }

    /// A value that must be there.
    fn need(&self, key: &'static str, notes: &mut Notes<'_>) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            let example = self.keys.iter().find(|known| known.0 == key).map_or("...", |known| known.1);
            let help = format!("add it, for example `{key} = {example}`");
            match self.span {
                Some(span) => notes.error(span, format!("`{key}` of {} is missing", self.title), help),
                None => notes.error_nowhere(format!("There is no `{key}`"), help),
            }
        }
        value
    }

    /// The tables `[[key]]`.
    fn tables(
        &self,
        key: &'static str,
        title: &'static str,
        keys: &'static [Key],
        draft: &mut Draft,
        notes: &mut Notes<'_>,
    ) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let span = self.table.get_key_value(key).map_or_else(|| value.at.span(), |(key, _)| key.span());
        draft.list(key, span.into());
        let DeValue::Array(items) = value.at.get_ref() else {
            draft.unreadable_kernel();
            value.wrong_type("an array of tables", notes);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            let DeValue::Table(table) = item.get_ref() else {
                draft.unreadable_kernel();
                Value { at: item, ..value }.wrong_type("a table", notes);
                continue;
            };
            let section = Section { title, span: Some(item.span().into()), keys, table };
            section.report_unknown(notes);
            tables.push(section);
        }
        tables
    }
}

/// A value and the key it belongs to.
#[derive(Clone, Copy)]
struct Value<'a> {
    key: &'static str,
    example: &'static str,
    at: &'a Spanned<DeValue<'a>>,
}

impl Value<'_> {
    fn wrong_type(self, expected: &str, notes: &mut Notes<'_>) {
        let kind = self.at.get_ref().type_str();
        let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
        let help = format!("write for example `{} = {}`", self.key, self.example);
        notes.error(
            self.at.span().into(),
            format!("`{}` is {article} {kind}, not {expected}", self.key),
            help,
        );
    }

    fn text(self, notes: &mut Notes<'_>) -> Option<At<String>> {
        if let DeValue::String(text) = self.at.get_ref() {
            return Some(At::new(text.to_string(), self.at.span().into()));
        }
        self.wrong_type("a string", notes);
        None
    }

    fn texts(self, notes: &mut Notes<'_>) -> Vec<String> {
        let DeValue::Array(items) = self.at.get_ref() else {
            self.wrong_type("an array of strings", notes);
            return Vec::new();
        };
        items.iter().filter_map(|at| Some(Value { at, ..self }.text(notes)?.value)).collect()
    }

    fn boolean(self, notes: &mut Notes<'_>) -> Option<bool> {
        if let DeValue::Boolean(value) = self.at.get_ref() {
            return Some(*value);
        }
        self.wrong_type("a boolean", notes);
        None
    }

    fn word<T>(self, read: impl FnOnce(&str) -> Result<T, Refusal>, notes: &mut Notes<'_>) -> Option<T> {
        let text = self.text(notes)?;
        read(&text.value).map_err(|refusal| refusal.note(text.span, notes)).ok()
    }

    fn number(self, range: &RangeInclusive<u32>, notes: &mut Notes<'_>) -> Option<At<u32>> {
        let DeValue::Integer(written) = self.at.get_ref() else {
            self.wrong_type("an integer", notes);
            return None;
        };
        let value = u64::from_str_radix(written.as_str(), written.radix()).ok();
        let text = At::new(written.as_str().to_owned(), self.at.span().into());
        number(self.key, &text, value, range, notes)
    }
}
