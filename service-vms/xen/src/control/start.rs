//! The state in which a vCPU starts.

use super::{Control, domctl, invalid, privcmd};
use crate::error::Result;
use crate::{DomId, Mfn};
use xenctrl_sys as xc;

/// Where a 64-bit PV vCPU starts; see 'Initial register state' in xen/include/public/xen.h (start of day memory
/// layout).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuStart {
    /// The kernel's entry point (virtual address).
    pub rip: u64,
    /// The top of the boot stack (virtual address).
    pub rsp: u64,
    /// The start-info page (virtual address).
    pub rsi: u64,
    /// The top-level page table, pinned as such.
    pub cr3: Mfn,
}

/// The interrupt flag: PV kernels run with it set and mask events instead.
const RFLAGS_IF: u64 = 1 << 9;
/// The values of the debug registers after a reset (Intel SDM 3A, table 10-1).
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
const PAGE_SHIFT: u32 = 12;

impl VcpuStart {
    /// `None` if the page table's frame is beyond any address.
    fn context(&self) -> Option<xc::vcpu_guest_context_x86_64_t> {
        let mut context = xc::vcpu_guest_context_x86_64_t::default();
        let selector = |s: u32| u16::try_from(s).ok();
        let regs = &mut context.user_regs;
        regs.__bindgen_anon_14.rsi = self.rsi;
        regs.__bindgen_anon_16.rip = self.rip;
        regs.__bindgen_anon_17.rflags = RFLAGS_IF;
        regs.__bindgen_anon_18.rsp = self.rsp;
        regs.cs = selector(xc::FLAT_KERNEL_CS_X86_64)?;
        regs.ss = selector(xc::FLAT_KERNEL_SS_X86_64)?;
        let data = selector(xc::FLAT_KERNEL_DS_X86_64)?;
        (regs.ds, regs.es, regs.fs, regs.gs) = (data, data, data, data);
        context.flags = u64::from(xc::VGCF_in_kernel_X86_64 | xc::VGCF_online_X86_64);
        context.kernel_ss = u64::from(xc::FLAT_KERNEL_SS_X86_64);
        context.kernel_sp = self.rsp;
        let [_, _, _, cr3, ..] = &mut context.ctrlreg;
        *cr3 = self.cr3.0.checked_mul(1 << PAGE_SHIFT)?;
        let [.., dr6, dr7] = &mut context.debugreg;
        (*dr6, *dr7) = (DR6_RESET, DR7_RESET);
        Some(context)
    }
}

impl Control {
    /// Sets the state in which a vCPU starts and puts it online (`XEN_DOMCTL_setvcpucontext`). For vCPU 0 of a new
    /// domain; a PV kernel starts the others itself.
    ///
    /// # Errors
    /// What Xen says; `EINVAL` for a top-level page table that is not one.
    pub fn set_vcpu_context(&self, d: DomId, vcpu: u32, s: &VcpuStart) -> Result<()> {
        const OP: &str = "setvcpucontext";
        let x64 = s.context().ok_or_else(|| invalid(OP, Some(d)))?;
        // The union is as large as its 64-bit member.
        let context = xc::vcpu_guest_context_any_t { x64 };
        self.xc.set_vcpu(d, vcpu, context).map_err(domctl(OP, d))
    }

    /// Makes a page of the domain a top-level page table, checked by Xen with all it refers to
    /// (`MMUEXT_PIN_L4_TABLE`).
    ///
    /// # Errors
    /// `EINVAL` if the tables are not valid ones for the domain: Xen's console says why.
    pub fn pin_l4(&self, d: DomId, mfn: Mfn) -> Result<()> {
        self.xc.pin_l4(d, mfn).map_err(privcmd("mmuext_op pin_l4_table", d))
    }
}

const _: () = assert!(
    size_of::<xc::vcpu_guest_context_any_t>() == size_of::<xc::vcpu_guest_context_x86_64_t>(),
    "setting the 64-bit member must set the whole union"
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    const START: VcpuStart = VcpuStart {
        rip: 0xffff_ffff_8100_0000,
        rsp: 0xffff_ffff_8220_1000,
        rsi: 0xffff_ffff_8220_0000,
        cr3: Mfn(0x12_3456),
    };

    #[test]
    fn starts_in_the_kernel_online_on_its_tables() {
        let c = START.context().unwrap();
        assert_eq!(c.flags, 0x24, "VGCF_in_kernel | VGCF_online");
        assert_eq!(c.ctrlreg, [0, 0, 0, 0x1_2345_6000, 0, 0, 0, 0]);
        assert_eq!(c.debugreg, [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400]);
        assert_eq!((c.kernel_ss, c.kernel_sp), (0xe02b, START.rsp));
        assert_eq!((c.user_regs.cs, c.user_regs.ss), (0xe033, 0xe02b));
        assert_eq!((c.user_regs.ds, c.user_regs.es, c.user_regs.fs, c.user_regs.gs), (0, 0, 0, 0));
        assert_eq!((c.gdt_ents, c.ldt_ents, c.vm_assist), (0, 0, 0));
    }

    #[test]
    fn each_register_gets_its_own_value() {
        // struct cpu_user_regs in xen/include/public/arch-x86/xen-x86_64.h: r15..rdi are words 0 to 14, then
        // error_code and entry_vector, rip, cs, rflags, rsp.
        let c = START.context().unwrap();
        // SAFETY: the structure has no padding: `cpu_user_regs` names all of it, and all of it is integers.
        let words: [u64; 25] = unsafe { std::mem::transmute(c.user_regs) };
        assert_eq!(words[13], START.rsi);
        assert_eq!(words[16], START.rip);
        assert_eq!(words[17], 0xe033);
        assert_eq!(words[18], 0x200);
        assert_eq!(words[19], START.rsp);
        assert_eq!(words[20], 0xe02b);
        assert!(words.iter().enumerate().all(|(i, w)| matches!(i, 13 | 16..=20) || *w == 0), "{words:x?}");
        assert_eq!(offset_of!(xc::vcpu_guest_context_x86_64_t, flags), 512);
    }

    #[test]
    fn a_frame_beyond_any_address_is_refused() {
        assert!(VcpuStart { cr3: Mfn(1 << 52), ..START }.context().is_none());
    }
}
