//! Debian at work while its backends are killed and restarted: fio writes at random places and verifies, iperf3 sends over one
//! connection the whole time.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::restarts::{KILL, RESTART, again, pause};
use crate::first_guest::{NAME, PATIENCE, configuration};
use crate::scenario::Report;
use crate::scenario::counts::{Counts, counts, same};
use crate::scenario::shell::Shell;
use crate::session::Session;

/// Its second disk, for fio.
const DISK: &str = "\n[[disk]]\nvdev = \"xvdb\"\nsource = \"label:scratch\"\naccess = \"w\"\n";

/// Writes until it may stop. Once with the smallest requests, once with indirect ones.
const FIO: &str = "(while [ ! -e /run/stop ]; do for bs in 4k 128k; do \
    fio --name=verified --filename=/dev/xvdb --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=$bs --size=32m \
    --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=$RANDOM >> /run/fio 2>&1 || echo fio-failed >> /run/fio; \
    done; echo round >> /run/rounds; done; touch /run/done) > /dev/null 2>&1 &";

/// Debian's configuration with a disk for fio.
pub(super) fn configured() -> Result<String> {
    Ok(crate::xen::read(&configuration())? + DISK)
}

/// iperf3 on this machine, which QEMU's network has at 10.0.2.2. It serves one client.
struct Iperf {
    child: Child,
    port: u16,
}

impl Iperf {
    fn start() -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new("iperf3");
        command.args(["-s", "-1", "-B", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("Cannot start iperf3: `./run` installs it")?, port })
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        // Both fail only if it has gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Load<'a> {
    shell: Shell<'a>,
    iperf: Iperf,
    carrier: u64,
    /// Its ends of the connections to iperf3.
    connections: String,
}

impl Load<'_> {
    fn start(shell: Shell<'_>) -> Result<Load<'_>> {
        let carrier = shell.carrier_changes()?;
        let iperf = Iperf::start()?;
        shell.run(&FIO.replace(" &", " & :"))?;
        let port = iperf.port;
        shell.run(&format!("(iperf3 -c 10.0.2.2 -p {port} -t 36000 -i 1 > /run/iperf 2>&1 & :)"))?;
        let mut load = Load { shell, iperf, carrier, connections: String::new() };
        let deadline = Instant::now() + PATIENCE;
        // Its control connection, and that of the data.
        while load.connections.split_whitespace().count() < 2 {
            anyhow::ensure!(
                Instant::now() < deadline,
                "iperf3 does not begin: {}",
                shell.run("cat /run/iperf")?
            );
            load.connections = load.ends()?;
        }
        Ok(load)
    }

    fn ends(&self) -> Result<String> {
        let port = self.iperf.port;
        self.shell.run(&format!(
            "ss -Htn state established dst 10.0.2.2:{port} | awk '{{print $3}}' | sort | tr '\\n' ' '"
        ))
    }

    fn sent(&self) -> Result<u64> {
        let port = self.iperf.port;
        self.shell.number(&format!(
            "ss -Htni state established dst 10.0.2.2:{port} | grep -o 'bytes_acked:[0-9]*' | cut -d: -f2 | sort -n | tail -n 1"
        ))
    }

    /// The connection lives, and its bytes arrive.
    fn connected(&self) -> Result<String> {
        let ends = self.ends()?;
        anyhow::ensure!(ends == self.connections, "connections {:?} were {:?}", ends, self.connections);
        let (before, deadline) = (self.sent()?, Instant::now() + PATIENCE);
        loop {
            let now = self.sent()?;
            if now > before {
                return Ok(format!("one connection, {} MiB so far", now >> 20));
            }
            anyhow::ensure!(Instant::now() < deadline, "no byte arrives any more");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn carries(&self) -> Result<String> {
        self.shell.no_trouble()?;
        let carrier = self.shell.carrier_changes()?;
        anyhow::ensure!(carrier == self.carrier, "{carrier} carrier changes, before {}", self.carrier);
        Ok(String::new())
    }

    fn verified(&self) -> Result<String> {
        self.shell.run("touch /run/stop")?;
        let done = format!(
            "n=0; while [ ! -e /run/done -a $n -lt {} ]; do sleep 1; n=$((n+1)); done; [ -e /run/done ] && echo ended-$((40+2))",
            PATIENCE.as_secs()
        );
        // The shell tells of its job's end as well.
        let done = self.shell.run_for(&done, PATIENCE * 2)?;
        anyhow::ensure!(
            done.contains("ended-42"),
            "fio does not end ({done}): {}",
            self.shell.run("tail -n 5 /run/fio")?
        );
        let failed =
            self.shell.run("grep -E 'fio-failed|verify:|err=[^ ]*[1-9]|error' /run/fio | head -n 5")?;
        anyhow::ensure!(failed.is_empty(), "{failed}");
        let rounds = self.shell.number("wc -l < /run/rounds")?;
        Ok(format!("{rounds} rounds of 32 MiB by 4 KiB and 32 MiB by 128 KiB, every block verified"))
    }
}

/// What Xen counts once blkback keeps as many pages of each disk as it ever does: all that the frontend has. It has all of them in use
/// when its ring is full of its largest requests, as it is when nobody takes them.
fn counted(session: &mut Session, shell: Shell<'_>) -> Result<Counts> {
    for disk in ["xvda", "xvdb"] {
        // Whatever is in flight at one moment says nothing: a quick disk has answered all before anybody looks.
        shell.run(&format!(
            "reads() {{ awk '{{ print $1 }}' /sys/block/{disk}/stat; }}; n=$(reads); \
             (fio --name=full --filename=/dev/{disk} --readonly --rw=read --direct=1 --ioengine=libaio --bs=128k --iodepth=64 \
             --time_based --runtime=15 > /dev/null 2>&1 & :); until [ $(reads) -gt $((n + 500)) ]; do sleep 0.2; done"
        ))?;
    }
    again(session, KILL, "blkback")?;
    shell.run("while pgrep -x fio > /dev/null; do sleep 0.2; done")?;
    counts(session)
}

/// Kills each backend `times` times, and restarts it as often politely.
pub(super) fn works(session: &mut Session, shell: Shell<'_>, guest: u16, times: usize, report: &mut Report) {
    let before = counted(session, shell);
    let load = match Load::start(shell) {
        Ok(load) => load,
        Err(error) => {
            report.check("fio and iperf3 begin", Err(error));
            return;
        }
    };
    for (word, what) in [(KILL, "killed"), (RESTART, "restarted politely")] {
        for vm in ["blkback", "netback"] {
            let name = format!("{vm} is {what} {times} times under fio and iperf3");
            let outcome = restarted(session, word, vm, times).and_then(|took| Ok(took + &load.connected()?));
            report.check(&name, outcome);
        }
    }
    report.check("fio finds every block that it wrote", load.verified());
    report.check("no I/O error, and the carrier was never lost", load.carries());
    drop(load);
    let _gone = shell.run("killall iperf3; pkill iperf3; sleep 2");
    let after = before.and_then(|before| same(&before, &counted(session, shell)?, guest));
    report.check("no grant and no port is left over", after);
}

fn restarted(session: &mut Session, word: &str, vm: &str, times: usize) -> Result<String> {
    let mut all = Vec::new();
    for _ in 0..times {
        pause(session);
        all.push(again(session, word, vm)?);
    }
    all.sort_unstable();
    let median = all.get(all.len() / 2).copied().unwrap_or_default();
    Ok(format!("well again after {median:.1?}; "))
}

/// Creates it and waits for its login.
pub(super) fn created<'a>(shell: Shell<'a>, file: &std::path::Path) -> Result<String> {
    let start = Instant::now();
    shell.operator.ask(&["create", &file.display().to_string()])?;
    shell.operator.wait_for(NAME, crate::first_guest::PROMPT, 1, PATIENCE)?;
    Ok(format!("{:.1?} after `create`", start.elapsed()))
}
