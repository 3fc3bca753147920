//! The ACPI tables of a PVH domain (ACPI 5.0): its processors, and that there is no other hardware. Linux finds processors in no
//! other way.

/// The local APIC's address.
const LOCAL_APIC: u32 = 0xfee0_0000;
/// Offsets of the tables in their page.
const XSDT: usize = 0x40;
const FADT: usize = 0x80;
const DSDT: usize = 0x1c0;
const MADT: usize = 0x200;
/// Bytes of a table's header, of the FADT, of a processor in the MADT.
const HEADER: usize = 36;
const FADT_BYTES: usize = 268;
/// `IAPC_BOOT_ARCH`: no VGA, no CMOS clock (and neither legacy devices nor a keyboard controller).
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;
/// `Flags`: `WBINVD` works, C1 is there, no power or sleep button in fixed hardware, which there is none of.
const FLAGS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 20;

/// All tables, for the page at `base` (below 4 GiB). The root pointer is at its start.
pub(super) fn tables(base: u64, vcpus: u32) -> Vec<u8> {
    let at = |offset: usize| base + u64::try_from(offset).unwrap_or(0);
    let low = |address: u64| u32::try_from(address).unwrap_or(0);

    let mut root = b"RSD PTR \0ENNEAD\x02".to_vec();
    root.extend(0u32.to_le_bytes());
    seal(&mut root, 8, 20);
    root.extend(36u32.to_le_bytes());
    root.extend(at(XSDT).to_le_bytes());
    root.extend([0; 4]);
    seal(&mut root, 32, 36);

    let list: Vec<u8> = [at(FADT), at(MADT)].into_iter().flat_map(u64::to_le_bytes).collect();

    let mut fixed = vec![0; FADT_BYTES - HEADER];
    put(&mut fixed, 40, &low(at(DSDT)).to_le_bytes());
    put(&mut fixed, 109, &BOOT_ARCH.to_le_bytes());
    put(&mut fixed, 112, &FLAGS.to_le_bytes());
    put(&mut fixed, 140, &at(DSDT).to_le_bytes());

    let mut processors = Vec::new();
    processors.extend(LOCAL_APIC.to_le_bytes());
    processors.extend(0u32.to_le_bytes());
    for vcpu in 0..vcpus {
        // Xen gives local APICs even numbers.
        let number = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
        processors.extend([0, 8, number(vcpu), number(2 * vcpu), 1, 0, 0, 0]);
    }

    let mut page = root;
    for (offset, table) in [
        (XSDT, table(b"XSDT", 1, &list)),
        (FADT, table(b"FACP", 5, &fixed)),
        (DSDT, table(b"DSDT", 2, &[])),
        (MADT, table(b"APIC", 3, &processors)),
    ] {
        page.resize(offset, 0);
        page.extend(table);
    }
    page
}

/// A table with its header.
fn table(name: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut out = name.to_vec();
    out.extend(u32::try_from(HEADER + body.len()).unwrap_or(0).to_le_bytes());
    out.extend([revision, 0]);
    out.extend(b"ENNEADPVHGUEST");
    out.extend(1u32.to_le_bytes());
    out.extend(b"ENND");
    out.extend(1u32.to_le_bytes());
    out.extend(body);
    let len = out.len();
    seal(&mut out, 9, len);
    out
}

/// Puts a field of a table, by its offset from the table's start, into the table's body.
fn put(body: &mut [u8], offset: usize, field: &[u8]) {
    for (to, from) in body.iter_mut().skip(offset - HEADER).zip(field) {
        *to = *from;
    }
}

/// Sets the byte `at` so that the first `len` bytes add up to 0.
fn seal(bytes: &mut [u8], at: usize, len: usize) {
    let sum = bytes.iter().take(len).fold(0u8, |sum, b| sum.wrapping_add(*b));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = byte.wrapping_sub(sum);
    }
}
