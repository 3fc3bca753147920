use std::cell::RefCell;
use std::os::unix::fs::symlink;

use super::*;

/// Notes what Xen is asked.
#[derive(Debug, Default)]
struct Asked(RefCell<Vec<String>>);

impl Rights for Asked {
    fn assign(&self, to: DomId, address: Address) -> anyhow::Result<()> {
        self.0.borrow_mut().push(format!("assign {address} to {to}"));
        Ok(())
    }

    fn allow(&self, to: DomId, bar: Bar) -> anyhow::Result<()> {
        self.0.borrow_mut().push(format!("allow {bar:?} to {to}"));
        Ok(())
    }
}

const NVME: &str = "0000:01:00.0";
const RESOURCE: &str = "0x00000000fe800000 0x00000000fe803fff 0x0000000000140204\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x000000000000c000 0x000000000000c03f 0x0000000000040101\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x00000000fe840000 0x00000000fe87ffff 0x0000000000046200\n";

/// A bus with one function, which `driver` has.
fn bus(driver: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("temporary directory");
    let device = root.path().join("bus/pci/devices").join(NVME);
    let driver_dir = root.path().join("bus/pci/drivers").join(driver);
    for dir in [&device, &driver_dir, &root.path().join("devices")] {
        fs::create_dir_all(dir).expect("directory");
    }
    symlink(&driver_dir, device.join("driver")).expect("link");
    for (file, text) in [("driver_override", ""), ("reset", ""), ("resource", RESOURCE)] {
        fs::write(device.join(file), text).expect("file");
    }
    for file in [driver_dir.join("unbind"), root.path().join("bus/pci/drivers_probe")] {
        fs::write(file, "").expect("file");
    }
    root
}

fn address() -> Address {
    NVME.parse().expect("an address")
}

#[test]
fn the_ports_and_pages_of_the_bars_but_not_the_rom() {
    assert_eq!(bars(RESOURCE), Some(vec![Bar::Memory(Mfn(0xf_e800), 4), Bar::Ports(0xc000, 64)]));
    // Less than a page is a page.
    assert_eq!(bars("0x1010 0x101f 0x200"), Some(vec![Bar::Memory(Mfn(1), 1)]));
    for wrong in ["x", "0x1 0x2", "0x2000 0x1000 0x200", "0x0 0xfffffffff 0x100"] {
        assert_eq!(bars(wrong), None, "{wrong}");
    }
}

#[test]
fn a_device_is_seized_then_reset_then_assigned() {
    let root = bus("pciback");
    let mut lender = Lender::new(root.path(), Asked::default());
    let error = lender.lend(DomId(8), address()).expect_err("not seized").to_string();
    assert_eq!(error, "0000:01:00.0 is not seized");
    lender.seize(address(), false).expect("seized");
    let read = |file: &str| fs::read_to_string(root.path().join(file)).expect("file");
    assert_eq!(read("bus/pci/devices/0000:01:00.0/driver_override"), "pciback");
    assert_eq!(read("bus/pci/drivers/pciback/unbind"), NVME);
    assert_eq!(read("bus/pci/drivers_probe"), NVME);
    assert!(lender.xen.0.borrow().is_empty());
    lender.lend(DomId(8), address()).expect("lent");
    assert_eq!(read("bus/pci/devices/0000:01:00.0/reset"), "1");
    assert_eq!(
        *lender.xen.0.borrow(),
        ["assign 0000:01:00.0 to d8", "allow Memory(Mfn(1042432), 4) to d8", "allow Ports(49152, 64) to d8"]
    );
}

#[test]
fn a_device_that_another_driver_keeps_or_that_has_no_reset_is_not_seized() {
    let root = bus("nvme");
    let error = Lender::new(root.path(), Asked::default()).seize(address(), false).expect_err("not bound");
    assert_eq!(error.to_string(), "xen-pciback did not take 0000:01:00.0");
    let root = bus("pciback");
    fs::remove_file(root.path().join("bus/pci/devices/0000:01:00.0/reset")).expect("file");
    let error = Lender::new(root.path(), Asked::default()).seize(address(), false).expect_err("no reset");
    assert!(error.to_string().ends_with("it cannot be reset"), "{error}");
    // Unless the manifest accepts that.
    let mut lender = Lender::new(root.path(), Asked::default());
    assert!(!lender.seize(address(), true).expect("accepted"));
    lender.lend(DomId(8), address()).expect("lent");
    assert_eq!(lender.xen.0.borrow().len(), 3);
    let root = bus("pciback");
    assert!(Lender::new(root.path(), Asked::default()).seize(address(), true).expect("it can be reset"));
}

#[test]
fn a_device_is_not_lent_before_its_last_borrower_is_gone() {
    let root = bus("pciback");
    let mut lender = Lender::new(root.path(), Asked::default());
    lender.seize(address(), false).expect("seized");
    let borrowed = root.path().join("devices/pci-8-0");
    fs::create_dir(&borrowed).expect("directory");
    let gone = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        fs::remove_dir(borrowed).expect("directory");
    });
    let start = Instant::now();
    lender.lend(DomId(8), address()).expect("lent");
    assert!(start.elapsed() >= Duration::from_millis(40), "it was waited for");
    gone.join().expect("removed");
}
