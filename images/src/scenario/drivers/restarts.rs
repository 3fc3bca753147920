//! VMs that are killed, or restarted politely, at moments that nobody has chosen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::session::Session;

/// How Builder is asked to destroy a VM as it is, and to build it again.
pub(super) const KILL: &str = "kill";
/// How it is asked to let the VM end its work before.
pub(super) const RESTART: &str = "restart";

/// Milliseconds between two restarts: at least, and how many more at most.
const PAUSE: (u64, u32) = (300, 1500);

/// Waits for a random time.
pub(super) fn pause(session: &mut Session) {
    let nanoseconds =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    session.idle(Duration::from_millis(PAUSE.0 + u64::from(nanoseconds / 1000 % PAUSE.1)));
}

/// Lets Builder do it (`word`: [`KILL`] or [`RESTART`]), and waits until the VM is well again; gives how long that took.
pub(super) fn again(session: &mut Session, word: &str, vm: &str) -> Result<Duration> {
    let start = std::time::Instant::now();
    session.command(&format!("{word} {vm}"), |m| m.is("builder", "healthy") && m.value("vm") == Some(vm))?;
    Ok(start.elapsed())
}

/// Kills a VM so many times while `work` is done, which ends when it is told that it may.
pub(super) fn kill_during<T: Send>(
    session: &mut Session,
    vm: &str,
    times: usize,
    work: impl FnOnce(&AtomicBool) -> Result<T> + Send,
) -> Result<T> {
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(&enough));
        let killed = (0..times).try_for_each(|_| {
            pause(session);
            again(session, KILL, vm).map(drop)
        });
        enough.store(true, Ordering::Relaxed);
        let worked = worker.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        killed?;
        worked
    })
}
