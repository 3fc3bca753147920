//! What `./run` does: build, boot, show.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::console;
use crate::devices::image_beside;
use crate::host::Host;
use crate::operator::{Operator, Reach};
use crate::progress::Progress;
use crate::qemu::{Accel, Firmware, Settings};
use crate::scenario::{self, Setup};
use crate::session::Session;
use crate::{certificate, first_guest, host, operator, program};

/// How long a toolstack may take until it answers on its network.
const REACHABLE: Duration = Duration::from_secs(60);

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
    let log = out.parent().map_or_else(|| PathBuf::from("serial.log"), |folder| folder.join("serial.log"));
    let machine = Settings {
        firmware: request.firmware,
        accel: request.accel,
        extra: request.qemu.clone(),
        ..Settings::emulated(out, memory_mib, log)
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
        let line = Operator { program: program.clone(), reach: session.operator(name)? };
        operators.push(over_network(setup, &host, &machine, name, &program)?.unwrap_or(line));
    }
    let operator = operators.first().context("The manifest has no toolstack")?;
    println!("\nDebian starts as a guest, from its own disk:\n");
    let took = first_guest::boot(operator)?;
    println!("  its login after {:.1} s", took.as_secs_f64());
    println!("  http://127.0.0.1:{port}/ says: {}", first_guest::page(port)?);
    for (name, operator) in machine.lines.iter().zip(&operators) {
        println!(
            "\nOperators reach `{name}`: {} {} list",
            program.display(),
            operator.reach.option().join(" ")
        );
    }
    println!("Debian's console: {} {} console debian", program.display(), operator.reach.option().join(" "));
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

/// The operator of a toolstack that is reached over the machine's network, with a profile beside the log; `None` if it has none, or
/// does not answer there.
fn over_network(
    setup: &Setup,
    host: &Host,
    machine: &Settings,
    toolstack: &str,
    program: &Path,
) -> Result<Option<Operator>> {
    // `ennead` finds that of the first by itself.
    let first = machine.toolstacks.first().is_none_or(|(name, _)| name == toolstack);
    let name = if first { "profile.toml".to_owned() } else { format!("profile-{toolstack}.toml") };
    let file = machine.log.with_file_name(name);
    let Some(profile) = operator::profile(&setup.cache, &host.plan, machine, toolstack)? else {
        // One of an earlier host would lead nowhere.
        let _ = std::fs::remove_file(&file);
        return Ok(None);
    };
    certificate::write_profile(&setup.cache, &profile, &file)?;
    let operator = Operator { program: program.to_owned(), reach: Reach::Profile(file.clone()) };
    match operator.wait_reachable(REACHABLE) {
        Ok(_) => Ok(Some(operator)),
        Err(e) => {
            println!("\n`{toolstack}` is not reached over the network, only by its socket: {e:#}");
            let _ = std::fs::remove_file(&file);
            Ok(None)
        }
    }
}
