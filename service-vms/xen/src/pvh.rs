//! What Xen has to know of a domain that is not PV, or not only PV.

use crate::sys;

/// How a domain runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DomainKind {
    /// Paravirtualised: its kernel's page tables are checked by Xen.
    #[default]
    Pv,
    /// In a hardware container with nested paging, and without any emulated device but the local APIC.
    Pvh,
}

/// A parameter of a PVH domain (`HVM_PARAM_*` in xen/include/public/hvm/params.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HvmParam {
    /// The frame of XenStore's ring.
    StorePfn,
    /// XenStore's port.
    StorePort,
    /// The frame of the console's ring.
    ConsolePfn,
    /// The console's port.
    ConsolePort,
    /// The address of a page directory that maps the first 4 GiB to themselves, for Intel processors that cannot run
    /// a guest with paging off.
    IdentityTable,
}

impl HvmParam {
    /// Xen's number for it.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::StorePfn => sys::HVM_PARAM_STORE_PFN,
            Self::StorePort => sys::HVM_PARAM_STORE_EVTCHN,
            Self::ConsolePfn => sys::HVM_PARAM_CONSOLE_PFN,
            Self::ConsolePort => sys::HVM_PARAM_CONSOLE_EVTCHN,
            Self::IdentityTable => sys::HVM_PARAM_IDENT_PT,
        }
    }
}

/// What a part of a PVH domain's memory map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Its kernel may use it for anything.
    Ram,
    /// Its kernel leaves it alone.
    Reserved,
    /// ACPI tables.
    Acpi,
}

impl MemoryKind {
    /// The number that ACPI ('System Address Map Interfaces') and Xen (`XEN_HVM_MEMMAP_TYPE_*`) have for it.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Ram => sys::XEN_HVM_MEMMAP_TYPE_RAM,
            Self::Reserved => sys::XEN_HVM_MEMMAP_TYPE_RESERVED,
            Self::Acpi => sys::XEN_HVM_MEMMAP_TYPE_ACPI,
        }
    }
}

/// A part of a PVH domain's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Its first guest-physical address.
    pub start: u64,
    /// Its bytes.
    pub size: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// Where the first vCPU of a PVH domain starts: 32-bit protected mode, flat segments, paging off
/// (docs/misc/pvh.pandoc).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvhStart {
    /// The address of the first instruction.
    pub entry: u32,
    /// The address of `struct hvm_start_info`.
    pub start_info: u32,
}
