//! A guest while it is read: what could be read, stand-ins for what could not, and where each value stands.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::config::{Action, BootFile, Disk, GuestConfig, Kind, Vif};
use crate::notes::{At, Notes, Span};
use crate::report::Level;
use crate::rules::{Field, MEMORY_MIB, Part, VCPUS, problems};
use crate::text::code;

/// Something of a guest is read.
#[derive(Debug)]
pub(crate) struct Draft {
    config: GuestConfig,
    places: BTreeMap<Field, Span>,
    max_memory_mib: Option<u32>,
    max_vcpus: Option<u32>,
    has_unreadable_kernel: bool,
}

impl Draft {
    /// A guest of stand-ins that break no rule: where one stays, that the value is missing is reported, and the rest
    /// can still be checked.
    pub(crate) fn new() -> Self {
        let config = GuestConfig {
            name: "guest".to_owned(),
            kind: Kind::Pv,
            uuid: None,
            kernel: None,
            ramdisk: None,
            cmdline: String::new(),
            memory_mib: *MEMORY_MIB.start(),
            max_memory_mib: *MEMORY_MIB.start(),
            vcpus: *VCPUS.start(),
            max_vcpus: *VCPUS.start(),
            on_poweroff: Action::Destroy,
            on_reboot: Action::Restart,
            on_crash: Action::Destroy,
            disks: Vec::new(),
            vifs: Vec::new(),
        };
        Self {
            config,
            places: BTreeMap::new(),
            max_memory_mib: None,
            max_vcpus: None,
            has_unreadable_kernel: false,
        }
    }

    pub(crate) fn name(&mut self, name: At<String>) {
        self.config.name = self.guest("name", name);
    }

    pub(crate) fn kind(&mut self, kind: Kind) {
        self.config.kind = kind;
    }

    /// A UUID in any of the ways it can be written.
    pub(crate) fn uuid(&mut self, uuid: At<String>) {
        let uuid = self.guest("uuid", uuid);
        self.config.uuid = Some(crate::words::uuid(&uuid).unwrap_or(uuid));
    }

    pub(crate) fn kernel(&mut self, path: At<String>) {
        self.config.kernel = Some(self.guest("kernel", path).into());
    }

    /// What boots the guest is in the file but could not be read, which is reported.
    pub(crate) fn unreadable_kernel(&mut self) {
        self.has_unreadable_kernel = true;
    }

    pub(crate) fn ramdisk(&mut self, path: At<String>) {
        self.config.ramdisk = Some(self.guest("ramdisk", path).into());
    }

    pub(crate) fn cmdline(&mut self, cmdline: At<String>) {
        self.config.cmdline = self.guest("cmdline", cmdline);
    }

    pub(crate) fn memory_mib(&mut self, memory: At<u32>) {
        self.config.memory_mib = self.guest("memory-mib", memory);
    }

    pub(crate) fn max_memory_mib(&mut self, memory: At<u32>) {
        self.max_memory_mib = Some(self.guest("max-memory-mib", memory));
    }

    pub(crate) fn vcpus(&mut self, vcpus: At<u32>) {
        self.config.vcpus = self.guest("vcpus", vcpus);
    }

    pub(crate) fn max_vcpus(&mut self, vcpus: At<u32>) {
        self.max_vcpus = Some(self.guest("max-vcpus", vcpus));
    }

    pub(crate) fn on_poweroff(&mut self, action: Action) {
        self.config.on_poweroff = action;
    }

    pub(crate) fn on_reboot(&mut self, action: Action) {
        self.config.on_reboot = action;
    }

    pub(crate) fn on_crash(&mut self, action: Action) {
        self.config.on_crash = action;
    }

    pub(crate) fn disk(&mut self, disk: Disk, places: &[(&'static str, Span)]) {
        let part = Part::Disk(self.config.disks.len());
        self.places.extend(places.iter().map(|(key, span)| (Field(part, key), *span)));
        self.config.disks.push(disk);
    }

    /// A NIC, its address in any of the ways it can be written.
    pub(crate) fn vif(&mut self, mut vif: Vif, places: &[(&'static str, Span)]) {
        let part = Part::Vif(self.config.vifs.len());
        self.places.extend(places.iter().map(|(key, span)| (Field(part, key), *span)));
        vif.mac = vif.mac.map(|mac| crate::words::mac(&mac).unwrap_or(mac));
        self.config.vifs.push(vif);
    }

    /// Where the whole list of disks or NICs stands.
    pub(crate) fn list(&mut self, key: &'static str, span: Span) {
        self.places.insert(Field(Part::Guest, key), span);
    }

    fn guest<T>(&mut self, key: &'static str, at: At<T>) -> T {
        self.places.insert(Field(Part::Guest, key), at.span);
        at.value
    }

    /// The guest; it is worth something only if there are no errors then.
    pub(crate) fn finish(mut self, notes: &mut Notes<'_>) -> GuestConfig {
        self.config.max_memory_mib = self.max_memory_mib.unwrap_or(self.config.memory_mib);
        self.config.max_vcpus = self.max_vcpus.unwrap_or(self.config.vcpus);
        // Only beside an error, which keeps the stand-in from ever being used.
        if self.has_unreadable_kernel && notes.has_errors() {
            self.config.kernel.get_or_insert(BootFile::Stored("kernel".to_owned()));
        }
        for problem in problems(&self.config) {
            let place = |field: Field| self.places.get(&field).copied();
            let first = problem.first.and_then(place).map(|span| (span, "against this"));
            notes.note(Level::Error, place(problem.field), first, problem.message, problem.help);
        }
        self.config
    }
}

/// A number as it is written, if it is in range.
pub(crate) fn number(
    key: &str,
    text: &At<String>,
    value: Option<u64>,
    range: &RangeInclusive<u32>,
    notes: &mut Notes<'_>,
) -> Option<At<u32>> {
    let found = value.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
    if found.is_none() {
        let help = format!("write a number from {} to {}", range.start(), range.end());
        notes.error(text.span, format!("`{key}` is {}", code(&text.value)), help);
    }
    Some(At::new(found?, text.span))
}
