//! The keys of xl.cfg(5) (Xen 4.17, and older ones that are still found in files): which are read, refused and ignored.

use super::syntax::{Setting, Value};
use crate::notes::Notes;
use crate::text::{closest, code};

/// The keys that are read.
const READ: &[&str] = &[
    "name",
    "type",
    "builder",
    "pvh",
    "uuid",
    "kernel",
    "ramdisk",
    "cmdline",
    "root",
    "extra",
    "memory",
    "maxmem",
    "vcpus",
    "maxvcpus",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "on_watchdog",
    "disk",
    "vif",
];

/// Keys, and why they are not read.
type Reasons = &'static [(&'static [&'static str], &'static str)];

/// Without these the guest would not do what it is meant to, or be less protected.
const REFUSED: Reasons = &[
    (
        &[
            "pci",
            "dtdev",
            "ioports",
            "iomem",
            "irqs",
            "gfx_passthru",
            "rdm",
            "rdm_mem_boundary",
            "passthrough",
            "e820_host",
        ],
        "devices of the host belong to its service VMs, guests get none",
    ),
    (&["usbctrl", "usbdev"], "guests get no USB devices of the host"),
    (
        &["bootloader", "bootloader_args"],
        "a guest without a `kernel` boots from its own disk, with a GRUB that runs inside the guest",
    ),
    (&["firmware"], "guests boot their `kernel`, or without one from their own disk"),
    (&["device_tree", "gic_version", "vuart", "tee"], "it is for Arm"),
    (
        &["pvshim", "pvshim_path", "pvshim_cmdline", "pvshim_extra"],
        "there is no shim for PV guests: boot the kernel as `pvh`",
    ),
    (&["seclabel", "init_seclabel"], "a guest's label is its tenant's, and is made from the manifest"),
    (&["driver_domain"], "service VMs are declared in the manifest"),
    (
        &["cpus", "pool"],
        "guests cannot be bound to CPUs: if they must be apart, give them hosts of their own",
    ),
    (&["cap"], "a guest's use of CPUs cannot be capped: give it fewer `vcpus`"),
    (&["vnuma"], "guests have no virtual NUMA"),
    (
        &[
            "cpuid",
            "mca_caps",
            "msr_relaxed",
            "vpmu",
            "vmtrace_buf_kb",
            "nestedhvm",
            "altp2m",
            "altp2mhvm",
            "tsc_mode",
        ],
        "guests see the CPU as Xen shows it by default",
    ),
    (&["localtime", "rtc_timeoffset"], "the clock of guests is UTC: set the time zone inside"),
    (
        &["max_grant_frames", "max_maptrack_frames", "max_grant_version", "max_event_channels"],
        "these limits are the same for all guests",
    ),
    (
        &["vtpm", "p9", "pvcalls", "channel", "vdispl", "vsnd", "vkb", "vif2"],
        "there is no backend for such a device",
    ),
];

/// These change how a guest looks, or nothing.
const IGNORED: Reasons = &[
    (
        &[
            "vfb",
            "vnc",
            "vnclisten",
            "vncdisplay",
            "vncunused",
            "vncpasswd",
            "vncviewer",
            "sdl",
            "display",
            "xauthority",
            "opengl",
            "keymap",
            "nographic",
            "serial",
        ],
        "a guest has a console of text, see `ennead console`; there are no screens and serial ports",
    ),
    (
        &[
            "device_model",
            "device_model_version",
            "device_model_override",
            "device_model_user",
            "device_model_args",
            "device_model_args_pv",
            "device_model_args_hvm",
            "device_model_stubdomain_override",
            "device_model_stubdomain_seclabel",
            "dm_restrict",
            "stubdomain_kernel",
            "stubdomain_cmdline",
            "stubdomain_ramdisk",
            "stubdomain_memory",
        ],
        "PV and PVH guests have no device model",
    ),
    (
        &[
            "boot",
            "bios",
            "bios_path_override",
            "firmware_override",
            "hdtype",
            "pae",
            "acpi_s3",
            "acpi_s4",
            "acpi_laptop_slate",
            "apic",
            "nx",
            "hpet",
            "acpi_firmware",
            "smbios_firmware",
            "ms_vm_genid",
            "vpt_align",
            "mmio_hole",
            "xen_platform_pci",
            "viridian",
            "videoram",
            "stdvga",
            "vga",
            "spice",
            "spicehost",
            "spiceport",
            "spicetls_port",
            "spicedisable_ticketing",
            "spicepasswd",
            "spiceagent_mouse",
            "spicevdagent",
            "spice_clipboard_sharing",
            "spiceusbredirection",
            "spice_image_compression",
            "spice_streaming_video",
            "soundhw",
            "vkb_device",
            "usb",
            "usbversion",
            "usbdevice",
            "vendor_device",
            "timer_mode",
        ],
        "it is for HVM guests",
    ),
    (&["hap", "oos", "shadow_memory", "acpi"], "PVH guests always have ACPI and hardware-assisted paging"),
    (
        &["cpu_weight", "cpus_soft", "period", "slice", "latency", "extratime"],
        "all guests have the same weight",
    ),
    (&["nomigrate", "xend_suspend_evtchn_compat"], "guests are not migrated"),
    (
        &["pci_permissive", "pci_msitranslate", "pci_seize", "pci_power_mgmt"],
        "guests have no devices of the host",
    ),
    (&["on_soft_reset"], "guests are not reset in place: a kexec counts as a crash"),
    (&["on_shutdown"], "xl does not read it either: the key is `on_poweroff`"),
];

fn reason(key: &str, reasons: Reasons) -> Option<&'static str> {
    reasons.iter().find(|(keys, _)| keys.contains(&key)).map(|(_, reason)| *reason)
}

/// Whether a value is what xl does anyway, or asks for none.
pub(super) fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Atom(at) => matches!(at.value.as_str(), "" | "0" | "none" | "disabled" | "default" | "all"),
        Value::List(values, _) => values.is_empty(),
    }
}

/// Reports a key that is not read, with the reason.
pub(super) fn check(setting: &Setting<'_>, notes: &mut Notes<'_>) {
    let (key, span) = (setting.key.value, setting.key.span);
    if READ.contains(&key) {
    } else if let Some(reason) = reason(key, REFUSED) {
        if !asks_for_nothing(&setting.value) {
            notes.error(span, format!("`{key}` is not supported"), format!("take it out: {reason}"));
        }
    } else if let Some(reason) = reason(key, IGNORED) {
        notes.warning(span, format!("`{key}` is ignored"), reason);
    } else {
        let all =
            || READ.iter().chain([REFUSED, IGNORED].into_iter().flatten().flat_map(|(keys, _)| keys.iter()));
        let near = if notes.is_full() { None } else { closest(key, all().copied()) };
        let help = near.map_or_else(
            || "take it out: xl does not know it either".to_owned(),
            |word| format!("did you mean `{word}`?"),
        );
        notes.warning(span, format!("Unknown key {} is ignored", code(key)), help);
    }
}
