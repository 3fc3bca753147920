//! What holds for every kernel file, however broken.

use std::sync::LazyLock;

use proptest::prelude::*;

use crate::synth::{self, linux, noise};
use crate::{ImageError, Kernel};
use ennead_xen::DomainKind;

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
        let plan = kernel.plan(DomainKind::Pv).unwrap();
        plan.segments.into_iter().zip(kernel.data().map(<[u8]>::to_vec)).collect::<Vec<_>>()
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
    for kind in [DomainKind::Pv, DomainKind::Pvh] {
        let Ok(plan) = kernel.plan(kind) else { continue };
        assert_eq!((plan.check(), plan.mode.kind()), (Ok(()), kind));
        assert_eq!(plan.segments.len(), kernel.data().count());
        for (segment, data) in plan.segments.iter().zip(kernel.data()) {
            assert_eq!(segment.file_bytes, data.len() as u64);
        }
    }
}

fn cases() -> u32 {
    std::env::var("ENNEAD_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
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
