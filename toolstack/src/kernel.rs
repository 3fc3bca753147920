//! A guest's kernel, read in parts: a stock one unpacks to more than this VM's memory.
//!
//! An ELF file; the same packed by `lz4 -l`; or a bzImage that holds either, or gzip. Those formats can be read a little at a time; xz
//! and zstd want windows larger than what this VM can spare: who sends such a kernel unpacks it first. What a kernel asks of its loader is read
//! by `ennead_domain` from an ELF file that has all but the segments' bytes.

use std::io::{self, Read};

use ennead_channel::guests::Part;
use ennead_domain::{ImageError, KernelPlan, PlanError};
use ennead_xen::DomainKind;

/// Bytes that a kernel may unpack to, so that a bomb ends.
const MAX_UNPACKED: u64 = 512 << 20;
/// Bytes that each block of a legacy lz4 file unpacks to, but for the last.
const BLOCK: usize = 8 << 20;
/// Most program headers, and bytes of each note segment. Linux has five and some 500.
const MAX_HEADERS: u64 = 64;
const MAX_NOTES: u64 = 64 << 10;
const LZ4: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const ELF: &[u8] = b"\x7fELF";
const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Machines.
const EM_386: u64 = 3;
const EM_X86_64: u16 = 62;

/// Why a file is no kernel for a guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Packed in a way that cannot be read in parts.
    #[error(
        "The kernel is packed with {0}, which the host does not unpack: send the unpacked ELF file, or that packed by `lz4 -l`"
    )]
    Packing(&'static str),
    /// It is not what it says.
    #[error("The kernel's file is damaged: {0}")]
    Damaged(String),
    /// A PV guest has 64 bits.
    #[error("A kernel of 32 bits runs only as `pvh`")]
    ThirtyTwoBits,
    /// It is none.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// What it asks for cannot be.
    #[error("Kernel: {0}")]
    Plan(#[from] PlanError),
}

fn damaged(what: &impl ToString) -> Error {
    Error::Damaged(what.to_string())
}

/// A kernel and where its segments are in its ELF image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What it asks of its loader.
    pub plan: KernelPlan,
    /// Number in the plan, offset in the image, bytes; by offset.
    places: Vec<(u8, u64, u64)>,
}

impl Kernel {
    /// Reads what a kernel asks for, started as a domain of this kind.
    ///
    /// # Errors
    /// Says what is wrong with the file, which may hold anything.
    pub fn analyse(file: &[u8], kind: DomainKind) -> Result<Self, Error> {
        let mut image = Image::open(file)?;
        let (skeleton, mut loads) = skeleton(&mut image, kind)?;
        let mut plan = ennead_domain::Kernel::parse(&skeleton, skeleton.len())?.plan(kind)?;
        loads.sort_by_key(|load| load.paddr);
        let mut places = Vec::new();
        for ((number, segment), load) in (0_u8..).zip(&mut plan.segments).zip(&loads) {
            segment.file_bytes = load.bytes;
            places.push((number, load.offset, load.bytes));
        }
        plan.check()?;
        places.sort_by_key(|(_, offset, _)| *offset);
        Ok(Self { plan, places })
    }

    /// The bytes of its segments from the file that it was read from, in parts of at most `most` bytes.
    ///
    /// # Errors
    /// If the file is another one.
    pub fn parts<'a>(&'a self, file: &'a [u8], most: usize) -> Result<Parts<'a>, Error> {
        Ok(Parts { image: Image::open(file)?, places: self.places.iter(), current: (0, 0, 0), done: 0, most })
    }
}

/// See [`Kernel::parts`].
#[derive(Debug)]
pub struct Parts<'a> {
    image: Image<'a>,
    places: std::slice::Iter<'a, (u8, u64, u64)>,
    current: (u8, u64, u64),
    done: u64,
    most: usize,
}

impl Parts<'_> {
    /// The next part and where it belongs; `None` behind the last.
    ///
    /// # Errors
    /// If the file is another one than was analysed.
    pub fn next_part(&mut self) -> Result<Option<(Part, &[u8])>, Error> {
        let Some((segment, start, most)) = self.next_place() else { return Ok(None) };
        let offset = self.done;
        let part = self.image.part(start, most)?;
        self.done = offset.saturating_add(number_of(part.len()));
        Ok(Some((Part::Kernel { segment, offset }, part)))
    }

    /// Unpacks what the next part is in, so that it need not be waited for then.
    ///
    /// # Errors
    /// As [`Parts::next_part`].
    pub fn unpack_ahead(&mut self) -> Result<(), Error> {
        let Some((_, start, most)) = self.next_place() else { return Ok(()) };
        self.image.part(start, most).map(drop)
    }

    /// The next part's segment, and where in the image it is and how long at most.
    fn next_place(&mut self) -> Option<(u8, u64, usize)> {
        while self.done >= self.current.2 {
            self.current = *self.places.next()?;
            self.done = 0;
        }
        let (segment, start, bytes) = self.current;
        let left = usize::try_from(bytes.saturating_sub(self.done)).unwrap_or(usize::MAX);
        Some((segment, start.saturating_add(self.done), left.min(self.most)))
    }
}

/// A segment that has memory.
struct Load {
    paddr: u64,
    offset: u64,
    bytes: u64,
}

/// Where ELF has what matters here, as offset and length: in its header, and in each program header.
struct Form {
    table: (usize, usize),
    entry_size: usize,
    count: usize,
    entry: usize,
    offset: (usize, usize),
    paddr: (usize, usize),
    file_bytes: (usize, usize),
    memory_bytes: (usize, usize),
    align: (usize, usize),
}

const ELF64: Form = Form {
    table: (32, 8),
    entry_size: 54,
    count: 56,
    entry: PROGRAM_HEADER,
    offset: (8, 8),
    paddr: (24, 8),
    file_bytes: (32, 8),
    memory_bytes: (40, 8),
    align: (48, 8),
};
const ELF32: Form = Form {
    table: (28, 4),
    entry_size: 42,
    count: 44,
    entry: 32,
    offset: (4, 4),
    paddr: (12, 4),
    file_bytes: (16, 4),
    memory_bytes: (20, 4),
    align: (28, 4),
};

/// A 64-bit ELF file with the image's headers and notes, and segments without bytes; and where these are. PVH kernels start with 32
/// bits, so their files may be of 32 bits, too (GRUB's is).
fn skeleton(image: &mut Image<'_>, kind: DomainKind) -> Result<(Vec<u8>, Vec<Load>), Error> {
    let mut header = [0; ELF_HEADER];
    image.read(0, &mut header)?;
    let form = if header.get(4) == Some(&1) { ELF32 } else { ELF64 };
    let (table, count) = (at(&header, form.table), number(&header, form.count, 2));
    if count > MAX_HEADERS {
        return Err(damaged(&format_args!("{count} program headers")));
    }
    if form.entry != PROGRAM_HEADER {
        if kind == DomainKind::Pv {
            return Err(Error::ThirtyTwoBits);
        }
        let (machine, size) = (number(&header, 18, 2), number(&header, form.entry_size, 2));
        if (machine, size) != (EM_386, number_of(form.entry)) {
            return Err(damaged(&format_args!("machine {machine}, {size} bytes for each program header")));
        }
        put(&mut header, 4, &[2]);
        put(&mut header, 18, &EM_X86_64.to_le_bytes());
        put(&mut header, ELF64.entry_size, &number_of(PROGRAM_HEADER).to_le_bytes());
        put(&mut header, ELF64.count, &count.to_le_bytes());
    }
    put(&mut header, 32, &number_of(ELF_HEADER).to_le_bytes());
    let mut skeleton = header.to_vec();
    let mut notes = Vec::new();
    let mut loads = Vec::new();
    let first_note = number_of(ELF_HEADER + PROGRAM_HEADER * usize::try_from(count).unwrap_or(0));
    for index in 0..count {
        let mut entry = vec![0; form.entry];
        image.read(table.saturating_add(index * number_of(form.entry)), &mut entry)?;
        let (kind, offset, bytes) =
            (number(&entry, 0, 4), at(&entry, form.offset), at(&entry, form.file_bytes));
        let (paddr, memory_bytes) = (at(&entry, form.paddr), at(&entry, form.memory_bytes));
        let mut found = [0, 0];
        match kind {
            1 if memory_bytes > 0 => loads.push(Load { paddr, offset, bytes }),
            4 if offset != 0 => {
                if bytes > MAX_NOTES {
                    return Err(damaged(&format_args!("{bytes} bytes of notes")));
                }
                let mut note = vec![0; usize::try_from(bytes).unwrap_or(0)];
                image.read(offset, &mut note)?;
                found = [first_note.saturating_add(number_of(notes.len())), bytes];
                notes.append(&mut note);
                notes.resize(notes.len().next_multiple_of(8), 0);
            }
            // Not looked at.
            _ => {}
        }
        let [place, bytes] = found;
        for field in [kind, place, 0, paddr, bytes, memory_bytes, at(&entry, form.align)] {
            skeleton.extend_from_slice(&field.to_le_bytes());
        }
    }
    skeleton.append(&mut notes);
    Ok((skeleton, loads))
}

/// A number at an offset and of a length.
fn at(bytes: &[u8], (offset, len): (usize, usize)) -> u64 {
    number(bytes, offset, len)
}

/// A little-endian number of up to 8 bytes.
fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
    bytes.iter().skip(offset).take(len).rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(value) {
        *to = *from;
    }
}

/// A length as a number. (usize has at most 64 bits.)
fn number_of(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// The ELF image in a file, read a little at a time.
#[derive(Debug)]
enum Image<'a> {
    Plain(&'a [u8]),
    Lz4(Lz4<'a>),
    Gzip(Gzip<'a>),
}

impl<'a> Image<'a> {
    fn open(file: &'a [u8]) -> Result<Self, Error> {
        let payload = payload(file)?;
        let is = |magic: &[u8]| payload.starts_with(magic);
        if is(ELF) {
            Ok(Self::Plain(payload))
        } else if is(&LZ4) {
            Lz4::open(payload).map(Self::Lz4)
        } else if is(&[0x1f, 0x8b]) {
            Ok(Self::Gzip(Gzip::open(payload)))
        } else if is(b"\xfd7zXZ\0") {
            Err(Error::Packing("xz"))
        } else if is(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Err(Error::Packing("zstd"))
        } else if is(&[0x5d, 0]) {
            Err(Error::Packing("lzma"))
        } else if is(b"BZh") {
            Err(Error::Packing("bzip2"))
        } else {
            Err(ImageError::Unknown.into())
        }
    }

    /// Bytes from an offset on, as many as are at hand: at least one, at most `most` (which is not 0).
    fn part(&mut self, offset: u64, most: usize) -> Result<&[u8], Error> {
        if offset.saturating_add(number_of(most)) > MAX_UNPACKED {
            return Err(damaged(&format_args!("it reaches beyond {} MiB", MAX_UNPACKED >> 20)));
        }
        let begin = usize::try_from(offset).map_err(|_| end())?;
        let rest = match self {
            Self::Plain(image) => image.get(begin..),
            Self::Lz4(lz4) => lz4.unpacked(begin)?,
            Self::Gzip(gzip) => Some(gzip.unpacked(offset, most)?),
        };
        let rest = rest.filter(|rest| !rest.is_empty()).ok_or_else(end)?;
        Ok(rest.get(..most).unwrap_or(rest))
    }

    /// Fills `out` from an offset on.
    fn read(&mut self, mut offset: u64, mut out: &mut [u8]) -> Result<(), Error> {
        while !out.is_empty() {
            let part = self.part(offset, out.len())?;
            let (head, tail) = out.split_at_mut(part.len());
            head.copy_from_slice(part);
            offset = offset.saturating_add(number_of(head.len()));
            out = tail;
        }
        Ok(())
    }
}

fn end() -> Error {
    damaged(&"it ends too early")
}

/// What a bzImage holds (Linux's Documentation/x86/boot.rst, the setup header); any other file as it is.
fn payload(file: &[u8]) -> Result<&[u8], Error> {
    if file.get(0x202..0x206) != Some(b"HdrS") || file.starts_with(ELF) || file.starts_with(&LZ4) {
        return Ok(file);
    }
    if number(file, 0x206, 2) < 0x208 {
        return Err(damaged(&"its boot protocol is older than 2.08"));
    }
    let sectors = match number(file, 0x1f1, 1) {
        0 => 4,
        sectors => sectors,
    };
    let offset = (sectors + 1) * 512 + number(file, 0x248, 4);
    let (offset, length) = (usize::try_from(offset), usize::try_from(number(file, 0x24c, 4)));
    let rest = file.get(offset.unwrap_or(usize::MAX)..);
    rest.and_then(|rest| rest.get(..length.unwrap_or(usize::MAX))).ok_or_else(end)
}

/// Linux's and `lz4 -l`'s format: after the magic, blocks that stand for themselves, each after its packed size. Linux writes the
/// size of all behind them.
#[derive(Debug)]
struct Lz4<'a> {
    blocks: Vec<&'a [u8]>,
    /// The block that is unpacked in `buffer`, and its length.
    current: Option<(usize, usize)>,
    buffer: Vec<u8>,
}

impl<'a> Lz4<'a> {
    fn open(payload: &'a [u8]) -> Result<Self, Error> {
        let mut rest = payload.get(LZ4.len()..).unwrap_or_default();
        let mut blocks = Vec::new();
        while rest.len() > 4 {
            let size = usize::try_from(number(rest, 0, 4)).unwrap_or(usize::MAX);
            let block = rest.get(4..).and_then(|rest| rest.get(..size)).ok_or_else(end)?;
            blocks.push(block);
            rest = rest.get(size.saturating_add(4)..).unwrap_or_default();
            if number_of(blocks.len().saturating_mul(BLOCK)) > MAX_UNPACKED.saturating_add(number_of(BLOCK)) {
                return Err(damaged(&"it has too many blocks"));
            }
        }
        Ok(Self { blocks, current: None, buffer: Vec::new() })
    }

    /// The rest of a block from an offset in the image on.
    fn unpacked(&mut self, at: usize) -> Result<Option<&[u8]>, Error> {
        let length = self.unpack(at / BLOCK)?;
        Ok(self.buffer.get(at % BLOCK..length))
    }

    /// Unpacks a block into the buffer, unless it is there.
    fn unpack(&mut self, index: usize) -> Result<usize, Error> {
        if let Some((_, length)) = self.current.filter(|(current, _)| *current == index) {
            return Ok(length);
        }
        let block = self.blocks.get(index).ok_or_else(end)?;
        self.buffer.resize(BLOCK, 0);
        let length = lz4_flex::block::decompress_into(block, &mut self.buffer).map_err(|e| damaged(&e))?;
        if length != BLOCK && index + 1 < self.blocks.len() {
            return Err(damaged(&"an lz4 block in its middle is shorter than 8 MiB"));
        }
        self.current = Some((index, length));
        Ok(length)
    }
}

/// From its start on; anew for what was before.
struct Gzip<'a> {
    payload: &'a [u8],
    decoder: flate2::bufread::GzDecoder<&'a [u8]>,
    at: u64,
    /// What was last unpacked.
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Gzip<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gzip").field("at", &self.at).finish_non_exhaustive()
    }
}

impl<'a> Gzip<'a> {
    fn open(payload: &'a [u8]) -> Self {
        Self { payload, decoder: flate2::bufread::GzDecoder::new(payload), at: 0, buffer: Vec::new() }
    }

    /// So many bytes from an offset on.
    fn unpacked(&mut self, offset: u64, count: usize) -> Result<&[u8], Error> {
        let before = self.at.checked_sub(number_of(self.buffer.len()));
        if before == Some(offset) && self.buffer.len() == count {
            return Ok(&self.buffer);
        }
        if offset < self.at {
            *self = Self::open(self.payload);
        }
        let skip = offset.saturating_sub(self.at);
        let skipped =
            io::copy(&mut self.decoder.by_ref().take(skip), &mut io::sink()).map_err(|e| damaged(&e))?;
        self.at = self.at.saturating_add(skipped);
        if skipped < skip {
            return Err(end());
        }
        self.buffer.resize(count, 0);
        self.decoder.read_exact(&mut self.buffer).map_err(|e| damaged(&e))?;
        self.at = self.at.saturating_add(number_of(count));
        Ok(&self.buffer)
    }
}

#[cfg(test)]
pub(crate) mod tests;
