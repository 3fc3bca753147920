//! Kernel files: what they are, where their parts go, what their Xen notes say.
//!
//! Offsets in errors count from the start of the file; for a packed kernel those that name an ELF part count from
//! the start of the unpacked image.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::ops::Range;

use crate::{MAX_INITIAL, PAGE, unpack};

/// Why a kernel file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither ELF nor bzImage.
    #[error("Kernel: neither an ELF file nor a bzImage")]
    Unknown,
    /// A part lies outside the file.
    #[error("Kernel: {what} at offset {offset:#x} reaches past the end ({size:#x} bytes)")]
    PastEnd {
        /// The part.
        what: String,
        /// Where it begins.
        offset: u64,
        /// How long the image is.
        size: u64,
    },
    /// A field has a value that this loader cannot use.
    #[error("Kernel: {what} at offset {offset:#x} is {value:#x}, must be {must}")]
    Value {
        /// The field.
        what: String,
        /// Where it is.
        offset: u64,
        /// What it says.
        value: u64,
        /// What it may say.
        must: &'static str,
    },
    /// The payload is packed in a way that this build does not know.
    #[error("Kernel: payload at offset {offset:#x} is packed with {packing}, which this build cannot unpack")]
    Packing {
        /// Where the payload begins.
        offset: u64,
        /// Name or magic of the packing.
        packing: String,
    },
    /// The payload is damaged, or wants a window larger than the limit.
    #[error("Kernel: {packing} payload at offset {offset:#x} does not unpack")]
    Damaged {
        /// Where the payload begins.
        offset: u64,
        /// How it is packed.
        packing: &'static str,
        /// What the decoder says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The payload unpacks to too much.
    #[error("Kernel: payload at offset {offset:#x} unpacks to more than the allowed {limit} bytes")]
    TooLarge {
        /// Where the payload begins.
        offset: u64,
        /// The limit that it broke.
        limit: u64,
    },
    /// Two segments want the same memory.
    #[error(
        "Kernel: program header {second} wants memory from {paddr:#x}, inside that of program header {first}"
    )]
    Overlap {
        /// Index of the lower segment.
        first: usize,
        /// Index of the upper segment.
        second: usize,
        /// Where the upper one begins.
        paddr: u64,
    },
    /// There is nothing to load.
    #[error("Kernel: no segment to load")]
    NoSegment,
    /// A note that a PV kernel must have is missing.
    #[error("Kernel: no Xen note {0}: not a kernel for Xen PV domains")]
    NoNote(&'static str),
    /// A note is there but useless.
    #[error("Kernel: Xen note {name} at offset {offset:#x} is {value:?}, must be {must}")]
    Note {
        /// The note.
        name: &'static str,
        /// Where its value is.
        offset: u64,
        /// Its value.
        value: String,
        /// What it may say.
        must: &'static str,
    },
}

/// Part of a kernel to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Pseudo-physical address, in bytes.
    pub paddr: u64,
    /// Bytes of memory; what `data` does not fill is zero.
    pub memsz: u64,
    /// Bytes of the image that go there; no longer than `memsz`.
    pub data: Range<usize>,
    index: usize,
}

/// A kernel that can be started as a 64-bit PV domain.
#[derive(Debug, Clone)]
pub struct Kernel<'a> {
    image: Cow<'a, [u8]>,
    pub(crate) entry: u64,
    pub(crate) virt_base: u64,
    pub(crate) hypercall_page: Option<u64>,
    pub(crate) init_p2m: Option<u64>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) end: u64,
}

impl<'a> Kernel<'a> {
    /// Reads an ELF file or a bzImage. What unpacking makes is never more than `limit` bytes, and windows of
    /// decoders are not either; while it runs xz takes up to twice that much memory, zstd up to four times.
    ///
    /// # Errors
    /// Says what is wrong and where; `file` may hold anything.
    pub fn parse(file: &'a [u8], limit: usize) -> Result<Self, ImageError> {
        let image = unpack::unpack(file, limit)?;
        let found = Elf::read(&image)?;
        Ok(Kernel {
            entry: found.entry,
            virt_base: found.virt_base,
            hypercall_page: found.hypercall_page,
            init_p2m: found.init_p2m,
            segments: found.segments,
            end: found.end,
            image,
        })
    }

    /// The segments, lowest first.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The bytes of a segment, without the zeros that follow.
    #[must_use]
    pub fn data(&self, segment: &Segment) -> &[u8] {
        self.image.get(segment.data.clone()).unwrap_or_default()
    }

    /// First pseudo-physical byte.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.segments.first().map_or(0, |s| s.paddr)
    }

    /// Pseudo-physical end, in bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Virtual address of the first instruction.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Virtual address of pseudo-physical address 0.
    #[must_use]
    pub fn virt_base(&self) -> u64 {
        self.virt_base
    }
}

/// `len` bytes at `offset`, or an error naming them.
pub(crate) fn part<'b>(
    bytes: &'b [u8],
    offset: u64,
    len: u64,
    what: Arguments<'_>,
) -> Result<&'b [u8], ImageError> {
    let range = offset
        .checked_add(len)
        .and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
    range.and_then(|r| bytes.get(r)).ok_or_else(|| ImageError::PastEnd {
        what: what.to_string(),
        offset,
        size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
    })
}

/// A little-endian number of up to 8 bytes; bytes past the end count as zero.
pub(crate) fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
    bytes.iter().skip(offset).take(len.min(8)).rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn text(desc: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(desc.split(|b| *b == 0).next().unwrap_or_default())
}

/// A Xen note's value and where it is in the image.
type Note<'b> = (u64, &'b [u8]);

/// The notes that matter here (`elfnote.h`), last one wins.
#[derive(Default)]
struct Notes<'b> {
    entry: Option<Note<'b>>,
    hypercall_page: Option<Note<'b>>,
    virt_base: Option<Note<'b>>,
    paddr_offset: Option<Note<'b>>,
    xen_version: Option<Note<'b>>,
    loader: Option<Note<'b>>,
    features: Option<Note<'b>>,
    init_p2m: Option<Note<'b>>,
}

impl<'b> Notes<'b> {
    /// Takes the Xen notes of one `PT_NOTE` segment at `base`; they are aligned to 4 bytes unless it says 8.
    fn take(&mut self, image: &'b [u8], base: u64, len: u64, align: u64) -> Result<(), ImageError> {
        part(image, base, len, format_args!("note segment"))?;
        let align = if align == 8 { 8 } else { 4 };
        let end = base.saturating_add(len);
        let mut at = base;
        while end.saturating_sub(at) >= 12 {
            let head = part(image, at, 12, format_args!("note header"))?;
            let (name_len, desc_len, kind) = (number(head, 0, 4), number(head, 4, 4), number(head, 8, 4));
            // `at` is inside the image and the lengths have 32 bits, so none of these sums can overflow.
            let name = part(image, at + 12, name_len, format_args!("note name"))?;
            let desc_at = base + (at + 12 + name_len - base).next_multiple_of(align);
            let desc = part(image, desc_at, desc_len, format_args!("note value"))?;
            at = base + (desc_at + desc_len - base).next_multiple_of(align);
            if name != b"Xen\0" {
                continue;
            }
            let slot = match kind {
                1 => &mut self.entry,
                2 => &mut self.hypercall_page,
                3 => &mut self.virt_base,
                4 => &mut self.paddr_offset,
                5 => &mut self.xen_version,
                8 => &mut self.loader,
                10 => &mut self.features,
                15 => &mut self.init_p2m,
                _ => continue,
            };
            *slot = Some((desc_at, desc));
        }
        Ok(())
    }
}

fn numeric(name: &'static str, note: Option<Note<'_>>) -> Result<Option<u64>, ImageError> {
    match note {
        None => Ok(None),
        Some((_, desc)) if matches!(desc.len(), 4 | 8) => Ok(Some(number(desc, 0, 8))),
        Some((offset, desc)) => Err(ImageError::Note {
            name,
            offset,
            value: format!("{} bytes long", desc.len()),
            must: "4 or 8 bytes long",
        }),
    }
}

fn begins(name: &'static str, note: Option<Note<'_>>, must: &'static str) -> Result<(), ImageError> {
    let (offset, desc) = note.ok_or(ImageError::NoNote(name))?;
    if desc.starts_with(must.as_bytes()) {
        return Ok(());
    }
    Err(ImageError::Note { name, offset, value: text(desc).into_owned(), must })
}

/// Features that a kernel may require: those that Xen gives every 64-bit PV domain.
const FEATURES: [&str; 3] = ["writable_page_tables", "writable_descriptor_tables", "pae_pgdir_above_4gb"];

struct Elf {
    entry: u64,
    virt_base: u64,
    hypercall_page: Option<u64>,
    init_p2m: Option<u64>,
    segments: Vec<Segment>,
    end: u64,
}

impl Elf {
    fn read(image: &[u8]) -> Result<Self, ImageError> {
        let head = part(image, 0, 64, format_args!("ELF header"))?;
        let field = |what: &str, offset: usize, len, allowed: &[u64], must| {
            let value = number(head, offset, len);
            if allowed.contains(&value) {
                return Ok(());
            }
            let offset = u64::try_from(offset).unwrap_or(u64::MAX);
            Err(ImageError::Value { what: what.to_owned(), offset, value, must })
        };
        field("ELF magic", 0, 4, &[0x464c_457f], "0x464c457f")?;
        field("ELF class", 4, 1, &[2], "2 (64-bit)")?;
        field("ELF byte order", 5, 1, &[1], "1 (little-endian)")?;
        field("ELF type", 16, 2, &[2, 3], "2 or 3 (program)")?;
        field("ELF machine", 18, 2, &[62], "0x3e (x86-64)")?;
        field("Size of a program header", 54, 2, &[56], "56")?;
        let (table, count) = (number(head, 32, 8), number(head, 56, 2));
        part(image, table, count * 56, format_args!("program header table of {count} entries"))?;

        let mut notes = Notes::default();
        let mut loads = Vec::new();
        for (index, offset) in (0..usize::try_from(count).unwrap_or(0)).zip((table..).step_by(56)) {
            let header = part(image, offset, 56, format_args!("program header {index}"))?;
            let (at, size) = (number(header, 8, 8), number(header, 32, 8));
            match number(header, 0, 4) {
                1 => loads.push((index, offset, header)),
                // Some linkers leave the place of a note segment at 0.
                4 if at != 0 => notes.take(image, at, size, number(header, 48, 8))?,
                _ => {}
            }
        }

        begins("LOADER", notes.loader, "generic")?;
        begins("XEN_VERSION", notes.xen_version, "xen-3.0")?;
        let entry = numeric("ENTRY", notes.entry)?.ok_or(ImageError::NoNote("ENTRY"))?;
        if let Some((offset, desc)) = notes.features {
            let unknown = |f: &str| f.strip_prefix('!').filter(|f| !FEATURES.contains(f)).map(str::to_owned);
            if let Some(value) = text(desc).split('|').find_map(unknown) {
                let must = "without required features that a PV domain does not get";
                return Err(ImageError::Note { name: "FEATURES", offset, value, must });
            }
        }
        let paddr_offset = numeric("PADDR_OFFSET", notes.paddr_offset)?;
        let virt_base = match numeric("VIRT_BASE", notes.virt_base)? {
            None if paddr_offset.is_some() => return Err(ImageError::NoNote("VIRT_BASE")),
            base => base.unwrap_or(0),
        };
        let (segments, end) = segments(image, &loads, paddr_offset.unwrap_or(0))?;
        let start = segments.first().ok_or(ImageError::NoSegment)?.paddr;

        let check = |name, note: Option<Note<'_>>, value: u64, good: bool, must| match good {
            true => Ok(value),
            false => Err(ImageError::Note {
                name,
                offset: note.map_or(0, |(offset, _)| offset),
                value: format!("{value:#x}"),
                must,
            }),
        };
        check("VIRT_BASE", notes.virt_base, virt_base, virt_base % PAGE == 0, "a multiple of 4096")?;
        let inside = |va: u64| va.checked_sub(virt_base).is_some_and(|p| (start..end).contains(&p));
        check("ENTRY", notes.entry, entry, inside(entry), "an address inside the kernel")?;
        let hypercall_page = numeric("HYPERCALL_PAGE", notes.hypercall_page)?
            .map(|va| {
                let good = va % PAGE == 0 && inside(va);
                check("HYPERCALL_PAGE", notes.hypercall_page, va, good, "a page inside the kernel")
            })
            .transpose()?;
        let init_p2m = numeric("INIT_P2M", notes.init_p2m)?
            .map(|va| {
                let good = va % PAGE == 0 && va < virt_base;
                check("INIT_P2M", notes.init_p2m, va, good, "a multiple of 4096 below VIRT_BASE")
            })
            .transpose()?;
        Ok(Elf { entry, virt_base, hypercall_page, init_p2m, segments, end })
    }
}

/// The `PT_LOAD` segments by address, and where the last one ends.
fn segments(
    image: &[u8],
    loads: &[(usize, u64, &[u8])],
    paddr_offset: u64,
) -> Result<(Vec<Segment>, u64), ImageError> {
    let mut out = Vec::with_capacity(loads.len());
    for &(index, offset, header) in loads {
        let (at, paddr) = (number(header, 8, 8), number(header, 24, 8));
        let (filesz, memsz) = (number(header, 32, 8), number(header, 40, 8));
        let value = |what: &str, place: u64, value, must| {
            let what = format!("{what} of program header {index}");
            Err(ImageError::Value { what, offset: offset + place, value, must })
        };
        if filesz > memsz {
            return value("file size", 32, filesz, "at most its memory size");
        }
        if memsz == 0 {
            continue;
        }
        let data = part(image, at, filesz, format_args!("data of program header {index}"))?;
        let begin = usize::try_from(at).unwrap_or(0);
        let paddr = match paddr.checked_sub(paddr_offset) {
            Some(p) if p.checked_add(memsz).is_some_and(|end| end <= MAX_INITIAL) => p,
            _ => return value("address", 24, paddr, "such that the segment ends within 1 GiB of VIRT_BASE"),
        };
        out.push(Segment { paddr, memsz, data: begin..begin + data.len(), index });
    }
    out.sort_by_key(|s| s.paddr);
    let mut end = 0;
    let mut last = 0;
    for s in &out {
        if s.paddr < end {
            return Err(ImageError::Overlap { first: last, second: s.index, paddr: s.paddr });
        }
        (end, last) = (s.paddr + s.memsz, s.index);
    }
    Ok((out, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{BASE, Elf, bzimage, linux, noise};

    fn error(file: &[u8]) -> String {
        Kernel::parse(file, 1 << 20).unwrap_err().to_string()
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
        assert_eq!((kernel.entry(), kernel.virt_base()), (BASE + 0x20_0010, BASE));
        assert_eq!((kernel.hypercall_page, kernel.init_p2m), (Some(BASE + 0x20_1000), Some(1 << 39)));
        assert_eq!((kernel.start(), kernel.end()), (0x20_0000, 0x20_7330));
        assert_eq!(kernel.data(&kernel.segments()[1]), noise(3000, 2));
        // Addresses in the file are from elsewhere, and notes have 32 bits.
        let elf = linux().without(2).with(4, &0x20_0000u32.to_le_bytes()).with(1, &(BASE + 5).to_le_bytes());
        let file = elf.bytes();
        assert_eq!(Kernel::parse(&file, 0).unwrap().start(), 0);
    }

    #[test]
    fn an_error_says_what_and_where() {
        let load = |loads| error(&Elf { loads, ..linux() }.bytes());
        let note = |n, value: &[u8]| error(&linux().with(n, value).bytes());
        let end = linux().bytes().len();
        for (got, want) in [
            (error(b"MZ"), "neither an ELF file nor a bzImage".to_owned()),
            (
                error(b"\x7fELF\x02\x01"),
                "ELF header at offset 0x0 reaches past the end (0x6 bytes)".to_owned(),
            ),
            (error(&with(4, &[1])), "ELF class at offset 0x4 is 0x1, must be 2 (64-bit)".to_owned()),
            (
                error(&with(18, &[183])),
                "ELF machine at offset 0x12 is 0xb7, must be 0x3e (x86-64)".to_owned(),
            ),
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
                "address of program header 0 at offset 0x58 is 0x200000, \
                 must be such that the segment ends within 1 GiB of VIRT_BASE"
                    .to_owned(),
            ),
            (
                load(vec![(0x2000, 0x10, vec![]), (0x1000, 0x1001, vec![])]),
                "program header 0 wants memory from 0x2000, inside that of program header 1".to_owned(),
            ),
            (load(vec![]), "no segment to load".to_owned()),
            (load(vec![(0x1000, 0, vec![])]), "no segment to load".to_owned()),
            (
                error(&linux().without(8).bytes()),
                "no Xen note LOADER: not a kernel for Xen PV domains".to_owned(),
            ),
            (
                error(&linux().without(1).bytes()),
                "no Xen note ENTRY: not a kernel for Xen PV domains".to_owned(),
            ),
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
            (1, &BASE.to_le_bytes(), "ENTRY at offset 0x"),
            (1, &[1, 2, 3], "\"3 bytes long\", must be 4 or 8 bytes long"),
            (2, &(BASE + 0x20_0001).to_le_bytes(), "HYPERCALL_PAGE at offset 0x"),
            (2, &(BASE + 0x1000).to_le_bytes(), "must be a page inside the kernel"),
            (3, &(BASE + 1).to_le_bytes(), "VIRT_BASE at offset 0x"),
            (15, &(BASE + 0x1000).to_le_bytes(), "INIT_P2M at offset 0x"),
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
            bz(0x24c, &[0xff; 4])
                .contains("payload of 0xffffffff bytes at offset 0x664 reaches past the end")
        );
        assert!(bz(0x248, &[0xff; 4]).contains("at offset 0x1000005ff reaches past the end"));
        for (magic, name) in
            [(&b"BZh9"[..], "bzip2"), (b"\x5d\0\0", "lzma"), (b"\x89LZO", "lzo"), (b"abcd", "61 62 63 64")]
        {
            let got = bz(1636, magic);
            assert!(got.contains("offset 0x664") && got.contains(name), "{got}");
        }
    }
}
