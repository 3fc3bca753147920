//! How much memory reading a kernel file takes at most. The only test here, as the count is for the whole program.

use ennead_domain::Kernel;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A bzImage whose payload is what it is and says that it holds 4 GiB.
fn file(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 512 * 5];
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file.extend(payload);
    file.extend([0xff; 4]);
    let len = u32::try_from(payload.len() + 4).unwrap();
    file[0x24c..0x250].copy_from_slice(&len.to_le_bytes());
    file
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    };
    (!bytes.iter().fold(!0, step)).to_le_bytes()
}

#[test]
fn no_file_takes_more_than_four_times_the_limit() {
    const LIMIT: usize = 16 << 20;

    // lz4: one byte, repeated 255 times for each byte of the block.
    let mut block = vec![0x1f, 0, 1, 0];
    block.extend(vec![0xff; 1 << 20]);
    block.push(0);
    let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
    lz4.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    lz4.extend(block);

    // zstd: windows of 1 KiB up to 3.75 TiB; then a repeated byte, 128 KiB a block.
    let zstd = |window: u8| {
        let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
        for _ in 0..1000 {
            out.extend([0x02, 0x00, 0x10, b'x']);
        }
        out
    };

    // xz: dictionaries of 4 KiB up to 4 GiB; then uncompressed chunks.
    let xz = |dictionary: u8| {
        let mut out = vec![0xfd, b'7', b'z', b'X', b'Z', 0, 0, 1];
        out.extend(crc32(&[0, 1]));
        let header = [2, 0, 0x21, 1, dictionary, 0, 0, 0];
        out.extend(header);
        out.extend(crc32(&header));
        for n in 0..1000 {
            out.extend([if n == 0 { 1 } else { 2 }, 0xff, 0xff]);
            out.extend([b'x'; 1 << 16]);
        }
        out
    };

    let mut files = vec![("lz4".to_owned(), file(&lz4))];
    files.extend((0..=255).step_by(5).map(|w| (format!("zstd {w:#x}"), file(&zstd(w)))));
    files.extend((0..=42).step_by(3).map(|d| (format!("xz {d}"), file(&xz(d)))));
    for (name, file) in files {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let error = Kernel::parse(&file, LIMIT).unwrap_err();
        let peak = MEMORY.peak_usage() - before;
        println!("{name}: {} KiB, {error:?}", peak >> 10);
        // The output itself, and for zstd a window that doubles, copied.
        let most = if name.starts_with("zstd") { 4 } else { 2 } * LIMIT + (1 << 20);
        assert!(peak <= most, "{name}: {} KiB, {error:?}", peak >> 10);
    }
}
