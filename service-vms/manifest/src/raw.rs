//! `host.toml` as written: every value with its place, nothing yet checked but its type.
//!
//! Walks the parsed TOML by hand and not with serde, which stops at the first mistake.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::plan::{Device, DeviceClass, Iommu, Kind, Permission, Quota, RestartPolicy};
use crate::report::{Errors, Span, closest, code, suggest};
use crate::rules::{MAX_DOMID, MAX_MEMORY_MIB, MAX_VCPUS, is_pci_address};
use crate::table::{At, Key, Reasoned, Section, Value, string};

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
    /// `devices` is not there or empty; `devices` itself is also empty if nothing in it could be read.
    pub(crate) has_no_devices: bool,
    pub(crate) accept_no_reset: Option<At<String>>,
    pub(crate) talks_to: Vec<Reasoned<String>>,
    pub(crate) answers: Vec<At<String>>,
    pub(crate) xenstore: Option<RawRing>,
    pub(crate) network: Option<RawNetwork>,
    pub(crate) quotas: Option<RawQuotas>,
    pub(crate) may: Vec<Reasoned<Permission>>,
    pub(crate) after: Vec<At<String>>,
    pub(crate) built_by_bootstrapper: Option<At<bool>>,
    /// `built-by` is there but not readable.
    pub(crate) unread_built_by: bool,
    pub(crate) autostart: Option<At<bool>>,
    pub(crate) restart: Option<RawRestart>,
}

#[derive(Debug)]
pub(crate) struct RawRing {
    /// Place of the key.
    pub(crate) span: Span,
    pub(crate) reason: Option<At<String>>,
}

#[derive(Debug)]
pub(crate) struct RawNetwork {
    /// Place of the section's name.
    pub(crate) span: Span,
    pub(crate) backend: Option<At<String>>,
    pub(crate) address: Option<At<String>>,
    pub(crate) gateway: Option<At<String>>,
    pub(crate) port: Option<At<u16>>,
}

#[derive(Debug)]
pub(crate) struct RawQuotas {
    /// Place of the section's name.
    pub(crate) span: Span,
    pub(crate) set: Vec<(Quota, At<u32>)>,
}

#[derive(Debug)]
pub(crate) struct RawRestart {
    pub(crate) span: Span,
    pub(crate) policy: Option<At<RestartPolicy>>,
    pub(crate) every_seconds: Option<At<u32>>,
    /// `every-seconds` is there, be it of the right type or not.
    pub(crate) has_every_seconds: bool,
    pub(crate) drain_ms: Option<At<u32>>,
}

#[derive(Debug)]
pub(crate) struct RawTenant {
    pub(crate) name: At<String>,
    pub(crate) toolstack: Option<At<String>>,
    pub(crate) memory_mib: Option<At<u32>>,
    pub(crate) vcpus: Option<At<u32>>,
    pub(crate) guests: Option<At<u32>>,
    pub(crate) backends: Vec<Reasoned<String>>,
}

#[derive(Debug)]
pub(crate) struct RawGuest {
    pub(crate) name: At<String>,
    pub(crate) tenant: Option<At<String>>,
    pub(crate) config: Option<At<String>>,
}

impl Raw {
    /// The first tenant that says that this VM is its toolstack.
    pub(crate) fn tenant_of(&self, vm: &RawVm) -> Option<&RawTenant> {
        let is_its = |name: &At<String>| name.value == vm.name.value;
        self.tenants.iter().find(|tenant| tenant.toolstack.as_ref().is_some_and(is_its))
    }
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
    Key("kernel-options", "\"swiotlb=512\""),
    Key("devices", "[\"network\"]"),
    Key("accept-no-reset", "\"why that is good enough here\""),
    Key("answers", "[\"builder\"]"),
    Key("xenstore", "\"why it needs it\""),
    Key("after", "[\"pciback\"]"),
    Key("built-by", "\"builder\""),
    Key("autostart", "true"),
    Key("restart", "{ policy = \"on-crash\" }"),
    Key("talks-to", "{ builder = \"why\" }"),
    Key("network", "{ ... }"),
    Key("quotas", "{ nodes = 1000 }"),
    Key("may", "{ write-host-console = \"why\" }"),
];
const NETWORK: &[Key] = &[
    Key("backend", "\"netback\""),
    Key("address", "\"10.0.2.40/24\""),
    Key("gateway", "\"10.0.2.2\""),
    Key("port", "8443"),
];
/// Xen 4.17's defaults, where it has any.
const QUOTAS: &[Key] = &[
    Key(Quota::Nodes.as_str(), "1000"),
    Key(Quota::NodeSize.as_str(), "2048"),
    Key(Quota::Watches.as_str(), "128"),
    Key(Quota::Transactions.as_str(), "10"),
    Key(Quota::TransactionNodes.as_str(), "1024"),
    Key(Quota::Permissions.as_str(), "5"),
    Key(Quota::PathMax.as_str(), "2048"),
    Key(Quota::Memory.as_str(), "2621440"),
    Key(Quota::Events.as_str(), "256"),
];
const RESTART: &[Key] =
    &[Key("policy", "\"on-crash\""), Key("every-seconds", "3600"), Key("drain-ms", "500")];
const TENANT: &[Key] = &[
    Key("toolstack", "\"toolstack\""),
    Key("memory-mib", "512"),
    Key("vcpus", "4"),
    Key("guests", "8"),
    Key("backends", "{ blkback = \"why\" }"),
];
const GUEST: &[Key] = &[Key("tenant", "\"acme\""), Key("config", "\"guests/web.toml\"")];

/// What needs no right to listen at.
const PORTS: std::ops::RangeInclusive<u32> = 1024..=65_535;

/// Syntax errors that are shown; the rest are mostly their consequence.
const MAX_SYNTAX_ERRORS: usize = 10;

/// Reads the file; `None` if it is no TOML.
pub(crate) fn read(text: &str, errors: &mut Errors<'_>) -> Option<Raw> {
    let (document, wrong) = DeTable::parse_recoverable(text);
    if !wrong.is_empty() {
        report_syntax(&wrong, text, errors);
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
                backends: section.reasons("backends", |key, _| Some(key.get_ref().to_string()), errors),
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

fn report_syntax(wrong: &[toml::de::Error], text: &str, errors: &mut Errors<'_>) {
    let mut in_repeated_section = false;
    for error in wrong.iter().take(MAX_SYNTAX_ERRORS) {
        let span: Span = error.span().unwrap_or(0..0).into();
        let word = text.get(span.start..span.end).unwrap_or("");
        let line = text.get(..span.start).and_then(|before| before.rsplit('\n').next()).unwrap_or("");
        let is_header = line.trim_start().starts_with('[');
        if error.message() != "duplicate key" {
            let help = "correct the TOML here (strings stand in quotes); the other checks come after that";
            errors.at(span, format!("This is not TOML: {}", crate::rules::printable(error.message())), help);
        } else if is_header {
            in_repeated_section = true;
            let help = "make one section of the two, or give one another name";
            errors.at(span, format!("The section {} is here a second time", code(word)), help);
        } else if !in_repeated_section {
            errors.at(
                span,
                format!("The key {} is here a second time", code(word)),
                "take one of the two out",
            );
        }
    }
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
        has_no_devices: section.table.get("devices").is_none_or(|value| match value.get_ref() {
            DeValue::Array(items) => items.is_empty(),
            _ => false,
        }),
        accept_no_reset: section.take("accept-no-reset", VM, errors, string),
        answers: section.take("answers", VM, errors, |v, e| v.array(e, string)).unwrap_or_default(),
        xenstore: ring(section, errors),
        network: section.section("network", NETWORK, errors).map(|network| RawNetwork {
            span: network.span,
            backend: network.need("backend", NETWORK, errors, string),
            address: network.need("address", NETWORK, errors, string),
            gateway: network.need("gateway", NETWORK, errors, string),
            port: network
                .number("port", NETWORK, PORTS, true, errors)
                .and_then(|at| Some(At { value: u16::try_from(at.value).ok()?, span: at.span })),
        }),
        after: section.take("after", VM, errors, |v, e| v.array(e, string)).unwrap_or_default(),
        unread_built_by: built_by_bootstrapper.is_none() && section.table.contains_key("built-by"),
        built_by_bootstrapper,
        autostart: section.take("autostart", VM, errors, |value, errors| match value.at.get_ref() {
            DeValue::Boolean(b) => Some(At { value: *b, span: value.at.span().into() }),
            _ => value.wrong_type("`true` or `false`", errors),
        }),
        restart: section.need("restart", VM, errors, |value, errors| restart(section, value, errors)),
        quotas: section.section("quotas", QUOTAS, errors).map(|section| quotas(&section, errors)),
        talks_to: section.reasons("talks-to", |key, _| Some(key.get_ref().to_string()), errors),
        may: section.reasons("may", permission, errors),
        name,
    }
}

fn ring(vm: &Section<'_>, errors: &mut Errors<'_>) -> Option<RawRing> {
    let (key, _) = vm.table.get_key_value("xenstore")?;
    Some(RawRing { span: key.span().into(), reason: vm.take("xenstore", VM, errors, string) })
}

fn quotas(section: &Section<'_>, errors: &mut Errors<'_>) -> RawQuotas {
    let mut read =
        |quota: Quota| Some((quota, section.number(quota.as_str(), QUOTAS, quota.range(), false, errors)?));
    RawQuotas { span: section.span, set: Quota::ALL.iter().filter_map(|quota| read(*quota)).collect() }
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
        drain_ms: section.number("drain-ms", RESTART, 0..=10_000, false, errors),
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
