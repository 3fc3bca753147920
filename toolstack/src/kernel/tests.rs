use std::io::Write as _;

use ennead_domain::Mode;
use proptest::prelude::*;

use super::*;

const BASE: u64 = 0xffff_ffff_8000_0000;

fn noise(len: usize) -> Vec<u8> {
    let mut n = 0x9e37_79b9_u32;
    let step = |_| {
        n ^= n << 13;
        n ^= n >> 17;
        n ^= n << 5;
        n.to_le_bytes()[0]
    };
    (0..len).map(step).collect()
}

/// An ELF file with these segments (address, bytes in memory, data), the last first in the file, and Linux's notes.
pub(crate) fn elf(loads: &[(u64, u64, &[u8])]) -> Vec<u8> {
    let mut notes = Vec::new();
    for (kind, value) in [
        (5_u32, b"xen-3.0\0".to_vec()),
        (8, b"generic\0".to_vec()),
        (3, BASE.to_le_bytes().to_vec()),
        (1, (BASE + 0x20_0010).to_le_bytes().to_vec()),
        (18, 0x20_0020_u64.to_le_bytes().to_vec()),
    ] {
        for n in [4, u32::try_from(value.len()).unwrap(), kind] {
            notes.extend(n.to_le_bytes());
        }
        notes.extend(b"Xen\0");
        notes.extend(value);
    }
    let mut parts: Vec<(u32, u64, u64, &[u8])> = vec![(4, 0, 0, &notes)];
    parts.extend(loads.iter().map(|(paddr, memory, data)| (1, *paddr, *memory, *data)));
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2_u16, 62].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    file.extend([0_u64, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    let count = u16::try_from(parts.len()).unwrap();
    file.extend([64, 56, count, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    let mut at = 64 + 56 * parts.len() + parts.iter().map(|(.., data)| data.len()).sum::<usize>();
    let mut data = Vec::new();
    for (kind, paddr, memory, bytes) in &parts {
        at -= bytes.len();
        file.extend([*kind, 7].iter().flat_map(|n| n.to_le_bytes()));
        let len = u64::try_from(bytes.len()).unwrap();
        file.extend([number_of(at), *paddr, *paddr, len, *memory, 4].iter().flat_map(|n| n.to_le_bytes()));
        data.insert(0, *bytes);
    }
    file.extend(data.concat());
    file
}

fn lz4(image: &[u8]) -> Vec<u8> {
    let mut packed = LZ4.to_vec();
    for block in image.chunks(BLOCK) {
        let block = lz4_flex::block::compress(block);
        packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        packed.extend(block);
    }
    packed
}

fn gzip(image: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(image).unwrap();
    encoder.finish().unwrap()
}

fn bzimage(payload: &[u8], size: usize) -> Vec<u8> {
    let payload = [payload, &u32::try_from(size).unwrap().to_le_bytes()].concat();
    let mut file = vec![0; 0x600];
    put(&mut file, 0x1f1, &[1]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x20f_u16.to_le_bytes());
    put(&mut file, 0x248, &0x200_u32.to_le_bytes());
    put(&mut file, 0x24c, &u32::try_from(payload.len()).unwrap().to_le_bytes());
    file.extend(payload);
    file
}

/// The segments as a builder would have them.
fn loaded(kernel: &Kernel, file: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = vec![Vec::new(); kernel.plan.segments.len()];
    let mut parts = kernel.parts(file, 4000).unwrap();
    for n in 0.. {
        if n % 3 == 0 {
            parts.unpack_ahead().unwrap();
        }
        let Some((part, bytes)) = parts.next_part().unwrap() else { break };
        let Part::Kernel { segment, offset } = part else { panic!("no ramdisk") };
        assert!((1..=4000).contains(&bytes.len()));
        let segment = &mut segments[usize::from(segment)];
        assert_eq!(number_of(segment.len()), offset);
        segment.extend_from_slice(bytes);
    }
    segments
}

#[test]
fn every_packing_gives_what_the_whole_file_gives() {
    // Across two blocks of lz4, in another order than by address.
    let (one, two) = (noise(BLOCK - 100), noise(70_000));
    let image = elf(&[(0x120_0000, 80_000, &two), (0x20_0000, 9_000_000, &one)]);
    let whole = ennead_domain::Kernel::parse(&image, usize::MAX).unwrap();
    let files = [
        image.clone(),
        lz4(&image),
        bzimage(&image, image.len()),
        bzimage(&lz4(&image), image.len()),
        bzimage(&gzip(&image), image.len()),
    ];
    for (n, file) in files.iter().enumerate() {
        for kind in [DomainKind::Pv, DomainKind::Pvh] {
            let kernel = Kernel::analyse(file, kind).unwrap();
            assert_eq!(kernel.plan, whole.plan(kind).unwrap(), "file {n}");
            assert_eq!(kernel.plan.mode.kind(), kind);
        }
        let kernel = Kernel::analyse(file, DomainKind::Pvh).unwrap();
        assert_eq!(kernel.plan.mode, Mode::Pvh { entry: 0x20_0020 });
        assert!(loaded(&kernel, file).iter().eq(whole.data()), "file {n}");
    }
}

/// As GRUB's file for PVH guests: 32 bits, and the second segment begins in the page where the first ends.
fn elf32() -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2_u16, 3].iter().flat_map(|n| n.to_le_bytes()));
    file.extend([1_u32, 0x10_0000, 52, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    file.extend([52_u16, 32, 3, 40, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    let (first, second) = (noise(0x900), noise(0x1234));
    let note: Vec<u8> =
        [4_u32, 4, 18].iter().flat_map(|n| n.to_le_bytes()).chain(*b"Xen\0\0\0\x10\0").collect();
    let mut offset = 52 + 3 * 32;
    for (kind, address, data, memory) in
        [(1_u32, 0x10_0000_u32, &first, 0x1858_u32), (1, 0x10_1858, &second, 0x1234), (4, 0, &note, 0)]
    {
        let length = u32::try_from(data.len()).unwrap();
        file.extend(
            [kind, offset, address, address, length, memory, 7, 4].iter().flat_map(|n| n.to_le_bytes()),
        );
        offset += length;
    }
    [file, first, second, note].concat()
}

#[test]
fn a_kernel_of_32_bits_is_one_for_pvh() {
    let file = elf32();
    for file in [file.clone(), lz4(&file), gzip(&file)] {
        let kernel = Kernel::analyse(&file, DomainKind::Pvh).unwrap();
        assert_eq!(kernel.plan.mode, Mode::Pvh { entry: 0x10_0000 });
        let segments: Vec<_> =
            kernel.plan.segments.iter().map(|s| (s.paddr, s.file_bytes, s.memory_bytes)).collect();
        assert_eq!(segments, [(0x10_0000, 0x900, 0x1858), (0x10_1858, 0x1234, 0x1234)]);
        assert_eq!(loaded(&kernel, &file), [noise(0x900), noise(0x1234)]);
    }
    let error = Kernel::analyse(&file, DomainKind::Pv).unwrap_err().to_string();
    assert_eq!(error, "A kernel of 32 bits runs only as `pvh`");
    for (at, byte, reason) in
        [(18, 62, "machine 62"), (42, 56, "56 bytes for each program header"), (5, 2, "byte order")]
    {
        let mut file = file.clone();
        put(&mut file, at, &[byte]);
        let error = Kernel::analyse(&file, DomainKind::Pvh).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// By hand: `ENNEAD_TEST_LOADERS=folder cargo test -p ennead-toolstack --lib real_loaders -- --nocapture`.
#[test]
fn real_loaders_can_be_started() {
    let Some(folder) = std::env::var_os("ENNEAD_TEST_LOADERS") else { return };
    for (name, kind) in [("loader.pv", DomainKind::Pv), ("loader.pvh", DomainKind::Pvh)] {
        let file = std::fs::read(std::path::Path::new(&folder).join(name)).unwrap();
        let kernel = Kernel::analyse(&file, kind).unwrap();
        println!("{name}: {:x?}", kernel.plan);
        let bytes: u64 = kernel.plan.segments.iter().map(|s| s.file_bytes).sum();
        assert_eq!(
            loaded(&kernel, &file).iter().map(Vec::len).sum::<usize>(),
            usize::try_from(bytes).unwrap()
        );
    }
}

#[test]
fn what_cannot_be_read_in_parts_is_named() {
    for (payload, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstd")] {
        let error = Kernel::analyse(&bzimage(payload, 9), DomainKind::Pv).unwrap_err().to_string();
        assert!(error.contains(&format!("packed with {name},")) && error.contains("lz4 -l"), "{error}");
    }
    let error = |file: &[u8]| Kernel::analyse(file, DomainKind::Pv).unwrap_err().to_string();
    assert_eq!(error(b"#!/bin/sh"), "Kernel: neither an ELF file nor a bzImage");
    assert_eq!(error(b""), "Kernel: neither an ELF file nor a bzImage");
}

#[test]
fn a_segment_beyond_the_file_is_found_before_or_while_it_is_read() {
    let image = elf(&[(0x20_0000, 9000, &noise(5000))]);
    let kernel = Kernel::analyse(&image, DomainKind::Pvh).unwrap();
    let cut = &image[..image.len() - 1];
    let all = |file| {
        let mut parts = kernel.parts(file, 10_000).unwrap();
        loop {
            match parts.next_part() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            }
        }
    };
    // Which of them is the file's end depends on the order; here it is the notes'.
    assert!(all(cut).is_ok());
    assert!(Kernel::analyse(cut, DomainKind::Pvh).is_err());
    assert_eq!(all(&image[..300]).unwrap_err(), "The kernel's file is damaged: it ends too early");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_damage_is_an_error_or_another_kernel(
        at in 0..2000_usize,
        bytes in prop::collection::vec(any::<u8>(), 1..9),
        cut in 0..4000_usize,
        packing in 0..4,
    ) {
        let image = elf(&[(0x20_0000, 9000, &noise(3000))]);
        let mut file = match packing {
            0 => image,
            1 => lz4(&image),
            2 => bzimage(&lz4(&image), image.len()),
            _ => bzimage(&gzip(&image), image.len()),
        };
        put(&mut file, at, &bytes);
        file.truncate(cut.max(100));
        if let Ok(kernel) = Kernel::analyse(&file, DomainKind::Pvh) {
            prop_assert!(kernel.plan.check().is_ok());
            // A damaged size may ask for all of a gigabyte, of which a short file has nothing.
            let wanted: u64 = kernel.plan.segments.iter().map(|s| s.file_bytes).sum();
            if wanted < 1 << 20 {
                let mut parts = kernel.parts(&file, 4096).unwrap();
                while let Ok(Some(_)) = parts.next_part() {}
            }
        }
    }
}
