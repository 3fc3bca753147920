//! What holds for every layout, and for every file however broken.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use proptest::prelude::*;

use crate::fake::Fake;
use crate::synth::{self, BASE, Elf, linux, noise};
use crate::{ImageError, Kernel, Layout, LayoutError, Limits, MAX_INITIAL, P2m, PAGE, Spec, build};
use ennead_xen::{DomId, Mfn, Sid};

/// A kernel of `pages` pages from `start` on, with little in it.
fn sparse(start: u64, size: u64, base: u64, init_p2m: Option<u64>) -> Vec<u8> {
    let number = |n: u64| n.to_le_bytes();
    let elf = Elf { loads: vec![(start, size, vec![1])], ..linux().without(2) };
    let elf = elf.with(3, &number(base)).with(1, &number(base + start));
    init_p2m.map_or(elf.clone().without(15), |va| elf.with(15, &number(va))).bytes()
}

/// Frames in no order, as few superpages as asked for.
fn scattered(pages: u64, superpages: u64) -> P2m {
    let superpages = superpages.min(pages / 512);
    let rest = pages - superpages * 512;
    P2m {
        superpages: (0..superpages).map(|i| Mfn((i * 7919 % 8192 + 16) * 512)).collect(),
        pages: (0..rest).map(|i| Mfn((1 << 32) + i * 104_729 % (1 << 27))).collect(),
    }
}

fn tables(layout: &Layout, p2m: &P2m) -> HashMap<u64, Vec<u64>> {
    let all = layout.tables.iter().map(|t| (p2m.mfn(t.pfn).unwrap().0, layout.entries(t, p2m).unwrap()));
    let map: HashMap<_, _> = all.collect();
    assert_eq!(map.len(), layout.tables.len(), "two tables in one frame");
    map
}

fn walk(tables: &HashMap<u64, Vec<u64>>, root: u64, va: u64) -> Option<u64> {
    (0..4).rev().try_fold(root << 12, |at, level| {
        let entry = tables[&(at << 12 >> 24)][(va >> (12 + 9 * level)) as usize % 512];
        (entry & 1 == 1).then_some(entry)
    })
}

fn bases() -> impl Strategy<Value = (u64, Option<u64>)> {
    let base = prop_oneof![
        Just(BASE),
        Just(0xffff_8800_0000_0000),
        Just(1 << 40),
        (0u64..1 << 35).prop_map(|p| p * PAGE)
    ];
    let p2m = prop_oneof![
        Just(None),
        Just(Some(1 << 39)),
        (0u64..1 << 35).prop_map(|p| Some(p * PAGE)),
        (1u64..1 << 18).prop_map(|p| Some(BASE - p * PAGE)),
    ];
    (base, p2m).prop_map(|(base, p2m)| (base, p2m.filter(|p| *p < base)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_layout_holds_together(
        start in 0u64..64 << 20,
        size in 1u64..40 << 20,
        (base, init_p2m) in bases(),
        ramdisk in prop_oneof![Just(0), 1u64..80 << 20],
        memory in 1u64..400,
        (xenstore, console) in any::<(bool, bool)>(),
        superpages in 0u64..200,
    ) {
        let bytes = sparse(start, size, base, init_p2m);
        let kernel = Kernel::parse(&bytes, 0).unwrap();
        let layout = match Layout::new(&kernel, ramdisk, memory, xenstore, console) {
            Ok(layout) => layout,
            Err(LayoutError::TooSmall { needs, gives }) => {
                prop_assert!(needs > gives && gives == memory);
                prop_assert!(Layout::new(&kernel, ramdisk, needs, xenstore, console).is_ok());
                return Ok(());
            }
            // The list would reach into the region.
            Err(LayoutError::Address { va, pages }) => {
                prop_assert!(
                    Some(va) == init_p2m && va + pages * PAGE > base
                    || va < 1 << 47 && va + pages * PAGE > 1 << 47
                    || (1 << 47..0xffff_8800_0000_0000).contains(&va)
                );
                return Ok(());
            }
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        };

        // In order, without holes or overlaps, in the memory that there is.
        let one = |pfn: Option<u64>| pfn.map(|p| p..p + 1);
        let list = Some(layout.p2m.clone());
        let parts: Vec<_> = [
            Some(layout.kernel.clone()),
            Some(layout.ramdisk.clone()),
            list.clone().filter(|_| init_p2m.is_none()),
            one(Some(layout.start_info)),
            one(layout.xenstore),
            one(layout.console),
            Some(layout.page_tables.clone()),
            one(Some(layout.boot_stack)),
        ]
        .into_iter()
        .flatten()
        .collect();
        prop_assert!(parts.windows(2).all(|w| w[0].end == w[1].start), "{parts:?}");
        let region = layout.mappings[0].clone();
        prop_assert_eq!((region.va, region.pfns.start), (base, 0));
        prop_assert!(region.pfns.end >= layout.boot_stack + 1 + 128);
        prop_assert_eq!((base + region.pfns.end * PAGE) % (4 << 20), 0);
        prop_assert!(layout.p2m_tables.end.max(region.pfns.end) <= layout.pages);
        prop_assert_eq!(layout.pages, memory * 256);
        prop_assert_eq!(layout.kernel.clone(), start / PAGE..(start + size).div_ceil(PAGE));
        prop_assert_eq!(layout.ramdisk.end - layout.ramdisk.start, ramdisk.div_ceil(PAGE));
        prop_assert_eq!(layout.p2m.end - layout.p2m.start, memory.div_ceil(2));
        prop_assert_eq!(layout.p2m_va, init_p2m.unwrap_or(base + layout.p2m.start * PAGE));
        if init_p2m.is_some() {
            prop_assert_eq!(layout.p2m.start, region.pfns.end);
            prop_assert_eq!(layout.p2m_tables.start, layout.p2m.end);
        }
        prop_assert_eq!(layout.tables[0].pfn, layout.page_tables.start);
        for (pfn, t) in layout.page_tables.clone().chain(layout.p2m_tables.clone()).zip(&layout.tables) {
            prop_assert_eq!(pfn, t.pfn);
        }

        // Each virtual page shows its frame, page tables read-only, and nothing else is there.
        let p2m = scattered(layout.pages, superpages);
        let tables = tables(&layout, &p2m);
        let root = p2m.mfn(layout.page_tables.start).unwrap().0;
        let mut shown = 0;
        for m in &layout.mappings {
            for pfn in m.pfns.clone() {
                let va = m.va + (pfn - m.pfns.start) * PAGE;
                let mfn = p2m.mfn(pfn).unwrap().0;
                let flags = if tables.contains_key(&mfn) { 0x21 } else { 0x23 };
                prop_assert_eq!(walk(&tables, root, va), Some(mfn << 12 | flags), "at {:#x}", va);
                shown += 1;
            }
        }
        let lowest = layout.tables.iter().filter(|t| t.level == 1);
        let present = lowest.flat_map(|t| &tables[&p2m.mfn(t.pfn).unwrap().0]).filter(|e| **e != 0).count();
        prop_assert_eq!(present, shown);
        let above = layout.tables.iter().filter(|t| t.level > 1);
        let links = above.flat_map(|t| &tables[&p2m.mfn(t.pfn).unwrap().0]).filter(|e| **e != 0).count();
        prop_assert_eq!(links, layout.tables.len() - 1, "each table but the root has one entry");
        let vas: HashSet<u64> = layout.mappings.iter().map(|m| m.va).collect();
        prop_assert_eq!(vas.len(), layout.mappings.len());
    }

    #[test]
    fn strange_addresses_do_not_panic(
        start in any::<u64>(),
        size in any::<u64>(),
        base in any::<u64>(),
        p2m in any::<Option<u64>>(),
        ramdisk in any::<u64>(),
        memory in any::<u64>(),
        round in any::<[bool; 4]>(),
    ) {
        let page = |n: u64, round: bool| if round { n & !(PAGE - 1) } else { n };
        let (start, size) = if round[0] { (start % MAX_INITIAL, size % MAX_INITIAL) } else { (start, size) };
        let base = page(base, round[1]);
        let number = |n: u64| n.to_le_bytes();
        let elf = Elf { loads: vec![(start, size, vec![])], ..linux().without(2).without(15) };
        let elf = elf.with(3, &number(base)).with(1, &number(base.wrapping_add(start)));
        let elf = p2m.map_or(elf.clone(), |va| elf.with(15, &number(page(va, round[2]))));
        let bytes = elf.bytes();
        if let Ok(kernel) = Kernel::parse(&bytes, 0) {
            let memory = if round[3] { memory % 4096 } else { memory };
            let _ = Layout::new(&kernel, ramdisk % (2 * MAX_INITIAL), memory, true, true);
        }
    }
}

static FILES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let mut elf = linux();
    // Something that packs well and badly.
    elf.loads[1].2 = [vec![7; 20_000], noise(2000, 9)].concat();
    elf.loads[1].1 = 30_000;
    let elf = elf.bytes();
    let packed = |program, args: &[&str]| synth::bzimage(&synth::packed(program, args, &elf));
    vec![
        ("none", synth::bzimage(&elf)),
        ("lz4", synth::bzimage(&synth::lz4(&elf))),
        ("gzip", packed("gzip", &["-9", "-n"])),
        ("xz", packed("xz", &["--check=crc32", "--x86", "--lzma2=preset=6"])),
        ("xz without filter", packed("xz", &["--check=crc64"])),
        ("zstd", packed("zstd", &["-22", "--ultra", "-q"])),
        ("ELF", elf),
    ]
});

#[test]
fn every_packing_gives_the_same_kernel() {
    let segments = |file: &[u8]| {
        let kernel = Kernel::parse(file, 128 << 20).unwrap();
        kernel.segments().iter().map(|s| (s.paddr, s.memsz, kernel.data(s).to_vec())).collect::<Vec<_>>()
    };
    let plain = segments(&FILES.last().unwrap().1);
    assert_eq!(plain.len(), 2);
    for (name, file) in FILES.iter() {
        assert!(segments(file) == plain, "{name}");
    }
}

/// More than it says it holds, and more than four times the file.
#[test]
fn a_lying_size_is_found_out() {
    let elf = &FILES.last().unwrap().1;
    let mut elf = elf.clone();
    elf.resize(1 << 20, 0);
    for (program, args) in
        [("xz", &["--check=crc32"][..]), ("zstd", &["-q"]), ("gzip", &["-n"]), ("lz4", &["-l"])]
    {
        let mut payload =
            if program == "lz4" { synth::lz4(&elf) } else { synth::packed(program, args, &elf) };
        assert!(Kernel::parse(&synth::bzimage(&payload), 64 << 20).is_ok(), "{program}");
        let size = payload.len();
        payload[size - 4..].copy_from_slice(&900_000u32.to_le_bytes());
        let error = Kernel::parse(&synth::bzimage(&payload), 64 << 20).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit: 900_000, .. }), "{program}: {error:?}");
    }
}

#[test]
fn the_limit_holds_to_the_byte() {
    let size = FILES.last().unwrap().1.len();
    for (name, file) in FILES.iter().filter(|(name, _)| !["ELF", "none"].contains(name)) {
        // The windows of xz and zstd are larger than what is in the file; that limit strikes first.
        let windowed = name.starts_with("xz") || name.starts_with("zstd");
        assert_eq!(Kernel::parse(file, size).is_ok(), !windowed, "{name}");
        for limit in [0, 1, size / 2, size - 1] {
            let error = Kernel::parse(file, limit).unwrap_err();
            let good = match error {
                ImageError::Damaged { packing: "zstd" | "xz", .. } => windowed,
                ImageError::TooLarge { limit: told, .. } => !windowed && told == limit as u64,
                _ => false,
            };
            assert!(good, "{name}, {limit}: {error:?}");
        }
    }
}

/// A change to a file: overwrite, or cut off.
#[derive(Debug, Clone)]
enum Change {
    Byte(prop::sample::Index, u8),
    Bit(prop::sample::Index, u8),
    Number(usize, usize, u64),
    Payload(usize, u8),
    Cut(prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    use prop::sample::Index;
    let extreme = prop_oneof![
        Just(u64::MAX),
        Just(0),
        Just(1 << 63),
        Just(0x7fff_ffff),
        Just(0xffff_fff0),
        (0u32..64).prop_map(|n| 1 << n),
        any::<u64>()
    ];
    let change = prop_oneof![
        2 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Change::Byte(i, b)),
        2 => (any::<Index>(), 0u8..8).prop_map(|(i, b)| Change::Bit(i, b)),
        // Headers of an ELF file, of a bzImage, and where the payload begins.
        3 => (0usize..800, prop::sample::select(vec![1, 2, 4, 8]), extreme).prop_map(|(i, n, v)| Change::Number(i, n, v)),
        3 => (1636usize..1700, any::<u8>()).prop_map(|(i, b)| Change::Payload(i, b)),
        1 => any::<Index>().prop_map(Change::Cut),
    ];
    prop::collection::vec(change, 1..5)
}

fn apply(file: &mut Vec<u8>, change: &Change) {
    if file.is_empty() {
        return;
    }
    match change {
        Change::Byte(i, b) => *i.get_mut(file) = *b,
        Change::Bit(i, b) => *i.get_mut(file) ^= 1 << b,
        Change::Number(at, len, value) => {
            for (to, from) in file.iter_mut().skip(*at).zip(value.to_le_bytes()).take(*len) {
                *to = from;
            }
        }
        Change::Payload(at, b) => file.iter_mut().skip(*at).take(1).for_each(|to| *to = *b),
        Change::Cut(i) => file.truncate(i.index(file.len())),
    }
}

/// Takes a file as far as it goes. Debug builds check all arithmetic, and any panic fails the test.
fn try_it(file: &[u8]) {
    const LIMIT: usize = 1 << 20;
    let Ok(kernel) = Kernel::parse(file, LIMIT) else { return };
    for s in kernel.segments() {
        assert!(kernel.data(s).len() as u64 <= s.memsz);
        assert!(s.data.is_empty() || kernel.data(s).len() == s.data.len());
    }
    if Layout::new(&kernel, 4096, 16, true, true).is_err() {
        return;
    }
    let mut spec = Spec {
        domid: DomId(1),
        sid: Sid(1),
        memory_mib: 16,
        vcpus: 1,
        kernel: file,
        ramdisk: &[&[1, 2, 3]],
        cmdline: "",
        hardware_domain: false,
        iommu: false,
        xenstore: None,
        console: None,
        limits: Limits { kernel_bytes: LIMIT, ..Limits::default() },
        prepare: &mut |_| Ok(String::new()),
    };
    build(&Fake::default(), &mut spec).unwrap();
}

fn cases() -> u32 {
    std::env::var("ENNEAD_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn broken_files_do_not_panic(which in 0..7usize, changes in changes()) {
        let mut file = FILES[which].1.clone();
        for change in &changes {
            apply(&mut file, change);
        }
        try_it(&file);
    }

    #[test]
    fn nonsense_does_not_panic(magic in 0..7usize, rest in prop::collection::vec(any::<u8>(), 0..400)) {
        // Any bytes after each kind of payload's first ones.
        let file = &FILES[magic].1;
        let mut file = if magic == 6 { file[..20].to_vec() } else { file[..1636 + 8].to_vec() };
        file.extend(rest);
        if magic < 6 {
            let payload = u32::try_from(file.len() - 1636).unwrap();
            file[0x24c..0x250].copy_from_slice(&payload.to_le_bytes());
        }
        try_it(&file);
    }
}
