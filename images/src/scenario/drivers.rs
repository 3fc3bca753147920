//! Guests with disks and networks on a host without Dom0, whose backends are killed under them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Report, Setup, boot};
use crate::cache::sha256;
use crate::devices::image_beside;
use crate::first_guest::{NAME, PATIENCE, PROMPT};
use crate::operator::Operator;
use crate::session::Session;
use crate::{first_guest, guest, program};

/// The toolstack's VM in the shipped manifest.
const TOOLSTACK: &str = "toolstack";
/// MiB of the machine, with room for two guests.
const MEMORY_MIB: u32 = 1536;
/// The small guest, which works while its backends are killed.
const GUEST: &str = "web";
/// MiB that are written to its disk, and downloaded.
const DISK_MIB: usize = 64;
const DOWNLOAD_MIB: usize = 16;
/// Kills of each backend while the guest works.
const KILLS: u32 = 10;
/// What a guest's kernel says when a device fails it.
const TROUBLE: [&str; 6] =
    ["I/O error", "Buffer I/O", "blk_update", "link is not ready", "Oops", "hung_task"];

/// A web server for the guest, on this machine: QEMU's network has it at 10.0.2.2.
struct Server {
    port: u16,
    sha256: String,
}

impl Server {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("Cannot serve HTTP")?;
        let port = listener.local_addr()?.port();
        // Bytes that no fault repeats: those of a generator (xorshift).
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let body: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take((DOWNLOAD_MIB << 20) / 8)
        .flatten()
        .collect();
        let sha256 = sha256(&body);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Somebody who goes away early is the guest's affair.
                let _ = answer(stream, &body);
            }
        });
        Ok(Self { port, sha256 })
    }
}

fn answer(mut stream: TcpStream, body: &[u8]) -> std::io::Result<()> {
    let _ = stream.read(&mut [0; 4096])?;
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let server = Server::start()?;
    let folder = setup.cache.temporary("drivers")?;
    let file = folder.path().join("web.toml");
    std::fs::write(&file, configuration(setup)?).context("Cannot write the guest's configuration")?;
    let mut settings = setup.machine(&setup.host()?)?;
    settings.memory_mib = MEMORY_MIB;
    // Made anew: the guest writes to it.
    let image = image_beside(&settings.log, "drivers");
    let _ = std::fs::remove_file(&image);
    let port = first_guest::equip(&mut settings, &setup.cache, setup.progress, &image)?;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let operator = Operator {
        program: program::cli(&setup.cache, setup.progress)?,
        socket: session.operator(TOOLSTACK)?,
    };
    boots(&operator, port, report);
    lives(&mut session, &operator, &file, &server, report);
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

fn configuration(setup: &Setup) -> Result<String> {
    let files = guest::debian(&setup.cache, setup.progress)?;
    Ok(format!(
        "name = \"{GUEST}\"\nkind = \"pv\"\nkernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console=hvc0 quiet\"\n\
         memory-mib = 128\nvcpus = 1\ndisk = [{{ vdev = \"xvda\", source = \"label:scratch\", access = \"w\" }}]\nvif = [{{}}]\n",
        files.kernel.display(),
        files.ramdisk.display()
    ))
}

/// Debian comes up from its disk with an address, and answers from outside.
fn boots(operator: &Operator, port: u16, report: &mut Report) {
    let login = first_guest::boot(operator).map(|took| format!("{took:.1?} after `create`"));
    if !report.check("Debian boots from its own disk to a login", login) {
        return;
    }
    report.check("it answers from outside", first_guest::page(port));
    report.check("it reboots and keeps what it wrote", reboots(operator));
    report.check("it shuts down", first_guest::shut_down(operator).map(|()| String::new()));
}

fn reboots(operator: &Operator) -> Result<String> {
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

fn lives(session: &mut Session, operator: &Operator, file: &Path, server: &Server, report: &mut Report) {
    let guest = Guest { operator };
    if !report.check("a guest with a disk and a NIC is created", guest.created(file)) {
        return;
    }
    report.check("it has its disk", guest.run("cat /sys/block/xvda/size"));
    report.check("it has an address", guest.address());
    report.check("what it writes to its disk is there", guest.writes("first"));
    report.check("a download arrives whole", guest.downloads(server));
    for backend in ["blkback", "netback"] {
        report.check(
            &format!("{backend} is killed under it, and it goes on"),
            guest.survives(session, backend, server),
        );
    }
    report.check("its kernel saw no fault", guest.no_trouble());
    report.check("it ends, and nothing is left", guest.ends());
}

/// The guest, as its operator sees it.
struct Guest<'a> {
    operator: &'a Operator,
}

impl Guest<'_> {
    fn created(&self, file: &Path) -> Result<String> {
        let start = Instant::now();
        self.operator.ask(&["create", &file.display().to_string()])?;
        self.operator.wait_for(GUEST, "guest-ready", 1, PATIENCE)?;
        Ok(format!("its shell after {:.1?}", start.elapsed()))
    }

    /// What a command prints. The end is put together only when it runs, so the line that is typed does not show it.
    fn run(&self, command: &str) -> Result<String> {
        // Another each time: the console shows what was printed before.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
        let line = format!("echo begin-$((1+1))-{nonce}.; {command}; echo end-$((1+1))-{nonce}.");
        let seen = self.operator.type_at(GUEST, &line, &format!("end-2-{nonce}."), PATIENCE)?;
        let (_, rest) = seen.rsplit_once(&format!("begin-2-{nonce}.")).context("no beginning")?;
        let (printed, _) = rest.split_once(&format!("end-2-{nonce}.")).context("no end")?;
        Ok(printed.trim().replace("\r\n", "; "))
    }

    fn address(&self) -> Result<String> {
        let said = self.run(
            "ifconfig eth0 up; udhcpc -i eth0 -n -q -s /usr/share/udhcpc/default.script 2>&1 | grep obtained",
        )?;
        anyhow::ensure!(said.contains("obtained"), "{said}");
        Ok(said)
    }

    /// Writes, forgets what it has in memory, and reads.
    fn writes(&self, what: &str) -> Result<String> {
        self.run(&format!(
            "(echo {what}; cat /bin/busybox) > /tmp/seed; rm -f /tmp/data; while [ $(stat -c %s /tmp/data 2>/dev/null || echo 0) -lt {} ]; do cat /tmp/seed >> /tmp/data; done",
            1 << 20
        ))?;
        let start = Instant::now();
        let said = self.run(&format!(
            "n=0; while [ $n -lt {DISK_MIB} ]; do dd if=/tmp/data of=/dev/xvda bs=1M count=1 seek=$n conv=notrunc 2>/dev/null || echo dd-failed; n=$((n+1)); done; \
             sync; echo 3 > /proc/sys/vm/drop_caches; \
             dd if=/tmp/data bs=1M count=1 2>/dev/null | md5sum; \
             n=0; while [ $n -lt {DISK_MIB} ]; do dd if=/dev/xvda bs=1M count=1 skip=$n 2>/dev/null | md5sum; n=$((n+1)); done | sort | uniq -c"
        ))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let expected = words.first().context("no sum")?;
        let same = words.get(2).is_some_and(|count| *count == DISK_MIB.to_string().as_str())
            && words.get(3) == Some(expected);
        anyhow::ensure!(same, "{said}");
        Ok(format!("{DISK_MIB} MiB in {:.1?}", start.elapsed()))
    }

    fn downloads(&self, server: &Server) -> Result<String> {
        let start = Instant::now();
        let said = self.run(&format!("wget -q -O - http://10.0.2.2:{}/ | sha256sum", server.port))?;
        anyhow::ensure!(said.contains(&server.sha256), "{said}, not {}", server.sha256);
        let speed = f64::from(u32::try_from(DOWNLOAD_MIB)?) / start.elapsed().as_secs_f64();
        Ok(format!("{DOWNLOAD_MIB} MiB, {speed:.1} MiB/s"))
    }

    /// Writes and downloads until the backend has been killed and rebuilt often enough.
    fn survives(&self, session: &mut Session, backend: &str, server: &Server) -> Result<String> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let work = scope.spawn(|| -> Result<u32> {
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) {
                    match backend {
                        "blkback" => self.writes(&format!("round {rounds}"))?,
                        _ => self.downloads(server)?,
                    };
                    rounds += 1;
                }
                Ok(rounds)
            });
            let killed = (0..KILLS).try_for_each(|n| {
                // Not in step with what the guest does.
                session.idle(Duration::from_millis(700 + u64::from(n * 379 % 1000)));
                session
                    .command(&format!("restart {backend}"), |m| {
                        m.is("builder", "healthy") && m.value("vm") == Some(backend)
                    })
                    .map(drop)
            });
            stop.store(true, Ordering::Relaxed);
            let worked = work.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            killed?;
            Ok(format!("{KILLS} times; {} rounds of work meanwhile", worked?))
        })
    }

    fn no_trouble(&self) -> Result<String> {
        let said = self.run("dmesg")?;
        let bad: Vec<&str> =
            said.split("; ").filter(|line| TROUBLE.iter().any(|word| line.contains(word))).collect();
        anyhow::ensure!(bad.is_empty(), "{}", bad.join("\n"));
        Ok(self.run("cat /sys/class/net/eth0/carrier_changes")? + " carrier changes")
    }

    fn ends(&self) -> Result<String> {
        self.operator.ask(&["destroy", GUEST])?;
        self.operator.wait_until("it is gone", PATIENCE, <[_]>::is_empty)?;
        Ok(String::new())
    }
}
