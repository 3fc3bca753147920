//! The same ISO starts by BIOS and by UEFI.

use anyhow::Result;

use super::{Report, Setup, boot};
use crate::qemu::{Firmware, Settings};
use crate::session::Session;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = setup.host()?;
    let machine = setup.machine(&host)?;
    for (firmware, name) in [(Firmware::Bios, "BIOS"), (Firmware::Uefi, "UEFI")] {
        report.say(&format!("\n{name}:\n"));
        let log = machine.log.with_file_name(format!("serial-{}.log", name.to_lowercase()));
        let settings = Settings { firmware, log, ..machine.clone() };
        let mut session = Session::start(&settings, report.show)?;
        let ready = session.until_ready();
        if !report.check(
            &format!("{name}: the host becomes ready"),
            ready.map(|at| format!("{:.1} s", at.as_secs_f64())),
        ) {
            continue;
        }
        let list = session.list()?;
        boot::checks(&host, &mut session, &list, report);
        report.check(&format!("{name}: no AVC denial"), boot::no_denials(&session));
        report.check(
            &format!("{name}: `poweroff` switches the machine off"),
            session.power_off().map(|()| String::new()),
        );
    }
    Ok(())
}
