//! A driver VM that only looks: it tells which disks and network interfaces it has, and reads the beginning of each disk.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ennead_runtime::Runtime;
use tracing::info;

/// How long a device may take to show itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a disk that are told.
const TOLD: usize = 16;
/// Bytes of a disk that are read.
const READ: usize = 4 << 20;

fn main() -> ! {
    ennead_runtime::run(run)
}

fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let deadline = Instant::now() + PATIENCE;
    let (mut disks, mut nets) = (Vec::new(), Vec::new());
    while disks.is_empty() && nets.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
        disks = names("/sys/class/block")?;
        nets = names("/sys/class/net")?;
        nets.retain(|name| Path::new("/sys/class/net").join(name).join("device").exists());
    }
    for function in names("/sys/bus/pci/devices")? {
        info!(address = %function, "function");
    }
    for disk in disks {
        let sectors = attribute(&format!("/sys/class/block/{disk}/size"))?;
        let mut data = vec![0; READ];
        let start = Instant::now();
        let mut file = File::open(format!("/dev/{disk}")).with_context(|| format!("Cannot open {disk}"))?;
        file.read_exact(&mut data).with_context(|| format!("Cannot read {disk}"))?;
        let begin = data.get(..TOLD).unwrap_or_default().escape_ascii().to_string();
        let sum = data.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        info!(name = %disk, %sectors, %begin, %sum, ms = start.elapsed().as_millis(), "disk");
    }
    for net in nets {
        let mac = attribute(&format!("/sys/class/net/{net}/address"))?;
        info!(name = %net, %mac, "interface");
    }
    for line in fs::read_to_string("/proc/interrupts").unwrap_or_default().lines() {
        if line.contains("pcifront-msi") {
            info!(line = %line.split_ascii_whitespace().collect::<Vec<_>>().join(" "), "interrupt");
        }
    }
    let free = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    info!(memory = %free.lines().take(3).flat_map(str::split_ascii_whitespace).collect::<Vec<_>>().join(" "), "memory");
    runtime.health.report()?;
    loop {
        std::thread::park();
    }
}

fn names(dir: &str) -> anyhow::Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn attribute(path: &str) -> anyhow::Result<String> {
    Ok(fs::read_to_string(path).with_context(|| format!("Cannot read {path}"))?.trim().to_owned())
}
