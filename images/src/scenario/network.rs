//! Operators reach their toolstack over the network: who has no certificate is refused, and neither netback's end nor the
//! toolstack's own keeps the others out for long.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ennead_api::Profile;

use super::{Report, Setup, boot};
use crate::cache::Cache;
use crate::certificate::{self, Authority};
use crate::devices::{Network, NetworkModel};
use crate::host::Host;
use crate::operator::{self, Operator, Reach};
use crate::session::Session;
use crate::{guest, program};

const TOOLSTACK: &str = "toolstack";
/// For all that a guest or a restarted VM does, in emulation.
const PATIENCE: Duration = Duration::from_secs(120);
/// MiB of the machine, with room for a guest.
const MEMORY_MIB: u32 = 1280;
const GUEST: &str = "web";
/// MiB that are uploaded to see how fast that is.
const UPLOAD_MIB: usize = 8;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let folder = setup.cache.temporary("network")?;
    let host = setup.host()?;
    let mut settings = setup.machine(&host)?;
    settings.memory_mib = MEMORY_MIB;
    let forwards = settings.toolstacks.iter().map(|(_, forward)| *forward).collect();
    settings.extra.extend(Network { model: NetworkModel::E1000e, forwards }.arguments(1));
    let (_, forward) = settings.toolstacks.first().context("The manifest's toolstack has no network")?;
    let port = forward.outside;
    let profile = operator::profile(&setup.cache, &host.plan, &settings, TOOLSTACK)?.context("no profile")?;
    let program = program::cli(&setup.cache, setup.progress)?;
    let operator = |profile: &Profile, name: &str| -> Result<Operator> {
        let file = folder.path().join(name);
        certificate::write_profile(&setup.cache, profile, &file)?;
        Ok(Operator { program: program.clone(), reach: Reach::Profile(file) })
    };
    let stranger = operator(&stranger(&host, folder.path(), &profile)?, "stranger.toml")?;
    let operator = operator(&profile, "profile.toml")?;
    let file = folder.path().join("web.toml");
    std::fs::write(&file, configuration(setup)?).context("Cannot write the guest's configuration")?;

    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let reached =
        operator.wait_reachable(PATIENCE).map(|took| format!("{took:.1?} after the host was ready"));
    if !report.check("`ennead list` over the network", reached) {
        return session.power_off();
    }
    report.check("a certificate of another authority is refused", refused(&stranger));
    report.check("who speaks no TLS learns nothing", plain(port));
    report.check("a guest is created over it", created(&operator, &file));
    report.check("its console is used over it", console(&operator));
    report.check("an image is uploaded", uploaded(&operator, folder.path(), &file));
    report.check("netback is killed, and the same client goes on", survives(&mut session, &operator));
    report.check("the toolstack is killed, and a new connection works", comes_back(&mut session, &operator));
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

/// A profile for the same toolstack, with a certificate that somebody else gave.
fn stranger(host: &Host, folder: &Path, profile: &Profile) -> Result<Profile> {
    let vm = host.plan.vm(TOOLSTACK).context("no toolstack")?;
    let other = Authority::of(&Cache::at(folder)?, &host.plan, vm)?.operator("run", profile.url.clone())?;
    Ok(Profile { ca: profile.ca.clone(), ..other })
}

fn configuration(setup: &Setup) -> Result<String> {
    let kernel = guest::small_kernel(&setup.cache, setup.progress)?;
    let ramdisk = guest::ramdisk(&setup.cache, setup.progress, None)?;
    Ok(format!(
        "name = \"{GUEST}\"\nkind = \"pv\"\nkernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console=hvc0 quiet\"\n\
         memory-mib = 48\nvcpus = 1\n",
        kernel.display(),
        ramdisk.display()
    ))
}

fn refused(stranger: &Operator) -> Result<String> {
    let (code, said) = stranger.fails(&["list"])?;
    let said = said.lines().next().unwrap_or_default().to_owned();
    anyhow::ensure!(code == 3 && said.contains("does not take the profile's certificate"), "{code}: {said}");
    Ok(said)
}

fn plain(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("Cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /v1/guests HTTP/1.1\r\nHost: ennead\r\n\r\n")?;
    let mut answer = Vec::new();
    // It may end with a reset.
    let _ = stream.read_to_end(&mut answer);
    anyhow::ensure!(
        answer.len() < 16 && !answer.starts_with(b"HTTP"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    Ok(format!("{} bytes", answer.len()))
}

fn created(operator: &Operator, file: &Path) -> Result<String> {
    let start = Instant::now();
    operator.ask(&["create", &file.display().to_string()])?;
    operator.wait_for(GUEST, "guest-ready", 1, PATIENCE)?;
    Ok(format!("its shell after {:.1?}", start.elapsed()))
}

fn console(operator: &Operator) -> Result<String> {
    operator.type_at(GUEST, "echo sum-$((20+22))", "sum-42", PATIENCE)?;
    Ok(String::new())
}

/// The same guest twice, once with an image that the host does not have.
fn uploaded(operator: &Operator, folder: &Path, file: &Path) -> Result<String> {
    let image = folder.join("random");
    let mut bytes = vec![0; UPLOAD_MIB << 20];
    std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes))?;
    std::fs::write(&image, bytes)?;
    let text = crate::xen::read(file)?;
    let ramdisk = text.lines().find(|line| line.starts_with("ramdisk")).context("no ramdisk")?;
    let text = text.replace(ramdisk, &format!("ramdisk = \"{}\"", image.display()));
    let other = folder.join("other.toml");
    std::fs::write(&other, text)?;
    let take = |name: &str| -> Result<Duration> {
        let start = Instant::now();
        operator.ask(&["create", "--paused", "--name", name, &other.display().to_string()])?;
        let took = start.elapsed();
        operator.ask(&["destroy", name])?;
        Ok(took)
    };
    let (with, without) = (take("with")?, take("without")?);
    let speed = f64::from(u32::try_from(UPLOAD_MIB)?) / with.saturating_sub(without).as_secs_f64();
    Ok(format!("{UPLOAD_MIB} MiB, {speed:.1} MiB/s"))
}

/// A console that stays open.
struct Talk {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
}

impl Talk {
    fn open(operator: &Operator) -> Result<Self> {
        let mut command = operator.command(&["console", GUEST]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("Cannot start `ennead console`")?;
        let input = child.stdin.take().context("no input")?;
        let mut from = child.stdout.take().context("no output")?;
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                if send.send(bytes.get(..n).unwrap_or_default().to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, output })
    }

    /// Types a line; gives how long it took until `answer` came.
    fn say(&mut self, line: &str, answer: &str) -> Result<Duration> {
        let start = Instant::now();
        self.input.write_all(format!("{line}\n").as_bytes()).context("The console has ended")?;
        let mut seen = String::new();
        while !seen.contains(answer) {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let bytes =
                self.output.recv_timeout(left).with_context(|| format!("No {answer:?} in {seen:?}"))?;
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok(start.elapsed())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn restart(session: &mut Session, vm: &str) -> Result<()> {
    let healthy = |m: &crate::milestone::Milestone| m.is("builder", "healthy") && m.value("vm") == Some(vm);
    session.command(&format!("restart {vm}"), healthy).map(drop)
}

fn survives(session: &mut Session, operator: &Operator) -> Result<String> {
    let mut talk = Talk::open(operator)?;
    talk.say("echo before-$((1+1))", "before-2")?;
    let start = Instant::now();
    restart(session, "netback")?;
    talk.say("echo after-$((1+1))", "after-2")?;
    Ok(format!("the next line came {:.1?} after the kill", start.elapsed()))
}

fn comes_back(session: &mut Session, operator: &Operator) -> Result<String> {
    let start = Instant::now();
    restart(session, TOOLSTACK)?;
    operator.wait_reachable(PATIENCE)?;
    let took = start.elapsed();
    let guests = operator.guests()?;
    anyhow::ensure!(guests.iter().any(|(name, state)| name == GUEST && state == "running"), "{guests:?}");
    console(operator)?;
    Ok(format!("{took:.1?} after the kill; its guest runs"))
}
