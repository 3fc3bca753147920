//! Calls about Xen itself: FLASK, sysctl, platform_op, kexec.

use super::{NOTHING, Probe};
use crate::error::Result;
use crate::{DomId, Sid};
use xenctrl_sys as xc;

impl Probe<'_> {
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
}
