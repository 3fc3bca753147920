//! What `./run` does: build, boot, show.

use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::console;
use crate::host;
use crate::progress::Progress;
use crate::qemu::{Accel, Firmware, Settings};
use crate::scenario::{self, Setup};
use crate::session::Session;

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

fn show(setup: &Setup, keep: bool) -> Result<()> {
    let host = setup.host()?;
    let machine = setup.machine(&host)?;
    println!("\nThe host starts; seconds since power-on:\n");
    let mut session = Session::start(&machine, true)?;
    session.until_ready()?;
    let list = session.list()?;
    println!("\nThe VMs of the running host:\n\n{}", list.table());
    if keep {
        for name in &machine.lines {
            let socket = session.operator(name)?;
            println!("\nOperators reach `{name}` at {0}: ennead --host unix:{0} list", socket.display());
        }
        return console::interact(&mut session);
    }
    println!("The whole serial console: {}", machine.log.display());
    println!(
        "`./run --keep` stays on the console, `./run --check` checks what must hold, `./run --help` shows the rest."
    );
    println!("\nSwitching the host off:\n");
    session.power_off()
}
