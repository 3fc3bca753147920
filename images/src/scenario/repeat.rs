//! Many boots in a row.

use anyhow::Result;

use super::{Report, Setup, boot};
use crate::session::Session;

pub(super) fn ten(setup: &Setup, report: &mut Report) -> Result<()> {
    boots(setup, report, 10)
}

pub(super) fn fifty(setup: &Setup, report: &mut Report) -> Result<()> {
    boots(setup, report, 50)
}

fn boots(setup: &Setup, report: &mut Report, count: usize) -> Result<()> {
    let host = setup.host()?;
    let machine = setup.machine(&host)?;
    let mut times = Vec::new();
    for number in 1..=count {
        let outcome = Session::start(&machine, false).and_then(|mut session| {
            let ready = session.until_ready()?;
            boot::no_denials(&session)?;
            session.power_off()?;
            Ok(ready)
        });
        times.extend(outcome.as_ref().ok().copied());
        report.check(
            &format!("boot {number}"),
            outcome.map(|at| format!("ready after {:.1} s", at.as_secs_f64())),
        );
    }
    times.sort_unstable();
    if let Some(median) = times.get(times.len() / 2) {
        report.figure("power-on to ready, median", format!("{:.1} s", median.as_secs_f64()));
    }
    Ok(())
}
