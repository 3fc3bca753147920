//! `reboot` starts the host again, `poweroff` switches it off.

use anyhow::Result;

use super::{Report, Setup};
use crate::qemu::Settings;
use crate::session::{PATIENCE, Session};
use crate::timeline::{Timeline, is_xens_first};

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = setup.host()?;
    let machine = Settings { resets: true, ..setup.machine(&host)? };
    report.say("\nThe host starts:\n");
    let mut session = Session::start(&machine, report.show)?;
    session.until_ready()?;
    report.check("the host becomes ready", Ok(String::new()));
    session.command("reboot", |milestone| milestone.is("pciback", "reboot"))?;
    let again = session
        .machine
        .wait("Xen's second start", PATIENCE, |line| is_xens_first(&line.text).then_some(Ok(())));
    report.check("`reboot` resets the machine", again.map(|()| String::new()));
    session.timeline = Timeline::new(report.show);
    let ready = session.until_ready();
    report.check("the host becomes ready again", ready.map(|_| String::new()));
    report.check("`poweroff` switches the machine off", session.power_off().map(|()| String::new()));
    Ok(())
}
