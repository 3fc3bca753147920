//! What holds of every guest, however it was written.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::config::{Access, BootFile, Disk, GuestConfig, Vif};
use crate::text::{code, is_unprintable};
use crate::vdev::vdev_number;

/// Bytes of a guest's, an image's or a backend's name, at most.
pub const MAX_NAME: usize = 64;
/// Bytes of a path and of a disk's source, at most.
pub const MAX_PATH: usize = 1024;
/// Bytes of a command line, at most: a start info has room for 1023, of which the builder keeps 128 and a space for itself.
pub const MAX_CMDLINE: usize = 894;
/// MiB that a guest may have: up to 1 TiB.
pub const MEMORY_MIB: RangeInclusive<u32> = 4..=1 << 20;
/// Virtual CPUs that a guest may have.
pub const VCPUS: RangeInclusive<u32> = 1..=128;
/// VLANs that a NIC may be in.
pub(crate) const VLAN: RangeInclusive<u32> = 1..=4094;
/// Disks, NICs, and addresses of one NIC, at most.
pub const MAX_DEVICES: usize = 32;
/// Bytes of a network's name, at most: Linux's (`IFNAMSIZ`) without the zero.
const MAX_BRIDGE: usize = 15;

/// What a value belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Guest,
    Disk(usize),
    Vif(usize),
}

/// A value: what it belongs to, and its key in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Field(pub(crate) Part, pub(crate) &'static str);

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Part::Guest => f.write_str(self.1),
            Part::Disk(n) => write!(f, "disk[{n}].{}", self.1),
            Part::Vif(n) => write!(f, "vif[{n}].{}", self.1),
        }
    }
}

/// What is wrong with a value.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) field: Field,
    /// An earlier value that it goes against.
    pub(crate) first: Option<Field>,
    pub(crate) message: String,
    pub(crate) help: String,
}

/// A guest that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The guest's configuration is not acceptable: {0}")]
pub struct Invalid(String);

impl Invalid {
    pub(crate) fn new(problems: &[Problem]) -> Self {
        let text = |p: &Problem| format!("{}: {} ({})", p.field, p.message, p.help);
        let texts: Vec<String> = problems.iter().take(8).map(text).collect();
        let more = problems.len().saturating_sub(texts.len());
        let more = if more > 0 { format!("; {more} more") } else { String::new() };
        Self(texts.join("; ") + &more)
    }
}

/// Whether `text` can name a guest, an image or a backend: 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first not a
/// `.` or `-`. Such a name is safe as a file name, in XenStore and as a program's argument.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether `text` is a UUID in lower-case hex, `8-4-4-4-12`.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    crate::words::uuid(text).as_deref() == Some(text)
}

/// Whether `text` is the address of one NIC: six times two digits of lower-case hex with `:`, not a group's and not zero.
#[must_use]
pub fn is_mac(text: &str) -> bool {
    let first = text.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    crate::words::mac(text).as_deref() == Some(text)
        && first.is_some_and(|first| first & 1 == 0)
        && text != "00:00:00:00:00:00"
}

/// Everything that is wrong with a guest.
pub(crate) fn problems(config: &GuestConfig) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    let guest = |key| Field(Part::Guest, key);
    found.name(guest("name"), &config.name, "a guest");
    if let Some(uuid) = config.uuid.as_ref().filter(|uuid| !is_uuid(uuid)) {
        let help = "write 32 hex digits in groups of 8, 4, 4, 4 and 12 with `-` between, or leave it out for a random one";
        found.add(guest("uuid"), format!("{} is no UUID", code(uuid)), help);
    }
    found.boot(config);
    found.cmdline(guest("cmdline"), &config.cmdline);
    found.memory(config);
    for (n, disk) in config.disks.iter().take(MAX_DEVICES).enumerate() {
        found.disk(disk, n);
    }
    for (n, vif) in config.vifs.iter().take(MAX_DEVICES).enumerate() {
        found.vif(vif, n);
    }
    found.repeated(config);
    for (key, count) in [("disk", config.disks.len()), ("vif", config.vifs.len())] {
        if count > MAX_DEVICES {
            let message = format!("The guest has {count} of `{key}`");
            found.add(guest(key), message, format!("a guest has at most {MAX_DEVICES}"));
        }
    }
    found.0
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, field: Field, message: impl Into<String>, help: impl Into<String>) {
        self.0.push(Problem { field, first: None, message: message.into(), help: help.into() });
    }

    fn name(&mut self, field: Field, name: &str, what: &str) {
        if !is_name(name) {
            let help = format!(
                "a name is 1 to {MAX_NAME} of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`, and does not begin with `.` or `-`"
            );
            self.add(field, format!("{} is no name for {what}", code(name)), help);
        }
    }

    fn boot(&mut self, config: &GuestConfig) {
        let guest = |key| Field(Part::Guest, key);
        for (key, file) in [("kernel", &config.kernel), ("ramdisk", &config.ramdisk)] {
            match file {
                Some(BootFile::Stored(name)) => self.name(guest(key), name, "an image on the host"),
                Some(BootFile::Path(path)) => self.path(guest(key), path, !path.chars().any(is_unprintable)),
                None => {}
            }
        }
        if config.kernel.is_some() {
            return;
        }
        if config.ramdisk.is_some() {
            let help = "add the `kernel` that it belongs to, or take `ramdisk` out: a guest that boots from its disk has its own";
            self.add(guest("ramdisk"), "There is a `ramdisk` but no `kernel`", help);
        } else if config.disks.iter().all(|disk| disk.source.is_none()) {
            let help = "add one, for example `kernel = \"/boot/vmlinuz\"`, or `image:NAME` of one on the host; or a disk to boot from";
            self.add(guest("kernel"), "There is no `kernel`", help);
        }
    }

    fn path(&mut self, field: Field, path: &str, is_fit: bool) {
        if path.is_empty() {
            self.add(field, format!("`{}` is empty", field.1), "name a file, or take it out");
        } else if path.len() > MAX_PATH {
            let message = format!("`{}` is {} bytes long", field.1, path.len());
            self.add(field, message, format!("write at most {MAX_PATH}"));
        } else if !is_fit {
            let message = format!("`{}` is {}, which cannot be shown in one line", field.1, code(path));
            self.add(field, message, "give it a name in printable characters");
        }
    }

    fn cmdline(&mut self, field: Field, text: &str) {
        if let Some(c) = text.chars().find(|c| !matches!(c, ' '..='~')) {
            let message = format!("The command line contains `{}`", c.escape_default());
            self.add(field, message, "write printable ASCII in one line");
        }
        if text.len() > MAX_CMDLINE {
            let message = format!("The command line is {} bytes long", text.len());
            self.add(
                field,
                message,
                format!("write at most {MAX_CMDLINE}: a guest's start info has no room for more"),
            );
        }
    }

    fn memory(&mut self, config: &GuestConfig) {
        let pairs = [
            ("memory-mib", config.memory_mib, "max-memory-mib", config.max_memory_mib, MEMORY_MIB, "memory"),
            ("vcpus", config.vcpus, "max-vcpus", config.max_vcpus, VCPUS, "virtual CPUs"),
        ];
        for (key, value, max_key, max, range, what) in pairs {
            for (key, value) in [(key, value), (max_key, max)] {
                if !range.contains(&value) {
                    let help = format!("write a number from {} to {}", range.start(), range.end());
                    self.add(Field(Part::Guest, key), format!("`{key}` is {value}"), help);
                }
            }
            if max < value {
                self.0.push(Problem {
                    field: Field(Part::Guest, max_key),
                    first: Some(Field(Part::Guest, key)),
                    message: format!("The guest starts with more {what} than it may have: {value}, of {max}"),
                    help: "make the greatest number at least as large as the first, or leave it out"
                        .to_owned(),
                });
            }
        }
    }

    fn disk(&mut self, disk: &Disk, n: usize) {
        let at = |key| Field(Part::Disk(n), key);
        if vdev_number(&disk.vdev).is_none() {
            let help = "write `xvda` for the first disk, `xvdb` for the second, `xvda1` for a partition";
            self.add(at("vdev"), format!("{} is no virtual disk", code(&disk.vdev)), help);
        }
        match &disk.source {
            None if !disk.cdrom => {
                self.add(
                    at("source"),
                    "The disk has no source",
                    "say what it is; only a CD-ROM drive can be empty",
                );
            }
            Some(source) => self.path(at("source"), source, source.chars().all(|c| matches!(c, ' '..='~'))),
            None => {}
        }
        if disk.cdrom && disk.access == Access::ReadWrite {
            self.add(at("access"), "The guest may write to a CD-ROM", "write `r`, or make it a disk");
        }
        self.backend(at("backend"), disk.backend.as_ref());
    }

    fn vif(&mut self, vif: &Vif, n: usize) {
        let at = |key| Field(Part::Vif(n), key);
        if let Some(mac) = vif.mac.as_ref().filter(|mac| !is_mac(mac)) {
            let help = "write six hex numbers with `:`, the first even, such as `00:16:3e:12:34:56`, or leave it out for a random one";
            self.add(at("mac"), format!("{} is not the address of a NIC", code(mac)), help);
        }
        let is_bridge = |name: &str| is_name(name) && name.len() <= MAX_BRIDGE;
        if let Some(bridge) = vif.bridge.as_ref().filter(|bridge| !is_bridge(bridge)) {
            let help = format!("write 1 to {MAX_BRIDGE} of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`");
            self.add(at("bridge"), format!("{} is no name for a network", code(bridge)), help);
        }
        self.backend(at("backend"), vif.backend.as_ref());
        if let Some(vlan) = vif.vlan.filter(|vlan| !VLAN.contains(&u32::from(*vlan))) {
            let help = format!("write a number from {} to {}", VLAN.start(), VLAN.end());
            self.add(at("vlan"), format!("`vlan` is {vlan}"), help);
        }
        if vif.ip.len() > MAX_DEVICES {
            let message = format!("The NIC has {} addresses", vif.ip.len());
            self.add(at("ip"), message, format!("write at most {MAX_DEVICES}; a network counts as one"));
        }
        for ip in vif.ip.iter().take(MAX_DEVICES).filter(|ip| !is_ip(ip)) {
            let help = "write an IPv4 or IPv6 address, or a network such as `192.0.2.0/24`";
            self.add(at("ip"), format!("{} is no address", code(ip)), help);
        }
    }

    fn backend(&mut self, field: Field, backend: Option<&String>) {
        let Some(backend) = backend else { return };
        if matches!(backend.as_str(), "0" | "Domain-0") {
            let help = "take `backend` out, or name one of the host's service VMs";
            self.add(field, "There is no domain 0 that could serve this", help);
        } else {
            self.name(field, backend, "a service VM");
        }
    }

    fn repeated(&mut self, config: &GuestConfig) {
        // One number can have several names.
        let mut disks = BTreeMap::new();
        for (n, disk) in config.disks.iter().take(MAX_DEVICES).enumerate() {
            let Some(number) = vdev_number(&disk.vdev) else { continue };
            let field = Field(Part::Disk(n), "vdev");
            let first = *disks.entry(number).or_insert(field);
            self.second(
                field,
                first,
                format!("Two disks are {}", code(&disk.vdev)),
                "give each disk a `vdev` of its own",
            );
        }
        let mut macs = BTreeMap::new();
        for (n, vif) in config.vifs.iter().take(MAX_DEVICES).enumerate() {
            let Some(mac) = &vif.mac else { continue };
            let field = Field(Part::Vif(n), "mac");
            let first = *macs.entry(mac).or_insert(field);
            self.second(
                field,
                first,
                format!("Two NICs have the address {}", code(mac)),
                "give each NIC an address of its own",
            );
        }
    }

    fn second(&mut self, field: Field, first: Field, message: String, help: &str) {
        if first != field {
            self.0.push(Problem { field, first: Some(first), message, help: help.to_owned() });
        }
    }
}

/// Whether `text` is an address, or a network `address/bits`.
fn is_ip(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let is_prefix = |bits: &str| {
        bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    };
    bits.is_none_or(is_prefix)
}
