//! A host whose new images are no good, but were made with an ISO that works (`--previous`): VMs that are not healthy with their own
//! images, at power-on or when they are restarted, go back to that one's.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{Report, Setup, boot};
use crate::devices::{Disk, DiskModel, Network, NetworkModel, image_beside};
use crate::host::{self, Host};
use crate::progress::Progress;
use crate::qemu::Settings;
use crate::session::{PATIENCE, Session};

/// No ramdisk at all: its kernel finds no `/init`.
const BROKEN: &str = "blkback";
/// Dies once after it was healthy, and is not healthy again.
const DYING: &str = "netback";
const MAYFLY: &str = "probe-mayfly";

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let old = setup.host()?;
    let folder = setup.cache.temporary("previous")?;
    let iso = folder.path().join("old.iso");
    old.write_iso(&setup.cache, Progress::Silent, &iso)?;
    let manifest = without(&crate::xen::read(&setup.build.manifest)?)?;
    let build = host::Options { text: Some(manifest), previous: Some(iso), ..setup.build.clone() };
    let broken = old.plan.vm(BROKEN).context("no blkback")?.ramdisk_image();
    let new =
        host::build_with(&setup.cache, Progress::Silent, &build, &BTreeMap::from([(broken, vec![0; 4096])]))?;
    report.check("the new host has the old images that differ, and no other", previous_images(&new));
    let (_iso, settings) = setup.changed_machine(&new, "previous")?;
    let disk = Disk { image: image_beside(&settings.log, "previous"), model: DiskModel::Nvme };
    disk.make()?;
    let network = Network { model: NetworkModel::E1000e, forwards: Vec::new() };
    let extra = [settings.extra.clone(), disk.arguments(1), network.arguments(2)].concat();
    let mut session = Session::start(&Settings { extra, ..settings }, report.show)?;
    session.until_ready()?;
    report.check(
        "at power-on: the VM that does not start goes back, and is healthy",
        went_back(&mut session, BROKEN),
    );
    report.check(
        "at its restart: the VM that is not healthy again goes back, and is",
        went_back(&mut session, DYING),
    );
    for vm in [BROKEN, DYING] {
        report.check(&format!("{vm} runs what the old host ran"), runs(&mut session, &old, vm));
        report.check(&format!("{vm} stays with it when it is restarted"), restarts(&mut session, &old, vm));
    }
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

/// The shipped manifest, but for one program.
fn without(text: &str) -> Result<String> {
    let mut manifest: toml::Table = text.parse().context("The manifest is no TOML")?;
    let section = manifest.get_mut("vm").and_then(|vms| vms.get_mut(DYING)?.as_table_mut());
    section.with_context(|| format!("No [vm.{DYING}]"))?.insert("program".into(), MAYFLY.into());
    Ok(manifest.to_string())
}

fn previous_images(host: &Host) -> Result<String> {
    let found: Vec<&str> =
        host.images.keys().map(String::as_str).filter(|name| name.contains(".previous.")).collect();
    let expected = [format!("{BROKEN}.previous.ramdisk"), format!("{MAYFLY}.previous.ramdisk")];
    anyhow::ensure!(found == expected, "there are {found:?}");
    Ok(found.join(", "))
}

/// Once each: told with its cause, sent back, healthy.
fn went_back(session: &mut Session, vm: &str) -> Result<String> {
    let is_its =
        |m: &crate::milestone::Milestone, name: &str| m.is("builder", name) && m.value("vm") == Some(vm);
    let position =
        |session: &Session| session.timeline.entries().iter().position(|(_, m)| is_its(m, "previous-images"));
    if position(session).is_none() {
        session.wait("its way back", PATIENCE, |m| is_its(m, "previous-images"))?;
    }
    let at = position(session).context("it did not go back")?;
    let healthy =
        |session: &Session| session.timeline.entries().iter().skip(at).any(|(_, m)| is_its(m, "healthy"));
    if !healthy(session) {
        session.wait("its health", PATIENCE, |m| is_its(m, "healthy"))?;
    }
    let entries = session.timeline.entries();
    let causes = ["start-failed", "restart-failed"];
    let cause = entries.iter().find(|(_, m)| causes.iter().any(|name| is_its(m, name)));
    let (_, cause) = cause.context("no cause was told")?;
    let times = entries.iter().filter(|(_, m)| is_its(m, "previous-images")).count();
    anyhow::ensure!(times == 1, "it went back {times} times");
    Ok(cause.to_string())
}

fn runs(session: &mut Session, old: &Host, vm: &str) -> Result<String> {
    let before = old.plan.vm(vm).and_then(|vm| old.boot_plan.images_of(vm)).context("no image")?;
    let list = session.list()?;
    let now = list.vms.iter().find(|other| other.name == vm).context("it does not run")?;
    anyhow::ensure!(now.image == before.1.sha256, "it runs {}", now.image);
    Ok(now.image.chars().take(12).collect())
}

fn restarts(session: &mut Session, old: &Host, vm: &str) -> Result<String> {
    session.command(&format!("restart {vm}"), |m| m.is("builder", "healthy") && m.value("vm") == Some(vm))?;
    runs(session, old, vm)
}
