//! `xenstore-logic`: in its VM, `/init`; elsewhere an ordinary process with sockets instead of rings.
#![forbid(unsafe_code)]

mod memory;
mod process;
mod rings;
mod vm;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use ennead_os::{ArenaHeap, Link};
use ennead_xenstore_logic::serve::{Actor, Serve, Stop};
use ennead_xs_link::Caller;

#[global_allocator]
static HEAP: ArenaHeap = ArenaHeap;

/// XenStore's protocol half as an ordinary process.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Socket of xenstore-state (its --listen)
    #[arg(long, value_name = "SOCKET", required_unless_present = "measure_reset")]
    state: Option<PathBuf>,
    /// Socket for clients: PATH (privileged), or DOMID:PATH (they act as domain DOMID). Repeatable
    #[arg(long, value_name = "[DOMID:]PATH", value_parser = parse_socket)]
    socket: Vec<(Actor, PathBuf)>,
    /// Directory of ring pages (domN.ring), domains (domN) and event datagrams (evtchn.sock), instead of Xen
    #[arg(long, value_name = "DIR")]
    rings: Option<PathBuf>,
    /// Microseconds to look for work before sleeping
    #[arg(long, default_value_t = 50)]
    spin: u64,
    /// Only measure what one reset costs
    #[arg(long)]
    measure_reset: bool,
}

fn parse_socket(text: &str) -> Result<(Actor, PathBuf), String> {
    match text.split_once(':') {
        Some((domid, path)) if domid.bytes().all(|b| b.is_ascii_digit()) => {
            let domid = domid.parse().map_err(|_| format!("{domid} is no domid"))?;
            Ok((Actor::Domain(domid), path.into()))
        }
        _ => Ok((Actor::Operator, text.into())),
    }
}

/// Prints how many bytes and pages a reset puts back, and the median of its cost.
fn measure_reset() -> anyhow::Result<()> {
    const ROUNDS: u32 = 1000;
    let mut costs = [0_f64; 101];
    let mut line = [0; 128];
    let mut memory = memory::Memory::new()?;
    // From here on nothing may allocate.
    for cost in &mut costs {
        let start = Instant::now();
        memory.reset(ROUNDS);
        *cost = start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    }
    costs.sort_unstable_by(f64::total_cmp);
    let (size, median) = (memory.size(), costs[costs.len() / 2]);
    let mut out = std::io::Cursor::new(&mut line[..]);
    let pages = size.bytes().div_ceil(4096);
    writeln!(
        out,
        "reset: {} bytes of handler and {} bytes of statics ({pages} pages) in {median:.3} us",
        size.arena, size.statics
    )?;
    let len = usize::try_from(out.position())?;
    rustix::io::write(rustix::stdio::stdout(), line.get(..len).unwrap_or_default())?;
    std::process::exit(0)
}

fn main() -> anyhow::Result<()> {
    if std::process::id() == 1 {
        ennead_runtime::run(vm::serve);
    }
    let options = Options::parse();
    let Some(state) = options.state.filter(|_| !options.measure_reset) else { return measure_reset() };
    let (link, memory) =
        Link::join(&state).with_context(|| format!("Cannot reach xenstore-state on {}", state.display()))?;
    let Ok(caller) = Caller::attach(memory) else { bail!("xenstore-state is of another version") };
    let spin = Duration::from_micros(options.spin);
    let world = process::Process::new(link, &options.socket, options.rings.as_deref(), spin)?;
    let mut serve = Serve::new(caller, world, memory::Memory::new)?;
    let Err(stop) = serve.attach().and_then(|()| serve.run());
    report(stop);
    std::process::exit(1)
}

/// Says why Logic ends, without allocating.
pub(crate) fn report(stop: Stop) {
    let why = match stop {
        Stop::StateGone => "xenstore-state is gone",
        Stop::Moved(..) => "xenstore-state's successor does not serve",
        Stop::Link(violation) => violation.0,
        Stop::World(what) => what,
    };
    for part in ["xenstore-logic: ", why, "\n"] {
        let _ = rustix::io::write(rustix::stdio::stderr(), part.as_bytes());
    }
}
