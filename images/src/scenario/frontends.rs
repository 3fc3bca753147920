//! A guest whose frontends mean harm: each of its attempts ends as it must, the backends live on, and another guest's disk and
//! network are as fast as beside one that only keeps a processor busy.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::drivers::{Server, Small, machine, operator};
use super::shell::Shell;
use super::{Report, Setup, boot};
use crate::first_guest::PATIENCE;
use crate::operator::Operator;
use crate::session::Session;
use crate::{guest, program};

/// The guest that means harm, and its program (`images/probe`).
pub(super) const NAME: &str = "hostile";
const PROGRAM: &str = "probe-frontend";
/// Measurements of each kind; the median counts.
const ROUNDS: usize = 5;
/// Least part of the throughput that is left.
const LEAST: f64 = 0.9;
/// MiB that are read from the disk for a measurement.
const MIB: u32 = 24;
/// The backends, and the kinds of their devices.
const KINDS: [(&str, &str); 2] = [("vbd", "blkback"), ("vif", "netback")];

/// What a hostile frontend can try.
pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    run_with(setup, report, false)
}

/// The same, and what it takes of another guest's throughput while it does so.
pub(super) fn storms(setup: &Setup, report: &mut Report) -> Result<()> {
    run_with(setup, report, true)
}

fn run_with(setup: &Setup, report: &mut Report, storms: bool) -> Result<()> {
    let server = Server::start()?;
    let folder = setup.cache.temporary("frontends")?;
    let (small, hostile) = (folder.path().join("web.toml"), folder.path().join("hostile.toml"));
    Small::configure(setup, &small)?;
    configure(setup, &hostile)?;
    let (settings, _) = machine(setup, "frontends")?;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let operator = operator(setup, &mut session)?;
    let other = Small::of(&operator);
    let begun = other.created(&small).and_then(|_| other.address());
    if report.check("a guest with a disk and a NIC is created", begun)
        && report.check("one that means harm is created", created(&operator, &hostile))
    {
        let shell = Shell { operator: &operator, name: NAME };
        for (kind, backend) in KINDS {
            let name = format!("{backend} ends each of a hostile {kind}'s attempts as it must, and says why");
            report.check(&name, cases(&mut session, shell, kind, backend));
        }
        report.check("the other guest's disk is as it was", other.writes("beside it"));
        for (kind, _) in KINDS.into_iter().filter(|_| storms) {
            let name =
                format!("a storm on its {kind} leaves the other guest at least {LEAST} of its throughput");
            let measured = beside(&mut session, shell, kind, || match kind {
                "vbd" => reads(&other.0),
                _ => fetches(&other, &server),
            });
            if let Ok((share, text)) = &measured {
                report.figure(format!("throughput beside a hostile {kind}"), format!("{share:.2} ({text})"));
            }
            report.check(&name, measured.and_then(enough));
        }
        report.check("the other guest's kernel saw no fault", other.0.no_trouble().map(|()| String::new()));
        report.check("both end, and nothing is left", shell.ends().and_then(|_| other.0.ends()));
    }
    report.check("neither backend was started again", once(&session));
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

/// A kernel without frontends, and busybox with the program. Its disk is Debian's, which nobody needs here.
pub(super) fn configure(setup: &Setup, file: &Path) -> Result<()> {
    let kernel = guest::small_kernel(&setup.cache, setup.progress)?;
    let mut programs = program::build(&setup.cache, setup.progress, &[PROGRAM.to_owned()])?;
    let program = programs.remove(PROGRAM).context("It was not built")?;
    let ramdisk = guest::ramdisk_with(&setup.cache, setup.progress, None, Some(("frontend", &program)))?;
    let text = format!(
        "name = \"{NAME}\"\nkind = \"pv\"\nkernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console=hvc0 quiet\"\n\
         memory-mib = 64\nvcpus = 1\ndisk = [{{ vdev = \"xvda\", source = \"label:debian\", access = \"w\" }}]\nvif = [{{}}]\n",
        kernel.display(),
        ramdisk.display()
    );
    std::fs::write(file, text).context("Cannot write the guest's configuration")
}

pub(super) fn created(operator: &Operator, file: &Path) -> Result<String> {
    operator.ask(&["create", &file.display().to_string()])?;
    operator.wait_for(NAME, "guest-ready", 1, PATIENCE)?;
    Ok(String::new())
}

/// Every case held, as the guest saw it in XenStore and on its rings; and the backend has told of some that it disconnected, if not of
/// all: it is brief where a guest decides how often.
fn cases(session: &mut Session, shell: Shell<'_>, kind: &str, backend: &str) -> Result<String> {
    let told = |session: &Session, name: &str| {
        session.timeline.entries().iter().filter(|(_, m)| m.is(backend, name)).count()
    };
    let before = (told(session, "frontend-broken"), told(session, "frontend-refused"));
    let said = shell.run_for(&format!("frontend cases {kind}"), PATIENCE * 2)?;
    session.idle(Duration::from_secs(1));
    let cases: Vec<&str> = said.split("; ").filter(|line| line.starts_with("case ")).collect();
    let bad: Vec<&&str> = cases.iter().filter(|line| !line.contains(" held ")).collect();
    anyhow::ensure!(bad.is_empty() && !cases.is_empty(), "{bad:?} of: {said}");
    let count = cases.len();
    anyhow::ensure!(said.contains(&format!("cases {count} held {count}")), "{said}");
    let broken = told(session, "frontend-broken") - before.0;
    let refused = told(session, "frontend-refused") - before.1;
    anyhow::ensure!(broken > 0, "{backend} told of nobody whom it disconnected");
    Ok(format!("{count} cases; in its log {broken} times frontend-broken, {refused} times frontend-refused"))
}

/// MiB/s.
fn reads(shell: &Shell<'_>) -> Result<f64> {
    shell.run("echo 3 > /proc/sys/vm/drop_caches")?;
    let start = Instant::now();
    shell.run(&format!("dd if=/dev/xvda of=/dev/null bs=1M count={MIB} 2> /dev/null"))?;
    Ok(f64::from(MIB) / start.elapsed().as_secs_f64())
}

/// Downloads in a second.
fn fetches(guest: &Small<'_>, server: &Server) -> Result<f64> {
    let start = Instant::now();
    guest.downloads(server)?;
    Ok(1.0 / start.elapsed().as_secs_f64())
}

/// What is left of a throughput beside a storm, of that beside a guest that is as busy but leaves the backend alone; measured by
/// turns.
fn beside(
    session: &mut Session,
    shell: Shell<'_>,
    kind: &str,
    measure: impl Fn() -> Result<f64>,
) -> Result<(f64, String)> {
    let (mut calm, mut stormy) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (what, all) in [("spin".to_owned(), &mut calm), (format!("storm {kind}"), &mut stormy)] {
            shell.run(&format!("(frontend {what} > /tmp/out 2>&1 & :)"))?;
            session.idle(Duration::from_millis(500));
            let measured = measure();
            // A storm that has ended by itself is none.
            let was_there = shell.run("killall frontend 2>&1 || cat /tmp/out")?;
            anyhow::ensure!(was_there.is_empty(), "the storm had ended: {was_there}");
            all.push(measured?);
        }
    }
    let (calm, stormy) = (median(calm), median(stormy));
    Ok((
        stormy / calm,
        format!("{stormy:.2} beside a storm, {calm:.2} beside a busy guest; medians of {ROUNDS}"),
    ))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn enough((share, text): (f64, String)) -> Result<String> {
    anyhow::ensure!(share >= LEAST, "{share:.2}: {text}");
    Ok(format!("{share:.2}: {text}"))
}

/// Each backend was well once.
fn once(session: &Session) -> Result<String> {
    for (_, backend) in KINDS {
        let healthy =
            |m: &crate::milestone::Milestone| m.is("builder", "healthy") && m.value("vm") == Some(backend);
        let times = session.timeline.entries().iter().filter(|(_, m)| healthy(m)).count();
        anyhow::ensure!(times == 1, "{backend} was started {times} times");
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_judged_by_medians() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(enough((LEAST, String::new())).is_ok());
        assert!(enough((LEAST - 0.01, String::new())).is_err());
    }
}
