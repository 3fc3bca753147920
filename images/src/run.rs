//! What `./run` does: build, boot, show.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::console;
use crate::devices::image_beside;
use crate::operator::Operator;
use crate::progress::Progress;
use crate::qemu::{Accel, Firmware, Settings};
use crate::scenario::{self, Setup};
use crate::session::Session;
use crate::{first_guest, host, program};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to build.
    pub build: host::Options,
    /// Only build.
    pub build_only: bool,
    /// The scenario to go through.
    pub check: Option<String>,
    /// Stay on the serial console.
    pub keep: bool,
    /// The machine's firmware.
    pub firmware: Firmware,
    /// MiB of the machine's memory; else what the manifest says.
    pub memory_mib: Option<u32>,
    /// What executes the machine's instructions.
    pub accel: Accel,
    /// Further options of QEMU's.
    pub qemu: Vec<String>,
}

/// Does it. Gives whether all held.
///
/// # Errors
/// When something does not build or the host does not start.
pub fn run(request: &Request) -> Result<bool> {
    let cache = Cache::from_environment()?;
    let memory_mib = match request.memory_mib {
        Some(memory) => memory,
        None => crate::plan::check(&request.build.manifest)?.plan.host.memory_mib,
    };
    let out = request.build.out.clone();
    let machine = Settings {
        log: out.parent().map_or_else(|| PathBuf::from("serial.log"), |folder| folder.join("serial.log")),
        iso: out,
        firmware: request.firmware,
        memory_mib,
        accel: request.accel,
        resets: false,
        lines: Vec::new(),
        extra: request.qemu.clone(),
    };
    let setup = Setup { cache, progress: Progress::for_stderr(), build: request.build.clone(), machine };
    if request.build_only {
        setup.machine(&setup.host()?)?;
        return Ok(true);
    }
    if let Some(name) = &request.check {
        return Ok(check(&setup, name));
    }
    show(&setup, request.keep)?;
    Ok(true)
}

fn check(setup: &Setup, name: &str) -> bool {
    let chosen = scenario::ALL.into_iter().filter(|scenario| name == "all" || scenario.name == name);
    let (mut held, mut failed) = (0, Vec::new());
    for scenario in chosen {
        println!("\nScenario `{}`: {}", scenario.name, scenario.about);
        let report = scenario.run(setup, true);
        println!("\n{}", report.figures());
        held += report.held();
        failed.extend(report.failed().iter().map(|line| format!("{}: {line}", scenario.name)));
    }
    for line in &failed {
        println!("FAILED  {}", line.lines().next().unwrap_or_default());
    }
    println!("{held} passed, {} failed", failed.len());
    failed.is_empty() && held > 0
}

/// The host with a guest. Whoever looks at it ends it with Ctrl-C; it is switched off by itself if nobody does.
fn show(setup: &Setup, keep: bool) -> Result<()> {
    let host = setup.host()?;
    let mut machine = setup.machine(&host)?;
    let image = image_beside(&machine.log, "disk");
    let port = first_guest::equip(&mut machine, &setup.cache, setup.progress, &image)?;
    let program = program::cli(&setup.cache, setup.progress)?;
    println!("\nThe host starts; seconds since power-on:\n");
    let mut session = Session::start(&machine, true)?;
    session.until_ready()?;
    let list = session.list()?;
    println!("\nThe VMs of the running host:\n\n{}", list.table());
    let mut operators = Vec::new();
    for name in &machine.lines {
        operators.push(Operator { program: program.clone(), socket: session.operator(name)? });
    }
    let operator = operators.first().context("The manifest has no toolstack")?;
    println!("\nDebian starts as a guest, from its own disk:\n");
    let took = first_guest::boot(operator)?;
    println!("  its login after {:.1} s", took.as_secs_f64());
    println!("  http://127.0.0.1:{port}/ says: {}", first_guest::page(port)?);
    for (name, operator) in machine.lines.iter().zip(&operators) {
        let socket = operator.socket.display();
        println!("\nOperators reach `{name}`: {} --host unix:{socket} list", program.display());
    }
    println!(
        "Debian's console: {} --host unix:{} console debian",
        program.display(),
        operator.socket.display()
    );
    println!("Its disk, which stays: {}", image.display());
    println!("The whole serial console of the host: {}", machine.log.display());
    println!("`./run --check` checks what must hold, `./run --help` shows the rest.");
    if keep || std::io::stdin().is_terminal() {
        return console::interact(&mut session);
    }
    println!("\nSwitching the guest and the host off:\n");
    first_guest::shut_down(operator)?;
    session.power_off()
}
