//! The machine's power goes while a guest writes: QEMU is killed, and the disk loses all that was not flushed. What the guest has
//! seen flushed is there after the next boot.
//!
//! QEMU's `blklogwrites` notes every write and flush of the storage controller in order; the disk of the second boot is made of
//! that: all up to the last flush, and nothing behind it. (A killed QEMU alone proves little: what it wrote is in this machine's
//! memory, and comes to the disk anyway.)

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::drivers::{Small, operator};
use super::{Report, Setup};
use crate::devices::{Disk, DiskModel, Network, NetworkModel, image_beside};
use crate::disk;
use crate::first_guest::PATIENCE;
use crate::progress::Progress;
use crate::qemu::Settings;
use crate::session::Session;

/// Blocks that must have been written before the power goes.
const LEAST: u32 = 30;
/// MiB of the machine.
const MEMORY_MIB: u32 = 1280;

/// `struct log_write_super` and `struct log_write_entry` (Linux's dm-log-writes), each in a sector of its own.
const SECTOR: usize = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let folder = setup.cache.temporary("cut")?;
    let file = folder.path().join("web.toml");
    Small::configure(setup, &file)?;
    let host = setup.host()?;
    let mut settings = setup.machine(&host)?;
    settings.memory_mib = MEMORY_MIB;
    let image = image_beside(&settings.log, "cut");
    let log = folder.path().join("writes");
    let fresh = || -> Result<()> {
        let _ = std::fs::remove_file(&image);
        disk::write_copy(&setup.cache, Progress::Silent, &image)
    };
    fresh()?;
    File::create(&log).context("Cannot make the log of writes")?;
    let disk = Disk { image: image.clone(), model: DiskModel::Nvme };
    let network = Network { model: NetworkModel::E1000e, forwards: Vec::new() };
    let equipped = |disk: Vec<String>| {
        let extra = [settings.extra.clone(), disk, network.arguments(2)].concat();
        Settings { extra, ..settings.clone() }
    };

    let first = until_cut(setup, &equipped(disk.logged(1, &log)), &file, report);
    let Ok(last) = first else {
        report.check("a guest writes, and the power goes", first.map(|_| String::new()));
        return Ok(());
    };
    report.check("a guest writes, and the power goes", Ok(format!("{last} blocks, each with its own fsync")));
    fresh()?;
    let replayed = OpenOptions::new().write(true).open(&image).context("No disk").and_then(|disk| {
        let log = File::open(&log).context("No log of writes")?;
        replay(&log, &disk)
    });
    let replayed = replayed.and_then(|r| {
        anyhow::ensure!(r.flushes >= u64::from(last), "{last} times fsync, and only {} flushes", r.flushes);
        Ok(format!("{} flushes, {} writes before the last, {} lost behind it", r.flushes, r.kept, r.lost))
    });
    if report.check("each fsync was a flush of the controller", replayed) {
        let outcome = second(setup, &equipped(disk.arguments(1)), &file, last, report);
        report.check("every block is there after the next boot", outcome);
    }
    Ok(())
}

/// Writes numbered blocks, each with its fsync, and tells each number after it; gives the last that was told when QEMU is killed,
/// in the midst of it.
fn until_cut(setup: &Setup, settings: &Settings, file: &Path, report: &Report) -> Result<u32> {
    let mut session = Session::start(settings, report.show)?;
    session.until_ready()?;
    let operator = operator(setup, &mut session)?;
    let guest = Small::of(&operator);
    guest.created(file)?;
    let name = guest.0.name;
    // The end of the line that is typed has no number.
    let write = "n=1; while :; do printf '%08d\\n' $n > /tmp/b; \
                 dd if=/tmp/b of=/dev/xvda bs=4096 seek=$n conv=notrunc,fsync 2> /dev/null && echo told-$n.; n=$((n+1)); done";
    operator.type_at(name, write, &format!("told-{LEAST}."), PATIENCE)?;
    session.idle(Duration::from_millis(1300));
    let seen = operator.log(name)?;
    // Dropped, it is killed.
    drop(session);
    let told = seen.split("told-").filter_map(|rest| rest.split_once('.')?.0.parse().ok());
    told.max().filter(|last| *last >= LEAST).context("nothing was told")
}

/// Looks for every block.
fn second(setup: &Setup, settings: &Settings, file: &Path, last: u32, report: &Report) -> Result<String> {
    let mut session = Session::start(settings, report.show)?;
    session.until_ready()?;
    let operator = operator(setup, &mut session)?;
    let guest = Small::of(&operator);
    guest.created(file)?;
    let said = guest.0.run(&format!(
        "n=1; while [ $n -le {last} ]; do \
         [ \"$(dd if=/dev/xvda bs=4096 skip=$n count=1 2> /dev/null | head -n 1)\" = $(printf '%08d' $n) ] || echo missing-$n; \
         n=$((n+1)); done; echo looked-at-$((n-1))"
    ))?;
    anyhow::ensure!(said == format!("looked-at-{last}"), "{said}");
    session.power_off()?;
    Ok(format!("{last} blocks"))
}

/// What a log of writes has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Replayed {
    flushes: u64,
    /// Writes up to the last flush, and those behind it.
    kept: u64,
    lost: u64,
}

/// Does to a disk what was done up to the last flush.
fn replay(log: &File, disk: &File) -> Result<Replayed> {
    let field = |at: u64, n: u64| -> Result<u64> {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at + n * 8).context("The log of writes ends early")?;
        Ok(u64::from_le_bytes(bytes))
    };
    anyhow::ensure!(field(0, 0)? == MAGIC, "This is no log of writes");
    let sector = SECTOR as u64;
    anyhow::ensure!(field(0, 3)? & 0xffff_ffff == sector, "The log's sectors are not of {SECTOR} bytes");
    let (mut replayed, mut behind, mut at) = (Replayed::default(), Vec::new(), sector);
    for _ in 0..field(0, 2)? {
        let (first, count, flags) = (field(at, 0)?, field(at, 1)?, field(at, 2)?);
        at += sector;
        if flags & FLUSH != 0 {
            replayed.flushes += 1;
            replayed.kept += behind.len() as u64;
            for (from, to, length) in behind.drain(..) {
                let mut bytes = vec![0; length];
                log.read_exact_at(&mut bytes, from).context("The log of writes ends early")?;
                disk.write_all_at(&bytes, to).context("Cannot write the disk")?;
            }
        }
        if flags & DISCARD == 0 && count > 0 {
            behind.push((at, first * sector, usize::try_from(count * sector)?));
            at += count * sector;
        }
    }
    replayed.lost = behind.len() as u64;
    Ok(replayed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: [u64; 3], data: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        bytes.resize(SECTOR, 0);
        [bytes, data.to_vec()].concat()
    }

    #[test]
    fn only_what_was_flushed_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, disk) = (folder.path().join("log"), folder.path().join("disk"));
        let super_block = [MAGIC, 1, 4, 512].iter().flat_map(|field| field.to_le_bytes()).collect::<Vec<_>>();
        let log = [
            [super_block, vec![0; SECTOR - 32]].concat(),
            entry([2, 1, 0], &[1; SECTOR]),
            entry([0, 8, DISCARD], &[]),
            entry([0, 0, FLUSH], &[]),
            entry([3, 1, 0], &[2; SECTOR]),
            entry([9, 9, 9], &[]),
        ];
        std::fs::write(&path, log.concat()).unwrap();
        std::fs::write(&disk, [7; 4 * SECTOR]).unwrap();
        let open = |path| OpenOptions::new().read(true).write(true).open(path).unwrap();
        let replayed = replay(&open(&path), &open(&disk)).unwrap();
        assert_eq!(replayed, Replayed { flushes: 1, kept: 1, lost: 1 });
        let expected = [[7; 2 * SECTOR].as_slice(), &[1; SECTOR], &[7; SECTOR]].concat();
        assert_eq!(std::fs::read(&disk).unwrap(), expected);
        std::fs::write(&path, [0; SECTOR]).unwrap();
        assert!(replay(&open(&path), &open(&disk)).is_err());
    }
}
