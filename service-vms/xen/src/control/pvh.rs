//! PVH domains: the pool for their page tables, their memory map, parameters, and the state in which they start.

use super::{Control, domctl, invalid, privcmd};
use crate::error::Result;
use crate::{DomId, HvmParam, MemoryRegion, PvhStart};
use std::mem::offset_of;
use xenctrl_sys as xc;

impl Control {
    /// Sets the memory that Xen has for a PVH domain's nested page tables, in KiB
    /// (`XEN_DOMCTL_set_paging_mempool_size`). It is taken from the host besides the domain's own.
    ///
    /// # Errors
    /// `ENOMEM` if the host has too little; `EINVAL` if it is no number of pages; what else Xen says.
    pub fn set_paging_pool_kib(&self, d: DomId, kib: u64) -> Result<()> {
        const OP: &str = "set_paging_mempool_size";
        let bytes = kib.checked_mul(1024).ok_or_else(|| invalid(OP, Some(d)))?;
        self.xc.set_paging_mempool_size(d, bytes).map_err(domctl(OP, d))
    }

    /// Sets what a PVH domain is told when it asks for its memory map (`XENMEM_set_memory_map`).
    ///
    /// # Errors
    /// `E2BIG` for more parts than Xen takes; what else Xen says.
    pub fn set_memory_map(&self, d: DomId, map: &[MemoryRegion]) -> Result<()> {
        let entry = |r: &MemoryRegion| xc::e820entry { addr: r.start, size: r.size, type_: r.kind.number() };
        let mut entries: Vec<_> = map.iter().map(entry).collect();
        self.xc.set_memory_map(d, &mut entries).map_err(privcmd("set_memory_map", d))
    }

    /// Sets a parameter of a PVH domain (`HVMOP_set_param`).
    ///
    /// # Errors
    /// `EEXIST` if it is set already and cannot be changed; what else Xen says.
    pub fn set_hvm_param(&self, d: DomId, param: HvmParam, value: u64) -> Result<()> {
        self.xc.hvm_param_set(d, param.number(), value).map_err(privcmd("hvm_op set_param", d))
    }

    /// Sets the state in which a PVH domain starts, with all its memory cached (write-back), and puts its first vCPU
    /// online (`XEN_DOMCTL_gethvmcontext`, `XEN_DOMCTL_sethvmcontext`). Its kernel starts the others itself.
    ///
    /// # Errors
    /// What Xen says; `EINVAL` if what it saves makes no sense.
    pub fn set_pvh_start(&self, d: DomId, start: &PvhStart) -> Result<()> {
        const OP: &str = "sethvmcontext";
        let saved = self.xc.hvm_context(d).map_err(domctl("gethvmcontext", d))?;
        let mut context = start.context(&saved).ok_or_else(|| invalid(OP, Some(d)))?;
        self.xc.set_hvm_context(d, &mut context).map_err(domctl(OP, d))
    }
}

/// `HVM_SAVE_CODE` of the records used here.
const END: u16 = 0;
const HEADER: u16 = 1;
const CPU: u16 = 2;
const MTRR: u16 = 14;

/// In the headers a record's number is the length of an array.
macro_rules! check_code {
    ($code:ident, $record:ident) => {
        const _: () =
            assert!(offset_of!(xc::$record, cpt) - offset_of!(xc::$record, c) == $code as usize, "number");
    };
}
check_code!(HEADER, __HVM_SAVE_TYPE_HEADER);
check_code!(CPU, __HVM_SAVE_TYPE_CPU);
check_code!(MTRR, __HVM_SAVE_TYPE_MTRR);

/// `CR0`: protected mode, and the bit that is always set.
const CR0: u64 = 0x11;
/// `RFLAGS`: the bit that is always set.
const RFLAGS: u64 = 0x2;
/// The values of the debug registers after a reset (Intel SDM 3A, table 10-1).
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
/// Segments as `struct segment_register` in Xen has their attributes: 32-bit code and data of 4 GiB, a busy 32-bit TSS.
const CODE: u32 = 0xc9b;
const DATA: u32 = 0xc93;
const TASK: u32 = 0x8b;
const TASK_LIMIT: u32 = 0x67;
/// `MTRRdefType`: enabled, write-back unless a range says otherwise (no range does).
const MTRR_WRITE_BACK: u64 = 0x806;

/// A record of a saved context (`struct hvm_save_descriptor` and what follows it).
struct Record<'a> {
    code: u16,
    instance: u16,
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first record, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (code, bytes) = bytes.split_first_chunk()?;
        let (instance, bytes) = bytes.split_first_chunk()?;
        let (length, bytes) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (body, rest) = bytes.split_at_checked(length)?;
        Some((Self { code: u16::from_le_bytes(*code), instance: u16::from_le_bytes(*instance), body }, rest))
    }

    fn put(&self, out: &mut Vec<u8>) -> Option<()> {
        out.extend(self.code.to_le_bytes());
        out.extend(self.instance.to_le_bytes());
        out.extend(u32::try_from(self.body.len()).ok()?.to_le_bytes());
        out.extend(self.body);
        Some(())
    }
}

impl PvhStart {
    /// The context to load: the header that Xen saved, each vCPU's MTRRs enabled, the first vCPU's registers.
    /// Whatever is not in it keeps its state.
    fn context(&self, mut saved: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let (header, rest) = Record::split(saved).filter(|(r, _)| r.code == HEADER)?;
        header.put(&mut out)?;
        saved = rest;
        loop {
            let (record, rest) = Record::split(saved)?;
            saved = rest;
            match record.code {
                END => break,
                MTRR => {
                    let mut body = record.body.to_vec();
                    let at = offset_of!(xc::hvm_hw_mtrr, msr_mtrr_def_type);
                    set(&mut body, at, &MTRR_WRITE_BACK.to_le_bytes())?;
                    Record { body: &body, ..record }.put(&mut out)?;
                }
                _ => {}
            }
        }
        Record { code: CPU, instance: 0, body: &self.registers()? }.put(&mut out)?;
        Record { code: END, instance: 0, body: &[] }.put(&mut out)?;
        Some(out)
    }

    /// `struct hvm_hw_cpu`.
    fn registers(&self) -> Option<Vec<u8>> {
        type Cpu = xc::hvm_hw_cpu;
        let mut cpu = vec![0; size_of::<Cpu>()];
        for (at, value) in [
            (offset_of!(Cpu, rbx), u64::from(self.start_info)),
            (offset_of!(Cpu, rip), u64::from(self.entry)),
            (offset_of!(Cpu, rflags), RFLAGS),
            (offset_of!(Cpu, cr0), CR0),
            (offset_of!(Cpu, dr6), DR6_RESET),
            (offset_of!(Cpu, dr7), DR7_RESET),
        ] {
            set(&mut cpu, at, &value.to_le_bytes())?;
        }
        for (at, value) in [
            (offset_of!(Cpu, cs_limit), u32::MAX),
            (offset_of!(Cpu, ds_limit), u32::MAX),
            (offset_of!(Cpu, es_limit), u32::MAX),
            (offset_of!(Cpu, ss_limit), u32::MAX),
            (offset_of!(Cpu, tr_limit), TASK_LIMIT),
            (offset_of!(Cpu, cs_arbytes), CODE),
            (offset_of!(Cpu, ds_arbytes), DATA),
            (offset_of!(Cpu, es_arbytes), DATA),
            (offset_of!(Cpu, ss_arbytes), DATA),
            (offset_of!(Cpu, tr_arbytes), TASK),
        ] {
            set(&mut cpu, at, &value.to_le_bytes())?;
        }
        Some(cpu)
    }
}

fn set(record: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    record.get_mut(at..)?.get_mut(..value.len())?.copy_from_slice(value);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::{hypercall::Privcmd, libxc::Libxc};
    use super::*;
    use crate::MemoryKind;

    const START: PvhStart = PvhStart { entry: 0x0123_4560, start_info: 0x789_a000 };

    fn saved(records: &[(u16, u16, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for &(code, instance, body) in records {
            Record { code, instance, body }.put(&mut out).unwrap();
        }
        out
    }

    #[test]
    fn a_context_holds_the_header_the_mtrrs_and_the_first_vcpu() {
        let header = [7; 24];
        let mtrr: Vec<u8> = (0..size_of::<xc::hvm_hw_mtrr>()).map(|n| n.to_le_bytes()[0]).collect();
        let from_xen = saved(&[
            (HEADER, 0, &header),
            (CPU, 0, &[1; 1024]),
            (5, 0, &[2; 16]),
            (MTRR, 0, &mtrr),
            (MTRR, 1, &mtrr),
            (END, 0, &[]),
        ]);
        let context = START.context(&from_xen).unwrap();
        let mut rest = context.as_slice();
        let mut next = || {
            let (record, after) = Record::split(rest).unwrap();
            rest = after;
            record
        };
        let first = next();
        assert_eq!((first.code, first.body), (HEADER, &header[..]));
        for vcpu in 0..2 {
            let record = next();
            assert_eq!((record.code, record.instance), (MTRR, vcpu));
            let (kept, default) = record.body.split_at(mtrr.len() - 8);
            assert_eq!(kept, &mtrr[..mtrr.len() - 8]);
            assert_eq!(default, [6, 8, 0, 0, 0, 0, 0, 0]);
        }
        let cpu = next();
        assert_eq!((cpu.code, cpu.instance, cpu.body), (CPU, 0, &START.registers().unwrap()[..]));
        let end = next();
        assert_eq!((end.code, end.body.len(), rest.len()), (END, 0, 0));
    }

    #[test]
    fn each_register_gets_its_own_value() {
        // struct hvm_hw_cpu: 512 bytes of FPU, 24 words from rax to cr4 by way of rip, 6 debug registers, 8 selectors,
        // 10 limits, 10 bases, 8 attributes.
        let cpu = START.registers().unwrap();
        let word = |at: usize| u64::from_le_bytes(cpu[512 + at * 8..][..8].try_into().unwrap());
        let words: Vec<(usize, u64)> = (0..28).map(|at| (at, word(at))).filter(|(_, w)| *w != 0).collect();
        assert_eq!(
            words,
            [(1, 0x789_a000), (16, 0x0123_4560), (17, 2), (18, 0x11), (26, 0xffff_0ff0), (27, 0x400),]
        );
        let half = |at: usize| u32::from_le_bytes(cpu[512 + 28 * 8 + at * 4..][..4].try_into().unwrap());
        let halves: Vec<u32> = (0..18 + 20 + 8).map(half).collect();
        assert_eq!(halves[..8], [0; 8], "selectors");
        assert_eq!(halves[8..18], [u32::MAX, u32::MAX, u32::MAX, 0, 0, u32::MAX, 0x67, 0, 0, 0]);
        assert_eq!(halves[18..38], [0; 20], "bases");
        assert_eq!(halves[38..], [0xc9b, 0xc93, 0xc93, 0, 0, 0xc93, 0x8b, 0]);
        let rest = 512 + 28 * 8 + halves.len() * 4;
        assert!(cpu[..512].iter().chain(&cpu[rest..]).all(|b| *b == 0));
    }

    #[test]
    fn a_context_that_makes_no_sense_is_refused() {
        let good =
            saved(&[(HEADER, 0, &[0; 24]), (MTRR, 0, &[0; size_of::<xc::hvm_hw_mtrr>()]), (END, 0, &[])]);
        assert!(START.context(&good).is_some());
        for len in 0..good.len() {
            assert!(START.context(&good[..len]).is_none(), "{len}");
        }
        assert!(START.context(&saved(&[(CPU, 0, &[0; 24]), (END, 0, &[])])).is_none(), "no header");
        assert!(START.context(&saved(&[(HEADER, 0, &[]), (MTRR, 0, &[0; 9]), (END, 0, &[])])).is_none());
    }

    #[test]
    fn impossible_requests_are_not_sent() {
        let control = Control { privcmd: Privcmd::dummy(), xc: Libxc::dummy() };
        assert_eq!(control.set_paging_pool_kib(DomId(1), u64::MAX).unwrap_err().errno(), Some(libc::EINVAL));
        assert_eq!((MemoryKind::Acpi.number(), HvmParam::ConsolePort.number()), (3, 18));
    }
}
