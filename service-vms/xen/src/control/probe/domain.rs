//! Calls about another domain's life, and about hardware: domctl, physdev_op.

use super::Probe;
use crate::error::Result;
use crate::{DomId, Mfn};
use xenctrl_sys as xc;

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

impl Probe<'_> {
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
}

fn device(sbdf: u32) -> xc::xen_domctl_assign_device {
    let mut op = xc::xen_domctl_assign_device { dev: xc::XEN_DOMCTL_DEV_PCI, ..Default::default() };
    op.u.pci = xc::xen_domctl_assign_device__bindgen_ty_1__bindgen_ty_1 { machine_sbdf: sbdf };
    op
}
