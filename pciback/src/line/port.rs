//! A virtio-serial port: /dev/vportNpM, and its name in /sys/class/virtio-ports/vportNpM/name.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::{Mode, OFlags};

/// How long ports may take to come: their device tells the kernel of them one after the other.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Entries in a directory of sysfs that are looked at.
const MAX_ENTRIES: usize = 256;

/// Opens the port of each name, not to block. Waits for ports only if there is a virtio device at all.
pub(super) fn open(names: &[&str]) -> Vec<anyhow::Result<File>> {
    let deadline = Instant::now() + PATIENCE;
    let (sysfs, dev) = (Path::new("/sys"), Path::new("/dev"));
    let opened = |name: &&str| {
        let device = device(sysfs, name, deadline)?;
        let path = dev.join(&device);
        let opened =
            rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        Ok(File::from(opened.with_context(|| format!("Cannot open {}", path.display()))?))
    };
    names.iter().map(opened).collect()
}

/// Name of the device node of the port of that name.
fn device(sysfs: &Path, name: &str, deadline: Instant) -> anyhow::Result<String> {
    loop {
        if let Some(device) = find(sysfs, name)? {
            return Ok(device);
        }
        if entries(&sysfs.join("bus/virtio/devices"))?.is_empty() || Instant::now() >= deadline {
            bail!("There is no virtio-serial port of that name");
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn find(sysfs: &Path, name: &str) -> io::Result<Option<String>> {
    let ports = sysfs.join("class/virtio-ports");
    // A port without a name has no such file.
    let named = |port: &String| {
        fs::read_to_string(ports.join(port).join("name")).is_ok_and(|found| found.trim_end() == name)
    };
    Ok(entries(&ports)?.into_iter().find(named))
}

/// Names in a directory; none if there is no such directory.
fn entries(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.take(MAX_ENTRIES).map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(name: &str, ports: &[(&str, Option<&str>)]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("ennead-ports-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("bus/virtio/devices")).expect("temporary directory");
        for (port, name) in ports {
            let directory = root.join("class/virtio-ports").join(port);
            fs::create_dir_all(&directory).expect("temporary directory");
            if let Some(name) = name {
                fs::write(directory.join("name"), format!("{name}\n")).expect("temporary file");
            }
        }
        root
    }

    #[test]
    fn a_port_is_found_by_its_whole_name() {
        let listed = [("vport0p1", Some("acme-2")), ("vport0p2", None), ("vport0p3", Some("acme"))];
        let root = ports("found", &listed);
        let now = Instant::now();
        assert_eq!(device(&root, "acme", now).expect("it is there"), "vport0p3");
        assert_eq!(device(&root, "acme-2", now).expect("it is there"), "vport0p1");
        assert!(device(&root, "acm", now).is_err());
        assert!(device(&root, "", now).is_err());
    }

    #[test]
    fn a_port_is_waited_for_only_where_one_can_come() {
        let far = Instant::now() + Duration::from_secs(3600);
        let root = ports("none", &[]);
        assert!(device(&root, "acme", far).is_err(), "no virtio device");
        fs::create_dir_all(root.join("bus/virtio/devices/virtio0")).expect("temporary directory");
        let start = Instant::now();
        assert!(device(&root, "acme", start + Duration::from_millis(50)).is_err());
        assert!(start.elapsed() >= Duration::from_millis(50));
        let late = root.clone();
        let comes = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            // Its name comes last, as from the kernel.
            let directory = late.join("class/virtio-ports/vport0p1");
            fs::create_dir_all(&directory).expect("temporary directory");
            fs::write(directory.join("name"), "acme\n").expect("temporary file");
        });
        assert_eq!(device(&root, "acme", far).expect("it comes"), "vport0p1");
        comes.join().expect("it came");
    }
}
