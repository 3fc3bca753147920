//! Events of `tracing`, and panics, on Xen's console.
//!
//! `tracing::info!(vm = %name, memory_kib, "built")`: the message is the milestone, the fields are what it is about (`_` in
//! a field's name becomes `-`: `memory-kib=4096`). Level info and above; spans are ignored. The last field is `t`, the host's
//! wall-clock time in seconds: Xen gives all VMs the same, so lines of different VMs can be compared.
//!
//! A line is one write to /dev/kmsg, which copies it into the kernel's buffer: it waits for nobody. A write that fails
//! is ignored.

use std::fmt::{self, Debug, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::line::{Line, chain};

/// Where the kernel takes lines.
const KMSG: &str = "/dev/kmsg";

/// Where lines go.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Writes one line, at once, and never fails.
    fn put(&self, line: &[u8]);
}

impl Sink for File {
    fn put(&self, line: &[u8]) {
        // Nobody is left to tell. (`write`, not `write_all`: a line is one write.)
        let _ = (&*self).write(line);
    }
}

/// The log of this VM: its name and where lines go.
#[derive(Clone)]
struct Log {
    vm: String,
    sink: Arc<dyn Sink>,
    clock: fn() -> Duration,
}

/// Time since 1970; 0 if the clock is before that.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Log {
    fn put(&self, message: &str, fields: &[(&str, &str)]) {
        let mut line = Line::new(&self.vm, message);
        for (key, value) in fields {
            line.field(key, value);
        }
        self.finish(line);
    }

    fn finish(&self, mut line: Line) {
        let now = (self.clock)();
        line.field("t", &format!("{}.{:06}", now.as_secs(), now.subsec_micros()));
        self.sink.put(&line.into_bytes());
    }
}

/// The log once `install` has run; for panics and `fail`, which do without `tracing`.
static LOG: OnceLock<Log> = OnceLock::new();

/// Sends events and panics to /dev/kmsg under the VM's name. Once; later calls change nothing.
///
/// # Errors
/// The one of opening /dev/kmsg.
pub(crate) fn install(vm: &str) -> std::io::Result<()> {
    let log = Log { vm: vm.to_owned(), sink: Arc::new(File::options().write(true).open(KMSG)?), clock: now };
    if LOG.set(log.clone()).is_ok() {
        // Fails only if the program has installed its own, which is then its choice.
        let _ = tracing::subscriber::set_global_default(EventLog { log });
        std::panic::set_hook(Box::new(|panic| {
            if let Some(log) = LOG.get() {
                put_panic(log, panic);
            }
            std::process::abort();
        }));
    }
    Ok(())
}

/// Logs `error cause="..."`; before `install` has run as the VM `unknown`, and on standard error if all else fails.
pub(crate) fn put_error(error: &anyhow::Error) {
    let cause = chain(error.as_ref());
    let log = match LOG.get() {
        Some(log) => log.clone(),
        None => match File::options().write(true).open(KMSG) {
            Ok(file) => Log { vm: "unknown".to_owned(), sink: Arc::new(file), clock: now },
            Err(_) => {
                // Nobody is left to tell if this fails.
                let _ = writeln!(std::io::stderr(), "ennead unknown: error cause={cause:?}");
                return;
            }
        },
    };
    log.put("error", &[("cause", &cause)]);
}

fn put_panic(log: &Log, panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    let at = panic.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
    log.put("panic", &[("message", message), ("at", &at)]);
}

/// `tracing`'s subscriber: events of level info and above, one line each.
struct EventLog {
    log: Log,
}

impl Subscriber for EventLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let mut visitor = Fields { message: String::new(), fields: Line::fields() };
        event.record(&mut visitor);
        let Fields { message, fields } = visitor;
        let mut line = Line::new(&self.log.vm, if message.is_empty() { "event" } else { &message });
        line.append(&fields);
        self.log.finish(line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // No span is enabled, so nobody asks; and if, all spans are one.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Collects an event's message and fields.
struct Fields {
    message: String,
    fields: Line,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            // `r#type = 1` is the field `type`.
            name => self.fields.field(&name.strip_prefix("r#").unwrap_or(name).replace('_', "-"), value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        if write!(text, "{value:?}").is_err() {
            text.push_str("(no text)");
        }
        self.record_str(field, &text);
    }
}

impl Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("vm", &self.vm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Sink for Kept {
        fn put(&self, line: &[u8]) {
            let line = String::from_utf8(line.to_vec()).expect("ASCII");
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn logged(events: impl FnOnce()) -> Vec<String> {
        let kept = Arc::new(Kept::default());
        let log =
            Log { vm: "builder".into(), sink: kept.clone(), clock: || Duration::from_micros(1_500_000) };
        tracing::subscriber::with_default(EventLog { log }, events);
        kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[test]
    fn one_line_for_each_event() {
        let lines = logged(|| {
            let span = tracing::info_span!("work");
            let _in = span.enter();
            tracing::info!("healthy");
            tracing::info!(vm = "pciback", memory_kib = 3, ok = true, r#type = %"pv", "built");
            tracing::warn!(reason = "two words", "slow");
            tracing::debug!("not this");
            tracing::trace!("nor this");
        });
        assert_eq!(
            lines,
            [
                "<2>ennead builder: healthy t=1.500000\n",
                "<2>ennead builder: built vm=pciback memory-kib=3 ok=true type=pv t=1.500000\n",
                "<2>ennead builder: slow reason=\"two words\" t=1.500000\n",
            ]
        );
    }

    #[test]
    fn errors_keep_their_milestone_and_tell_the_chain() {
        let cause = std::io::Error::other(anyhow::anyhow!("inner").context("outer"));
        let lines = logged(|| {
            tracing::error!(vm = "pciback", cause = &cause as &dyn std::error::Error, "failed");
            tracing::error!(code = 1);
        });
        assert_eq!(
            lines,
            [
                "<2>ennead builder: failed vm=pciback cause=\"outer: inner\" t=1.500000\n",
                "<2>ennead builder: event code=1 t=1.500000\n",
            ]
        );
    }

    #[test]
    fn panics_are_logged_with_their_place() {
        let kept = Arc::new(Kept::default());
        let log =
            Log { vm: "builder".into(), sink: kept.clone(), clock: || Duration::from_micros(1_500_000) };
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| put_panic(&log, panic)));
        let line = line!() + 1;
        let thrown = std::thread::spawn(|| panic!("no {}", "more")).join();
        std::panic::set_hook(before);
        assert!(thrown.is_err());
        let lines = kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let expected =
            format!("<2>ennead builder: panic message=\"no more\" at={}:{line} t=1.500000\n", file!());
        assert!(lines.contains(&expected), "{lines:?}");
    }
}
