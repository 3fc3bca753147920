//! The attempts.

use ennead_xen::probe::{DOMAIN_CALLS, Probe};
use ennead_xen::{Control, CreateDomain, DomId, Error, GrantRef, Mfn, ShutdownReason, Sid, VcpuStart, Virq};

use crate::matrix::{Denied, Matrix};
use Denied::{Avc, ByXen, Quietly};

/// Another VM: its name and domid.
#[derive(Debug, Clone)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Its domid.
    pub domid: DomId,
}

/// A domid that no VM of the manifest has.
const UNUSED: DomId = DomId(77);
/// A GSI that no device of the test machine uses: the second serial port's.
const GSI: i32 = 3;
/// An I/O port of the hardware domain: the second IDE controller's.
const PORT: u32 = 0x170;
/// The first reference that a service VM gives out.
const GREF: GrantRef = GrantRef(8);
/// The host bridge, which nobody lends.
const HOST_BRIDGE: u32 = 0;

/// The label `unlabeled_t`, which may do nothing: an initial SID, whose number everybody knows.
const UNLABELED: Sid = Sid(6);

/// What no service VM may do to Xen.
pub fn on_xen(matrix: &mut Matrix, probe: &Probe<'_>) {
    let mut note = |op, permission, result| matrix.note(op, "xen", Avc(permission), result);
    note("setenforce", "setenforce", probe.set_permissive());
    note("load_policy", "load_policy", probe.load_policy());
    note("setbool", "setbool", probe.set_bool());
    note("add_ocontext", "add_ocontext", probe.add_ocontext());
    note("setavc_threshold", "setsecparam", probe.set_avc_threshold());
    note("access", "compute_av", probe.compute_access());
    note("debug_keys", "debug", probe.debug_keys());
    note("livepatch_op", "livepatch_op", probe.livepatch());
    note("page_offline_op", "plug", probe.page_online());
    note("tbuf_op", "tbufcontrol", probe.trace_buffers());
    note("availheap", "heap", probe.available_heap());
    note("cpupool_op", "cpupool_op", probe.cpu_pool());
    note("microcode_update", "microcode", probe.microcode());
    note("resource_op", "resource_op", probe.read_msrs());
    note("get_symbol", "get_symbol", probe.xen_symbol());
    note("read_memtype", "mtrr_read", probe.memory_type());
    note("kexec_get_range", "kexec", probe.kexec());
}

/// What no service VM may do to itself.
pub fn on_self(matrix: &mut Matrix, control: &Control, me: DomId) {
    let probe = control.probe();
    let mut note = |op, permission, result| matrix.note(op, "self", Avc(permission), result);
    note("max_mem", "setdomainmaxmem", control.set_max_mem_kib(me, 1 << 20));
    note("set_cpu_policy", "set_cpu_policy", domain_call(&probe, "set_cpu_policy", me));
    note("setdebugging", "setdebugging", domain_call(&probe, "setdebugging", me));
    note("set_memory_map", "memorymap", probe.set_memory_map(me));
    note("relabel", "relabelself", probe.relabel_self(UNLABELED));
}

fn domain_call(probe: &Probe<'_>, name: &str, d: DomId) -> Result<(), Error> {
    DOMAIN_CALLS.iter().find(|call| call.name == name).map_or(Ok(()), |call| probe.domain_call(call, d))
}

/// What a VM is to the one that makes the attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may not even be seen.
    Stranger,
    /// It is listed, and could be let go on: it stood still while it was sealed.
    Sealed,
    /// It can be started, stopped and destroyed; only its memory and its inside are its own.
    Built,
}

/// What no service VM may do to another that runs, but for what follows from its standing.
pub fn on_other(matrix: &mut Matrix, control: &Control, other: &Other, frames: &[Mfn], standing: Standing) {
    let probe = control.probe();
    let d = other.domid;
    for call in &DOMAIN_CALLS {
        if standing == Standing::Stranger || call.permission != "getdomaininfo" {
            matrix.note(call.name, &other.name, Avc(call.permission), probe.domain_call(call, d));
        }
    }
    let mut note = |op, permission, result| matrix.note(op, &other.name, Avc(permission), result);
    if standing != Standing::Built {
        note("pausedomain", "pause", control.pause(d));
    }
    if standing == Standing::Stranger {
        note("unpausedomain", "unpause", control.unpause(d));
    }
    if standing != Standing::Built {
        note("alloc_unbound", "create", control.alloc_unbound_for(d, DomId::SELF).map(drop));
    }
    note("max_mem", "setdomainmaxmem", control.set_max_mem_kib(d, 1 << 20));
    note("setvcpucontext", "setvcpucontext", control.set_vcpu_context(d, 0, &START));
    note("set_virq_handler", "set_virq_handler", control.set_virq_handler(Virq::DomExc, d));
    note("evtchn_reset", "reset", probe.reset_events(d));
    note("exchange", "exchange", probe.exchange_page(d));
    note("maximum_reservation", "stat", probe.memory_limit(d));
    note("set_memory_map", "memorymap", probe.set_memory_map(d));
    note("machphys", "updatemp", probe.update_machphys(d));
    note("acquire_resource", "resource_map", control.grant_entries(d).map(drop));
    note("grant_copy_from", "copy", probe.copy_from_grant(d, GREF));
    note("grant_copy_to", "copy", probe.copy_to_grant(d, GREF));
    note("grant_setup", "setup", probe.setup_grant_table(d));
    note("map_pirq", "add", probe.map_pirq(d, GSI));
    note("unmap_pirq", "remove", probe.unmap_pirq(d));
    for &mfn in frames {
        note("map_frame", "map_read", control.map(d, &[mfn]).map(drop));
        note("update_va", "map_read", probe.update_va_mapping(d, mfn));
        note("pin_l4", "mmuext_op", control.pin_l4(d, mfn));
        note("hypercall_init", "hypercall", control.hypercall_page(d, mfn));
    }
    let added = probe.add_page(d).map(|pages| pages > 0);
    matrix.note_done("increase_reservation", &other.name, Avc("adjust"), added);
    // Last: they would end the host.
    let down = control.remote_shutdown(d, ShutdownReason::Crash);
    matrix.note("remote_shutdown", &other.name, Avc("shutdown"), down);
    if standing != Standing::Built {
        matrix.note("destroydomain", &other.name, Avc("destroy"), control.destroy_domain(d));
    }
}

/// A vCPU's state that would end the other VM at once.
const START: VcpuStart = VcpuStart { rip: 0, rsp: 0, rsi: 0, cr3: Mfn(0) };

/// Creates a domain, which nobody may with these labels. One that was created stays for all to see.
fn create(control: &Control, domid: DomId, sid: Sid) -> Result<(), Error> {
    control.create_domain(&CreateDomain::new(domid, sid))
}

/// What Builder may not.
///
/// # Errors
/// When it may not ask for labels, which it may.
pub fn builder(
    matrix: &mut Matrix,
    control: &Control,
    me: DomId,
    pciback: &Other,
    built: &[Other],
    labels: &Labels,
) -> Result<(), Error> {
    let probe = control.probe();
    on_xen(matrix, &probe);
    on_self(matrix, control, me);
    // Builder reads the console, but must not empty it.
    matrix.note("readconsole", "xen", Avc("clearconsole"), probe.read_console_ring(true));
    matrix.note("enter_acpi_sleep", "xen", Avc("sleep"), probe.acpi_sleep());
    matrix.note("settime64", "xen", Avc("settime"), probe.set_time());
    matrix.note("firmware_info", "xen", Avc("firmware"), probe.firmware_info());
    matrix.note("machine_memory_map", "xen", Avc("memorymap"), probe.machine_memory_map());
    interrupt_setup(matrix, &probe);
    hardware_setup(matrix, &probe);
    for (name, label) in &labels.forbidden {
        let sid = control.sid_of(label)?;
        matrix.note("createdomain", name, Avc("create"), create(control, UNUSED, sid));
    }
    // With the hardware domain's number Xen would make it the hardware domain.
    let (name, label) = &labels.hardware_domain;
    let sid = control.sid_of(label)?;
    matrix.note("createdomain_hwdom", name, Avc("create"), create(control, pciback.domid, sid));
    for (op, label) in &labels.of_pciback {
        let sid = control.sid_of(label)?;
        matrix.note(op, &pciback.name, Avc("relabelfrom"), control.relabel(pciback.domid, sid));
    }
    // Its shared-info page is a VM's own memory, and Xen tells Builder where it is.
    let frames = |vm: &Other| -> Result<Vec<Mfn>, Error> {
        Ok(control.domain(vm.domid)?.iter().map(|info| info.shared_info).collect())
    };
    on_other(matrix, control, pciback, &frames(pciback)?, Standing::Sealed);
    for vm in built {
        on_other(matrix, control, vm, &frames(vm)?, Standing::Built);
    }
    let name = pciback.name.as_str();
    let d = pciback.domid;
    matrix.note("assign_device", name, Avc("add"), probe.assign_device(d, HOST_BRIDGE));
    matrix.note("deassign_device", name, Avc("remove"), probe.deassign_device(d, HOST_BRIDGE));
    // What Builder has no right to itself it cannot give: Xen looks at that first.
    for (target, d) in [(name, d), ("self", me)] {
        matrix.note("iomem_permission", target, ByXen, probe.iomem_permission(d, IO_APIC));
        matrix.note("ioport_permission", target, ByXen, probe.ioport_permission(d, PORT));
        matrix.note("irq_permission", target, ByXen, probe.irq_permission(d, GSI.unsigned_abs()));
    }
    Ok(())
}

/// A frame of I/O memory: an IO-APIC.
const IO_APIC: Mfn = Mfn(0xfec00);

/// Labels that Builder tries.
#[derive(Debug, Clone)]
pub struct Labels {
    /// With which it may not create: name, context.
    pub forbidden: Vec<(String, String)>,
    /// pciback's while it is built.
    pub hardware_domain: (String, String),
    /// Which it may not give to pciback once that is sealed: operation, context.
    pub of_pciback: Vec<(&'static str, String)>,
}

/// Hardware for whoever has none, or no longer.
fn hardware_setup(matrix: &mut Matrix, probe: &Probe<'_>) {
    let mut note = |op, permission, result| matrix.note(op, "xen", Avc(permission), result);
    note("apic_read", "readapic", probe.read_apic());
    note("pci_device_add", "plug", probe.plug_device());
    note("pci_mmcfg_reserved", "setup", probe.mmcfg());
}

/// An interrupt's route: a sealed pciback sets it when a device has been reset.
fn interrupt_setup(matrix: &mut Matrix, probe: &Probe<'_>) {
    matrix.note("setup_gsi", "xen", Avc("setup"), probe.setup_gsi(GSI));
}

/// Labels that have a number in a policy of this size; a number without a label is the unlabeled one.
const SIDS: std::ops::RangeInclusive<u32> = 1..=40;

/// What pciback may not; when it is sealed, also what only its start needed.
pub fn pciback(matrix: &mut Matrix, control: &Control, me: DomId, others: &[Other], sealed: bool) {
    let probe = control.probe();
    on_xen(matrix, &probe);
    on_self(matrix, control, me);
    matrix.note(
        "set_virq_handler",
        "self",
        Avc("set_virq_handler"),
        control.set_virq_handler(Virq::DomExc, me),
    );
    matrix.note("sid_of", "xen", Avc("check_context"), control.sid_of("system_u:system_r:builder_t"));
    matrix.note("physinfo", "xen", Avc("physinfo"), probe.host_info());
    matrix.note("readconsole", "xen", Quietly, probe.read_console_ring(false));
    matrix.note("console_read", "xen", Quietly, control.console_read(&mut [0; 16]));
    matrix.note("settime64", "xen", Quietly, probe.set_time());
    if sealed {
        hardware_setup(matrix, &probe);
        matrix.note("firmware_info", "xen", Avc("firmware"), probe.firmware_info());
        matrix.note("machine_memory_map", "xen", Avc("memorymap"), probe.machine_memory_map());
        matrix.note("exchange", "self", Avc("exchange"), probe.exchange_page(DomId::SELF));
    }
    create_any(matrix, control);
    for other in others {
        stranger(matrix, control, other);
        let (name, d) = (other.name.as_str(), other.domid);
        matrix.note("grant_map", name, Avc("map_read"), probe.map_grant(d, GREF));
        // It holds these rights, and so it is FLASK who says no (Xen passes that on as EPERM).
        matrix.note("iomem_permission", name, Avc("add"), probe.iomem_permission(d, Mfn(0xfeb00)));
        matrix.note("ioport_permission", name, Avc("add"), probe.ioport_permission(d, PORT));
        matrix.note("irq_permission", name, Avc("add"), probe.irq_permission(d, GSI.unsigned_abs()));
    }
}

/// What neither half of XenStore may. `mapped` are the VMs whose grants it may map.
pub fn xenstore(matrix: &mut Matrix, control: &Control, me: DomId, others: &[Other], mapped: &[&str]) {
    let probe = control.probe();
    on_xen(matrix, &probe);
    on_self(matrix, control, me);
    let own = control.set_virq_handler(Virq::DomExc, me);
    matrix.note("set_virq_handler", "self", Avc("set_virq_handler"), own);
    matrix.note("exchange", "self", Avc("exchange"), probe.exchange_page(DomId::SELF));
    matrix.note("sid_of", "xen", Avc("check_context"), control.sid_of("system_u:system_r:builder_t"));
    matrix.note("physinfo", "xen", Avc("physinfo"), probe.host_info());
    matrix.note("readconsole", "xen", Avc("readconsole"), probe.read_console_ring(false));
    matrix.note("enter_acpi_sleep", "xen", Avc("sleep"), probe.acpi_sleep());
    matrix.note("settime64", "xen", Avc("settime"), probe.set_time());
    matrix.note("firmware_info", "xen", Avc("firmware"), probe.firmware_info());
    matrix.note("machine_memory_map", "xen", Avc("memorymap"), probe.machine_memory_map());
    interrupt_setup(matrix, &probe);
    hardware_setup(matrix, &probe);
    create_any(matrix, control);
    for other in others {
        stranger(matrix, control, other);
        let (name, d) = (other.name.as_str(), other.domid);
        if !mapped.contains(&name) {
            matrix.note("grant_map", name, Avc("map_read"), probe.map_grant(d, GREF));
        }
        matrix.note("iomem_permission", name, ByXen, probe.iomem_permission(d, IO_APIC));
        matrix.note("ioport_permission", name, ByXen, probe.ioport_permission(d, PORT));
        matrix.note("irq_permission", name, ByXen, probe.irq_permission(d, GSI.unsigned_abs()));
    }
}

/// What a driver VM may not: to Xen, to others, to guests whose grants it may map but nothing else, and with controllers that are
/// not its own.
pub fn driver(
    matrix: &mut Matrix,
    control: &Control,
    me: DomId,
    others: &[Other],
    guests: &[DomId],
    functions: &[u32],
) {
    let probe = control.probe();
    on_xen(matrix, &probe);
    on_self(matrix, control, me);
    matrix.note("sid_of", "xen", Avc("check_context"), control.sid_of("system_u:system_r:builder_t"));
    matrix.note("physinfo", "xen", Avc("physinfo"), probe.host_info());
    matrix.note("readconsole", "xen", Avc("readconsole"), probe.read_console_ring(false));
    matrix.note("enter_acpi_sleep", "xen", Avc("sleep"), probe.acpi_sleep());
    matrix.note("machine_memory_map", "xen", Avc("memorymap"), probe.machine_memory_map());
    hardware_setup(matrix, &probe);
    create_any(matrix, control);
    for other in others {
        stranger(matrix, control, other);
        let (name, d) = (other.name.as_str(), other.domid);
        matrix.note("grant_map", name, Avc("map_read"), probe.map_grant(d, GREF));
        matrix.note("iomem_permission", name, ByXen, probe.iomem_permission(d, IO_APIC));
        matrix.note("ioport_permission", name, ByXen, probe.ioport_permission(d, PORT));
        matrix.note("irq_permission", name, ByXen, probe.irq_permission(d, GSI.unsigned_abs()));
    }
    for &d in guests {
        let name = format!("guest-{d}");
        for mfn in [Mfn(0x1_0000), Mfn(0x3_0000)] {
            matrix.note("map_frame", &name, Avc("map_read"), control.map(d, &[mfn]).map(drop));
            matrix.note("update_va", &name, Avc("map_read"), probe.update_va_mapping(d, mfn));
        }
        matrix.note("setup_grant_table", &name, Avc("setup"), probe.setup_grant_table(d));
        matrix.note("pausedomain", &name, Avc("pause"), control.pause(d));
        matrix.note("destroydomain", &name, Avc("destroy"), control.destroy_domain(d));
    }
    // Xen refuses at once what would go to oneself, or to a VM without an IOMMU.
    for other in others.iter().filter(|other| other.name == "blkback") {
        for &sbdf in functions {
            let name = format!("function-{sbdf:#x}-to-{}", other.name);
            matrix.note("assign_device", &name, Avc("add"), probe.assign_device(other.domid, sbdf));
            matrix.note("deassign_device", &name, Avc("remove"), probe.deassign_device(other.domid, sbdf));
        }
    }
}

/// Who may not ask which label has which number tries them all.
fn create_any(matrix: &mut Matrix, control: &Control) {
    for sid in SIDS.map(Sid) {
        let label = format!("sid-{sid}");
        matrix.note("createdomain", &label, Avc("create"), create(control, UNUSED, sid));
    }
}

/// What a VM may not do to one that is nothing to it.
fn stranger(matrix: &mut Matrix, control: &Control, other: &Other) {
    let visible = control.domains().map(|all| all.iter().any(|info| info.domid == other.domid));
    matrix.note_done("getdomaininfolist", &other.name, Avc("getdomaininfo"), visible);
    matrix.note("relabel", &other.name, Avc("relabelfrom"), control.relabel(other.domid, UNLABELED));
    // Any frame will do: Xen asks FLASK before it looks whose it is.
    on_other(matrix, control, other, &[Mfn(0x1_0000), Mfn(0x3_0000)], Standing::Stranger);
}
