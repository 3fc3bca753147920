//! What can be lent to guests: whole disks by the kernel's name for them, and partitions by their label. For files see
//! [`crate::files`].

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::mount::MountFlags;

use crate::files::{FOLDER, Files, LABEL};
use crate::protocol::SECTOR;
use crate::storage::Medium;

/// Where Linux lists block devices.
pub const SYS: &str = "/sys/class/block";
/// Where their nodes are.
pub const DEV: &str = "/dev";

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// `nvme0n1`, or `label:NAME` for a partition with a label in its GPT.
    pub name: String,
    /// The kernel's name; of a file, its own in the file system.
    pub device: String,
    /// Where it is opened.
    pub path: PathBuf,
    /// The disk that it is, or is a part of.
    pub disk: String,
    /// Its size, in units of 512 bytes.
    pub sectors: u64,
    /// Bytes of its smallest unit.
    pub block: u64,
    /// Bytes that it writes at once.
    pub physical_block: u64,
    /// Whether the disk itself can only be read.
    pub read_only: bool,
    /// Whether it can be asked for the end of its I/O, instead of interrupting.
    pub polled: bool,
    /// Bytes that it discards at once, if it can and what was discarded reads as zeroes.
    pub discard: Option<u64>,
}

impl Volume {
    /// Whether a byte of one may be a byte of the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_whole = |volume: &Self| volume.device == volume.disk;
        self.disk == other.disk && (self.device == other.device || is_whole(self) || is_whole(other))
    }

    /// Opens it for I/O past the kernel's cache.
    ///
    /// # Errors
    /// Linux's.
    pub fn open(&self, writable: bool) -> io::Result<Medium> {
        Ok(Medium { file: Arc::new(open(&self.path, writable)?), polled: self.polled })
    }
}

fn open(path: &Path, writable: bool) -> io::Result<File> {
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?))
}

/// The whole disks that there are, by the kernel's names. Partitions, and devices without hardware (loop, ram), are none.
///
/// # Errors
/// Linux's.
pub fn disks(sys: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sys)? {
        let entry = entry?;
        let path = entry.path();
        if path.join("device").exists() && !path.join("partition").exists() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Mounts the partition for volumes that are files, if there is one, and takes it and its disk out of `volumes`. A journal that
/// a predecessor left is replayed.
///
/// # Errors
/// Linux's.
pub fn mount(volumes: &mut Vec<Volume>) -> io::Result<Option<Files>> {
    let label = format!("label:{LABEL}");
    let Some(at) = volumes.iter().position(|volume| volume.name == label) else { return Ok(None) };
    let partition = volumes.remove(at);
    fs::create_dir_all(FOLDER)?;
    let flags = MountFlags::NOATIME
        | MountFlags::LAZYTIME
        | MountFlags::NODEV
        | MountFlags::NOEXEC
        | MountFlags::NOSUID;
    rustix::mount::mount(&partition.path, FOLDER, "ext4", flags, None)?;
    // Whoever had the whole disk would have this, too.
    volumes.retain(|volume| volume.device != partition.disk);
    Ok(Some(Files::new(PathBuf::from(FOLDER), partition.block, partition.polled)))
}

/// Whether the kernel has read the disk's partitions: it does so before anybody has opened it.
#[must_use]
pub fn is_ready(disk: &str) -> bool {
    open(&Path::new(DEV).join(disk), false).is_ok()
}

/// Disks and partitions. A label that two partitions have names neither.
///
/// # Errors
/// Linux's. What goes away while it is looked at is left out.
pub fn volumes(sys: &Path) -> io::Result<Vec<Volume>> {
    let mut all = Vec::new();
    for disk in disks(sys)? {
        let path = sys.join(&disk);
        let Some(whole) = volume(&path, &path, disk.clone(), &disk) else { continue };
        all.push(whole);
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let part = entry.path();
            let device = entry.file_name().to_string_lossy().into_owned();
            if !part.join("partition").exists() {
                continue;
            }
            let label = fs::read_to_string(part.join("uevent")).unwrap_or_default();
            let label = label.lines().find_map(|line| line.strip_prefix("PARTNAME="));
            let Some(label) = label.filter(|label| !label.is_empty()) else { continue };
            all.extend(volume(&part, &path, format!("label:{label}"), &device));
        }
    }
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<String> = all.iter().map(|volume| volume.name.clone()).collect();
    all.retain(|volume| names.iter().filter(|name| **name == volume.name).count() == 1);
    Ok(all)
}

fn volume(path: &Path, disk: &Path, name: String, device: &str) -> Option<Volume> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let queue = |key: &str| number(disk.join("queue").join(key)).unwrap_or(0);
    // Discards are done as holes that read as zeroes, which needs both.
    let discards = queue("discard_max_bytes") > 0 && queue("write_zeroes_max_bytes") > 0;
    Some(Volume {
        name,
        path: Path::new(DEV).join(device),
        device: device.to_owned(),
        disk: disk.file_name()?.to_str()?.to_owned(),
        sectors: number(path.join("size")).filter(|sectors| *sectors > 0)?,
        block: queue("logical_block_size").max(SECTOR),
        physical_block: queue("physical_block_size").max(SECTOR),
        read_only: number(path.join("ro")).is_some_and(|ro| ro != 0),
        polled: queue("io_poll") > 0,
        discard: discards.then(|| queue("discard_granularity").max(SECTOR)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sys(PathBuf);

    impl Sys {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ennead-volumes-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn put(&self, path: &str, value: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }

        fn disk(&self, name: &str) {
            self.put(&format!("{name}/device/model"), "x");
            self.put(&format!("{name}/size"), "2048\n");
            self.put(&format!("{name}/ro"), "0\n");
            self.put(&format!("{name}/queue/logical_block_size"), "512\n");
            self.put(&format!("{name}/queue/physical_block_size"), "4096\n");
        }

        fn part(&self, disk: &str, name: &str, label: &str) {
            self.put(&format!("{disk}/{name}/partition"), "1\n");
            self.put(&format!("{disk}/{name}/size"), "1024\n");
            self.put(&format!("{disk}/{name}/ro"), "1\n");
            self.put(&format!("{disk}/{name}/uevent"), &format!("DEVNAME={name}\nPARTNAME={label}\n"));
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn disks_and_labelled_partitions_are_volumes() {
        let sys = Sys::new("all");
        sys.disk("nvme0n1");
        sys.put("nvme0n1/queue/discard_max_bytes", "1\n");
        sys.put("nvme0n1/queue/write_zeroes_max_bytes", "1\n");
        sys.put("nvme0n1/queue/discard_granularity", "4096\n");
        sys.put("nvme0n1/queue/io_poll", "1\n");
        sys.part("nvme0n1", "nvme0n1p1", "guest one");
        sys.part("nvme0n1", "nvme0n1p2", "");
        sys.disk("sda");
        sys.put("loop0/size", "7\n");
        sys.put("nvme0n1p1/partition", "1\n");
        let volumes = volumes(&sys.0).unwrap();
        let names: Vec<_> = volumes.iter().map(|v| (v.name.as_str(), v.device.as_str())).collect();
        assert_eq!(names, [("label:guest one", "nvme0n1p1"), ("nvme0n1", "nvme0n1"), ("sda", "sda")]);
        let [part, nvme, sda] = &volumes[..] else { panic!("{volumes:?}") };
        assert_eq!((part.sectors, part.read_only, part.discard), (1024, true, Some(4096)));
        assert_eq!((nvme.sectors, nvme.read_only, nvme.physical_block), (2048, false, 4096));
        assert_eq!((sda.discard, sda.polled, part.polled, nvme.polled), (None, false, true, true));
        assert!(part.overlaps(nvme) && nvme.overlaps(part) && nvme.overlaps(nvme) && !sda.overlaps(part));
        let other = Volume { device: "nvme0n1p2".to_owned(), ..part.clone() };
        assert!(!other.overlaps(part) && other.overlaps(nvme));
        assert_eq!(disks(&sys.0).unwrap(), ["nvme0n1", "sda"]);
    }

    #[test]
    fn a_label_that_is_there_twice_names_nothing() {
        let sys = Sys::new("twice");
        sys.disk("sda");
        sys.part("sda", "sda1", "a");
        sys.part("sda", "sda2", "a");
        let volumes = volumes(&sys.0).unwrap();
        assert_eq!(volumes.len(), 1);
    }
}
