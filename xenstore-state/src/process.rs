//! State as an ordinary process: Logic connects to a socket and gets shared memory.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ennead_os::{Link, SharedMemory, Spin, listen};
use ennead_xenstore_state::service::Service;
use ennead_xs_link::{Answerer, MAX_BODY, RecordWriter, region_len};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::saved::Saved;

/// Slots of the link: half of them for requests, so many clients' at once.
const SLOTS: usize = 256;

struct Served {
    link: Link,
    answerer: Answerer<SharedMemory>,
}

/// Serves for ever; with a file for the contents until SIGTERM.
pub(crate) fn serve(socket: &Path, spin: Duration, store: Option<PathBuf>) -> anyhow::Result<()> {
    let (mut service, saved) = Saved::load(store)?;
    let listener = listen(socket).with_context(|| format!("Cannot listen on {}", socket.display()))?;
    let mut logic: Option<Served> = None;
    let mut body = Box::new([0; MAX_BODY]);
    let mut records = RecordWriter::default();
    let mut spin = Spin::new(spin);
    let mut round = 0;
    let start = Instant::now();
    loop {
        // Between two calls: Logic has every answer.
        if saved.as_ref().is_some_and(Saved::must_end) {
            return saved.map_or(Ok(()), |saved| saved.save(&service));
        }
        let more = service.tick(start.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
        tell_refusals(&mut service);
        if let Some(served) = &mut logic {
            if more {
                served.answerer.call_attention();
                if served.answerer.must_wake() {
                    served.link.wake();
                }
            }
            if answer(&mut service, served, &mut body, &mut records) {
                round = 0;
                continue;
            }
            if spin.again(round) {
                round += 1;
                continue;
            }
            served.answerer.sleeps(true);
            if served.answerer.has_call() {
                served.answerer.sleeps(false);
                continue;
            }
        }
        let woken =
            wait(&listener, saved.as_ref(), logic.as_ref(), service.is_holding()).context("Cannot wait")?;
        round = 0;
        if let Some(served) = &logic {
            served.answerer.sleeps(false);
            served.link.answer();
        }
        if woken.gone {
            logic = None;
        }
        if woken.connected {
            // A Logic that starts while another one lives takes its place: there is one.
            logic = Some(accept(&listener).context("Cannot serve a new Logic")?);
        }
    }
}

/// Answers the calls that are there; says whether there were any.
fn answer(
    service: &mut Service,
    served: &mut Served,
    body: &mut [u8; MAX_BODY],
    records: &mut RecordWriter,
) -> bool {
    let mut any = false;
    loop {
        match served.answerer.next_call(body) {
            Ok(None) => break,
            Ok(Some((call, body))) => {
                let more = service.handle(&call, body, records);
                served.answerer.answer(records.bytes(), more);
            }
            Err(violation) => eprintln!("xenstore-state: Logic: {}", violation.0),
        }
        any = true;
        if served.answerer.must_wake() {
            served.link.wake();
        }
    }
    any
}

/// What was denied, for the audit log.
fn tell_refusals(service: &mut Service) {
    while let Some(refusal) = service.state.next_refusal() {
        let path = refusal.path.escape_ascii();
        eprintln!(
            "xenstore-state: refused domid={} op={:?} path={path} {}",
            refusal.domid, refusal.op, refusal.errno
        );
    }
}

struct Woken {
    connected: bool,
    gone: bool,
}

fn wait(
    listener: &UnixListener,
    saved: Option<&Saved>,
    logic: Option<&Served>,
    holding: bool,
) -> io::Result<Woken> {
    let bell = logic.map(|served| served.link.bell());
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    if let (Some(served), Some(bell)) = (logic, &bell) {
        fds.push(PollFd::new(&served.link.peer, PollFlags::IN));
        fds.push(PollFd::new(bell, PollFlags::IN));
    }
    let logic_fds = fds.len();
    fds.extend(saved.map(|saved| PollFd::new(saved.bell(), PollFlags::IN)));
    let soon = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    match rustix::event::poll(&mut fds, holding.then_some(&soon)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    fds.truncate(logic_fds);
    let ready = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
    Ok(Woken { connected: ready(0), gone: ready(1) })
}

fn accept(listener: &UnixListener) -> io::Result<Served> {
    let (peer, _) = listener.accept()?;
    let answerer = Answerer::create(SharedMemory::new(region_len(SLOTS))?);
    let link = Link::offer(peer, answerer.memory())?;
    Ok(Served { link, answerer })
}
