//! Kernel files: what they are, where their parts go, what their Xen notes say. Who only builds domains from plans needs
//! none of this.
//!
//! Offsets in errors count from the start of the file; for a packed kernel those that name an ELF part count from
//! the start of the unpacked image.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::ops::Range;

use crate::memory::bytes;
use crate::plan::{KernelPlan, Mode, PlanError, PvEntry, Segment};
use crate::unpack;
use ennead_xen::DomainKind;

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
    /// What it asks for cannot be.
    #[error("Kernel: {0}")]
    Plan(#[from] PlanError),
    /// A note that a kernel for this kind of domain must have is missing.
    #[error("Kernel: no Xen note {0}: not a kernel for Xen {kind} domains", kind = match .1 {
        DomainKind::Pv => "PV",
        DomainKind::Pvh => "PVH",
    })]
    NoNote(&'static str, DomainKind),
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

/// A kernel file, unpacked.
#[derive(Debug, Clone)]
pub struct Kernel<'a> {
    image: Cow<'a, [u8]>,
    /// What of the image goes into each segment.
    data: Vec<Range<usize>>,
}

impl<'a> Kernel<'a> {
    /// Reads an ELF file or a bzImage. What unpacking makes is never more than `limit` bytes, and windows of
    /// decoders are not either; while it runs xz takes up to twice that much memory, zstd up to four times.
    ///
    /// # Errors
    /// Says what is wrong and where; `file` may hold anything.
    pub fn parse(file: &'a [u8], limit: usize) -> Result<Self, ImageError> {
        let image = unpack::unpack(file, limit)?;
        let data = Elf::read(&image)?.loads.into_iter().map(|load| load.data).collect();
        Ok(Kernel { image, data })
    }

    /// What it asks for, started as a domain of this kind.
    ///
    /// # Errors
    /// When its notes do not say that it can be, or make no sense.
    pub fn plan(&self, kind: DomainKind) -> Result<KernelPlan, ImageError> {
        let Elf { notes, loads } = Elf::read(&self.image)?;
        let (mode, paddr_offset) = match kind {
            DomainKind::Pv => notes.pv()?,
            DomainKind::Pvh => (notes.pvh()?, 0),
        };
        let segment = |load: &Load| match load.paddr.checked_sub(paddr_offset) {
            Some(paddr) => {
                Ok(Segment { paddr, file_bytes: bytes(load.data.len()), memory_bytes: load.memsz })
            }
            None => Err(ImageError::Value {
                what: format!("address of program header {}", load.index),
                offset: load.header.saturating_add(24),
                value: load.paddr,
                must: "no less than PADDR_OFFSET",
            }),
        };
        let plan = KernelPlan { mode, segments: loads.iter().map(segment).collect::<Result<_, _>>()? };
        plan.check()?;
        Ok(plan)
    }

    /// The bytes for each segment of its plan, without the zeros that follow them.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.data.iter().map(|range| self.image.get(range.clone()).unwrap_or_default())
    }
}

/// `len` bytes at `offset`, or an error naming them.
pub(crate) fn part<'b>(
    image: &'b [u8],
    offset: u64,
    len: u64,
    what: Arguments<'_>,
) -> Result<&'b [u8], ImageError> {
    let range = offset
        .checked_add(len)
        .and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
    range.and_then(|r| image.get(r)).ok_or_else(|| ImageError::PastEnd {
        what: what.to_string(),
        offset,
        size: bytes(image.len()),
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
    phys32_entry: Option<Note<'b>>,
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
                18 => &mut self.phys32_entry,
                _ => continue,
            };
            *slot = Some((desc_at, desc));
        }
        Ok(())
    }

    /// How it is started as a PV kernel, and what its file's addresses count from.
    fn pv(&self) -> Result<(Mode, u64), ImageError> {
        let none = |name| ImageError::NoNote(name, DomainKind::Pv);
        begins("LOADER", self.loader, "generic")?;
        begins("XEN_VERSION", self.xen_version, "xen-3.0")?;
        if let Some((offset, desc)) = self.features {
            let unknown = |f: &str| f.strip_prefix('!').filter(|f| !FEATURES.contains(f)).map(str::to_owned);
            if let Some(value) = text(desc).split('|').find_map(unknown) {
                let must = "without required features that a PV domain does not get";
                return Err(ImageError::Note { name: "FEATURES", offset, value, must });
            }
        }
        let paddr_offset = numeric("PADDR_OFFSET", self.paddr_offset)?;
        let virt_base = match numeric("VIRT_BASE", self.virt_base)? {
            None if paddr_offset.is_some() => return Err(none("VIRT_BASE")),
            base => base.unwrap_or(0),
        };
        let entry = PvEntry {
            entry: numeric("ENTRY", self.entry)?.ok_or(none("ENTRY"))?,
            virt_base,
            hypercall_page: numeric("HYPERCALL_PAGE", self.hypercall_page)?,
            init_p2m: numeric("INIT_P2M", self.init_p2m)?,
        };
        Ok((Mode::Pv(entry), paddr_offset.unwrap_or(0)))
    }

    /// How it is started as a PVH kernel.
    fn pvh(&self) -> Result<Mode, ImageError> {
        const NAME: &str = "PHYS32_ENTRY";
        let entry = numeric(NAME, self.phys32_entry)?.ok_or(ImageError::NoNote(NAME, DomainKind::Pvh))?;
        let entry = u32::try_from(entry).map_err(|_| ImageError::Note {
            name: NAME,
            offset: self.phys32_entry.map_or(0, |(offset, _)| offset),
            value: format!("{entry:#x}"),
            must: "below 4 GiB",
        })?;
        Ok(Mode::Pvh { entry })
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
    let (offset, desc) = note.ok_or(ImageError::NoNote(name, DomainKind::Pv))?;
    if desc.starts_with(must.as_bytes()) {
        return Ok(());
    }
    Err(ImageError::Note { name, offset, value: text(desc).into_owned(), must })
}

/// Features that a kernel may require: those that Xen gives every 64-bit PV domain.
const FEATURES: [&str; 3] = ["writable_page_tables", "writable_descriptor_tables", "pae_pgdir_above_4gb"];

/// A `PT_LOAD` segment that has memory.
struct Load {
    paddr: u64,
    memsz: u64,
    data: Range<usize>,
    /// Its program header: which, and where.
    index: usize,
    header: u64,
}

struct Elf<'b> {
    notes: Notes<'b>,
    /// By address.
    loads: Vec<Load>,
}

impl<'b> Elf<'b> {
    fn read(image: &'b [u8]) -> Result<Self, ImageError> {
        let head = part(image, 0, 64, format_args!("ELF header"))?;
        let field = |what: &str, offset: usize, len, allowed: &[u64], must| {
            let value = number(head, offset, len);
            if allowed.contains(&value) {
                return Ok(());
            }
            Err(ImageError::Value { what: what.to_owned(), offset: bytes(offset), value, must })
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
                1 => loads.extend(load(image, index, offset, header)?),
                // Some linkers leave the place of a note segment at 0.
                4 if at != 0 => notes.take(image, at, size, number(header, 48, 8))?,
                _ => {}
            }
        }
        loads.sort_by_key(|load| load.paddr);
        Ok(Elf { notes, loads })
    }
}

/// The `PT_LOAD` segment of the program header `index`, which is at `offset`; `None` if it has no memory.
fn load(image: &[u8], index: usize, offset: u64, header: &[u8]) -> Result<Option<Load>, ImageError> {
    let (at, paddr) = (number(header, 8, 8), number(header, 24, 8));
    let (filesz, memsz) = (number(header, 32, 8), number(header, 40, 8));
    if filesz > memsz {
        let what = format!("file size of program header {index}");
        let must = "at most its memory size";
        return Err(ImageError::Value { what, offset: offset + 32, value: filesz, must });
    }
    if memsz == 0 {
        return Ok(None);
    }
    let data = part(image, at, filesz, format_args!("data of program header {index}"))?;
    let begin = usize::try_from(at).unwrap_or(0);
    Ok(Some(Load { paddr, memsz, data: begin..begin + data.len(), index, header: offset }))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
