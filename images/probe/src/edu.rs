//! QEMU's educational device (docs/specs/edu.rst): it writes to any address of the machine that it is told.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ennead_pciback::bus;
use ennead_xen::probe::{MarkedMemory, Mmio};

/// Vendor and device.
const ID: (u16, u16) = (0x1234, 0x11e8);
/// Bytes of its registers that matter.
const REGISTERS: usize = 4096;
const IDENTIFICATION: usize = 0x00;
const DMA_SOURCE: usize = 0x80;
const DMA_TARGET: usize = 0x88;
const DMA_COUNT: usize = 0x90;
const DMA_COMMAND: usize = 0x98;
/// Start, from the device to RAM.
const DMA_WRITE: u64 = 0b11;
const DMA_RUNS: u64 = 0b01;
/// Its own buffer, which nobody has filled: zeros.
const BUFFER: u64 = 0x4_0000;
/// The PCI command register, and its bits for memory and bus mastering.
const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u16 = 0b110;

const MIB: u64 = 1 << 20;
/// Below are firmware and what Xen needs at start.
const FIRST: u64 = 16 * MIB;
/// Domains get their memory in pieces of 2 MiB; every other one is tried.
const STEP: u64 = 4 * MIB;
/// Where in each piece: page 3, and in it a word of no importance to anybody.
const PAGE: u64 = 3 * 4096;
const WORD: u64 = 0x7c0;
/// Same as a number of [`MarkedMemory`].
const WORD_INDEX: usize = 0x7c0;

/// The device.
#[derive(Debug)]
pub struct Edu {
    registers: Mmio,
}

/// What came of writing to memory all over the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Writes that the device was told to do.
    pub writes: u32,
    /// Whether one of them reached this VM's own memory, as it should.
    pub own: bool,
    /// Whether one more did after all others: the device could still write.
    pub end: bool,
}

impl Edu {
    /// Finds the device below `sysfs` and lets it read and write memory.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn open(sysfs: &Path) -> anyhow::Result<Self> {
        let functions = bus::functions(sysfs).context("Cannot read the PCI bus")?;
        let found = functions.iter().find(|f| (f.vendor, f.device) == ID);
        let address = found.context("There is no edu device: -device edu")?.address.to_string();
        let folder = sysfs.join("bus/pci/devices").join(address);
        let open = |name: &str| {
            let path = folder.join(name);
            OpenOptions::new().read(true).write(true).open(&path).with_context(|| path.display().to_string())
        };
        enable(&open("config")?).context("Cannot write to PCI configuration space")?;
        let registers = Mmio::map(&open("resource0")?, REGISTERS).context("Cannot map the registers")?;
        let identification = registers.read32(IDENTIFICATION)?;
        ensure!(identification & 0xff == 0xed, "The device says {identification:#x}, which is not 0x...ed");
        Ok(Self { registers })
    }

    /// Writes four zero bytes to an address of the machine, by DMA; returns when the device has done it or was stopped.
    fn zero(&self, address: u64) -> anyhow::Result<()> {
        self.registers.write64(DMA_SOURCE, BUFFER)?;
        self.registers.write64(DMA_TARGET, address)?;
        self.registers.write64(DMA_COUNT, 4)?;
        self.registers.write64(DMA_COMMAND, DMA_WRITE)?;
        // It takes 100 ms.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.registers.read64(DMA_COMMAND)? & DMA_RUNS != 0 {
            ensure!(Instant::now() < deadline, "The device does not end its DMA");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Writes zeros all over a machine of `machine_mib`, but for the rest of this VM's own `own_mib` once `own` has been
    /// hit: Xen gives a domain that is built at boot memory in one piece, downwards, so that the piece begins with what this VM
    /// got last, which is not its kernel.
    ///
    /// # Errors
    /// When the device does not work.
    pub fn sweep(&self, own: &MarkedMemory, machine_mib: u64, own_mib: u64) -> anyhow::Result<Swept> {
        let mut swept = Swept { writes: 0, own: false, end: false };
        let mut hit = None;
        let mut base = FIRST;
        while base < machine_mib * MIB {
            let target = base + PAGE + WORD;
            self.zero(target)?;
            swept.writes += 1;
            base += STEP;
            if hit.is_none() && own.take_changed(WORD_INDEX).is_some() {
                hit = Some(target);
                base += own_mib * MIB - STEP;
            }
        }
        swept.own = hit.is_some();
        if let Some(target) = hit {
            self.zero(target)?;
            swept.end = own.take_changed(WORD_INDEX).is_some();
        }
        Ok(swept)
    }
}

/// Lets a device answer, and use DMA.
pub(crate) fn enable(config: &File) -> io::Result<()> {
    let mut command = [0; 2];
    config.read_exact_at(&mut command, COMMAND)?;
    let command = u16::from_le_bytes(command) | MEMORY_AND_MASTER;
    config.write_all_at(&command.to_le_bytes(), COMMAND)
}
