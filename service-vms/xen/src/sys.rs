//! Xen's and Linux's binary interfaces: structures, request numbers and constants.
//!
//! Made from bindgen's output for the MIT-licensed public headers of Xen 4.17 (named at each part) and brought into
//! Rust's spelling by hand. `tests/layout.rs` compares every size, offset and number here with the installed headers.

// `tests/layout.rs` includes this file; not every build uses all of it.
#![allow(dead_code, reason = "shared between the library, whose features vary, and the layout test")]

use std::ffi::c_int;

/// `_IOC(_IOC_NONE, group, number, sizeof(T))` of asm-generic/ioctl.h.
const fn ioc<T>(group: u8, number: u64) -> u64 {
    (size_of::<T>() as u64) << 16 | (group as u64) << 8 | number
}

// xen/sys/evtchn.h

/// `struct ioctl_evtchn_bind_virq`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EvtchnBindVirq {
    pub(crate) virq: u32,
}
pub(crate) const IOCTL_EVTCHN_BIND_VIRQ: u64 = ioc::<EvtchnBindVirq>(b'E', 0);

/// `struct ioctl_evtchn_bind_interdomain`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EvtchnBindInterdomain {
    pub(crate) remote_domain: u32,
    pub(crate) remote_port: u32,
}
pub(crate) const IOCTL_EVTCHN_BIND_INTERDOMAIN: u64 = ioc::<EvtchnBindInterdomain>(b'E', 1);

/// `struct ioctl_evtchn_bind_unbound_port`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EvtchnBindUnboundPort {
    pub(crate) remote_domain: u32,
}
pub(crate) const IOCTL_EVTCHN_BIND_UNBOUND_PORT: u64 = ioc::<EvtchnBindUnboundPort>(b'E', 2);

/// `struct ioctl_evtchn_unbind`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EvtchnUnbind {
    pub(crate) port: u32,
}
pub(crate) const IOCTL_EVTCHN_UNBIND: u64 = ioc::<EvtchnUnbind>(b'E', 3);

/// `struct ioctl_evtchn_notify`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EvtchnNotify {
    pub(crate) port: u32,
}
pub(crate) const IOCTL_EVTCHN_NOTIFY: u64 = ioc::<EvtchnNotify>(b'E', 4);

/// `struct ioctl_evtchn_restrict_domid`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EvtchnRestrictDomid {
    pub(crate) domid: u16,
}
pub(crate) const IOCTL_EVTCHN_RESTRICT_DOMID: u64 = ioc::<EvtchnRestrictDomid>(b'E', 6);

// xen/sys/gntdev.h

/// `struct ioctl_gntdev_grant_ref`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GntdevGrantRef {
    pub(crate) domid: u32,
    pub(crate) gref: u32,
}

/// `struct ioctl_gntdev_map_grant_ref`, for `N` pages
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct GntdevMapGrantRef<const N: usize = 1> {
    pub(crate) count: u32,
    pub(crate) pad: u32,
    pub(crate) index: u64,
    pub(crate) refs: [GntdevGrantRef; N],
}
pub(crate) const IOCTL_GNTDEV_MAP_GRANT_REF: u64 = ioc::<GntdevMapGrantRef>(b'G', 0);

/// `struct ioctl_gntdev_grant_copy_segment`; `source` and `dest` are unions of an address and of a grant, its offset (from bit
/// 32 on) and its domain (from bit 48 on).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GntdevGrantCopySegment {
    pub(crate) source: u64,
    pub(crate) dest: u64,
    pub(crate) len: u16,
    pub(crate) flags: u16,
    pub(crate) status: i16,
}

/// `struct ioctl_gntdev_grant_copy`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct GntdevGrantCopy {
    pub(crate) count: u32,
    pub(crate) segments: *mut GntdevGrantCopySegment,
}
pub(crate) const IOCTL_GNTDEV_GRANT_COPY: u64 = ioc::<GntdevGrantCopy>(b'G', 8);

// xen/sys/gntalloc.h

/// `struct ioctl_gntalloc_alloc_gref`, for `N` pages
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct GntallocAllocGref<const N: usize = 1> {
    pub(crate) domid: u16,
    pub(crate) flags: u16,
    pub(crate) count: u32,
    pub(crate) index: u64,
    pub(crate) gref_ids: [u32; N],
}
pub(crate) const IOCTL_GNTALLOC_ALLOC_GREF: u64 = ioc::<GntallocAllocGref>(b'G', 5);
pub(crate) const GNTALLOC_FLAG_WRITABLE: u16 = 1;

// xen/sys/privcmd.h

/// `struct privcmd_hypercall`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PrivcmdHypercall {
    pub(crate) op: u64,
    pub(crate) arg: [u64; 5],
}
pub(crate) const IOCTL_PRIVCMD_HYPERCALL: u64 = ioc::<PrivcmdHypercall>(b'P', 0);

/// `struct privcmd_mmapbatch_v2`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrivcmdMmapbatchV2 {
    pub(crate) num: u32,
    pub(crate) dom: u16,
    pub(crate) addr: u64,
    pub(crate) arr: *const u64,
    pub(crate) err: *mut c_int,
}
pub(crate) const IOCTL_PRIVCMD_MMAPBATCH_V2: u64 = ioc::<PrivcmdMmapbatchV2>(b'P', 4);

/// `struct privcmd_mmap_resource`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PrivcmdMmapResource {
    pub(crate) dom: u16,
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) idx: u32,
    pub(crate) num: u64,
    pub(crate) addr: u64,
}
pub(crate) const IOCTL_PRIVCMD_MMAP_RESOURCE: u64 = ioc::<PrivcmdMmapResource>(b'P', 7);

// xen/xen.h
pub(crate) const DOMID_SELF: u16 = 0x7ff0;
pub(crate) const DOMID_FIRST_RESERVED: u16 = 0x7ff0;
pub(crate) const VIRQ_CONSOLE: u32 = 2;
pub(crate) const VIRQ_DOM_EXC: u32 = 3;

// xen/memory.h
pub(crate) const XENMEM_RESOURCE_GRANT_TABLE: u32 = 1;
pub(crate) const XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;

// xen/grant_table.h

/// `struct grant_entry_v1`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GrantEntryV1 {
    pub(crate) flags: u16,
    pub(crate) domid: u16,
    pub(crate) frame: u32,
}
pub(crate) const GTF_PERMIT_ACCESS: u16 = 1;
pub(crate) const GNTCOPY_SOURCE_GREF: u16 = 1;
pub(crate) const GNTCOPY_DEST_GREF: u16 = 2;

// xen/hvm/params.h
pub(crate) const HVM_PARAM_STORE_PFN: u32 = 1;
pub(crate) const HVM_PARAM_STORE_EVTCHN: u32 = 2;
pub(crate) const HVM_PARAM_IDENT_PT: u32 = 12;
pub(crate) const HVM_PARAM_CONSOLE_PFN: u32 = 17;
pub(crate) const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;

// xen/arch-x86/hvm/start_info.h
pub(crate) const XEN_HVM_MEMMAP_TYPE_RAM: u32 = 1;
pub(crate) const XEN_HVM_MEMMAP_TYPE_RESERVED: u32 = 2;
pub(crate) const XEN_HVM_MEMMAP_TYPE_ACPI: u32 = 3;
