//! Builder, which also tries what it may not.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::Context as _;
use ennead_builder::host::Host;
use ennead_manifest::{Kind, context};
use ennead_probe::attempts::{self, Labels, Other};
use ennead_probe::matrix::Matrix;
use ennead_probe::options::others;
use ennead_xen::probe::MarkedMemory;
use ennead_xen::{Control, DomId, EventChannels};
use tracing::info;

/// Pages of 4096 bytes that are watched: half of this VM's memory.
const WATCHED: usize = 64 << 8;

/// The hardware domain's name.
const PCIBACK: &str = "pciback";

fn main() -> ! {
    ennead_runtime::run(|runtime| {
        info!("started");
        // Before pciback exists: its devices are let loose before it is healthy.
        let memory = MarkedMemory::new(WATCHED).context("Cannot lock memory")?;
        let params = runtime.params.clone();
        let mut host = Host::open(runtime, Path::new("/"))?;
        host.take_over()?;
        info!(pages = memory.pages(), changed = memory.changed_pages(), "memory");
        drop(memory);
        let hardware =
            |other: &Other| params.server(&other.name).is_some_and(|vm| vm.name.as_str() == PCIBACK);
        let (mut pciback, built): (Vec<Other>, Vec<Other>) = others()?.into_iter().partition(hardware);
        let pciback = pciback.pop().context("The plan gives Builder no channel to pciback")?;
        let control = Control::open()?;
        probe(&control, &pciback, &built)?;
        // Now it is pciback's turn: with both at it at once, Xen's lines would get between the pieces in which the hardware
        // domain's go to the console. It waits until it can bind a port of Builder's.
        let events = EventChannels::open()?;
        events.bind_unbound(pciback.domid)?;
        host.serve()
    })
}

fn probe(control: &Control, pciback: &Other, built: &[Other]) -> anyhow::Result<()> {
    let own = control.sid_of(&context(&Kind::Builder.running_type()))?;
    let me = control.domains()?.iter().find(|info| info.sid == own).map(|info| info.domid);
    let me: DomId = me.context("Builder does not see itself")?;
    let label = |name: String| (name.clone(), context(&name));
    let of_kind = |kind: Kind| [kind.building_type(), kind.starting_type(), kind.running_type()];
    let mut forbidden = vec!["unlabeled_t".to_owned(), Kind::Bootstrapper.running_type()];
    forbidden.extend(of_kind(Kind::Pciback));
    forbidden.push(Kind::Builder.running_type());
    let labels = Labels {
        forbidden: forbidden.into_iter().map(label).collect(),
        hardware_domain: label(Kind::Pciback.building_type()),
        of_pciback: vec![
            ("relabel_unseal", context(&Kind::Pciback.starting_type())),
            ("relabel_building", context(&Kind::Pciback.building_type())),
            ("relabel_as_own", context(&Kind::Builder.running_type())),
        ],
    };
    let mut matrix = Matrix::new(Kind::Builder.running_type());
    attempts::builder(&mut matrix, control, me, pciback, built, &labels)?;
    matrix.end();
    Ok(())
}
