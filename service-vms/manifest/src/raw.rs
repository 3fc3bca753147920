//! `host.toml` as written: every value with its place, nothing yet checked but its type.
//!
//! Walks the parsed TOML by hand and not with serde, which stops at the first mistake.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::plan::{Device, DeviceClass, Iommu, Kind, Permission, RestartPolicy};
use crate::report::{Errors, Span, closest, code, list, suggest};
use crate::rules::{MAX_DOMID, MAX_MEMORY_MIB, MAX_VCPUS, is_pci_address};

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// `key = "reason"`; no reason if it was no string, which is then already reported.
#[derive(Debug)]
pub(crate) struct Reasoned<T> {
    pub(crate) key: At<T>,
    pub(crate) reason: Option<At<String>>,
}

/// The file. What is missing or has the wrong type is `None` and already reported.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    pub(crate) host: Option<RawHost>,
    pub(crate) kernels: Vec<(At<String>, Option<At<String>>)>,
    pub(crate) vms: Vec<RawVm>,
    pub(crate) tenants: Vec<RawTenant>,
    pub(crate) guests: Vec<RawGuest>,
}

#[derive(Debug)]
pub(crate) struct RawHost {
    pub(crate) name: Option<At<String>>,
    pub(crate) memory_mib: Option<At<u32>>,
    pub(crate) console: Option<At<String>>,
    pub(crate) xen_options: Option<At<String>>,
    pub(crate) iommu: Option<At<Iommu>>,
}

#[derive(Debug)]
pub(crate) struct RawVm {
    pub(crate) name: At<String>,
    pub(crate) kind: Option<At<Kind>>,
    pub(crate) domid: Option<At<u16>>,
    pub(crate) successor_domid: Option<At<u16>>,
    /// `successor-domid` is there, be it readable or not.
    pub(crate) has_successor_key: bool,
    pub(crate) kernel: Option<At<String>>,
    pub(crate) program: Option<At<String>>,
    pub(crate) memory_mib: Option<At<u32>>,
    pub(crate) vcpus: Option<At<u32>>,
    pub(crate) kernel_options: Option<At<String>>,
    pub(crate) devices: Vec<At<Device>>,
    pub(crate) devices_key: Option<Span>,
    pub(crate) talks_to: Vec<Reasoned<String>>,
    pub(crate) answers: Vec<At<String>>,
    pub(crate) may: Vec<Reasoned<Permission>>,
    pub(crate) after: Vec<At<String>>,
    pub(crate) built_by_bootstrapper: Option<At<bool>>,
    /// `built-by` is there but not readable.
    pub(crate) unread_built_by: bool,
    pub(crate) autostart: Option<At<bool>>,
    pub(crate) restart: Option<RawRestart>,
}

#[derive(Debug)]
pub(crate) struct RawRestart {
    pub(crate) span: Span,
    pub(crate) policy: Option<At<RestartPolicy>>,
    pub(crate) every_seconds: Option<At<u32>>,
    /// `every-seconds` is there, be it of the right type or not.
    pub(crate) has_every_seconds: bool,
}

#[derive(Debug)]
pub(crate) struct RawTenant {
    pub(crate) name: At<String>,
    pub(crate) toolstack: Option<At<String>>,
    pub(crate) memory_mib: Option<At<u32>>,
    pub(crate) vcpus: Option<At<u32>>,
    pub(crate) guests: Option<At<u32>>,
}

#[derive(Debug)]
pub(crate) struct RawGuest {
    pub(crate) name: At<String>,
    pub(crate) tenant: Option<At<String>>,
    pub(crate) config: Option<At<String>>,
}

impl RawVm {
    pub(crate) fn is(&self, kind: Kind) -> bool {
        self.kind.as_ref().is_some_and(|at| at.value == kind)
    }

    pub(crate) fn built_by_bootstrapper(&self) -> bool {
        self.built_by_bootstrapper.as_ref().is_some_and(|at| at.value)
    }

    pub(crate) fn autostart(&self) -> bool {
        self.autostart.as_ref().is_none_or(|at| at.value)
    }
}

/// A key and a value it could have, for the help.
struct Key(&'static str, &'static str);

const TOP: &[Key] = &[
    Key("host", "{ ... }"),
    Key("kernel", "{ ... }"),
    Key("vm", "{ ... }"),
    Key("tenant", "{ ... }"),
    Key("guest", "{ ... }"),
];
const HOST: &[Key] = &[
    Key("name", "\"ennead\""),
    Key("memory-mib", "1024"),
    Key("console", "\"com1\""),
    Key("xen-options", "\"loglvl=all\""),
    Key("iommu", "\"required\""),
];
const IOMMU: &[Key] = &[Key("none", "\"why this host does without\"")];
const VM: &[Key] = &[
    Key("kind", "\"netback\""),
    Key("domid", "5"),
    Key("successor-domid", "6"),
    Key("kernel", "\"service\""),
    Key("program", "\"netback\""),
    Key("memory-mib", "32"),
    Key("vcpus", "1"),
    Key("kernel-options", "\"quiet\""),
    Key("devices", "[\"network\"]"),
    Key("answers", "[\"builder\"]"),
    Key("after", "[\"pciback\"]"),
    Key("built-by", "\"builder\""),
    Key("autostart", "true"),
    Key("restart", "{ policy = \"on-crash\" }"),
    Key("talks-to", "{ builder = \"why\" }"),
    Key("may", "{ write-host-console = \"why\" }"),
];
const RESTART: &[Key] = &[Key("policy", "\"on-crash\""), Key("every-seconds", "3600")];
const TENANT: &[Key] =
    &[Key("toolstack", "\"toolstack\""), Key("memory-mib", "512"), Key("vcpus", "4"), Key("guests", "8")];
const GUEST: &[Key] = &[Key("tenant", "\"acme\""), Key("config", "\"guests/web.toml\"")];

/// Syntax errors that are shown; the rest are mostly their consequence.
const MAX_SYNTAX_ERRORS: usize = 10;

/// Reads the file; `None` if it is no TOML.
pub(crate) fn read(text: &str, errors: &mut Errors<'_>) -> Option<Raw> {
    let (document, wrong) = DeTable::parse_recoverable(text);
    for error in wrong.iter().take(MAX_SYNTAX_ERRORS) {
        let span = error.span().unwrap_or(0..0).into();
        let help = "correct the TOML here; the other checks come after that (https://toml.io)";
        errors.at(span, format!("This is not TOML: {}", crate::rules::printable(error.message())), help);
    }
    if !wrong.is_empty() {
        return None;
    }
    let top = Section { title: String::new(), span: Span { start: 0, end: 0 }, table: document.get_ref() };
    for (key, _) in top.unknown(TOP) {
        let help = suggest(key.get_ref(), "section", TOP.iter().map(|key| key.0));
        errors.at(key.span().into(), format!("Unknown section {}", code(key.get_ref())), help);
    }
    for name in ["host", "kernel"] {
        if !top.table.contains_key(name) {
            errors.nowhere(
                format!("There is no section `[{name}]`"),
                format!("add `[{name}]`, as in Ennead's images/host.toml"),
            );
        }
    }
    Some(Raw {
        host: top.section("host", HOST, errors).map(|section| host(&section, errors)),
        kernels: kernels(&top, errors),
        vms: top.named("vm", VM, errors).into_iter().map(|(name, s)| vm(name, &s, errors)).collect(),
        tenants: top
            .named("tenant", TENANT, errors)
            .into_iter()
            .map(|(name, section)| RawTenant {
                name,
                toolstack: section.need("toolstack", TENANT, errors, string),
                memory_mib: section.number("memory-mib", TENANT, 1..=MAX_MEMORY_MIB, true, errors),
                vcpus: section.number("vcpus", TENANT, 1..=65_536, true, errors),
                guests: section.number("guests", TENANT, 1..=u32::from(MAX_DOMID), true, errors),
            })
            .collect(),
        guests: top
            .named("guest", GUEST, errors)
            .into_iter()
            .map(|(name, section)| RawGuest {
                name,
                tenant: section.need("tenant", GUEST, errors, string),
                config: section.need("config", GUEST, errors, string),
            })
            .collect(),
    })
}

fn host(section: &Section<'_>, errors: &mut Errors<'_>) -> RawHost {
    RawHost {
        name: section.need("name", HOST, errors, string),
        memory_mib: section.number("memory-mib", HOST, 1..=MAX_MEMORY_MIB, true, errors),
        console: section.need("console", HOST, errors, string),
        xen_options: section.take("xen-options", HOST, errors, string),
        iommu: section.need("iommu", HOST, errors, iommu),
    }
}

fn iommu(value: &Value<'_>, errors: &mut Errors<'_>) -> Option<At<Iommu>> {
    let span = value.at.span().into();
    let help = "write `iommu = \"required\"`, or `iommu = { none = \"why this host does without\" }`";
    match value.at.get_ref() {
        DeValue::String(word) if word == "required" => Some(At { value: Iommu::Required, span }),
        DeValue::String(word) if word == "none" => {
            errors.at(span, "`iommu` is `none` without a reason", help);
            None
        }
        DeValue::Table(table) => {
            let section = Section { title: "host.iommu".to_owned(), span, table };
            section.report_unknown(IOMMU, errors);
            let reason = section.need("none", IOMMU, errors, string)?;
            Some(At { value: Iommu::None(reason.value), span: reason.span })
        }
        DeValue::String(word) => {
            errors.at(span, format!("`iommu` is {}, which is not known", code(word)), help);
            None
        }
        _ => value.wrong_type("a word or a table", errors),
    }
}

fn kernels(top: &Section<'_>, errors: &mut Errors<'_>) -> Vec<(At<String>, Option<At<String>>)> {
    let Some(section) = top.table("kernel", errors) else { return Vec::new() };
    let example = "\"kernels/service.config\"";
    section
        .in_order()
        .map(|(key, at)| {
            let name = key.get_ref().to_string();
            let path = string(&Value { name: &name, example, at }, errors);
            (At { span: key.span().into(), value: name }, path)
        })
        .collect()
}

fn vm(name: At<String>, section: &Section<'_>, errors: &mut Errors<'_>) -> RawVm {
    let domid = |key: &'static str, needed: bool, errors: &mut Errors<'_>| {
        let number = section.number(key, VM, 0..=u32::from(MAX_DOMID), needed, errors)?;
        Some(At { value: u16::try_from(number.value).ok()?, span: number.span })
    };
    let built_by_bootstrapper = section.take("built-by", VM, errors, |v, e| {
        let words = [true, false];
        v.word("builder of VMs", &words, |b| if b { "bootstrapper" } else { "builder" }, e)
    });
    RawVm {
        kind: section.need("kind", VM, errors, |v, e| v.word("kind", Kind::ALL, Kind::as_str, e)),
        domid: domid("domid", true, errors),
        successor_domid: domid("successor-domid", false, errors),
        has_successor_key: section.table.contains_key("successor-domid"),
        kernel: section.need("kernel", VM, errors, string),
        program: section.take("program", VM, errors, string),
        memory_mib: section.number("memory-mib", VM, 1..=MAX_MEMORY_MIB, true, errors),
        vcpus: section.number("vcpus", VM, 1..=MAX_VCPUS, false, errors),
        kernel_options: section.take("kernel-options", VM, errors, string),
        devices: section.take("devices", VM, errors, |v, e| v.array(e, device)).unwrap_or_default(),
        devices_key: section.table.get_key_value("devices").map(|(key, _)| key.span().into()),
        answers: section.take("answers", VM, errors, |v, e| v.array(e, string)).unwrap_or_default(),
        after: section.take("after", VM, errors, |v, e| v.array(e, string)).unwrap_or_default(),
        unread_built_by: built_by_bootstrapper.is_none() && section.table.contains_key("built-by"),
        built_by_bootstrapper,
        autostart: section.take("autostart", VM, errors, |value, errors| match value.at.get_ref() {
            DeValue::Boolean(b) => Some(At { value: *b, span: value.at.span().into() }),
            _ => value.wrong_type("`true` or `false`", errors),
        }),
        restart: section.need("restart", VM, errors, |value, errors| restart(section, value, errors)),
        talks_to: section.reasons("talks-to", |key, _| Some(key.get_ref().to_string()), errors),
        may: section.reasons("may", permission, errors),
        name,
    }
}

fn permission(key: &Spanned<toml::de::DeString<'_>>, errors: &mut Errors<'_>) -> Option<Permission> {
    let found = Permission::ALL.iter().copied().find(|p| p.as_str() == key.get_ref());
    if found.is_none() {
        let help = suggest(key.get_ref(), "permission", Permission::ALL.iter().map(|p| p.as_str()));
        errors.at(key.span().into(), format!("Unknown permission {}", code(key.get_ref())), help);
    }
    found
}

fn restart(vm: &Section<'_>, value: &Value<'_>, errors: &mut Errors<'_>) -> Option<RawRestart> {
    let span = value.at.span().into();
    let DeValue::Table(table) = value.at.get_ref() else { return value.wrong_type("a table", errors) };
    let section = Section { title: format!("{}.restart", vm.title), span, table };
    section.report_unknown(RESTART, errors);
    Some(RawRestart {
        span,
        policy: section.need("policy", RESTART, errors, |v, e| {
            v.word("restart policy", RestartPolicy::ALL, RestartPolicy::as_str, e)
        }),
        every_seconds: section.number("every-seconds", RESTART, 1..=u32::MAX, false, errors),
        has_every_seconds: table.contains_key("every-seconds"),
    })
}

fn device(value: &Value<'_>, errors: &mut Errors<'_>) -> Option<At<Device>> {
    let text = string(value, errors)?;
    let class = DeviceClass::ALL.iter().copied().find(|class| class.as_str() == text.value);
    let device = match text.value.as_str() {
        "all" => Device::All,
        address if is_pci_address(address) => Device::Address(text.value),
        other => {
            let Some(class) = class else {
                let words = ["all", "network", "storage"];
                let lower = other.to_ascii_lowercase();
                let help = if is_pci_address(&lower) {
                    format!("write hex digits in lower case: `\"{lower}\"`")
                } else if is_pci_address(&format!("0000:{lower}")) {
                    format!("write the PCI segment as well: `\"0000:{lower}\"`")
                } else if let Some(word) = closest(other, words) {
                    format!("did you mean `{word}`?")
                } else {
                    "write `all`, `network`, `storage` or a PCI address such as `0000:00:1f.2`".to_owned()
                };
                errors.at(text.span, format!("Unknown device {}", code(other)), help);
                return None;
            };
            Device::Class(class)
        }
    };
    Some(At { value: device, span: text.span })
}

fn string(value: &Value<'_>, errors: &mut Errors<'_>) -> Option<At<String>> {
    match value.at.get_ref() {
        DeValue::String(text) => Some(At { value: text.to_string(), span: value.at.span().into() }),
        _ => value.wrong_type("a string", errors),
    }
}

/// A value and the key it belongs to.
struct Value<'a> {
    name: &'a str,
    example: &'static str,
    at: &'a Spanned<DeValue<'a>>,
}

impl Value<'_> {
    fn wrong_type<T>(&self, expected: &str, errors: &mut Errors<'_>) -> Option<T> {
        let kind = self.at.get_ref().type_str();
        let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
        errors.at(
            self.at.span().into(),
            format!("{} is {article} {kind}, not {expected}", code(self.name)),
            format!("write for example `{} = {}`", crate::rules::printable(self.name), self.example),
        );
        None
    }

    fn word<T: Copy>(
        &self,
        what: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
        errors: &mut Errors<'_>,
    ) -> Option<At<T>> {
        let text = string(self, errors)?;
        let found = all.iter().copied().find(|value| name(*value) == text.value);
        if found.is_none() {
            let words: Vec<&str> = all.iter().map(|value| name(*value)).collect();
            let help = suggest(&text.value, what, words);
            errors.at(text.span, format!("Unknown {what} {}", code(&text.value)), help);
        }
        Some(At { value: found?, span: text.span })
    }

    fn array<T>(
        &self,
        errors: &mut Errors<'_>,
        read: impl Fn(&Value<'_>, &mut Errors<'_>) -> Option<At<T>>,
    ) -> Option<Vec<At<T>>> {
        let DeValue::Array(items) = self.at.get_ref() else { return self.wrong_type("an array", errors) };
        let Self { name, example, .. } = *self;
        Some(items.iter().filter_map(|at| read(&Value { name, example, at }, errors)).collect())
    }
}

/// A table of the file.
struct Section<'a> {
    title: String,
    /// Place of its name, or of the whole inline table.
    span: Span,
    table: &'a DeTable<'a>,
}

type Entry<'a> = (&'a Spanned<toml::de::DeString<'a>>, &'a Spanned<DeValue<'a>>);

impl<'a> Section<'a> {
    fn in_order(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries.into_iter()
    }

    fn unknown(&self, keys: &'static [Key]) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        self.in_order().filter(|(key, _)| !keys.iter().any(|known| known.0 == key.get_ref()))
    }

    fn report_unknown(&self, keys: &'static [Key], errors: &mut Errors<'_>) {
        for (key, _) in self.unknown(keys) {
            let help = closest(key.get_ref(), keys.iter().map(|key| key.0)).map_or_else(
                || format!("the keys of `[{}]` are {}", self.title, list(keys.iter().map(|key| key.0))),
                |word| format!("did you mean `{word}`?"),
            );
            let message = format!("Unknown key {} in `[{}]`", code(key.get_ref()), self.title);
            errors.at(key.span().into(), message, help);
        }
    }

    fn value(&self, key: &'static str, keys: &'static [Key]) -> Option<Value<'a>> {
        let example = keys.iter().find(|known| known.0 == key).map_or("...", |known| known.1);
        Some(Value { name: key, example, at: self.table.get(key)? })
    }

    /// The value of an optional key.
    fn take<T>(
        &self,
        key: &'static str,
        keys: &'static [Key],
        errors: &mut Errors<'_>,
        read: impl FnOnce(&Value<'_>, &mut Errors<'_>) -> Option<T>,
    ) -> Option<T> {
        read(&self.value(key, keys)?, errors)
    }

    /// The value of a key that must be there.
    fn need<T>(
        &self,
        key: &'static str,
        keys: &'static [Key],
        errors: &mut Errors<'_>,
        read: impl FnOnce(&Value<'_>, &mut Errors<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key, keys);
        if value.is_none() {
            let example = keys.iter().find(|known| known.0 == key).map_or("...", |known| known.1);
            errors.at(
                self.span,
                format!("`[{}]` has no `{key}`", self.title),
                format!("add it, for example `{key} = {example}`"),
            );
        }
        read(&value?, errors)
    }

    fn number(
        &self,
        key: &'static str,
        keys: &'static [Key],
        range: RangeInclusive<u32>,
        needed: bool,
        errors: &mut Errors<'_>,
    ) -> Option<At<u32>> {
        let read = |value: &Value<'_>, errors: &mut Errors<'_>| {
            let DeValue::Integer(number) = value.at.get_ref() else {
                return value.wrong_type("an integer", errors);
            };
            let span = value.at.span().into();
            let found = i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| range.contains(number));
            if found.is_none() {
                errors.at(
                    span,
                    format!("`{key}` of `[{}]` is {}", self.title, number.as_str()),
                    format!("write a number from {} to {}", range.start(), range.end()),
                );
            }
            Some(At { value: found?, span })
        };
        if needed { self.need(key, keys, errors, read) } else { self.take(key, keys, errors, read) }
    }

    /// The sub-table `key`, if it is there and a table.
    fn table(&self, key: &'static str, errors: &mut Errors<'_>) -> Option<Section<'a>> {
        let (name, value) = self.table.get_key_value(key)?;
        let title = if self.title.is_empty() { key.to_owned() } else { format!("{}.{key}", self.title) };
        Section::new(&title, name.span().into(), value, errors)
    }

    fn new(
        title: &str,
        span: Span,
        value: &'a Spanned<DeValue<'a>>,
        errors: &mut Errors<'_>,
    ) -> Option<Self> {
        let title = crate::rules::printable(title);
        let DeValue::Table(table) = value.get_ref() else {
            let kind = value.get_ref().type_str();
            errors.at(
                span,
                format!("`{title}` is of type {kind}, not a section"),
                format!("write `[{title}]`, and what belongs to it below"),
            );
            return None;
        };
        Some(Self { title, span, table })
    }

    fn section(
        &self,
        key: &'static str,
        keys: &'static [Key],
        errors: &mut Errors<'_>,
    ) -> Option<Section<'a>> {
        let section = self.table(key, errors)?;
        section.report_unknown(keys, errors);
        Some(section)
    }

    /// The sections `[key.NAME]`.
    fn named(
        &self,
        key: &'static str,
        keys: &'static [Key],
        errors: &mut Errors<'_>,
    ) -> Vec<(At<String>, Section<'a>)> {
        let Some(all) = self.table(key, errors) else { return Vec::new() };
        let mut named = Vec::new();
        for (name, value) in all.in_order() {
            let span = name.span().into();
            let Some(section) = Section::new(&format!("{key}.{}", name.get_ref()), span, value, errors)
            else {
                continue;
            };
            section.report_unknown(keys, errors);
            named.push((At { value: name.get_ref().to_string(), span }, section));
        }
        named
    }

    /// A sub-table of `key = "reason"`.
    fn reasons<T>(
        &self,
        key: &'static str,
        read: impl Fn(&Spanned<toml::de::DeString<'_>>, &mut Errors<'_>) -> Option<T>,
        errors: &mut Errors<'_>,
    ) -> Vec<Reasoned<T>> {
        let Some(section) = self.table(key, errors) else { return Vec::new() };
        let mut found = Vec::new();
        for (key, at) in section.in_order() {
            let value = Value { name: key.get_ref(), example: "\"why it needs it\"", at };
            let reason = string(&value, errors);
            if let Some(word) = read(key, errors) {
                found.push(Reasoned { key: At { value: word, span: key.span().into() }, reason });
            }
        }
        found
    }
}
