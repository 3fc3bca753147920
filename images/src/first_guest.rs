//! The guest that `./run` shows: Debian, from its own disk and reached over the network.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cache::Cache;
use crate::devices::{Disk, DiskModel, Forward, Network, NetworkModel};
use crate::disk;
use crate::operator::Operator;
use crate::progress::Progress;
use crate::qemu::Settings;

/// Its name.
pub const NAME: &str = "debian";
/// What its console shows when one can type.
pub const PROMPT: &str = "root@debian:~#";
/// What its web server says.
const PAGE: &str = "This is Debian";
/// For all that it does, in emulation.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// Where its web server is reached on this machine, if nobody else is there.
const PORT: u16 = 8080;

/// Its configuration.
#[must_use]
pub fn configuration() -> std::path::PathBuf {
    crate::images_dir().join("guests/debian.toml")
}

/// Gives a machine a disk with Debian on it (`image`, made if it is not there) and a network; gives the port of this machine that
/// leads to the first guest's web server.
///
/// # Errors
/// When the disk cannot be made, or there is no port.
pub fn equip(settings: &mut Settings, cache: &Cache, progress: Progress, image: &Path) -> Result<u16> {
    equip_with((DiskModel::Nvme, NetworkModel::E1000e), settings, cache, progress, image)
}

/// The same with these controllers.
///
/// # Errors
/// As [`equip`].
pub fn equip_with(
    (disk, network): (DiskModel, NetworkModel),
    settings: &mut Settings,
    cache: &Cache,
    progress: Progress,
    image: &Path,
) -> Result<u16> {
    if !image.exists() {
        disk::write_copy(cache, progress, image)?;
    }
    let web = Forward::from(PORT, None, 80)?;
    let disk = Disk { image: image.to_owned(), model: disk };
    let forwards = settings.toolstacks.iter().map(|(_, forward)| *forward).chain([web]).collect();
    let network = Network { model: network, forwards };
    settings.extra.extend([disk.arguments(1), network.arguments(2)].concat());
    Ok(web.outside)
}

/// Creates it and waits for its login; gives how long that took.
///
/// # Errors
/// When it does not come up.
pub fn boot(operator: &Operator) -> Result<Duration> {
    boot_from(operator, &configuration())
}

/// The same with another configuration, which must keep its name.
///
/// # Errors
/// When it does not come up.
pub fn boot_from(operator: &Operator, configuration: &Path) -> Result<Duration> {
    let start = Instant::now();
    operator.ask(&["create", &configuration.display().to_string()])?;
    operator.wait_for(NAME, PROMPT, 1, PATIENCE)?;
    Ok(start.elapsed())
}

/// What its web server says, through QEMU's network.
///
/// # Errors
/// When it does not answer in time.
pub fn page(port: u16) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match get(port) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(500)),
            other => return other,
        }
    }
}

fn get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    anyhow::ensure!(text.contains(PAGE), "{text:?}");
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

/// Shuts it down and waits until it is gone.
///
/// # Errors
/// When it does not go.
pub fn shut_down(operator: &Operator) -> Result<()> {
    operator.ask(&["shutdown", NAME])?;
    operator.wait_until("Debian is gone", PATIENCE, |guests| !guests.iter().any(|(name, _)| name == NAME))
}

/// Writes to its disk, reboots, and finds that again; gives how long that took.
///
/// # Errors
/// When it does not come back, or what it wrote is not there.
pub fn reboots(operator: &Operator) -> Result<String> {
    let start = Instant::now();
    let before = operator.domid(NAME)?;
    operator.type_at(NAME, "echo kept-$((20+22)) > /root/kept; sync; reboot", "reboot", PATIENCE)?;
    // Nothing is typed before the next prompt: GRUB would take it.
    operator.another_domid(NAME, before, PATIENCE)?;
    let prompts = operator.log(NAME)?.matches(PROMPT).count();
    operator.wait_for(NAME, PROMPT, prompts + 1, PATIENCE)?;
    operator.type_at(NAME, "cat /root/kept", "kept-42", PATIENCE)?;
    Ok(format!("{:.1?}", start.elapsed()))
}
