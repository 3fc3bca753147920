//! One running daemon, whichever it is, in a folder of its own.
//!
//! The folder follows the convention of the preloaded library: `socket`; `domN.ring` is the ring page of domain N;
//! `domN` exists while the domain does, and its contents may be `dying` or `shutdown`; `evtchn.sock` takes events for
//! the daemon, `domN.evtchn` events for the domain. Ours follows it too (`--rings`).

use std::fs::{self, File};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use crate::peer::Peers;
use crate::ring::RingClient;

/// How long a daemon may take to answer on its socket.
const START: Duration = Duration::from_secs(10);
/// The event channel on which Xen says that the state of some domain changed (VIRQ_DOM_EXC).
const VIRQ_DOM_EXC: u32 = 1;

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// C xenstored 4.17.
    C,
    /// oxenstored 4.17.
    Ocaml,
    /// XenStore-Logic and XenStore-State.
    Ours,
}

impl Kind {
    /// For tables and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Ocaml => "ocaml",
            Self::Ours => "ours",
        }
    }
}

/// Where the two binaries of ours are.
#[derive(Debug, Clone)]
pub struct Ours {
    /// `xenstore-state`.
    pub state: PathBuf,
    /// `xenstore-logic`.
    pub logic: PathBuf,
}

/// What state Xen has for a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// It runs.
    Running,
    /// It shut down and waits for the toolstack.
    Shutdown,
    /// It is being destroyed.
    Dying,
    /// Xen knows no such domain.
    Gone,
}

#[derive(Debug)]
struct Process {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    /// The processors that it may use, also when it is started again.
    processors: CpuSet,
    child: Child,
}

/// A running daemon; it is killed and its folder removed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    kind: Kind,
    processes: Vec<Process>,
    dir: TempDir,
}

impl Daemon {
    /// Starts C xenstored.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn c(peers: &Peers) -> Result<Self> {
        let mut daemon = Self::empty(Kind::C)?;
        let dir = daemon.dir.path().to_owned();
        let environment = vec![
            ("FAKEXEN_DIR", dir.clone()),
            ("XENSTORED_RUNDIR", dir.clone()),
            ("XENSTORED_ROOTDIR", dir),
            ("LD_PRELOAD", peers.preload()),
        ];
        daemon.start("xenstored", peers.xenstored(), vec!["-N".to_owned()], environment)?;
        daemon.wait_for_socket("socket")?;
        Ok(daemon)
    }

    /// Starts oxenstored.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn ocaml(peers: &Peers) -> Result<Self> {
        let mut daemon = Self::empty(Kind::Ocaml)?;
        let dir = daemon.dir.path().to_owned();
        let config = dir.join("oxenstored.conf");
        // Quotas as in the configuration file that comes with Xen.
        let text = format!(
            "xenstored-kva = {0}/xsd_kva\nxenstored-port = {0}/xsd_port\nxenstored-log-file = {0}/daemon.log\n\
             persistent = false\nquota-activate = true\nquota-maxentity = 1000\nquota-maxsize = 2048\n\
             quota-maxwatch = 100\nquota-transaction = 10\nquota-maxrequests = 1024\nquota-path-max = 1024\n\
             quota-maxoutstanding = 1024\nquota-maxwatchevents = 1024\n",
            dir.display()
        );
        fs::write(&config, text).with_context(|| format!("Cannot write {}", config.display()))?;
        let arguments = ["--no-fork", "--no-access-log", "--config-file"].map(str::to_owned).into_iter();
        let arguments = arguments.chain([config.display().to_string()]).collect();
        let environment = vec![
            ("FAKEXEN_SOCKET", dir.join("socket")),
            ("FAKEXEN_DIR", dir),
            ("LD_PRELOAD", peers.preload()),
        ];
        daemon.start("oxenstored", peers.oxenstored(), arguments, environment)?;
        daemon.wait_for_socket("socket")?;
        Ok(daemon)
    }

    /// Starts XenStore-State and XenStore-Logic.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn ours(ours: &Ours) -> Result<Self> {
        let mut daemon = Self::empty(Kind::Ours)?;
        let path = |name: &str| daemon.dir.path().join(name).display().to_string();
        let socket = path("state");
        let state = vec!["--listen".to_owned(), socket.clone()];
        let logic = ["--state", "--socket", "--rings"].map(str::to_owned);
        let logic = logic.into_iter().zip([path("state"), path("socket"), path("")]);
        let logic = logic.flat_map(|(option, value)| [option, value]).collect();
        daemon.start("xenstore-state", ours.state.clone(), state, Vec::new())?;
        // Not by connecting: State would take that for a Logic.
        daemon.wait_until("its listening socket", |_| is_listening(&socket))?;
        daemon.start("xenstore-logic", ours.logic.clone(), logic, Vec::new())?;
        daemon.wait_for_socket("socket")?;
        Ok(daemon)
    }

    /// A folder as the preloaded library expects it, and no process yet.
    fn empty(kind: Kind) -> Result<Self> {
        // C xenstored keeps its database in a file there, which distributions put on a tmpfs.
        let shared_memory = Path::new("/dev/shm");
        let place = if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new()
            .prefix("xenstore-")
            .tempdir_in(&place)
            .with_context(|| format!("Cannot make a folder in {}", place.display()))?;
        let file = |name: &str, content: &[u8]| {
            fs::write(dir.path().join(name), content).with_context(|| format!("Cannot write {name}"))
        };
        file("xsd_port", b"99")?;
        file("xsd_kva", &[0; 4096])?;
        Ok(Self { kind, processes: Vec::new(), dir })
    }

    fn start(
        &mut self,
        name: &'static str,
        program: PathBuf,
        arguments: Vec<String>,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<()> {
        let log = File::create(self.dir.path().join(format!("{name}.log")))
            .with_context(|| format!("Cannot make the log of {name}"))?;
        let processors = sched_getaffinity(None).context("Cannot ask for the processors")?;
        let child = spawn(&program, &arguments, &environment, log)?;
        self.processes.push(Process { name, program, arguments, environment, processors, child });
        Ok(())
    }

    fn wait_for_socket(&mut self, name: &str) -> Result<()> {
        let path = self.dir.path().join(name);
        self.wait_until("its socket", |_| Ok(UnixStream::connect(&path).is_ok()))
    }

    fn wait_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !done(self)? {
            self.check()?;
            anyhow::ensure!(
                began.elapsed() < START,
                "{} has not opened {what} after {START:?}",
                self.kind.name()
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Which daemon this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its socket, where clients have domain 0's rights.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Its processes by name: one, but two of ours (`xenstore-state`, `xenstore-logic`).
    #[must_use]
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        self.processes.iter().map(|process| (process.name, process.child.id())).collect()
    }

    /// Whether all processes still run.
    ///
    /// # Errors
    /// When one has ended; says how, and the end of its log.
    pub fn check(&mut self) -> Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait().context("Cannot ask for a daemon's status")? {
                let log = self.dir.path().join(format!("{}.log", process.name));
                let log = fs::read(log).unwrap_or_default();
                let end = log.get(log.len().saturating_sub(2000)..).unwrap_or_default();
                anyhow::bail!("{} ended: {status}\n{}", process.name, String::from_utf8_lossy(end));
            }
        }
        Ok(())
    }

    /// Kills (SIGKILL) the process of this name, at once.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let process = self.process(name)?;
        process.child.kill().with_context(|| format!("Cannot kill {name}"))?;
        process.child.wait().with_context(|| format!("Cannot wait for {name}"))?;
        Ok(())
    }

    /// Starts the process of this name again, after [`Daemon::kill`], and waits until the daemon's socket answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        self.start_again(name)?;
        self.wait_for_socket("socket")
    }

    /// Starts the process of this name again, after [`Daemon::kill`], and waits for nothing.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&mut self, name: &str) -> Result<()> {
        let log = File::options()
            .append(true)
            .open(self.dir.path().join(format!("{name}.log")))
            .with_context(|| format!("Cannot open the log of {name}"))?;
        let process = self.process(name)?;
        process.child = spawn(&process.program, &process.arguments, &process.environment, log)?;
        sched_setaffinity(Some(Pid::from_child(&process.child)), &process.processors)
            .with_context(|| format!("Cannot keep {name} on its processors"))
    }

    fn process(&mut self, name: &str) -> Result<&mut Process> {
        let found = self.processes.iter_mut().find(|process| process.name == name);
        found.with_context(|| format!("{} has no process {name}", self.kind.name()))
    }

    /// A domain appears: Xen knows it and its ring page is empty. It is not introduced yet.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn create_domain(&self, domid: u16) -> Result<()> {
        let ring = self.dir.path().join(format!("dom{domid}.ring"));
        // A new file: a daemon may still have the old page mapped.
        let _ = fs::remove_file(&ring);
        fs::write(&ring, [0; 4096]).with_context(|| format!("Cannot write {}", ring.display()))?;
        self.run_domain(domid)
    }

    /// A domain runs; the daemon is not told.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn run_domain(&self, domid: u16) -> Result<()> {
        let file = self.dir.path().join(format!("dom{domid}"));
        fs::write(&file, "running").with_context(|| format!("Cannot write {}", file.display()))
    }

    /// The ring client of a domain that [`Daemon::create_domain`] has made.
    ///
    /// # Errors
    /// When its files cannot be opened.
    pub fn guest(&self, domid: u16) -> Result<RingClient> {
        RingClient::open(self.dir.path(), domid)
    }

    /// Changes a domain's state, and tells the daemon (VIRQ_DOM_EXC).
    ///
    /// # Errors
    /// When the domain's files cannot be written, or the daemon does not take events.
    pub fn set_domain_state(&self, domid: u16, state: DomainState) -> Result<()> {
        let file = self.dir.path().join(format!("dom{domid}"));
        match state {
            DomainState::Running => fs::write(&file, "running"),
            DomainState::Shutdown => fs::write(&file, "shutdown"),
            DomainState::Dying => fs::write(&file, "dying"),
            DomainState::Gone => fs::remove_file(&file),
        }
        .with_context(|| format!("Cannot change {}", file.display()))?;
        fs::write(self.dir.path().join("changed"), domid.to_string()).context("Cannot write `changed`")?;
        let socket = UnixDatagram::unbound().context("Cannot make a socket")?;
        socket
            .send_to(&VIRQ_DOM_EXC.to_le_bytes(), self.dir.path().join("evtchn.sock"))
            .context("The daemon takes no events")?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// Whether somebody listens on a socket.
fn is_listening(socket: &str) -> Result<bool> {
    /// `__SO_ACCEPTCON` in the kernel's list.
    const ACCEPTS: &str = "00010000";
    let list = fs::read_to_string("/proc/net/unix").context("Cannot list the sockets")?;
    Ok(list.lines().any(|line| line.ends_with(socket) && line.split_whitespace().nth(3) == Some(ACCEPTS)))
}

fn spawn(
    program: &Path,
    arguments: &[String],
    environment: &[(&'static str, PathBuf)],
    log: File,
) -> Result<Child> {
    // A daemon ends with us, also when we are killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments).stdin(Stdio::null());
    // An exported one would move the daemon's own socket.
    command.env_remove("XENSTORED_PATH");
    command.envs(environment.iter().map(|(name, value)| (name, value.as_os_str())));
    command.stdout(log.try_clone().context("Cannot share the log")?).stderr(log);
    command.spawn().with_context(|| format!("Cannot start {} by setpriv (util-linux)", program.display()))
}
