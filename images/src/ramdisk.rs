//! A ramdisk per program: the program as `/init`, the console, and the folders that it mounts on.

use anyhow::{Context, Result};

use crate::cpio::{Archive, pad};

/// Strength of the compression.
const LEVEL: i32 = 19;

/// The kernel keeps a window of this size (log2, bytes) in memory while it unpacks: 1 MiB.
const WINDOW_LOG: u32 = 20;

/// Folders that PID 1 mounts on.
const FOLDERS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// A file beside the program.
#[derive(Debug, Clone, Copy)]
pub struct Extra<'a> {
    /// Path without the leading slash.
    pub name: &'a str,
    /// Its bytes.
    pub content: &'a [u8],
}

/// The compressed ramdisk of one program.
///
/// # Errors
/// When the compressor fails.
pub fn ramdisk(program: &[u8], extras: &[Extra<'_>]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in FOLDERS {
        archive.directory(folder)?;
    }
    // Both are the null device: a VM without a console gets no "unable to open an initial console", the program three files
    // that are nothing, and all that it says goes to the kernel log.
    archive.character_device("dev/console", 1, 3)?;
    archive.character_device("dev/null", 1, 3)?;
    archive.program("init", program)?;
    for extra in extras {
        archive.file(extra.name, extra.content)?;
    }
    compress(&archive.finish()?)
}

fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let compress = || -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.include_checksum(true)?;
        std::io::Write::write_all(&mut encoder, bytes)?;
        encoder.finish()
    };
    let mut compressed = compress().context("Cannot compress the ramdisk")?;
    pad(&mut compressed);
    Ok(compressed)
}

/// Domain 0's initrd: the bootstrapper's own ramdisk, then, not compressed, the images of the VMs that it builds or hands
/// over (`/images/NAME`) and the signed plan. Linux unpacks one archive after the other.
///
/// # Errors
/// When an image is too large for the format.
pub fn domain_zero(
    bootstrapper: &[u8],
    images: &[Extra<'_>],
    plan: &[u8],
    signature: &[u8],
) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.directory("images")?;
    for image in images {
        archive.file(&format!("images/{}", image.name), image.content)?;
    }
    archive.file("plan.toml", plan)?;
    archive.file("plan.sig", signature)?;
    let mut initrd = bootstrapper.to_vec();
    pad(&mut initrd);
    initrd.extend(archive.finish()?);
    Ok(initrd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_ramdisk() {
        let program: Vec<u8> = (0u32..200_000).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        let extras = [Extra { name: "plan.pub", content: &[3; 32] }];
        let one = ramdisk(&program, &extras).unwrap();
        assert_eq!(one, ramdisk(&program, &extras).unwrap());
        assert_ne!(one, ramdisk(&program, &[]).unwrap());
        assert_eq!(one.len() % 4, 0);
    }

    #[test]
    fn the_second_archive_starts_on_a_multiple_of_four() {
        let images = [Extra { name: "a.kernel", content: b"12345" }];
        let initrd = domain_zero(b"abcde", &images, b"plan", &[9; 64]).unwrap();
        assert_eq!(initrd.get(..14), Some(&b"abcde\0\0\x00070701"[..]));
    }
}
