//! Kernels for tests.

/// An ELF file that is a PV and PVH kernel, with one segment of so many bytes.
pub(crate) fn elf(len: usize) -> Vec<u8> {
    let mut notes = Vec::new();
    let base = 0xffff_ffff_8000_0000_u64;
    for (kind, value) in [
        (5_u32, b"xen-3.0\0".to_vec()),
        (8, b"generic\0".to_vec()),
        (3, base.to_le_bytes().to_vec()),
        (1, (base + 0x20_0010).to_le_bytes().to_vec()),
        (18, 0x20_0020_u64.to_le_bytes().to_vec()),
    ] {
        for n in [4, u32::try_from(value.len()).unwrap(), kind] {
            notes.extend(n.to_le_bytes());
        }
        notes.extend(b"Xen\0");
        notes.extend(value);
    }
    let segment: Vec<u8> = (0..=250).cycle().take(len).collect();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2_u16, 62].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    file.extend([0_u64, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 2, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    let number = |n: usize| u64::try_from(n).unwrap();
    let at = 64 + 2 * 56;
    for (kind, offset, bytes) in [(4_u32, at, &notes), (1, at + notes.len(), &segment)] {
        file.extend([kind, 7].iter().flat_map(|n| n.to_le_bytes()));
        let address = 0x20_0000;
        let (size, offset) = (number(bytes.len()), number(offset));
        file.extend([offset, address, address, size, size + 4096, 4].iter().flat_map(|n| n.to_le_bytes()));
    }
    [file, notes, segment].concat()
}
