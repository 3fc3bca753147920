//! PVH domains built on the fake, read as their kernel would.

use crate::fake::Fake;
use crate::synth::linux;
use crate::tests::{CONSOLE, Case, STORE, case};
use ennead_xen::{DomainKind, GrantRef, HvmParam, MemoryKind, MemoryRegion, Mfn, Port};

use super::{Layout, SPECIAL, acpi};

fn pvh() -> Case {
    Case { kind: DomainKind::Pvh, ..case() }
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn a_domain_finds_all_it_needs() {
    let case = pvh();
    let (fake, built) = case.good();
    let start = fake.state.borrow().pvh.unwrap();
    assert_eq!(start.entry, 0x20_0020);
    let new = fake.state.borrow().created.unwrap();
    assert_eq!((new.kind, new.vcpus), (DomainKind::Pvh, 2));

    // Kernel, with all else in its pages zero.
    let mut kernel = vec![0; 0x8000];
    for (paddr, _, data) in &linux().loads {
        let at = usize::try_from(paddr - 0x20_0000).unwrap();
        kernel[at..at + data.len()].copy_from_slice(data);
    }
    assert!(fake.physical(0x20_0000, 0x8000) == kernel);

    // Start info, field by field at the offsets of `struct hvm_start_info`.
    let info = fake.physical(start.start_info.into(), 56);
    assert_eq!((half(&info, 0), half(&info, 4), half(&info, 8), half(&info, 12)), (0x336e_c578, 1, 0, 1));
    let module = fake.physical(word(&info, 16), 32);
    let cmdline = fake.physical(word(&info, 24), 24);
    assert_eq!(cmdline, b"quiet ennead.health=0:9\0");
    let mut ramdisk = Vec::new();
    for part in &case.ramdisk {
        ramdisk.extend(part);
        ramdisk.resize(ramdisk.len().next_multiple_of(4), 0);
    }
    assert_eq!((word(&module, 8), word(&module, 16), word(&module, 24)), (ramdisk.len() as u64, 0, 0));
    assert!(fake.physical(word(&module, 0), ramdisk.len()) == ramdisk);
    assert_eq!(word(&module, 0) % 4096, 0);

    // The same memory map in the start info as from Xen.
    let map: Vec<_> = fake.state.borrow().map.iter().map(|r| (r.start, r.size, r.kind)).collect();
    let (ram, acpi, reserved) = (MemoryKind::Ram, MemoryKind::Acpi, MemoryKind::Reserved);
    assert_eq!(map, [(0, 33 << 20, ram), (0xfeff_c000, 4096, acpi), (0xfeff_d000, 3 * 4096, reserved)]);
    assert_eq!((half(&info, 48), half(&info, 52)), (3, 0));
    let table = fake.physical(word(&info, 40), 3 * 24);
    for (entry, (start, size, kind)) in table.chunks(24).zip(map) {
        assert_eq!((word(entry, 0), word(entry, 8)), (start, size));
        assert_eq!((half(entry, 16), half(entry, 20)), (kind.number(), 0));
    }

    // Rings, their grants and parameters.
    assert_eq!(built.store, Some((Mfn(0xf_efff), Port(1))));
    assert_eq!(built.console, Some((Mfn(0xf_effe), Port(2))));
    let s = fake.state.borrow();
    assert_eq!(s.grants, [(GrantRef(0), CONSOLE, Mfn(0xf_effe)), (GrantRef(1), STORE, Mfn(0xf_efff))]);
    assert_eq!(s.params[&HvmParam::StorePfn], 0xf_efff);
    assert_eq!(s.params[&HvmParam::StorePort], 1);
    assert_eq!(s.params[&HvmParam::ConsolePfn], 0xf_effe);
    assert_eq!(s.params[&HvmParam::ConsolePort], 2);
    let directory = s.params[&HvmParam::IdentityTable];
    drop(s);
    assert_eq!(fake.physical(0xfeff_e000, 8192), [0; 8192], "rings");
    for (index, entry) in fake.physical(directory, 4096).chunks(4).enumerate() {
        assert_eq!(half(entry, 0), (index as u32) << 22 | 0xe7);
    }

    // What it takes: its memory and the special pages; 2 MiB for two vCPUs and a page for each MiB.
    let s = fake.state.borrow();
    assert_eq!((s.max_kib, s.pool_kib), (33 * 1024 + 16, 2 * 1024 + 33 * 4));
    assert_eq!((built.pages, built.used_kib), (33 * 256, s.max_kib + s.pool_kib));
    assert_eq!(s.pages.len(), 33 * 256 + 4);
    assert!(s.most_mapped <= 256, "maps in bounded pieces");
}

#[test]
fn a_domain_without_peers_and_ramdisk_has_neither() {
    let case = Case { xenstore: None, console: None, ramdisk: vec![], cmdline: String::new(), ..pvh() };
    let (fake, built) = Case { extra: Ok(""), ..case }.good();
    let s = fake.state.borrow();
    assert!(s.ports.is_empty() && s.grants.is_empty());
    assert_eq!(s.params.keys().collect::<Vec<_>>(), [&HvmParam::IdentityTable]);
    assert_eq!((built.store, built.console), (None, None));
    let info = s.pvh.unwrap().start_info;
    drop(s);
    let info = fake.physical(info.into(), 56);
    assert_eq!((half(&info, 12), word(&info, 16)), (0, 0), "no module");
    assert_eq!(fake.physical(word(&info, 24), 1), [0]);
}

#[test]
fn scattered_memory_does_as_well() {
    for superpages in [0, 3] {
        let fake = Fake { superpages: Some(superpages), ..Fake::default() };
        pvh().build(&fake).unwrap();
        assert_eq!(fake.state.borrow().pages.len(), 33 * 256 + 4);
    }
    let fake = Fake { memory: Some(20 * 256), ..Fake::default() };
    assert!(pvh().build(&fake).is_err());
    assert!(fake.state.borrow().destroyed);
}

#[test]
fn memory_goes_around_the_hole() {
    let layout = |mib| Layout::new(512..600, 5000, mib).unwrap();
    let map = |mib| layout(mib).memory_map();
    let below = map(3840);
    assert_eq!((below.len(), below[0].size), (3, 0xf000_0000));
    let above = map(3841);
    assert_eq!(above.len(), 4);
    assert_eq!(above[0].size, 0xf000_0000);
    assert_eq!(above[3], MemoryRegion { start: 1 << 32, size: 1 << 20, kind: MemoryKind::Ram });
    for mib in [64, 3840, 3841, 1 << 20] {
        let layout = layout(mib);
        let pages: u64 = layout.populated().iter().map(|r| r.end - r.start).sum();
        assert_eq!(pages, mib * 256 + (SPECIAL.end - SPECIAL.start));
        let told: u64 = layout.memory_map().iter().map(|r| r.size).sum();
        assert_eq!(told, pages * 4096);
    }
}

#[test]
fn acpi_tables_name_each_vcpu_and_add_up() {
    for vcpus in [1, 3, 128] {
        let base = SPECIAL.start * 4096;
        let page = acpi::tables(base, vcpus);
        assert!(page.len() <= 4096);
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        assert_eq!(&page[..8], b"RSD PTR ");
        assert_eq!((sum(&page[..20]), sum(&page[..36]), page[15]), (0, 0, 2));
        let at = |address: u64| usize::try_from(address - base).unwrap();
        let table = |address: u64| {
            let start = at(address);
            let len = half(&page, start + 4) as usize;
            let table = &page[start..start + len];
            assert_eq!(sum(table), 0, "{:?}", std::str::from_utf8(&table[..4]));
            table
        };
        let xsdt = table(word(&page, 24));
        assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 16));
        let fadt = table(word(xsdt, 36));
        assert_eq!((&fadt[..4], fadt.len(), fadt[8]), (&b"FACP"[..], 268, 5));
        assert_eq!(half(fadt, 112) >> 20 & 1, 1, "reduced hardware");
        assert_eq!(u64::from(half(fadt, 40)), word(fadt, 140));
        let dsdt = table(word(fadt, 140));
        assert_eq!((&dsdt[..4], dsdt.len()), (&b"DSDT"[..], 36));
        let madt = table(word(xsdt, 44));
        assert_eq!((&madt[..4], half(madt, 36)), (&b"APIC"[..], 0xfee0_0000));
        let processors: Vec<_> = madt[44..].chunks(8).map(<[u8]>::to_vec).collect();
        let expected = (0..vcpus).map(|n| vec![0, 8, n as u8, 2 * n as u8, 1, 0, 0, 0]);
        assert_eq!(processors, expected.collect::<Vec<_>>());
    }
}
