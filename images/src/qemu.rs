//! QEMU as the machine: boots an ISO, reads the serial line, types on it.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::crashes::Crashes;
use crate::devices::Forward;

/// How many lines of the serial console an error shows.
const SHOWN_LINES: usize = 30;

/// What Xen says when nothing comes any more.
const ENDS: [(&str, &str); 2] = [("Panic on CPU", "Xen crashed"), ("halting machine", "Xen halted the host")];

/// OVMF's program and its empty variable store.
const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

/// Name of its copy.
const VARIABLES: &str = "variables.fd";

/// The machine's firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Firmware {
    /// `SeaBIOS`.
    Bios,
    /// OVMF.
    Uefi,
}

/// What executes the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// KVM where it can be used and this is no virtual machine itself, else emulation.
    Auto,
    /// Emulation.
    Tcg,
    /// The processor itself.
    Kvm,
    /// Emulation in which time is the count of instructions (2 ns each): slower, but boot times repeat.
    Counted,
}

impl Accel {
    fn use_kvm(self) -> bool {
        let usable = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        // KVM inside a virtual machine can be so slow that Xen never gets anywhere (seen).
        let virtual_machine =
            || std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" hypervisor "));
        match self {
            Self::Auto => usable() && !virtual_machine(),
            Self::Tcg | Self::Counted => false,
            Self::Kvm => true,
        }
    }

    /// Options that make the clocks of the machine count instructions; time in which nothing runs passes at once.
    fn clock(self) -> &'static [&'static str] {
        match self {
            Self::Counted => &["-icount", "shift=1,sleep=off", "-rtc", "clock=vm,base=2026-01-01T00:00:00"],
            _ => &[],
        }
    }
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What it boots.
    pub iso: PathBuf,
    /// Its firmware.
    pub firmware: Firmware,
    /// MiB of memory.
    pub memory_mib: u32,
    /// What executes its instructions.
    pub accel: Accel,
    /// Whether a reset starts it again (else QEMU ends).
    pub resets: bool,
    /// Names of the VMs that have a line to the outside: each is a port of a virtio serial controller.
    pub lines: Vec<String>,
    /// Toolstacks that are reached over QEMU's network, and by which port of this machine: for whoever gives it a network.
    pub toolstacks: Vec<(String, Forward)>,
    /// Further options of QEMU's.
    pub extra: Vec<String>,
    /// Where each line of the serial console goes, with the seconds since QEMU's start.
    pub log: PathBuf,
    /// Where it is noted that QEMU itself crashed.
    pub crashes: Crashes,
}

impl Settings {
    /// An emulated machine with SeaBIOS that boots this ISO, with nothing added to it.
    #[must_use]
    pub fn emulated(iso: PathBuf, memory_mib: u32, log: PathBuf) -> Self {
        Self {
            iso,
            firmware: Firmware::Bios,
            memory_mib,
            accel: Accel::Tcg,
            resets: false,
            lines: Vec::new(),
            toolstacks: Vec::new(),
            extra: Vec::new(),
            log,
            crashes: Crashes::default(),
        }
    }

    /// The arguments of `qemu-system-x86_64`; in `folder` are the copy of OVMF's variable store and the ports' sockets.
    #[must_use]
    pub fn arguments(&self, folder: &Path) -> Vec<String> {
        let kvm = self.accel.use_kvm();
        // The virtual IOMMU remaps interrupts only if KVM leaves the IO-APIC to QEMU.
        let machine = if kvm { "q35,kernel-irqchip=split" } else { "q35" };
        let accel = match self.accel {
            _ if kvm => "kvm",
            Accel::Counted => "tcg,thread=single",
            _ => "tcg,thread=multi",
        };
        let cpu =
            if kvm { "host" } else { "qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+x2apic,+rdrand" };
        // After OVMF, QEMU emulates two processors five to ten times slower than one (7.2; it keeps looking for translated
        // code of OVMF's in memory that is long used for something else).
        let processors = if self.firmware == Firmware::Uefi && !kvm { "1" } else { "2" };
        let memory = self.memory_mib.to_string();
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-machine",
            machine,
            "-accel",
            accel,
            "-smp",
            processors,
            "-cpu",
            cpu,
            "-m",
            &memory,
            "-device",
            "intel-iommu,intremap=on",
            "-nic",
            "none",
            "-vga",
            "std",
            "-display",
            "none",
            "-monitor",
            "none",
            "-chardev",
            "stdio,id=serial,signal=off",
            "-serial",
            "chardev:serial",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(self.accel.clock().iter().map(|option| (*option).to_owned()));
        if self.firmware == Firmware::Uefi {
            let [code, _] = OVMF;
            for drive in [
                format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"),
                format!("if=pflash,format=raw,unit=1,file={}", escaped(&folder.join(VARIABLES))),
            ] {
                arguments.extend(["-drive".to_owned(), drive]);
            }
        }
        let drive = format!("media=cdrom,readonly=on,format=raw,if=ide,file={}", escaped(&self.iso));
        arguments.extend(["-drive".to_owned(), drive]);
        // Not from a guest's disk, which may look as if one could boot from it.
        arguments.extend(["-boot".to_owned(), "order=d".to_owned()]);
        if !self.lines.is_empty() {
            // Behind the virtual IOMMU, as everything is that the hardware domain has.
            let controller = "virtio-serial-pci,id=lines,disable-legacy=on,iommu_platform=on";
            arguments.extend(["-device".to_owned(), controller.to_owned()]);
        }
        for name in &self.lines {
            let socket = escaped(&port(folder, name));
            arguments.extend([
                "-chardev".to_owned(),
                format!("socket,id=line-{name},server=on,wait=off,path={socket}"),
                "-device".to_owned(),
                format!("virtserialport,bus=lines.0,chardev=line-{name},name={name}"),
            ]);
        }
        if !self.resets {
            arguments.push("-no-reboot".to_owned());
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }
}

/// The socket of a line's port.
fn port(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.port"))
}

/// A comma ends a value in QEMU's options unless it is doubled.
pub(crate) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A line of the serial console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Since QEMU's start, when the line began.
    pub at: Duration,
    /// The line without its end.
    pub text: String,
}

#[derive(Debug, Default)]
struct Heard {
    lines: Vec<Line>,
    ended: bool,
    echo: bool,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running machine. Dropped, it is switched off at once.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    input: ChildStdin,
    started: Instant,
    shared: Arc<Shared>,
    position: usize,
    log: PathBuf,
    crashes: Crashes,
    /// OVMF's variables and the ports' sockets.
    folder: tempfile::TempDir,
}

impl Machine {
    /// Switches a machine on.
    ///
    /// # Errors
    /// When QEMU is not installed, cannot be started, or the log cannot be written.
    pub fn start(settings: &Settings) -> Result<Self> {
        anyhow::ensure!(settings.iso.is_file(), "There is no ISO {}: build it first", settings.iso.display());
        // Its path is short, as those of sockets must be.
        let folder = tempfile::tempdir().context("Cannot make a temporary folder")?;
        if settings.firmware == Firmware::Uefi {
            let [_, empty] = OVMF;
            std::fs::copy(empty, folder.path().join(VARIABLES))
                .with_context(|| format!("Cannot copy {empty}: apt-get install ovmf"))?;
        }
        if let Some(folder) = settings.log.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
        }
        let log = std::fs::File::create(&settings.log)
            .with_context(|| format!("Cannot write {}", settings.log.display()))?;
        // setpriv: QEMU ends when we do, whatever ends us. Its own process group: Ctrl-C is ours to answer.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        command.args(settings.arguments(folder.path())).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().context("Cannot start QEMU: apt-get install qemu-system-x86")?;
        let input = child.stdin.take().context("QEMU has no input")?;
        let output = child.stdout.take().context("QEMU has no output")?;
        let errors = child.stderr.take().context("QEMU has no error output")?;
        let shared = Arc::new(Shared::default());
        let listener =
            Listener { shared: Arc::clone(&shared), started, log: Some(log), pieces: Pieces::default() };
        std::thread::spawn(move || listener.listen(output));
        let listener =
            Listener { shared: Arc::clone(&shared), started, log: None, pieces: Pieces::default() };
        std::thread::spawn(move || listener.complaints(errors));
        let (log, crashes) = (settings.log.clone(), settings.crashes.clone());
        Ok(Self { child, input, started, shared, position: 0, log, crashes, folder })
    }

    /// Has the thread that is the devices run whenever it has something to do, before those that are the processors (`SCHED_FIFO`): a
    /// real controller does not wait for a processor to have done its share. Threads that it starts from now on do so, too.
    ///
    /// # Errors
    /// When we may not (`CAP_SYS_NICE`).
    pub fn prefer_devices(&self) -> Result<()> {
        let mut command = Command::new("chrt");
        command.args(["--fifo", "--pid", "1", &self.child.id().to_string()]);
        let output = command.output().context("Cannot start chrt")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success(),
            "QEMU's devices get no priority: run this as root ({})",
            said.trim()
        );
        Ok(())
    }

    /// When it was switched on.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The socket of the port that is the line of this VM, if it has one.
    #[must_use]
    pub fn port(&self, name: &str) -> PathBuf {
        port(self.folder.path(), name)
    }

    /// Every line so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lock().lines.clone()
    }

    /// Whether what comes in is also shown as it comes.
    pub fn echo(&self, on: bool) {
        self.shared.lock().echo = on;
    }

    /// Types on the serial console.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn type_line(&mut self, text: &str) -> Result<()> {
        self.type_text(&format!("{text}\n"))
    }

    /// The same without an end of the line.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        let typed = self.input.write_all(text.as_bytes()).and_then(|()| self.input.flush());
        typed.with_context(|| format!("Cannot type {:?}: the machine is off", text.trim_end()))
    }

    /// The next line that nobody has looked at; `None` when none came in time or the machine is off.
    pub fn next_line(&mut self, timeout: Duration) -> Option<Line> {
        let deadline = Instant::now() + timeout;
        let mut heard = self.shared.lock();
        loop {
            if let Some(line) = heard.lines.get(self.position) {
                self.position += 1;
                return Some(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || heard.ended {
                return None;
            }
            heard = self.shared.more.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Looks at line after line until `found` gives something.
    ///
    /// # Errors
    /// When it does not come in time, the machine goes off, Xen crashes, or `found` gives an error; with the last lines.
    pub fn wait<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut found: impl FnMut(&Line) -> Option<Result<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next_line(left) {
                Some(line) => {
                    if let Some(result) = found(&line) {
                        return result
                            .map_err(|error| self.with_lines(&format!("Waiting for {what}: {error:#}")));
                    }
                    if let Some((_, end)) = ENDS.iter().find(|(text, _)| line.text.contains(text)) {
                        // The reason may come in the lines behind it.
                        while self.next_line(Duration::from_secs(2)).is_some() {}
                        return Err(self.with_lines(&format!("{end} before {what}")));
                    }
                }
                None if self.shared.lock().ended => {
                    let status = self.child.wait().context("Cannot ask for QEMU's state")?;
                    let end = if status.success() { "The machine went off" } else { "QEMU ended" };
                    return Err(self.with_lines(&format!("{end} before {what} ({status})")));
                }
                None => {
                    let seconds = timeout.as_secs();
                    return Err(self.with_lines(&format!("No {what} within {seconds} s")));
                }
            }
        }
    }

    /// An error with the last lines of the serial console.
    #[must_use]
    pub fn with_lines(&self, sentence: &str) -> anyhow::Error {
        let lines = self.lines();
        let last = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
        let shown: Vec<String> = last.iter().map(|line| format!("    {}", line.text)).collect();
        anyhow::anyhow!(
            "{sentence}. Last lines of the serial console ({}):\n{}",
            self.log.display(),
            shown.join("\n")
        )
    }

    /// Whether it has gone off by itself.
    ///
    /// # Errors
    /// When QEMU cannot be asked.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("Cannot ask for QEMU's state")
    }

    /// Waits until it has gone off by itself.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<Duration> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.has_ended()? {
                anyhow::ensure!(status.success(), self.with_lines(&format!("QEMU ended with {status}")));
                return Ok(self.started.elapsed());
            }
            if Instant::now() >= deadline {
                return Err(self.with_lines(&format!("The machine is not off after {} s", timeout.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if QEMU is already gone.
        let _ = self.child.kill();
        if let Ok(status) = self.child.wait() {
            self.crashes.note(status);
        }
    }
}

/// Reads what the machine says.
struct Listener {
    shared: Arc<Shared>,
    started: Instant,
    log: Option<std::fs::File>,
    pieces: Pieces,
}

impl Listener {
    fn listen(mut self, mut output: impl Read) {
        let mut line = Vec::new();
        let mut began = Duration::ZERO;
        let mut buffer = [0; 4096];
        loop {
            let count = output.read(&mut buffer).unwrap_or(0);
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            if self.shared.lock().echo {
                let mut out = std::io::stdout();
                // Nobody to show it to is no reason to stop listening.
                let _ = out.write_all(bytes).and_then(|()| out.flush());
            }
            for byte in bytes {
                if line.is_empty() {
                    began = self.started.elapsed();
                }
                match byte {
                    b'\n' => self.line(began, &std::mem::take(&mut line)),
                    _ => line.push(*byte),
                }
            }
        }
        if !line.is_empty() {
            self.line(began, &line);
        }
        self.shared.lock().ended = true;
        self.shared.more.notify_all();
    }

    /// QEMU's own messages, as lines of their own.
    fn complaints(mut self, mut errors: impl Read) {
        let mut text = Vec::new();
        if errors.read_to_end(&mut text).is_ok() {
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                self.line(self.started.elapsed(), line);
            }
        }
    }

    fn line(&mut self, at: Duration, bytes: &[u8]) {
        let text = clean(bytes);
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "[{:9.3}] {text}", at.as_secs_f64());
        }
        self.shared.lock().lines.extend(self.pieces.add(Line { at, text }));
        self.shared.more.notify_all();
    }
}

/// Bytes of a VM's line after which Xen begins a new one: the first multiple, from 199 on, of the chunks in which the line
/// comes to it (`guest_console_write` in `xen/drivers/char/console.c`). Domain 0's hvc console writes 16 at once, the early
/// console of the others as much as Xen copies, 127.
fn piece(vm: &str) -> usize {
    if vm == "0" { 208 } else { 254 }
}

/// Puts lines together that came in pieces: a VM's long line, of which all pieces but the last have [`piece`] bytes, each with
/// the VM's `(dN) `; and one of the hardware domain, which Xen prints as it comes, 16 bytes at once, whoever writes between.
#[derive(Debug, Default)]
struct Pieces {
    long: BTreeMap<String, Line>,
    torn: Option<Line>,
}

impl Pieces {
    /// Takes a line of the console; gives the lines that are whole now, if any.
    fn add(&mut self, line: Line) -> Vec<Line> {
        if is_tagged(&line.text) {
            return self.long(line).into_iter().collect();
        }
        let mut begun = self.torn.take().unwrap_or_else(|| Line { at: line.at, text: String::new() });
        match between(&begun.text, &line.text) {
            Some((piece, others)) => {
                begun.text.push_str(piece);
                self.torn = Some(begun);
                self.add(Line { at: line.at, text: others.to_owned() })
            }
            None => {
                begun.text.push_str(&line.text);
                vec![begun]
            }
        }
    }

    /// A line with its VM's name before it.
    fn long(&mut self, line: Line) -> Option<Line> {
        let Some((vm, text)) = line.text.strip_prefix("(d").and_then(|rest| rest.split_once(") ")) else {
            return Some(line);
        };
        let more = text.len() == piece(vm);
        let whole = match self.long.remove(vm) {
            Some(mut begun) => {
                begun.text.push_str(text);
                begun
            }
            None => Line { at: line.at, text: line.text.clone() },
        };
        if more {
            self.long.insert(vm.to_owned(), whole);
            return None;
        }
        Some(whole)
    }
}

/// Whether Xen says of whom the line is.
fn is_tagged(text: &str) -> bool {
    let digits =
        |rest: &str| rest.split_once(") ").is_some_and(|(vm, _)| vm.bytes().all(|b| b.is_ascii_digit()));
    text.starts_with("(XEN) ") || text.strip_prefix("(d").is_some_and(digits)
}

/// A milestone of the hardware domain's, of which `begun` came before, and the line of another that is in the middle of it.
fn between<'a>(begun: &str, text: &'a str) -> Option<(&'a str, &'a str)> {
    let own = !begun.is_empty() || text.starts_with("ennead ");
    let at = text.match_indices('(').map(|(at, _)| at).find(|at| text.get(*at..).is_some_and(is_tagged))?;
    own.then(|| text.split_at(at))
}

/// The text of a line, without the terminal's control sequences that GRUB and OVMF send.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                if characters.next_if_eq(&'[').is_some() {
                    while characters.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
                } else {
                    characters.next();
                }
            }
            '\t' => clean.push(' '),
            _ if character.is_control() => {}
            _ => clean.push(character),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let extra = vec!["-icount".to_owned(), "1".to_owned()];
        Settings { extra, ..Settings::emulated(PathBuf::from("a,b.iso"), 768, PathBuf::new()) }
    }

    #[test]
    fn long_lines_of_vms_are_put_together() {
        let at = Duration::ZERO;
        let mut pieces = Pieces::default();
        let mut add = |text: String| pieces.add(Line { at, text }).pop().map(|line| line.text);
        let long = "x".repeat(piece("1"));
        assert_eq!(add("(d1) short".into()), Some("(d1) short".into()));
        assert_eq!(add(format!("(d1) {long}")), None);
        assert_eq!(add("(XEN) between".into()), Some("(XEN) between".into()));
        assert_eq!(add("(d2) another".into()), Some("(d2) another".into()));
        assert_eq!(add(format!("(d1) {long}")), None);
        assert_eq!(add("(d1) end".into()), Some(format!("(d1) {long}{long}end")));
        let long = "y".repeat(piece("0"));
        assert_eq!(add(format!("(d0) {long}")), None);
        assert_eq!(add("(d0) ".into()), Some(format!("(d0) {long}")));
    }

    #[test]
    fn torn_lines_of_the_hardware_domain_are_put_together() {
        let at = Duration::ZERO;
        let mut pieces = Pieces::default();
        let mut add = |text: &str| {
            let lines = pieces.add(Line { at, text: text.to_owned() });
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        assert_eq!(add("ennead pciback: (d4) ennead xenstore-state: a"), ["(d4) ennead xenstore-state: a"]);
        assert_eq!(add("(d5) b"), ["(d5) b"]);
        assert_eq!(add("power-o(XEN) c"), ["(XEN) c"]);
        assert_eq!(add("ff t=1"), ["ennead pciback: power-off t=1"]);
        // A kernel's own words are left alone.
        assert_eq!(add("pci (d1) x"), ["pci (d1) x"]);
        assert_eq!(add("ennead pciback: said text=\"(dx) y\""), ["ennead pciback: said text=\"(dx) y\""]);
    }

    #[test]
    fn the_arguments_say_what_was_set() {
        let bios = settings().arguments(Path::new("")).join(" ");
        assert!(
            bios.contains("-smp 2 ") && bios.contains("-m 768 ") && bios.contains("file=a,,b.iso"),
            "{bios}"
        );
        assert!(bios.contains("-accel tcg,thread=multi") && bios.ends_with("-no-reboot -icount 1"), "{bios}");
        assert!(!bios.contains("pflash") && !bios.contains("virtio"), "{bios}");
        let uefi = Settings { firmware: Firmware::Uefi, resets: true, ..settings() };
        let uefi = uefi.arguments(Path::new("folder")).join(" ");
        assert!(
            uefi.contains("-smp 1 ")
                && uefi.contains("unit=1,file=folder/variables.fd")
                && !uefi.contains("-no-reboot"),
            "{uefi}"
        );
    }

    #[test]
    fn each_line_is_a_port() {
        let lines = Settings { lines: vec!["one".to_owned(), "two".to_owned()], ..settings() };
        let text = lines.arguments(Path::new("a,b")).join(" ");
        assert_eq!(text.matches("-device virtio-serial-pci,").count(), 1, "{text}");
        for name in ["one", "two"] {
            for part in [
                format!("-chardev socket,id=line-{name},server=on,wait=off,path=a,,b/{name}.port "),
                format!("-device virtserialport,bus=lines.0,chardev=line-{name},name={name} "),
            ] {
                assert!(text.contains(&part), "{part}: {text}");
            }
        }
    }

    #[test]
    fn control_sequences_are_left_out() {
        assert_eq!(clean(b"\x1b[0;37;40mGRUB\x1b[2J loading.\r"), "GRUB loading.");
        assert_eq!(clean(b"a\tb\x1bcd\xff"), "a bd\u{fffd}");
    }

    #[test]
    fn a_missing_iso_is_one_sentence() {
        let error = Machine::start(&settings()).unwrap_err().to_string();
        assert_eq!(error, "There is no ISO a,b.iso: build it first");
    }
}
