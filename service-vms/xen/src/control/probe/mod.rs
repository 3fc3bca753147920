//! Hypercalls that no service VM may make, so that a test can make them on the running host. Their arguments are such that
//! FLASK's check, or Xen's own for the same thing, is what stops them, and that they do as little as possible should
//! Xen obey: a hole in the policy must show as such and not as a dead host.
//!
//! Where each call is checked was read in Xen 4.17; the names are those of its public headers.

use super::Control;
use crate::error::{Error, Kind, Result};
use crate::{DomId, GrantRef, Mfn, Sid};
use std::io;
use xenctrl_sys as xc;

/// The calls; see [`Control::probe`].
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    control: &'a Control,
}

/// A domctl about a domain which FLASK judges before Xen looks at its arguments.
#[derive(Clone, Copy, Debug)]
pub struct DomainCall {
    /// Xen's name for it.
    pub name: &'static str,
    /// What FLASK asks for (`xen/xsm/flask/hooks.c`, flask_domctl and the hooks beside it).
    pub permission: &'static str,
    command: u32,
    arguments: fn(&mut xc::xen_domctl),
}

const fn call(name: &'static str, permission: &'static str, command: u32) -> DomainCall {
    DomainCall { name, permission, command, arguments: |_| {} }
}

const fn call_with(
    name: &'static str,
    permission: &'static str,
    command: u32,
    arguments: fn(&mut xc::xen_domctl),
) -> DomainCall {
    DomainCall { name, permission, command, arguments }
}

/// Control over another domain, without what [`Control`] has functions for.
pub const DOMAIN_CALLS: [DomainCall; 24] = [
    // A vCPU that does not exist: a refusal comes first, and otherwise nothing is written to us.
    call_with("getvcpucontext", "getvcpucontext", xc::XEN_DOMCTL_getvcpucontext, |op| {
        op.u.vcpucontext = xc::xen_domctl_vcpucontext { vcpu: u32::MAX, ..Default::default() };
    }),
    call("get_vcpu_msrs", "getvcpucontext", xc::XEN_DOMCTL_get_vcpu_msrs),
    call("set_vcpu_msrs", "setvcpucontext", xc::XEN_DOMCTL_set_vcpu_msrs),
    call("getvcpuinfo", "getvcpuinfo", xc::XEN_DOMCTL_getvcpuinfo),
    call("max_vcpus", "max_vcpus", xc::XEN_DOMCTL_max_vcpus),
    call("resumedomain", "resume", xc::XEN_DOMCTL_resumedomain),
    call("setdebugging", "setdebugging", xc::XEN_DOMCTL_setdebugging),
    call("gdbsx_guestmemio", "setdebugging", xc::XEN_DOMCTL_gdbsx_guestmemio),
    call("getpageframeinfo3", "pageinfo", xc::XEN_DOMCTL_getpageframeinfo3),
    call("setvcpuaffinity", "setaffinity", xc::XEN_DOMCTL_setvcpuaffinity),
    call("settimeoffset", "settime", xc::XEN_DOMCTL_settimeoffset),
    call_with("sendtrigger", "trigger", xc::XEN_DOMCTL_sendtrigger, |op| {
        op.u.sendtrigger = xc::xen_domctl_sendtrigger { trigger: u32::MAX, vcpu: 0 };
    }),
    call("set_address_size", "setaddrsize", xc::XEN_DOMCTL_set_address_size),
    call("setdomainhandle", "setdomainhandle", xc::XEN_DOMCTL_setdomainhandle),
    call("gettscinfo", "gettsc", xc::XEN_DOMCTL_gettscinfo),
    call("get_cpu_policy", "get_cpu_policy", xc::XEN_DOMCTL_get_cpu_policy),
    call("set_cpu_policy", "set_cpu_policy", xc::XEN_DOMCTL_set_cpu_policy),
    call("monitor_op", "vm_event", xc::XEN_DOMCTL_monitor_op),
    call_with("vm_event_op", "vm_event", xc::XEN_DOMCTL_vm_event_op, |op| {
        let (op_number, mode) = (xc::XEN_VM_EVENT_ENABLE, xc::XEN_DOMCTL_VM_EVENT_OP_MONITOR);
        op.u.vm_event_op = xc::xen_domctl_vm_event_op { op: op_number, mode, ..Default::default() };
    }),
    call_with("shadow_op", "logdirty", xc::XEN_DOMCTL_shadow_op, |op| {
        op.u.shadow_op = xc::xen_domctl_shadow_op { op: xc::XEN_DOMCTL_SHADOW_OP_PEEK, ..Default::default() };
    }),
    call_with("scheduler_op", "setscheduler", xc::XEN_DOMCTL_scheduler_op, |op| {
        let cmd = xc::XEN_DOMCTL_SCHEDOP_putinfo;
        op.u.scheduler_op = xc::xen_domctl_scheduler_op { cmd, ..Default::default() };
    }),
    call("subscribe", "set_misc_info", xc::XEN_DOMCTL_subscribe),
    call("get_paging_mempool_size", "getpagingmempool", xc::XEN_DOMCTL_get_paging_mempool_size),
    call("getdomaininfo", "getdomaininfo", xc::XEN_DOMCTL_getdomaininfo),
];

/// Bytes of the data page that are announced: zeros, neither a policy nor microcode.
const NOTHING: u32 = 64;

/// A frame that no machine has.
const NO_FRAME: u64 = u64::MAX >> 16;

impl Control {
    /// What must be refused.
    #[must_use]
    pub const fn probe(&self) -> Probe<'_> {
        Probe { control: self }
    }
}

impl Probe<'_> {
    /// Makes any hypercall whose structure points to nothing, or only to the data page.
    fn any<T: Copy>(
        &self,
        op: &'static str,
        number: u32,
        structure: T,
        arguments: impl FnOnce(u64) -> [u64; 5],
    ) -> Result<(u32, T)> {
        // SAFETY: every caller here keeps to structures of Xen's headers, which hold integers and handles; the handles are
        // null or lead to the data page, of which no more than its size is announced.
        unsafe { self.control.privcmd.any(number, structure, arguments) }
            .map_err(|e| Error::new(Kind::Privcmd, op, None, e))
    }

    fn data<T>(&self, op: &'static str, bytes: &[u8]) -> Result<*mut T> {
        self.control.privcmd.data_page(bytes).map_err(|e| Error::new(Kind::Local, op, None, e))
    }

    // FLASK

    fn flask(&self, name: &'static str, cmd: u32, fill: impl FnOnce(&mut xc::xen_flask_op)) -> Result<()> {
        let mut op = xc::xen_flask_op {
            cmd,
            interface_version: xc::XEN_FLASK_INTERFACE_VERSION,
            ..Default::default()
        };
        fill(&mut op);
        self.any(name, xc::__HYPERVISOR_xsm_op, op, |at| [at, 0, 0, 0, 0]).map(drop)
    }

    /// Makes FLASK only report (`FLASK_SETENFORCE`); undone at once should that work.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn set_permissive(&self) -> Result<()> {
        let set = |enforcing| {
            self.flask("setenforce", xc::FLASK_SETENFORCE, |op| {
                op.u.enforce = xc::xen_flask_setenforce { enforcing };
            })
        };
        set(0)?;
        set(1)
    }

    /// Loads a policy, which is none (`FLASK_LOAD`).
    ///
    /// # Errors
    /// Xen's refusal; `EINVAL` for the policy.
    pub fn load_policy(&self) -> Result<()> {
        let buffer = xc::__guest_handle_char { p: self.data("load_policy", &[])? };
        let load = xc::xen_flask_load { buffer, size: NOTHING };
        self.flask("load_policy", xc::FLASK_LOAD, |op| op.u.load = load)
    }

    /// Sets boolean 0 of the policy, which has none (`FLASK_SETBOOL`).
    ///
    /// # Errors
    /// Xen's refusal; `ENOENT` for the boolean.
    pub fn set_bool(&self) -> Result<()> {
        self.flask("setbool", xc::FLASK_SETBOOL, |_| {})
    }

    /// Labels interrupt 0 as it is labelled anyway (`FLASK_ADD_OCONTEXT`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn add_ocontext(&self) -> Result<()> {
        self.flask("add_ocontext", xc::FLASK_ADD_OCONTEXT, |_| {})
    }

    /// Asks what the policy allows (`FLASK_ACCESS`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn compute_access(&self) -> Result<()> {
        self.flask("access", xc::FLASK_ACCESS, |op| {
            op.u.access = xc::xen_flask_access { ssid: 1, tsid: 1, tclass: 1, ..Default::default() };
        })
    }

    /// Changes the size of FLASK's cache, and changes it back should that work (`FLASK_SETAVC_THRESHOLD`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn set_avc_threshold(&self) -> Result<()> {
        let set = |threshold| {
            self.flask("setavc_threshold", xc::FLASK_SETAVC_THRESHOLD, |op| {
                op.u.setavc_threshold = xc::xen_flask_setavc_threshold { threshold };
            })
        };
        set(511)?;
        set(512)
    }

    /// Gives the calling domain another label (`FLASK_RELABEL_DOMAIN` with `DOMID_SELF`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn relabel_self(&self, sid: Sid) -> Result<()> {
        self.control.relabel(DomId::SELF, sid)
    }

    // sysctl

    fn sysctl(&self, name: &'static str, cmd: u32, fill: impl FnOnce(&mut xc::xen_sysctl)) -> Result<()> {
        let mut op =
            xc::xen_sysctl { cmd, interface_version: xc::XEN_SYSCTL_INTERFACE_VERSION, ..Default::default() };
        fill(&mut op);
        self.any(name, xc::__HYPERVISOR_sysctl, op, |at| [at, 0, 0, 0, 0]).map(drop)
    }

    /// Presses `h`, Xen's help, on Xen's console (`XEN_SYSCTL_debug_keys`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn debug_keys(&self) -> Result<()> {
        let keys = self.data::<std::ffi::c_char>("debug_keys", b"h")?;
        let keys = xc::__guest_handle_const_char { p: keys };
        self.sysctl("debug_keys", xc::XEN_SYSCTL_debug_keys, |op| {
            op.u.debug_keys = xc::xen_sysctl_debug_keys { keys, nr_keys: 1 };
        })
    }

    /// Reads what Xen and the VMs have printed, and with `clear` empties it (`XEN_SYSCTL_readconsole`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn read_console_ring(&self, clear: bool) -> Result<()> {
        let buffer = xc::__guest_handle_char { p: self.data("readconsole", &[])? };
        let count = NOTHING;
        self.sysctl("readconsole", xc::XEN_SYSCTL_readconsole, |op| {
            op.u.readconsole =
                xc::xen_sysctl_readconsole { clear: u8::from(clear), buffer, count, ..Default::default() };
        })
    }

    /// Asks for the list of Xen's live patches (`XEN_SYSCTL_livepatch_op`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn livepatch(&self) -> Result<()> {
        self.sysctl("livepatch_op", xc::XEN_SYSCTL_livepatch_op, |op| {
            let cmd = xc::XEN_SYSCTL_LIVEPATCH_LIST;
            op.u.livepatch = xc::xen_sysctl_livepatch_op { cmd, ..Default::default() };
        })
    }

    /// Brings a page of RAM on line that is (`XEN_SYSCTL_page_offline_op`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn page_online(&self) -> Result<()> {
        let status = xc::__guest_handle_uint32 { p: self.data("page_offline_op", &[])? };
        let cmd = xc::sysctl_page_online;
        self.sysctl("page_offline_op", xc::XEN_SYSCTL_page_offline_op, |op| {
            op.u.page_offline = xc::xen_sysctl_page_offline_op { cmd, start: 1, end: 1, status };
        })
    }

    /// Asks for the state of Xen's trace buffers (`XEN_SYSCTL_tbuf_op`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn trace_buffers(&self) -> Result<()> {
        self.sysctl("tbuf_op", xc::XEN_SYSCTL_tbuf_op, |_| {})
    }

    /// Asks for free memory of one node (`XEN_SYSCTL_availheap`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn available_heap(&self) -> Result<()> {
        self.sysctl("availheap", xc::XEN_SYSCTL_availheap, |_| {})
    }

    /// Asks for the host's size (`XEN_SYSCTL_physinfo`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn host_info(&self) -> Result<()> {
        self.sysctl("physinfo", xc::XEN_SYSCTL_physinfo, |_| {})
    }

    /// Gives back a pool of CPUs that does not exist (`XEN_SYSCTL_cpupool_op`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn cpu_pool(&self) -> Result<()> {
        self.sysctl("cpupool_op", xc::XEN_SYSCTL_cpupool_op, |op| {
            op.u.cpupool_op = xc::xen_sysctl_cpupool_op {
                op: xc::XEN_SYSCTL_CPUPOOL_OP_DESTROY,
                cpupool_id: 99,
                ..Default::default()
            };
        })
    }

    // platform_op, kexec

    fn platform(
        &self,
        name: &'static str,
        cmd: u32,
        fill: impl FnOnce(&mut xc::xen_platform_op),
    ) -> Result<()> {
        let mut op =
            xc::xen_platform_op { cmd, interface_version: xc::XENPF_INTERFACE_VERSION, ..Default::default() };
        fill(&mut op);
        self.any(name, xc::__HYPERVISOR_platform_op, op, |at| [at, 0, 0, 0, 0]).map(drop)
    }

    /// Sends the host to a sleep that does not exist (`XENPF_enter_acpi_sleep`): who may enter a real one gets `EINVAL` or
    /// `ERANGE`.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn acpi_sleep(&self) -> Result<()> {
        self.platform("enter_acpi_sleep", xc::XENPF_enter_acpi_sleep, |op| {
            // The two values must fit each other.
            op.u.enter_acpi_sleep =
                xc::xenpf_enter_acpi_sleep { val_a: 0, val_b: u16::MAX, sleep_state: 0, flags: 0 };
        })
    }

    /// Loads microcode, which is none (`XENPF_microcode_update`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn microcode(&self) -> Result<()> {
        let data = self.data::<std::ffi::c_void>("microcode_update", &[])?;
        let data = xc::__guest_handle_const_void { p: data };
        let length = NOTHING;
        self.platform("microcode_update", xc::XENPF_microcode_update, |op| {
            op.u.microcode = xc::xenpf_microcode_update { data, length };
        })
    }

    /// Sets the host's clock, with a field that must be zero and is not (`XENPF_settime64`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn set_time(&self) -> Result<()> {
        self.platform("settime64", xc::XENPF_settime64, |op| {
            op.u.settime64 = xc::xenpf_settime64 { mbz: 1, ..Default::default() };
        })
    }

    /// Reads model-specific registers of the host's CPUs, none of them (`XENPF_resource_op`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn read_msrs(&self) -> Result<()> {
        self.platform("resource_op", xc::XENPF_resource_op, |_| {})
    }

    /// Asks for a symbol of Xen's own (`XENPF_get_symbol`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn xen_symbol(&self) -> Result<()> {
        let name = xc::__guest_handle_char { p: self.data("get_symbol", &[])? };
        let namelen = NOTHING;
        self.platform("get_symbol", xc::XENPF_get_symbol, |op| {
            op.u.symdata = xc::xenpf_symdata { namelen, name, ..Default::default() };
        })
    }

    /// Asks for a memory type range of the host's CPUs (`XENPF_read_memtype`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn memory_type(&self) -> Result<()> {
        self.platform("read_memtype", xc::XENPF_read_memtype, |_| {})
    }

    /// Asks what the firmware left: the disk with number 0 (`XENPF_firmware_info`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn firmware_info(&self) -> Result<()> {
        self.platform("firmware_info", xc::XENPF_firmware_info, |op| {
            let type_ = xc::XEN_FW_DISK_MBR_SIGNATURE;
            op.u.firmware_info = xc::xenpf_firmware_info { type_, ..Default::default() };
        })
    }

    /// Asks where Xen is in memory, for a kernel that takes over (`KEXEC_CMD_kexec_get_range`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn kexec(&self) -> Result<()> {
        let range = i32::try_from(xc::KEXEC_RANGE_MA_XEN).unwrap_or_default();
        let op = xc::xen_kexec_range_t { range, ..Default::default() };
        let command = u64::from(xc::KEXEC_CMD_kexec_get_range);
        self.any("kexec", xc::__HYPERVISOR_kexec_op, op, |at| [command, at, 0, 0, 0]).map(drop)
    }

    // Hardware

    fn physdev<T: Copy>(&self, name: &'static str, command: u32, op: T) -> Result<()> {
        let command = u64::from(command);
        self.any(name, xc::__HYPERVISOR_physdev_op, op, |at| [command, at, 0, 0, 0]).map(drop)
    }

    /// Routes a GSI to a domain (`PHYSDEVOP_map_pirq`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn map_pirq(&self, d: DomId, gsi: i32) -> Result<()> {
        let type_ = i32::try_from(xc::MAP_PIRQ_TYPE_GSI).unwrap_or_default();
        let op = xc::physdev_map_pirq { domid: d.0, type_, index: gsi, pirq: -1, ..Default::default() };
        self.physdev("map_pirq", xc::PHYSDEVOP_map_pirq, op)
    }

    /// Takes an interrupt from a domain (`PHYSDEVOP_unmap_pirq`), one that it does not have.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn unmap_pirq(&self, d: DomId) -> Result<()> {
        let op = xc::physdev_unmap_pirq { domid: d.0, pirq: i32::MAX };
        self.physdev("unmap_pirq", xc::PHYSDEVOP_unmap_pirq, op)
    }

    /// Sets up a GSI's trigger (`PHYSDEVOP_setup_gsi`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn setup_gsi(&self, gsi: i32) -> Result<()> {
        let op = xc::physdev_setup_gsi { gsi, triggering: 1, polarity: 1 };
        self.physdev("setup_gsi", xc::PHYSDEVOP_setup_gsi, op)
    }

    /// Announces the function 00:00.0, which Xen knows (`PHYSDEVOP_manage_pci_add`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn plug_device(&self) -> Result<()> {
        let op = xc::physdev_manage_pci { bus: 0, devfn: 0 };
        self.physdev("pci_device_add", xc::PHYSDEVOP_manage_pci_add, op)
    }

    /// Announces a window of PCI configuration space at address 0 (`PHYSDEVOP_pci_mmcfg_reserved`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn mmcfg(&self) -> Result<()> {
        let op = xc::physdev_pci_mmcfg_reserved { segment: u16::MAX, ..Default::default() };
        self.physdev("pci_mmcfg_reserved", xc::PHYSDEVOP_pci_mmcfg_reserved, op)
    }

    /// Reads register 0 of an IO-APIC (`PHYSDEVOP_apic_read`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn read_apic(&self) -> Result<()> {
        let op = xc::physdev_apic { apic_physbase: 0xfec0_0000, ..Default::default() };
        self.physdev("apic_read", xc::PHYSDEVOP_apic_read, op)
    }

    // domctl

    fn domctl(
        &self,
        name: &'static str,
        d: DomId,
        cmd: u32,
        fill: impl FnOnce(&mut xc::xen_domctl),
    ) -> Result<()> {
        let mut op = xc::xen_domctl {
            cmd,
            interface_version: xc::XEN_DOMCTL_INTERFACE_VERSION,
            domain: d.0,
            ..Default::default()
        };
        fill(&mut op);
        self.any(name, xc::__HYPERVISOR_domctl, op, |at| [at, 0, 0, 0, 0]).map(drop)
    }

    /// One of [`DOMAIN_CALLS`].
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn domain_call(&self, call: &DomainCall, d: DomId) -> Result<()> {
        self.domctl(call.name, d, call.command, call.arguments)
    }

    /// Gives a domain the right to a page of I/O memory (`XEN_DOMCTL_iomem_permission`).
    ///
    /// # Errors
    /// Xen's refusal: `EPERM` whether FLASK's or its own.
    pub fn iomem_permission(&self, d: DomId, mfn: Mfn) -> Result<()> {
        self.domctl("iomem_permission", d, xc::XEN_DOMCTL_iomem_permission, |op| {
            op.u.iomem_permission =
                xc::xen_domctl_iomem_permission { first_mfn: mfn.0, nr_mfns: 1, allow_access: 1 };
        })
    }

    /// Gives a domain the right to an I/O port (`XEN_DOMCTL_ioport_permission`).
    ///
    /// # Errors
    /// Xen's refusal: `EPERM` whether FLASK's or its own.
    pub fn ioport_permission(&self, d: DomId, port: u32) -> Result<()> {
        self.domctl("ioport_permission", d, xc::XEN_DOMCTL_ioport_permission, |op| {
            op.u.ioport_permission =
                xc::xen_domctl_ioport_permission { first_port: port, nr_ports: 1, allow_access: 1 };
        })
    }

    /// Gives a domain the right to an interrupt of the caller's (`XEN_DOMCTL_irq_permission`).
    ///
    /// # Errors
    /// Xen's refusal: `EPERM` whether FLASK's or its own.
    pub fn irq_permission(&self, d: DomId, pirq: u32) -> Result<()> {
        self.domctl("irq_permission", d, xc::XEN_DOMCTL_irq_permission, |op| {
            op.u.irq_permission =
                xc::xen_domctl_irq_permission { pirq, allow_access: 1, ..Default::default() };
        })
    }

    /// Gives a domain a PCI function (`XEN_DOMCTL_assign_device`). Xen asks FLASK only if the domain has an IOMMU table.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn assign_device(&self, d: DomId, sbdf: u32) -> Result<()> {
        self.domctl("assign_device", d, xc::XEN_DOMCTL_assign_device, |op| {
            op.u.assign_device = device(sbdf);
        })
    }

    /// Takes a PCI function from a domain (`XEN_DOMCTL_deassign_device`). Xen asks FLASK only if the domain has an IOMMU
    /// table.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn deassign_device(&self, d: DomId, sbdf: u32) -> Result<()> {
        self.domctl("deassign_device", d, xc::XEN_DOMCTL_deassign_device, |op| {
            op.u.assign_device = device(sbdf);
        })
    }

    // Memory

    fn memory<T: Copy>(&self, name: &'static str, command: u32, op: T) -> Result<u32> {
        let command = u64::from(command);
        self.any(name, xc::__HYPERVISOR_memory_op, op, |at| [command, at, 0, 0, 0]).map(|(done, _)| done)
    }

    /// Gives a domain one page more (`XENMEM_increase_reservation`). Xen's refusal is not an error but the number 0 of pages.
    ///
    /// # Errors
    /// What Linux says.
    pub fn add_page(&self, d: DomId) -> Result<u32> {
        let extent_start = xc::__guest_handle_xen_pfn_t { p: self.data("increase_reservation", &[])? };
        let op = xc::xen_memory_reservation { extent_start, nr_extents: 1, domid: d.0, ..Default::default() };
        self.memory("increase_reservation", xc::XENMEM_increase_reservation, op)
    }

    /// Replaces a page of a domain, which it does not have, by another (`XENMEM_exchange`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn exchange_page(&self, d: DomId) -> Result<()> {
        let frames = self.data("exchange", &NO_FRAME.to_ne_bytes())?;
        let extent_start = xc::__guest_handle_xen_pfn_t { p: frames };
        let part =
            xc::xen_memory_reservation { extent_start, nr_extents: 1, domid: d.0, ..Default::default() };
        let op = xc::xen_memory_exchange { in_: part, out: part, nr_exchanged: 0 };
        self.memory("exchange", xc::XENMEM_exchange, op).map(drop)
    }

    /// Asks how much memory a domain may have (`XENMEM_maximum_reservation`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn memory_limit(&self, d: DomId) -> Result<()> {
        let op = xc::xen_memory_domain { domid: d.0 };
        self.memory("maximum_reservation", xc::XENMEM_maximum_reservation, op).map(drop)
    }

    /// Gives a domain an empty memory map (`XENMEM_set_memory_map`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn set_memory_map(&self, d: DomId) -> Result<()> {
        let op = xc::xen_foreign_memory_map { domid: d.0, ..Default::default() };
        self.memory("set_memory_map", xc::XENMEM_set_memory_map, op).map(drop)
    }

    /// Asks for the size of the machine's memory map (`XENMEM_machine_memory_map`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn machine_memory_map(&self) -> Result<()> {
        self.memory("machine_memory_map", xc::XENMEM_machine_memory_map, xc::xen_memory_map::default())
            .map(drop)
    }

    /// Puts a domain's frame into a page table entry of the caller's that does not exist
    /// (`HYPERVISOR_update_va_mapping_otherdomain`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn update_va_mapping(&self, d: DomId, mfn: Mfn) -> Result<()> {
        // Present, writable, user.
        let entry = mfn.0.wrapping_shl(12) | 7;
        let domid = u64::from(d.0);
        let number = xc::__HYPERVISOR_update_va_mapping_otherdomain;
        // The first page is in no address space.
        self.any("update_va_mapping", number, 0_u64, |_| [0, entry, 0, domid, 0]).map(drop)
    }

    /// Changes Xen's table from machine frames to those of a domain (`MMU_MACHPHYS_UPDATE`), for a frame that does not exist.
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn update_machphys(&self, d: DomId) -> Result<()> {
        let op = xc::mmu_update { ptr: NO_FRAME << 12 | u64::from(xc::MMU_MACHPHYS_UPDATE), val: 0 };
        let domid = u64::from(d.0);
        self.any("mmu_update machphys", xc::__HYPERVISOR_mmu_update, op, |at| [at, 1, 0, domid, 0]).map(drop)
    }

    // Grants

    fn grant<T: Copy>(
        &self,
        name: &'static str,
        command: u32,
        op: T,
        status: impl Fn(&T) -> i16,
    ) -> Result<()> {
        let command = u64::from(command);
        let (_, op) = self.any(name, xc::__HYPERVISOR_grant_table_op, op, |at| [command, at, 1, 0, 0])?;
        let errno = match i32::from(status(&op)) {
            0 => return Ok(()),
            xc::GNTST_permission_denied => libc::EPERM,
            _ => libc::EINVAL,
        };
        Err(Error::new(Kind::Privcmd, name, None, io::Error::from_raw_os_error(errno)))
    }

    /// Maps a page of a domain by a grant (`GNTTABOP_map_grant_ref`).
    ///
    /// # Errors
    /// `EPERM` for `GNTST_permission_denied`, `EINVAL` for any other status.
    pub fn map_grant(&self, d: DomId, gref: GrantRef) -> Result<()> {
        // At an address that has no page: without the right grant it is not looked at.
        let op = xc::gnttab_map_grant_ref {
            flags: xc::GNTMAP_host_map,
            ref_: gref.0,
            dom: d.0,
            status: i16::MIN,
            ..Default::default()
        };
        self.grant("map_grant_ref", xc::GNTTABOP_map_grant_ref, op, |op| op.status)
    }

    /// Copies from a page of a domain by a grant (`GNTTABOP_copy`). FLASK's subject is the domain that is read.
    ///
    /// # Errors
    /// As [`Probe::map_grant`].
    pub fn copy_from_grant(&self, d: DomId, gref: GrantRef) -> Result<()> {
        self.copy(granted(d, gref), OWN_FRAME, xc::GNTCOPY_source_gref)
    }

    /// Copies to a page of a domain by a grant (`GNTTABOP_copy`).
    ///
    /// # Errors
    /// As [`Probe::map_grant`].
    pub fn copy_to_grant(&self, d: DomId, gref: GrantRef) -> Result<()> {
        self.copy(OWN_FRAME, granted(d, gref), xc::GNTCOPY_dest_gref)
    }

    fn copy(&self, source: Copied, dest: Copied, flags: u32) -> Result<()> {
        let flags = u16::try_from(flags).unwrap_or_default();
        let op = xc::gnttab_copy { source, dest, len: 8, flags, status: i16::MIN };
        self.grant("copy", xc::GNTTABOP_copy, op, |op| op.status)
    }

    /// Sets up a domain's grant table, of no pages (`GNTTABOP_setup_table`).
    ///
    /// # Errors
    /// As [`Probe::map_grant`].
    pub fn setup_grant_table(&self, d: DomId) -> Result<()> {
        let op = xc::gnttab_setup_table { dom: d.0, status: i16::MIN, ..Default::default() };
        self.grant("setup_table", xc::GNTTABOP_setup_table, op, |op| op.status)
    }

    // Events

    /// Closes all ports of a domain (`EVTCHNOP_reset`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn reset_events(&self, d: DomId) -> Result<()> {
        let command = u64::from(xc::EVTCHNOP_reset);
        let op = xc::evtchn_reset { dom: d.0 };
        self.any("evtchn reset", xc::__HYPERVISOR_event_channel_op, op, |at| [command, at, 0, 0, 0]).map(drop)
    }
}

/// One end of a copy.
type Copied = xc::gnttab_copy_gnttab_copy_ptr;

/// A frame of the caller's, which it does not have.
const OWN_FRAME: Copied = Copied {
    u: xc::gnttab_copy_gnttab_copy_ptr__bindgen_ty_1 { gmfn: NO_FRAME },
    domid: DomId::SELF.0,
    offset: 0,
};

fn granted(d: DomId, gref: GrantRef) -> Copied {
    Copied { u: xc::gnttab_copy_gnttab_copy_ptr__bindgen_ty_1 { ref_: gref.0 }, domid: d.0, offset: 0 }
}

fn device(sbdf: u32) -> xc::xen_domctl_assign_device {
    let mut op = xc::xen_domctl_assign_device { dev: xc::XEN_DOMCTL_DEV_PCI, ..Default::default() };
    op.u.pci = xc::xen_domctl_assign_device__bindgen_ty_1__bindgen_ty_1 { machine_sbdf: sbdf };
    op
}

#[cfg(test)]
mod tests {
    use super::super::{hypercall::Privcmd, libxc::Libxc};
    use super::*;

    #[test]
    fn calls_reach_the_device_and_keep_its_answer() {
        let control = Control { privcmd: Privcmd::dummy(), xc: Libxc::dummy() };
        let probe = control.probe();
        for answer in [
            probe.set_permissive(),
            probe.debug_keys(),
            probe.acpi_sleep(),
            probe.map_pirq(DomId(1), 4),
            probe.map_grant(DomId(1), GrantRef(8)),
            probe.assign_device(DomId(1), 0),
            probe.add_page(DomId(1)).map(drop),
        ] {
            assert_eq!(answer.unwrap_err().errno(), Some(libc::ENOTTY));
        }
    }

    #[test]
    fn names_are_unique() {
        for call in &DOMAIN_CALLS {
            assert_eq!(
                DOMAIN_CALLS.iter().filter(|other| other.name == call.name).count(),
                1,
                "{}",
                call.name
            );
        }
    }
}
