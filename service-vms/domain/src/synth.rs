//! Kernels made for tests.

use std::io::Write;
use std::process::{Command, Stdio};

pub(crate) const BASE: u64 = 0xffff_ffff_8000_0000;

/// A kernel file to be.
#[derive(Debug, Clone)]
pub(crate) struct Elf {
    /// Physical address, size in memory, data.
    pub(crate) loads: Vec<(u64, u64, Vec<u8>)>,
    /// Note type and value.
    pub(crate) notes: Vec<(u32, Vec<u8>)>,
}

/// What Linux has, with two segments that share a page and a hypercall page.
pub(crate) fn linux() -> Elf {
    let number = |n: u64| n.to_le_bytes().to_vec();
    Elf {
        loads: vec![(0x20_0000, 9000, noise(5000, 1)), (0x20_2330, 0x5000, noise(3000, 2))],
        notes: vec![
            (6, b"linux\0".to_vec()),
            (5, b"xen-3.0\0".to_vec()),
            (3, number(BASE)),
            (15, number(1 << 39)),
            (1, number(BASE + 0x20_0010)),
            (2, number(BASE + 0x20_1000)),
            (10, b"!writable_page_tables|pae_pgdir_above_4gb\0".to_vec()),
            (17, vec![1, 0x88, 0, 0]),
            (8, b"generic\0".to_vec()),
            (4, number(0)),
            (18, number(0x20_0020)),
        ],
    }
}

/// Bytes that do not repeat soon.
pub(crate) fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut n = seed.wrapping_mul(2_654_435_761) | 1;
    let step = |_| {
        n ^= n << 13;
        n ^= n >> 17;
        n ^= n << 5;
        n.to_le_bytes()[0]
    };
    (0..len).map(step).collect()
}

impl Elf {
    pub(crate) fn without(mut self, note: u32) -> Self {
        self.notes.retain(|(kind, _)| *kind != note);
        self
    }

    pub(crate) fn with(self, note: u32, value: &[u8]) -> Self {
        let mut new = self.without(note);
        new.notes.push((note, value.to_vec()));
        new
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (kind, value) in &self.notes {
            for n in [4, u32::try_from(value.len()).unwrap(), *kind] {
                notes.extend(n.to_le_bytes());
            }
            notes.extend(b"Xen\0");
            notes.extend(value);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let mut parts: Vec<(u32, u64, u64, &[u8])> =
            self.loads.iter().map(|(paddr, memsz, data)| (1, *paddr, *memsz, &data[..])).collect();
        parts.push((4, 0, notes.len() as u64, &notes));

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        for n in [2u16, 62] {
            file.extend(n.to_le_bytes());
        }
        file.extend(1u32.to_le_bytes());
        for n in [0u64, 64, 0] {
            file.extend(n.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for n in [64u16, 56, parts.len() as u16, 0, 0, 0] {
            file.extend(n.to_le_bytes());
        }
        let mut at = 64 + 56 * parts.len() as u64;
        for (kind, paddr, memsz, data) in &parts {
            file.extend(kind.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            for n in [at, 0, *paddr, data.len() as u64, *memsz, 4] {
                file.extend(n.to_le_bytes());
            }
            at += data.len() as u64;
        }
        for (.., data) in parts {
            file.extend(data);
        }
        file
    }
}

/// Wraps a payload as Linux does: setup sectors, payload at some offset, what else is in the file.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 3 * 512];
    file[0x1f1] = 2;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&100u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend([0x90; 100]);
    file.extend(payload);
    file.extend([0xcc; 77]);
    file
}

/// Linux's lz4 payload, as `lz4 -l` makes it, with the size at the end.
pub(crate) fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    out.extend((data.len() as u32).to_le_bytes());
    out
}

/// What a packing program makes of it, with the size at the end as Linux has it.
pub(crate) fn packed(program: &str, args: &[&str], data: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}, which this test needs: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = data.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let mut out = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    if program != "gzip" {
        out.extend((data.len() as u32).to_le_bytes());
    }
    out
}
