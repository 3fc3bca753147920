//! Volumes that are files, in a file system that fills the partition labelled [`LABEL`]: a folder for each tenant, a file for each
//! volume.
//!
//! A volume that is lent is allocated and written to its last byte: a write into it changes no metadata that only our kernel
//! would know of, so what a guest was told is there survives us. Until then it is being made, under another name, and whoever is
//! killed meanwhile goes on at its first hole (`SEEK_HOLE`):
//!
//! ```text
//! NAME.img           a volume
//! NAME.part          a volume that is made, with zeroes
//! NAME.of.OTHER      a volume that is made as a copy of OTHER, which must not be written meanwhile
//! NAME.from.BYTES    a volume that grows, with zeroes; its first BYTES can be lent meanwhile
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ennead_os::{Buffer, Buffers};
use ennead_volumes::{Kind, Name, Refusal, Request, State, UNIT};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::protocol::SECTOR;
use crate::volumes::Volume;

/// Label of the partition.
pub const LABEL: &str = "ennead-volumes";
/// Where it is mounted.
pub const FOLDER: &str = "/volumes";
/// Most volumes of a tenant.
const MAX_VOLUMES: usize = 128;
/// Pages that are written at once.
const CHUNK: usize = 256;
/// Bytes that stay free for the file system itself, and its share of the volumes' bytes.
const RESERVE: u64 = 4 << 20;
const SHARE: u64 = 256;
/// Bytes that the file system allocates at once.
const PHYSICAL_BLOCK: u64 = 4096;

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: Name,
    path: PathBuf,
    bytes: u64,
    stage: Stage,
}

/// Where a volume is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// It is whole.
    Whole,
    /// It is being made.
    New,
    /// It is being made of another.
    Copy(Name),
    /// It grows from so many bytes on.
    Grows(u64),
}

/// The volumes of all tenants, which are known by the domids of their toolstacks.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    /// Bytes of the disk's smallest unit.
    block: u64,
    /// Whether the disk can be asked for the end of its I/O.
    polled: bool,
}

/// A volume that is being made.
#[derive(Debug)]
pub struct Making {
    entry: Entry,
    folder: PathBuf,
    file: File,
    from: Option<File>,
    buffer: Buffer,
    done: u64,
}

impl Files {
    /// Those below this folder, on a disk whose smallest unit has `block` bytes. `polled`: it can be asked for the end of its I/O.
    #[must_use]
    pub fn new(folder: PathBuf, block: u64, polled: bool) -> Self {
        Self { folder, block, polled }
    }

    /// A tenant's folder.
    fn tenant(&self, tenant: u16) -> PathBuf {
        self.folder.join(tenant.to_string())
    }

    fn entries(&self, tenant: u16) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let folder = match fs::read_dir(self.tenant(tenant)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(entries),
            folder => folder?,
        };
        for entry in folder {
            let entry = entry?;
            let file = entry.file_name();
            let words: Vec<&str> = file.to_str().map(|name| name.split('.').collect()).unwrap_or_default();
            let (name, stage) = match *words.as_slice() {
                [name, "img"] => (name, Some(Stage::Whole)),
                [name, "part"] => (name, Some(Stage::New)),
                [name, "of", from] => (name, from.parse().ok().map(Stage::Copy)),
                [name, "from", bytes] => (name, bytes.parse().ok().map(Stage::Grows)),
                _ => continue,
            };
            let (Ok(name), Some(stage)) = (name.parse(), stage) else { continue };
            entries.push(Entry { name, path: entry.path(), bytes: entry.metadata()?.len(), stage });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// A tenant's volumes.
    ///
    /// # Errors
    /// Linux's.
    pub fn list(&self, tenant: u16) -> io::Result<Vec<(Name, State)>> {
        let state = |entry: Entry| {
            let making = match entry.stage {
                Stage::Whole => None,
                _ => Some(entry.done()?),
            };
            Ok((entry.name, State { bytes: entry.bytes, making }))
        };
        self.entries(tenant)?.into_iter().map(state).collect()
    }

    /// A volume that can be lent.
    ///
    /// # Errors
    /// Linux's.
    pub fn volume(&self, tenant: u16, name: &Name) -> io::Result<Option<Volume>> {
        let Some(entry) = self.entries(tenant)?.into_iter().find(|entry| entry.name == *name) else {
            return Ok(None);
        };
        let bytes = match entry.stage {
            Stage::Whole => entry.bytes,
            Stage::Grows(from) => from,
            Stage::New | Stage::Copy(_) => return Ok(None),
        };
        Ok(Some(Volume {
            name: ennead_volumes::params(tenant, name),
            device: format!("{tenant}/{name}"),
            path: entry.path,
            disk: FOLDER.to_owned(),
            sectors: bytes / SECTOR,
            block: self.block,
            physical_block: PHYSICAL_BLOCK.max(self.block),
            read_only: false,
            polled: self.polled,
            // What is discarded would have to be allocated again.
            discard: None,
        }))
    }

    /// Bytes that new volumes may have.
    ///
    /// # Errors
    /// Linux's.
    pub fn free(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.folder)?;
        let mut free = space.f_bavail.saturating_mul(space.f_frsize);
        // What is being made will take the rest of its bytes.
        for tenant in self.tenants()? {
            for entry in self.entries(tenant)?.into_iter().filter(|entry| entry.stage != Stage::Whole) {
                free = free.saturating_sub(entry.bytes.saturating_sub(entry.done()?));
            }
        }
        let free = free.saturating_sub(RESERVE);
        let free = free.saturating_sub(free / SHARE);
        Ok(free - free % UNIT)
    }

    /// The tenants that have a folder.
    ///
    /// # Errors
    /// Linux's.
    pub fn tenants(&self) -> io::Result<Vec<u16>> {
        let mut tenants = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            tenants.extend(name.to_str().and_then(|name| name.parse::<u16>().ok()));
        }
        tenants.sort_unstable();
        Ok(tenants)
    }

    /// Does what a toolstack asks; `used` are the volumes that are disks of its guests, and `again` says that it may have been
    /// done already by a predecessor. What is to be made is then made by [`Files::next`].
    ///
    /// # Errors
    /// Why it is not done.
    pub fn obey(&self, tenant: u16, request: &Request, used: &[Name], again: bool) -> Result<(), Refusal> {
        let entries = self.entries(tenant).map_err(failed)?;
        let find = |name: &Name| entries.iter().find(|entry| entry.name == *name);
        let missing = |name: &Name| Refusal::new(Kind::NoSuchVolume, format!("There is no volume `{name}`"));
        let idle = |name: &Name, used: &[Name]| {
            let entry = find(name).ok_or_else(|| missing(name))?;
            let source = |other: &Entry| other.stage == Stage::Copy(name.clone());
            let why = if used.contains(name) {
                "is a disk of a guest"
            } else if entry.stage != Stage::Whole {
                "is being made"
            } else if entries.iter().any(source) {
                "is being copied"
            } else {
                return Ok(entry);
            };
            Err(Refusal::new(Kind::State, format!("The volume `{name}` {why}")))
        };
        match request {
            Request::Create { name, bytes } => {
                let bytes = self.size(*bytes)?;
                match find(name) {
                    Some(entry) if again && entry.bytes == bytes => return Ok(()),
                    Some(_) => return Err(exists(name)),
                    None => {}
                }
                self.room(entries.len(), bytes)?;
                self.begin(tenant, &format!("{name}.part"), bytes).map_err(failed)
            }
            Request::Copy { name, from } => {
                match find(name) {
                    Some(_) if again => return Ok(()),
                    Some(_) => return Err(exists(name)),
                    None => {}
                }
                let bytes = idle(from, used)?.bytes;
                self.room(entries.len(), bytes)?;
                self.begin(tenant, &format!("{name}.of.{from}"), bytes).map_err(failed)
            }
            Request::Grow { name, bytes } => {
                let bytes = self.size(*bytes)?;
                if again && find(name).is_some_and(|entry| entry.bytes == bytes) {
                    return Ok(());
                }
                // Whoever has it as a disk goes on with what there was of it.
                let entry = idle(name, &[])?;
                let more = bytes.checked_sub(entry.bytes).filter(|more| *more > 0);
                let more = more.ok_or_else(|| {
                    let message =
                        format!("The volume `{name}` has {} bytes, and volumes only grow", entry.bytes);
                    Refusal::new(Kind::Invalid, message)
                })?;
                self.room(0, more)?;
                self.grow(tenant, entry, bytes).map_err(failed)
            }
            Request::Delete { name } => {
                let Some(entry) = find(name) else {
                    return if again { Ok(()) } else { Err(missing(name)) };
                };
                // One that is being made may end, too.
                let begun = matches!(entry.stage, Stage::New | Stage::Copy(_));
                let entry = if begun { entry } else { idle(name, used)? };
                let end = || {
                    fs::remove_file(&entry.path)?;
                    durable(&self.tenant(tenant))
                };
                end().map_err(failed)
            }
        }
    }

    fn size(&self, bytes: u64) -> Result<u64, Refusal> {
        if bytes == 0 {
            return Err(Refusal::new(Kind::Invalid, "A volume has at least one byte"));
        }
        let too_large = || Refusal::new(Kind::TooLarge, "There is no room for so many bytes");
        bytes.checked_next_multiple_of(UNIT).ok_or_else(too_large)
    }

    fn room(&self, count: usize, bytes: u64) -> Result<(), Refusal> {
        if count >= MAX_VOLUMES {
            let message = format!("There are {MAX_VOLUMES} volumes, which is most that a tenant may have");
            return Err(Refusal::new(Kind::TooLarge, message));
        }
        let free = self.free().map_err(failed)?;
        if bytes > free {
            let message = format!("There is room for {free} bytes, not for {bytes}");
            return Err(Refusal::new(Kind::TooLarge, message));
        }
        Ok(())
    }

    fn begin(&self, tenant: u16, file: &str, bytes: u64) -> io::Result<()> {
        let folder = self.tenant(tenant);
        match fs::create_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.and_then(|()| durable(&self.folder))?,
        }
        let path = folder.join(file);
        let file = File::options().write(true).create_new(true).open(&path)?;
        let sized = file.set_len(bytes).and_then(|()| file.sync_all()).and_then(|()| durable(&folder));
        if sized.is_err() {
            let _ = fs::remove_file(&path);
        }
        sized
    }

    /// It is made again from its old end on, which is its first hole then.
    fn grow(&self, tenant: u16, entry: &Entry, bytes: u64) -> io::Result<()> {
        let folder = self.tenant(tenant);
        let path = folder.join(format!("{}.from.{}", entry.name, entry.bytes));
        fs::rename(&entry.path, &path)?;
        let file = File::options().write(true).open(&path)?;
        file.set_len(bytes)?;
        file.sync_all()?;
        durable(&folder)
    }

    /// The next volume that is to be made, if there is one.
    ///
    /// # Errors
    /// Linux's.
    pub fn next(&self) -> io::Result<Option<Making>> {
        for tenant in self.tenants()? {
            let entries = self.entries(tenant)?;
            for entry in entries.iter().filter(|entry| entry.stage != Stage::Whole) {
                let from = match &entry.stage {
                    Stage::Whole | Stage::New | Stage::Grows(_) => None,
                    Stage::Copy(from) => {
                        let source =
                            entries.iter().find(|one| one.name == *from && one.stage == Stage::Whole);
                        // Without its source nothing can come of it.
                        let Some(source) = source else {
                            fs::remove_file(&entry.path)?;
                            continue;
                        };
                        Some(direct(&source.path, OFlags::RDONLY)?)
                    }
                };
                let file = direct(&entry.path, OFlags::RDWR)?;
                let done = entry.done()?;
                let buffers = Buffers::new(CHUNK)?;
                let buffer = buffers.take(CHUNK * ennead_xen::PAGE_SIZE).ok_or(io::ErrorKind::OutOfMemory)?;
                let (entry, folder) = (entry.clone(), self.tenant(tenant));
                return Ok(Some(Making { entry, folder, file, from, buffer, done }));
            }
        }
        Ok(None)
    }
}

impl Making {
    /// Makes the next piece of it. Gives whether there is more.
    ///
    /// # Errors
    /// Linux's.
    pub fn turn(&mut self) -> io::Result<bool> {
        let rest = self.entry.bytes.saturating_sub(self.done);
        if rest == 0 || !self.entry.path.exists() {
            self.end()?;
            return Ok(false);
        }
        let len = self.buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let part = self.buffer.get_mut(..len).unwrap_or_default();
        match &self.from {
            None => part.fill(0),
            Some(from) => from.read_exact_at(part, self.done)?,
        }
        self.file.write_all_at(part, self.done)?;
        self.done = self.done.saturating_add(len as u64);
        Ok(true)
    }

    /// It is there: from now on under its own name.
    fn end(&self) -> io::Result<()> {
        self.file.sync_all()?;
        let path = self.folder.join(format!("{}.img", self.entry.name));
        match fs::rename(&self.entry.path, path) {
            // It was deleted meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| durable(&self.folder)),
        }
    }
}

impl Entry {
    /// Bytes that there are of it: what a guest may have of it is never made again.
    fn done(&self) -> io::Result<u64> {
        let done = done(&File::open(&self.path)?, self.bytes)?;
        Ok(match self.stage {
            Stage::Grows(from) => done.max(from),
            _ => done,
        })
    }
}

/// Bytes up to its first hole.
fn done(file: &File, bytes: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Hole(0)) {
        Ok(at) => Ok(at.min(bytes)),
        // There is nothing in it.
        Err(Errno::NXIO) => Ok(bytes),
        Err(errno) => Err(errno.into()),
    }
}

fn direct(path: &Path, access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// What is in a folder is there after a crash.
fn durable(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn exists(name: &Name) -> Refusal {
    Refusal::new(Kind::Exists, format!("There is a volume `{name}` already"))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: io::Error) -> Refusal {
    Refusal::new(Kind::Failed, format!("The volumes' file system: {error}"))
}

#[cfg(test)]
mod tests;
