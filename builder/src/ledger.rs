//! What Builder knows of each VM: whether it is there, from which images, and who may map its memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ennead_manifest::{BootPlan, Vm};
use ennead_xen::DomId;

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not there.
    Absent,
    /// Its memory is being filled: the whitelist says by whom.
    Building,
    /// It runs: nobody maps its memory, except pages that it grants.
    Running,
}

/// One VM of the plan.
#[derive(Debug)]
pub struct Entry {
    /// Its line in the plan.
    pub vm: Vm,
    /// SHA-256 of its ramdisk, lower-case hex.
    pub image: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Who may map its memory; empty once it runs.
    mappers: Vec<DomId>,
    /// Since when it runs, and how often it was seen to start.
    since: Option<Instant>,
    starts: u32,
}

impl Entry {
    /// Who may map its memory now.
    #[must_use]
    pub fn mappers(&self) -> &[DomId] {
        &self.mappers
    }

    /// How long it has been running.
    #[must_use]
    pub fn uptime(&self) -> Option<Duration> {
        self.since.filter(|_| self.phase == Phase::Running).map(|since| since.elapsed())
    }

    /// How often it was built again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// Whether it outlives the host's start.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.vm.kind != ennead_manifest::Kind::Bootstrapper
    }

    fn runs(&mut self) {
        self.phase = Phase::Running;
        self.since = Some(Instant::now());
        self.starts = self.starts.saturating_add(1);
    }
}

/// Why something cannot be done to a VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not in the plan.
    #[error("The plan has no VM `{0}`")]
    Unknown(String),
    /// It is there already.
    #[error("{0} is there already")]
    Present(String),
    /// It is not there.
    #[error("{0} is not there")]
    Absent(String),
    /// Builder may not build or destroy it.
    #[error("{name}: {reason}")]
    Refused {
        /// Its name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
}

/// All VMs of the plan, by domid.
#[derive(Debug)]
pub struct Ledger {
    entries: BTreeMap<DomId, Entry>,
}

impl Ledger {
    /// The plan's VMs, all absent.
    #[must_use]
    pub fn new(boot: &BootPlan) -> Self {
        let entry = |vm: &Vm| Entry {
            vm: vm.clone(),
            image: ramdisk(vm, boot),
            phase: Phase::Absent,
            mappers: Vec::new(),
            since: None,
            starts: 0,
        };
        Self { entries: boot.plan.vms.iter().map(|vm| (DomId(vm.domid), entry(vm))).collect() }
    }

    /// All VMs of the plan.
    pub fn entries(&self) -> impl Iterator<Item = (DomId, &Entry)> {
        self.entries.iter().map(|(domid, entry)| (*domid, entry))
    }

    /// The VM with this domid.
    #[must_use]
    pub fn get(&self, domid: DomId) -> Option<&Entry> {
        self.entries.get(&domid)
    }

    /// Notes what Xen says is there: `present` are all domids of the host. Gives the VMs that ran and are gone.
    pub fn observe(&mut self, present: &[DomId]) -> Vec<DomId> {
        let mut gone = Vec::new();
        for (domid, entry) in &mut self.entries {
            match (entry.phase, present.contains(domid)) {
                (Phase::Running, false) => {
                    entry.phase = Phase::Absent;
                    gone.push(*domid);
                }
                (Phase::Absent, true) => entry.runs(),
                _ => {}
            }
        }
        gone
    }

    /// Starts to build `name`: from now on `mapper`, and nobody else, may map its memory.
    ///
    /// # Errors
    /// When it is unknown, there already, or not Builder's to build.
    pub fn begin_build(&mut self, name: &str, mapper: DomId) -> Result<Vm, Error> {
        let entry = self.by_name(name)?;
        changeable(entry)?;
        if entry.phase != Phase::Absent {
            return Err(Error::Present(name.to_owned()));
        }
        entry.phase = Phase::Building;
        entry.mappers = vec![mapper];
        Ok(entry.vm.clone())
    }

    /// Ends it: the whitelist is empty again.
    pub fn end_build(&mut self, domid: DomId, runs: bool) {
        if let Some(entry) = self.entries.get_mut(&domid) {
            if runs {
                entry.runs();
            } else {
                entry.phase = Phase::Absent;
            }
            entry.mappers.clear();
        }
    }

    /// The VM `name`, if it can be destroyed.
    ///
    /// # Errors
    /// When it is unknown, not there, or not Builder's to destroy.
    pub fn check_destroy(&mut self, name: &str) -> Result<Vm, Error> {
        let entry = self.by_name(name)?;
        changeable(entry)?;
        if entry.phase == Phase::Absent {
            return Err(Error::Absent(name.to_owned()));
        }
        Ok(entry.vm.clone())
    }

    /// A VM has other images from now on.
    pub fn replace(&mut self, vm: &Vm, boot: &BootPlan) {
        if let Some(entry) = self.entries.get_mut(&DomId(vm.domid)) {
            (entry.vm, entry.image) = (vm.clone(), ramdisk(vm, boot));
        }
    }

    /// A VM's successor runs in its place, under another domid.
    pub fn succeed(&mut self, old: DomId, new: Vm) {
        if let Some(mut entry) = self.entries.remove(&old) {
            let domid = DomId(new.domid);
            entry.vm = new;
            entry.runs();
            self.entries.insert(domid, entry);
        }
    }

    fn by_name(&mut self, name: &str) -> Result<&mut Entry, Error> {
        self.entries
            .values_mut()
            .find(|entry| entry.vm.name == name)
            .ok_or_else(|| Error::Unknown(name.to_owned()))
    }
}

/// The hash of a VM's ramdisk.
fn ramdisk(vm: &Vm, boot: &BootPlan) -> String {
    boot.images.get(&vm.ramdisk_image()).map(|image| image.sha256.clone()).unwrap_or_default()
}

/// Four VMs are beyond `build` and `destroy`.
fn changeable(entry: &Entry) -> Result<(), Error> {
    use ennead_manifest::Kind;
    let reason = match entry.vm.kind {
        Kind::Bootstrapper => "it exists once, at power-on",
        Kind::Pciback => "it is the hardware domain: its end is the host's end",
        Kind::Builder => "a domain cannot destroy itself",
        Kind::XenstoreState => "XenStore's contents are nowhere else",
        _ => return Ok(()),
    };
    Err(Error::Refused { name: entry.vm.name.clone(), reason })
}

#[cfg(test)]
mod tests {
    use ennead_manifest::Image;

    use super::*;

    const ME: DomId = DomId(1);

    fn ledger() -> Ledger {
        // The shipped host, and one more VM that Builder builds.
        let text = format!("{}\n{}", include_str!("../../images/host.toml"), EXTRA);
        let plan = ennead_manifest::check("host.toml", &text).unwrap_or_else(|report| panic!("{report}"));
        Ledger::new(&BootPlan { manifest_sha256: String::new(), images: BTreeMap::new(), plan })
    }

    const EXTRA: &str = "[vm.extra]\nkind = \"toolstack\"\nprogram = \"extra\"\ndomid = 19\nkernel = \"service\"\nmemory-mib = 32\n\
                         restart = { policy = \"on-crash\" }\n[vm.extra.may]\nwrite-host-console = \"x\"\n";

    #[test]
    fn only_its_builder_may_map_a_vm_and_only_while_it_is_built() {
        let mut ledger = ledger();
        let mappers = |ledger: &Ledger| ledger.get(DomId(19)).map(|entry| entry.mappers().to_vec());
        assert_eq!(mappers(&ledger), Some(vec![]));
        ledger.begin_build("extra", ME).expect("absent");
        assert_eq!(mappers(&ledger), Some(vec![ME]));
        assert_eq!(ledger.begin_build("extra", ME).expect_err("being built"), Error::Present("extra".into()));
        ledger.end_build(DomId(19), true);
        assert_eq!(mappers(&ledger), Some(vec![]));
        assert_eq!(ledger.check_destroy("extra").map(|vm| vm.domid), Ok(19));
    }

    #[test]
    fn a_vm_with_other_images_is_the_same_vm() {
        let mut ledger = ledger();
        let mut vm = ledger.begin_build("extra", ME).expect("absent");
        ledger.end_build(DomId(19), true);
        vm.program = "extra.previous".to_owned();
        let image = Image { sha256: "abc".to_owned(), size: 1 };
        let images = BTreeMap::from([(vm.ramdisk_image(), image)]);
        let plan =
            ennead_manifest::check("host.toml", include_str!("../../images/host.toml")).expect("valid");
        ledger.replace(&vm, &BootPlan { manifest_sha256: String::new(), images, plan });
        let entry = ledger.get(DomId(19)).expect("it is there");
        assert_eq!((&entry.vm, &*entry.image, entry.phase), (&vm, "abc", Phase::Running));
    }

    #[test]
    fn a_build_that_fails_leaves_the_vm_absent() {
        let mut ledger = ledger();
        ledger.begin_build("extra", ME).expect("absent");
        ledger.end_build(DomId(19), false);
        assert_eq!(ledger.check_destroy("extra"), Err(Error::Absent("extra".into())));
        ledger.begin_build("extra", ME).expect("absent again");
    }

    #[test]
    fn what_is_not_builders_to_change_is_refused_with_the_reason() {
        let mut ledger = ledger();
        for name in ["bootstrapper", "builder", "pciback", "xenstore-state"] {
            assert!(matches!(ledger.begin_build(name, ME), Err(Error::Refused { .. })), "{name}");
            assert!(matches!(ledger.check_destroy(name), Err(Error::Refused { .. })), "{name}");
        }
        assert_eq!(ledger.check_destroy("nobody"), Err(Error::Unknown("nobody".into())));
    }

    #[test]
    fn deaths_are_seen_once_and_a_vm_in_the_making_is_not_dead() {
        let mut ledger = ledger();
        assert_eq!(ledger.observe(&[ME, DomId(3), DomId(99)]), []);
        ledger.begin_build("extra", ME).expect("absent");
        assert_eq!(ledger.observe(&[ME, DomId(3)]), []);
        ledger.end_build(DomId(19), true);
        assert_eq!(ledger.observe(&[ME, DomId(3), DomId(19)]), []);
        assert_eq!(ledger.observe(&[ME, DomId(3)]), [DomId(19)]);
        assert_eq!(ledger.observe(&[ME, DomId(3)]), []);
    }
}
