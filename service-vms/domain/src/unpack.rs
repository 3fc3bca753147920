//! From a bzImage to the ELF image inside (Linux `Documentation/x86/boot.rst`: the setup header).

#![cfg_attr(
    not(all(feature = "gzip", feature = "xz", feature = "zstd")),
    allow(dead_code, reason = "some of it only serves the decoders left out")
)]

use std::borrow::Cow;
use std::io;

use crate::image::{ImageError, number, part};

/// Most that a decoder is asked for at once, in bytes: zstd's buffers all of it before it answers.
const STEP: usize = 128 << 10;

/// The ELF image in `file`: itself, or what its payload unpacks to, up to `limit` bytes.
pub(crate) fn unpack(file: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, ImageError> {
    if file.starts_with(b"\x7fELF") {
        return Ok(Cow::Borrowed(file));
    }
    if file.get(0x202..0x206) != Some(b"HdrS") {
        return Err(ImageError::Unknown);
    }
    let header = part(file, 0, 0x250, format_args!("bzImage setup header"))?;
    let version = number(header, 0x206, 2);
    if version < 0x208 {
        let what = "bzImage boot protocol".to_owned();
        return Err(ImageError::Value { what, offset: 0x206, value: version, must: "0x208 or newer" });
    }
    let sectors = match number(header, 0x1f1, 1) {
        0 => 4,
        n => n,
    };
    let offset = (sectors + 1) * 512 + number(header, 0x248, 4);
    let length = number(header, 0x24c, 4);
    let payload = part(file, offset, length, format_args!("bzImage payload of {length:#x} bytes"))?;

    // Linux ends every payload with the size of what is in it; four times the file for those who do not.
    let said = number(payload, payload.len().saturating_sub(4), 4);
    let bound = limit.min(usize::try_from(said).unwrap_or(usize::MAX).max(file.len().saturating_mul(4)));
    let at = Place { offset, limit: bound, window: limit };
    match payload {
        [0x7f, b'E', b'L', b'F', ..] => Ok(Cow::Borrowed(payload)),
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => at.lz4(blocks),
        [0x1f, 0x8b, ..] => at.gzip(payload),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => at.zstd(payload),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => at.xz(payload),
        [0x5d, 0, ..] => at.unknown("lzma"),
        [b'B', b'Z', b'h', ..] => at.unknown("bzip2"),
        [0x89, b'L', b'Z', b'O', ..] => at.unknown("lzo"),
        _ => {
            let magic: Vec<String> = payload.iter().take(4).map(|b| format!("{b:02x}")).collect();
            at.unknown(&format!("something that begins with {}", magic.join(" ")))
        }
    }
}

/// Where the payload is, how much it may become, and what a decoder's own window may be (xz and zstd name sizes that
/// have nothing to do with what is in the file), both in bytes.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    limit: usize,
    window: usize,
}

type Unpacked = Result<Cow<'static, [u8]>, ImageError>;

impl Place {
    fn unknown(self, packing: &str) -> Unpacked {
        Err(ImageError::Packing { offset: self.offset, packing: packing.to_owned() })
    }

    fn too_large(self) -> ImageError {
        ImageError::TooLarge { offset: self.offset, limit: u64::try_from(self.limit).unwrap_or(u64::MAX) }
    }

    fn damaged(
        self,
        packing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ImageError {
        ImageError::Damaged { offset: self.offset, packing, source: source.into() }
    }

    /// Reads until `read` gives nothing more. The whole buffer is there from the start, so it is never copied and
    /// never grows past the limit; memory that stays untouched is not used.
    fn drain(self, packing: &'static str, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Unpacked {
        let mut out = vec![0; self.limit];
        let mut done = 0;
        loop {
            let mut spare = [0];
            let rest = out.get_mut(done..).filter(|r| !r.is_empty());
            let full = rest.is_none();
            let window = rest.unwrap_or(&mut spare);
            let step = window.len().min(STEP);
            match read(window.get_mut(..step).unwrap_or_default()) {
                Ok(0) => break,
                Ok(_) if full => return Err(self.too_large()),
                Ok(n) => done += n,
                Err(e) => return Err(self.damaged(packing, e)),
            }
        }
        out.truncate(done);
        Ok(Cow::Owned(out))
    }

    /// Linux's lz4: the legacy frame, blocks of up to 8 MiB, each after its packed size; then the size of all.
    fn lz4(self, mut blocks: &[u8]) -> Unpacked {
        let mut out = vec![0; self.limit];
        let mut done = 0;
        while blocks.len() > 4 {
            let (size, rest) = blocks.split_at(4);
            let size = usize::try_from(number(size, 0, 4)).unwrap_or(usize::MAX);
            let block =
                rest.get(..size).ok_or_else(|| self.damaged("lz4", "a block reaches past the end"))?;
            blocks = rest.get(size..).unwrap_or_default();
            let window = out.get_mut(done..).unwrap_or_default();
            done += lz4_flex::block::decompress_into(block, window).map_err(|e| match e {
                lz4_flex::block::DecompressError::OutputTooSmall { .. } => self.too_large(),
                e => self.damaged("lz4", e),
            })?;
        }
        out.truncate(done);
        Ok(Cow::Owned(out))
    }

    #[cfg(feature = "gzip")]
    fn gzip(self, payload: &[u8]) -> Unpacked {
        let mut decoder = flate2::bufread::GzDecoder::new(payload);
        self.drain("gzip", |out| io::Read::read(&mut decoder, out))
    }

    #[cfg(feature = "zstd")]
    fn zstd(self, payload: &[u8]) -> Unpacked {
        let window = u64::try_from(self.window).unwrap_or(u64::MAX);
        let mut decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(payload, window)
            .map_err(|e| self.damaged("zstd", e))?;
        self.drain("zstd", |out| io::Read::read(&mut decoder, out))
    }

    #[cfg(feature = "xz")]
    fn xz(self, mut payload: &[u8]) -> Unpacked {
        use xz4rust::{XzDecoder, XzNextBlockResult::EndOfStream, XzNextBlockResult::NeedMoreData};
        let mut decoder = XzDecoder::in_heap_with_alloc_dict_size(0, self.window);
        let mut over = false;
        self.drain("xz", |out| {
            while !over {
                let (used, made) = match decoder.decode(payload, out).map_err(io::Error::other)? {
                    NeedMoreData(used, made) => (used, made),
                    EndOfStream(used, made) => {
                        over = true;
                        (used, made)
                    }
                };
                payload = payload.get(used..).unwrap_or_default();
                if made > 0 || over {
                    return Ok(made);
                }
                if used == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(0)
        })
    }

    #[cfg(not(feature = "gzip"))]
    fn gzip(self, _: &[u8]) -> Unpacked {
        self.unknown("gzip")
    }

    #[cfg(not(feature = "zstd"))]
    fn zstd(self, _: &[u8]) -> Unpacked {
        self.unknown("zstd")
    }

    #[cfg(not(feature = "xz"))]
    fn xz(self, _: &[u8]) -> Unpacked {
        self.unknown("xz")
    }
}
