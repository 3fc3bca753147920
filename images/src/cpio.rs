//! Ramdisks in the format that Linux unpacks at boot (cpio "newc"), with nothing in them that depends on where or when
//! they were made: inode numbers count up, owner and times are 0.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

/// Mode of a directory.
const DIRECTORY: u32 = 0o04_0755;
/// Mode of a program.
const PROGRAM: u32 = 0o10_0755;
/// Mode of a file.
const FILE: u32 = 0o10_0644;
/// Mode of a character device.
const DEVICE: u32 = 0o02_0600;

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    count: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        self.count += 1;
        let length = u32::try_from(content.len()).with_context(|| format!("{name} is larger than 4 GiB"))?;
        let entry = cpio::newc::Builder::new(name)
            .ino(self.count)
            .mode(mode)
            .nlink(1)
            .rdev_major(device.0)
            .rdev_minor(device.1);
        let mut writer = entry.write(&mut self.bytes, length);
        std::io::Write::write_all(&mut writer, content).context("Cannot write to memory")?;
        writer.finish().context("Cannot write to memory")?;
        Ok(())
    }

    /// Adds a directory (once).
    ///
    /// # Errors
    /// Never in practice: the archive is in memory.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        if self.directories.insert(name.to_owned()) { self.add(name, DIRECTORY, (0, 0), &[]) } else { Ok(()) }
    }

    /// Adds a file that can be executed.
    ///
    /// # Errors
    /// When it is larger than the format allows (4 GiB).
    pub fn program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.add(name, PROGRAM, (0, 0), content)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When it is larger than the format allows (4 GiB).
    pub fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.add(name, FILE, (0, 0), content)
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// Never in practice: the archive is in memory.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.add(name, DEVICE, (major, minor), &[])
    }

    /// The finished archive, its length a multiple of four.
    ///
    /// # Errors
    /// Never in practice: the archive is in memory.
    pub fn finish(self) -> Result<Vec<u8>> {
        let mut bytes = cpio::newc::trailer(self.bytes).context("Cannot write to memory")?;
        pad(&mut bytes);
        Ok(bytes)
    }
}

/// Fills with zeros to a multiple of four bytes, where Linux looks for the next archive.
pub fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.directory("dev").unwrap();
        archive.directory("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.program("init", b"#!abc").unwrap();
        archive.file("plan.pub", &[7; 32]).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn the_same_entries_give_the_same_bytes_and_read_back() {
        let bytes = small();
        assert_eq!(bytes, small());
        assert_eq!(bytes.len() % 4, 0);
        let mut seen = Vec::new();
        let mut rest: &[u8] = &bytes;
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                break;
            }
            let device = (entry.rdev_major(), entry.rdev_minor());
            seen.push((
                entry.name().to_owned(),
                entry.mode(),
                entry.ino(),
                device,
                entry.mtime(),
                entry.file_size(),
            ));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("dev", 0o04_0755, 1, (0, 0), 0, 0),
            ("dev/console", 0o02_0600, 2, (5, 1), 0, 0),
            ("init", 0o10_0755, 3, (0, 0), 0, 5),
            ("plan.pub", 0o10_0644, 4, (0, 0), 0, 32),
        ];
        let seen: Vec<_> =
            seen.iter().map(|(name, a, b, c, d, e)| (name.as_str(), *a, *b, *c, *d, *e)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn padding_is_zeros_up_to_four() {
        for (length, padded) in [(0, 0), (1, 4), (4, 4), (5, 8)] {
            let mut bytes = vec![1; length];
            pad(&mut bytes);
            assert_eq!(bytes.len(), padded);
        }
    }
}
