//! Devices that are lent to driver VMs.
//!
//! Linux's xen-pciback serves their configuration space; which device is whose, this module says, as Builder asks. Before
//! pciback is sealed a device is *seized*: bound to xen-pciback, and the file that resets it opened. Afterwards nothing else
//! can be lent: all that is left to write to are those files and Xen.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ennead_channel::pciback::Address;
use ennead_xen::{Control, DomId, Mfn, PAGE_SIZE};

/// xen-pciback's name as a PCI driver.
const DRIVER: &str = "pciback";
/// How long xen-pciback may take to let go of a device whose last borrower is gone: it resets it, for a second at most.
const RELEASED: Duration = Duration::from_secs(5);
/// How often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// BARs of a function (the first lines of its `resource`).
const BARS: usize = 6;
/// Linux's kinds of resources (`include/linux/ioport.h`).
const IORESOURCE_IO: u64 = 0x100;
const IORESOURCE_MEM: u64 = 0x200;

/// What of a device's address space its driver reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bar {
    /// Pages of memory: the first, and how many.
    Memory(Mfn, u64),
    /// I/O ports: the first, and how many.
    Ports(u32, u32),
}

/// What Xen is asked when a device is lent.
pub trait Rights {
    /// The device's DMA and interrupts are the domain's.
    ///
    /// # Errors
    /// Xen's.
    fn assign(&self, to: DomId, address: Address) -> anyhow::Result<()>;
    /// The domain may reach this.
    ///
    /// # Errors
    /// Xen's.
    fn allow(&self, to: DomId, bar: Bar) -> anyhow::Result<()>;
}

impl Rights for Control {
    fn assign(&self, to: DomId, address: Address) -> anyhow::Result<()> {
        Ok(self.assign_device(to, address.sbdf())?)
    }

    fn allow(&self, to: DomId, bar: Bar) -> anyhow::Result<()> {
        match bar {
            Bar::Memory(first, count) => self.allow_io_memory(to, first, count)?,
            Bar::Ports(first, count) => self.allow_io_ports(to, first, count)?,
        }
        Ok(())
    }
}

/// A device that can be lent.
#[derive(Debug)]
struct Seized {
    /// Writing `1` resets it; `None`: it cannot be reset, and the manifest accepts that.
    reset: Option<File>,
    bars: Vec<Bar>,
}

/// The devices that can be lent.
#[derive(Debug)]
pub struct Lender<X = Control> {
    sysfs: PathBuf,
    xen: X,
    seized: BTreeMap<Address, Seized>,
}

impl<X: Rights> Lender<X> {
    /// None yet. `sysfs` is `/sys`.
    pub fn new(sysfs: &Path, xen: X) -> Self {
        Self { sysfs: sysfs.to_owned(), xen, seized: BTreeMap::new() }
    }

    /// Binds a function to xen-pciback, which resets it. Nothing more when it is already. Whether it can be reset.
    ///
    /// # Errors
    /// When Linux refuses, or the function cannot be reset and must be.
    pub fn seize(&mut self, address: Address, without_reset: bool) -> anyhow::Result<bool> {
        if let Some(seized) = self.seized.get(&address) {
            return Ok(seized.reset.is_some());
        }
        let bus = self.sysfs.join("bus/pci");
        let device = bus.join("devices").join(address.to_string());
        put(&device.join("driver_override"), DRIVER)?;
        let driver = device.join("driver");
        if driver.exists() {
            put(&driver.join("unbind"), &address.to_string())?;
        }
        put(&bus.join("drivers_probe"), &address.to_string())?;
        let bound = fs::read_link(&driver).unwrap_or_default();
        ensure!(bound.ends_with(DRIVER), "xen-pciback did not take {address}");
        let path = device.join("reset");
        let reset = match OpenOptions::new().write(true).open(&path) {
            Err(e) if without_reset && e.kind() == io::ErrorKind::NotFound => None,
            reset => {
                Some(reset.with_context(|| format!("Cannot open {}: it cannot be reset", path.display()))?)
            }
        };
        let can_reset = reset.is_some();
        let path = device.join("resource");
        let text = fs::read_to_string(&path).with_context(|| format!("Cannot read {}", path.display()))?;
        let bars = bars(&text).with_context(|| format!("{} is not understood", path.display()))?;
        self.seized.insert(address, Seized { reset, bars });
        Ok(can_reset)
    }

    /// Resets a seized function and gives a VM, which must not run yet, its rights.
    ///
    /// # Errors
    /// When it is not seized, its last borrower still has it, it cannot be reset, or Xen refuses.
    pub fn lend(&self, to: DomId, address: Address) -> anyhow::Result<()> {
        let seized = self.seized.get(&address).with_context(|| format!("{address} is not seized"))?;
        self.await_release(to)?;
        // What the last borrower began must not end in the next one's memory.
        if let Some(mut reset) = seized.reset.as_ref() {
            reset.write_all(b"1").with_context(|| format!("Cannot reset {address}"))?;
        }
        self.xen.assign(to, address)?;
        seized.bars.iter().try_for_each(|bar| self.xen.allow(to, *bar))
    }

    /// Waits until xen-pciback has let go of what an earlier VM of this number had.
    fn await_release(&self, domid: DomId) -> anyhow::Result<()> {
        let device = self.sysfs.join(format!("devices/pci-{}-0", domid.0));
        let deadline = Instant::now() + RELEASED;
        while device.exists() {
            if Instant::now() >= deadline {
                bail!("xen-pciback has not let go of the devices of {domid}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Writes a word to an attribute.
fn put(path: &Path, word: &str) -> anyhow::Result<()> {
    let write = || OpenOptions::new().write(true).open(path)?.write_all(word.as_bytes());
    let result: io::Result<()> = write();
    result.with_context(|| format!("Cannot write {word} to {}", path.display()))
}

/// Reads a function's `resource`: a line `start end flags` for each BAR, zeros for one that it does not have.
fn bars(text: &str) -> Option<Vec<Bar>> {
    let mut bars = Vec::new();
    for line in text.lines().take(BARS) {
        let mut words = line.split_ascii_whitespace();
        let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (start, end, flags) = (number()?, number()?, number()?);
        if end == 0 {
            continue;
        }
        if flags & IORESOURCE_MEM != 0 {
            let page = u64::try_from(PAGE_SIZE).ok()?;
            let (first, last) = (start / page, end / page);
            bars.push(Bar::Memory(Mfn(first), last.checked_sub(first)?.checked_add(1)?));
        } else if flags & IORESOURCE_IO != 0 {
            let count = end.checked_sub(start)?.checked_add(1)?;
            bars.push(Bar::Ports(u32::try_from(start).ok()?, u32::try_from(count).ok()?));
        }
    }
    Some(bars)
}

#[cfg(test)]
mod tests;
