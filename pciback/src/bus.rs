//! The PCI bus as Linux shows it in sysfs (Documentation/ABI/testing/sysfs-bus-pci).

use std::fs;
use std::io;
use std::path::Path;

use ennead_channel::pciback::Address;

/// Functions on the bus at most: 256 buses of 32 devices of 8 functions, in one segment.
const MAX_FUNCTIONS: usize = 65_536;

/// One PCI function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Name of the driver bound to it; empty if none.
    pub driver: String,
    /// It has MSI or MSI-X.
    pub has_msi: bool,
    /// Linux knows a way to reset it alone.
    pub has_reset: bool,
}

impl Function {
    /// Whether it drives disks or networks: base class 1 or 2.
    #[must_use]
    pub fn is_controller(&self) -> bool {
        matches!(self.class >> 16, 1 | 2)
    }
}

/// All functions below `sysfs` (`/sys`), by address.
///
/// # Errors
/// When the bus cannot be read, or an attribute is not the number that it should be; the error names the file.
pub fn functions(sysfs: &Path) -> io::Result<Vec<Function>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sysfs.join("bus/pci/devices"))?.take(MAX_FUNCTIONS) {
        found.push(function(sysfs, address(&entry?.file_name().to_string_lossy())?)?);
    }
    found.sort();
    Ok(found)
}

/// The function at an address.
///
/// # Errors
/// As [`functions`].
pub fn function(sysfs: &Path, address: Address) -> io::Result<Function> {
    let at = sysfs.join("bus/pci/devices").join(address.to_string());
    let attribute = |name: &str| number(&at.join(name));
    Ok(Function {
        address,
        class: attribute("class")?,
        vendor: narrow(attribute("vendor")?)?,
        device: narrow(attribute("device")?)?,
        driver: driver(&at),
        has_msi: fs::read(at.join("config")).is_ok_and(|config| has_msi(&config)),
        has_reset: at.join("reset").exists(),
    })
}

fn address(name: &str) -> io::Result<Address> {
    name.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {e}")))
}

/// The driver is a link to its directory.
fn driver(function: &Path) -> String {
    let link = fs::read_link(function.join("driver")).unwrap_or_default();
    link.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Walks through the capabilities in a function's configuration space (PCI Local Bus 3.0, 6.7).
fn has_msi(config: &[u8]) -> bool {
    const STATUS: usize = 0x06;
    const HAS_CAPABILITIES: u8 = 0x10;
    const FIRST: usize = 0x34;
    const MSI: u8 = 0x05;
    const MSIX: u8 = 0x11;
    if config.get(STATUS).is_none_or(|status| status & HAS_CAPABILITIES == 0) {
        return false;
    }
    let mut at = FIRST;
    // There is room for so many; a list that is a ring ends, too.
    for _ in 0..48 {
        let Some(next) = config.get(at).map(|next| usize::from(*next & !3)).filter(|next| *next != 0) else {
            return false;
        };
        if matches!(config.get(next), Some(&(MSI | MSIX))) {
            return true;
        }
        at = next + 1;
    }
    false
}

/// Reads `0x010601`.
fn number(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    text.trim().strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: `{}` is no number", path.display(), text.trim()),
        )
    })
}

fn narrow(id: u32) -> io::Result<u16> {
    u16::try_from(id).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, format!("PCI id {id:#x} has more than 16 bits"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus(name: &str, functions: &[(&str, &str, &str, &str)]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("ennead-bus-{}-{name}", std::process::id()));
        for (address, class, vendor, device) in functions {
            let dir = root.join("bus/pci/devices").join(address);
            fs::create_dir_all(&dir).expect("temporary directory");
            for (file, value) in [("class", class), ("vendor", vendor), ("device", device)] {
                fs::write(dir.join(file), format!("{value}\n")).expect("temporary file");
            }
        }
        root
    }

    #[test]
    fn functions_come_by_address_and_controllers_are_known() {
        let root = bus(
            "ok",
            &[
                ("0000:00:03.0", "0x020000", "0x8086", "0x10d3"),
                ("0000:00:00.0", "0x060000", "0x8086", "0x29c0"),
                ("0000:00:1f.2", "0x010601", "0x8086", "0x2922"),
            ],
        );
        let found = functions(&root).expect("readable");
        let short: Vec<_> =
            found.iter().map(|f| (f.address.to_string(), f.class, f.is_controller())).collect();
        assert_eq!(
            short,
            [
                ("0000:00:00.0".to_owned(), 0x06_0000, false),
                ("0000:00:03.0".to_owned(), 0x02_0000, true),
                ("0000:00:1f.2".to_owned(), 0x01_0601, true)
            ]
        );
        assert_eq!((found[1].vendor, found[1].device), (0x8086, 0x10d3));
    }

    #[test]
    fn msi_is_found_wherever_it_is_in_the_list() {
        let mut config = [0; 256];
        config[0x34] = 0x40;
        (config[0x40], config[0x41]) = (0x01, 0x50);
        (config[0x50], config[0x51]) = (0x11, 0);
        assert!(!has_msi(&config), "its status says that there is no list");
        config[0x06] = 0x10;
        assert!(has_msi(&config));
        config[0x50] = 0x10;
        assert!(!has_msi(&config), "the list has an end");
        config[0x51] = 0x40;
        assert!(!has_msi(&config), "the list is a ring");
        config[0x50] = 0x05;
        assert!(has_msi(&config));
        assert!(!has_msi(&config[..0x40]) && !has_msi(&[]));
    }

    #[test]
    fn an_attribute_that_is_no_number_is_an_error_that_names_the_file() {
        let root = bus("bad", &[("0000:00:00.0", "six", "0x8086", "0x1")]);
        let e = functions(&root).expect_err("not a number").to_string();
        assert!(e.ends_with("0000:00:00.0/class: `six` is no number"), "{e}");
        let root = bus("wide", &[("0000:00:00.0", "0x060000", "0x18086", "0x1")]);
        assert_eq!(
            functions(&root).expect_err("too wide").to_string(),
            "PCI id 0x18086 has more than 16 bits"
        );
    }
}
