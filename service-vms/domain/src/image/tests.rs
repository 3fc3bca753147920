//! Kernel files, good and bad.

use super::*;
use crate::synth::{BASE, Elf, bzimage, linux, noise};

fn error(file: &[u8]) -> String {
    Kernel::parse(file, 1 << 20).and_then(|k| k.plan(DomainKind::Pv)).unwrap_err().to_string()
}

fn with(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = linux().bytes();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn a_kernel_is_what_its_notes_say() {
    let file = linux().bytes();
    let kernel = Kernel::parse(&file, 0).unwrap();
    let plan = kernel.plan(DomainKind::Pv).unwrap();
    let entry = PvEntry {
        entry: BASE + 0x20_0010,
        virt_base: BASE,
        hypercall_page: Some(BASE + 0x20_1000),
        init_p2m: Some(1 << 39),
    };
    assert_eq!(plan.mode, Mode::Pv(entry));
    assert_eq!(
        plan.segments,
        [
            Segment { paddr: 0x20_0000, file_bytes: 5000, memory_bytes: 9000 },
            Segment { paddr: 0x20_2330, file_bytes: 3000, memory_bytes: 0x5000 },
        ]
    );
    assert_eq!(kernel.data().nth(1).unwrap(), noise(3000, 2));
    let pvh = kernel.plan(DomainKind::Pvh).unwrap();
    assert_eq!(pvh, KernelPlan { mode: Mode::Pvh { entry: 0x20_0020 }, segments: plan.segments });
    // Addresses in the file are from elsewhere, and notes have 32 bits.
    let elf = linux().without(2).with(4, &0x20_0000u32.to_le_bytes()).with(1, &(BASE + 5).to_le_bytes());
    let file = elf.bytes();
    let kernel = Kernel::parse(&file, 0).unwrap();
    assert_eq!(kernel.plan(DomainKind::Pv).unwrap().segments[0].paddr, 0);
    assert_eq!(kernel.plan(DomainKind::Pvh).unwrap().segments[0].paddr, 0x20_0000);
}

#[test]
fn a_kernel_may_be_for_one_kind_of_domain_only() {
    let plan = |elf: Elf, kind| {
        let file = elf.bytes();
        let plan = Kernel::parse(&file, 0).unwrap().plan(kind);
        plan.map_or_else(|e| e.to_string(), |_| "good".to_owned())
    };
    let pvh = Elf { notes: vec![(18, 0x20_0020u32.to_le_bytes().to_vec())], ..linux() };
    assert_eq!(plan(pvh.clone(), DomainKind::Pvh), "good");
    assert_eq!(plan(pvh, DomainKind::Pv), "Kernel: no Xen note LOADER: not a kernel for Xen PV domains");
    assert_eq!(plan(linux().without(18), DomainKind::Pv), "good");
    assert_eq!(
        plan(linux().without(18), DomainKind::Pvh),
        "Kernel: no Xen note PHYS32_ENTRY: not a kernel for Xen PVH domains"
    );
    for (value, want) in [
        (&(1u64 << 32).to_le_bytes()[..], "is \"0x100000000\", must be below 4 GiB"),
        (&[1; 5], "is \"5 bytes long\", must be 4 or 8 bytes long"),
        (&7u32.to_le_bytes(), "entry point is 0x7, must be an address inside the kernel"),
    ] {
        let error = plan(linux().with(18, value), DomainKind::Pvh);
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn an_error_says_what_and_where() {
    let load = |loads| error(&Elf { loads, ..linux() }.bytes());
    let note = |n, value: &[u8]| error(&linux().with(n, value).bytes());
    let end = linux().bytes().len();
    for (got, want) in [
        (error(b"MZ"), "neither an ELF file nor a bzImage".to_owned()),
        (error(b"\x7fELF\x02\x01"), "ELF header at offset 0x0 reaches past the end (0x6 bytes)".to_owned()),
        (error(&with(4, &[1])), "ELF class at offset 0x4 is 0x1, must be 2 (64-bit)".to_owned()),
        (error(&with(18, &[183])), "ELF machine at offset 0x12 is 0xb7, must be 0x3e (x86-64)".to_owned()),
        (
            error(&with(32, &[0xff; 8])),
            format!(
                "program header table of 3 entries at offset {:#x} reaches past the end ({end:#x} bytes)",
                u64::MAX
            ),
        ),
        (
            error(&with(64 + 8, &[0, 0, 1])),
            format!("data of program header 0 at offset 0x10000 reaches past the end ({end:#x} bytes)"),
        ),
        (
            error(&with(64 + 56 + 40, &[0; 8])),
            "file size of program header 1 at offset 0x98 is 0xbb8, must be at most its memory size"
                .to_owned(),
        ),
        (
            load(vec![(0x20_0000, 1 << 40, vec![])]),
            "segment 0 (0x0 bytes of file and 0x10000000000 of memory at 0x200000): \
             must have memory, no less than file, and end within 1 GiB"
                .to_owned(),
        ),
        (
            load(vec![(0x2000, 0x10, vec![]), (0x1000, 0x1001, vec![])]),
            "segment 1 (0x0 bytes of file and 0x10 of memory at 0x2000) begins before the end of the one before it"
                .to_owned(),
        ),
        (load(vec![]), "no segment to load".to_owned()),
        (load(vec![(0x1000, 0, vec![])]), "no segment to load".to_owned()),
        (
            error(&linux().without(8).bytes()),
            "no Xen note LOADER: not a kernel for Xen PV domains".to_owned(),
        ),
        (error(&linux().without(1).bytes()), "no Xen note ENTRY: not a kernel for Xen PV domains".to_owned()),
        (
            error(&linux().without(3).bytes()),
            "no Xen note VIRT_BASE: not a kernel for Xen PV domains".to_owned(),
        ),
    ] {
        assert_eq!(got, format!("Kernel: {want}"));
    }
    for (n, value, want) in [
        (8, &b"grub\0"[..], "LOADER at offset 0x"),
        (5, b"xen-4.0\0", "XEN_VERSION at offset 0x"),
        (1, &BASE.to_le_bytes(), "entry point is 0xffffffff80000000, must be an address inside"),
        (1, &[1, 2, 3], "\"3 bytes long\", must be 4 or 8 bytes long"),
        (2, &(BASE + 0x20_0001).to_le_bytes(), "hypercall page is 0xffffffff80200001"),
        (2, &(BASE + 0x1000).to_le_bytes(), "must be a page inside the kernel"),
        (3, &(BASE + 1).to_le_bytes(), "virtual base is 0xffffffff80000001"),
        (15, &(BASE + 0x1000).to_le_bytes(), "list of frames is 0xffffffff80001000"),
        (
            4,
            &0x20_0001u32.to_le_bytes(),
            "address of program header 0 at offset 0x58 is 0x200000, must be no",
        ),
        (10, b"pae|!auto_translated_physmap\0", "is \"auto_translated_physmap\", must be without"),
    ] {
        let got = note(n, value);
        assert!(got.contains(want), "{got}");
    }
}

#[test]
fn a_bzimage_says_what_and_where() {
    let kernel = linux().bytes();
    let bz = |offset: usize, bytes: &[u8]| {
        let mut file = bzimage(&kernel);
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        error(&file)
    };
    assert_eq!(
        bz(0x206, &[7, 2]),
        "Kernel: bzImage boot protocol at offset 0x206 is 0x207, must be 0x208 or newer"
    );
    assert!(
        bz(0x24c, &[0xff; 4]).contains("payload of 0xffffffff bytes at offset 0x664 reaches past the end")
    );
    assert!(bz(0x248, &[0xff; 4]).contains("at offset 0x1000005ff reaches past the end"));
    for (magic, name) in
        [(&b"BZh9"[..], "bzip2"), (b"\x5d\0\0", "lzma"), (b"\x89LZO", "lzo"), (b"abcd", "61 62 63 64")]
    {
        let got = bz(1636, magic);
        assert!(got.contains("offset 0x664") && got.contains(name), "{got}");
    }
}
