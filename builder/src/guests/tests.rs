use ennead_channel::Text;
use ennead_domain::{KernelPlan, Mode};
use proptest::prelude::*;

use super::*;

const ACME: DomId = DomId(7);
const OTHER: DomId = DomId(8);

fn guests() -> Guests {
    let text = include_str!("../../../service-vms/manifest/tests/tenants.toml");
    let mut plan = ennead_manifest::check("tenants.toml", text).unwrap_or_else(|report| panic!("{report}"));
    for tenant in &mut plan.tenants {
        (tenant.memory_mib, tenant.vcpus, tenant.guests) = (100, 4, 3);
    }
    Guests::new(&plan)
}

fn new(name: &str, memory_mib: u32, vcpus: u32) -> NewGuest {
    let kernel = KernelPlan { mode: Mode::Pvh { entry: 0 }, segments: Vec::new() };
    NewGuest { name: Text::new(name), memory_mib, vcpus, kernel, ramdisk_bytes: 0, cmdline: Text::new("") }
}

fn admit(guests: &mut Guests, caller: DomId, key: u64, new: &NewGuest) -> Result<DomId, Refused> {
    match guests.admit(caller, key, new, |_| false)? {
        Admitted::New(domid) => {
            guests.set(domid, Phase::Whole);
            Ok(domid)
        }
        Admitted::Again(_) => panic!("it is new"),
    }
}

#[test]
fn a_tenant_gets_what_its_limits_allow() {
    let mut guests = guests();
    let quota = |what, wanted, used, limit| Err(Refused::Quota { what, wanted, used, limit });
    let first = admit(&mut guests, ACME, 1, &new("a", 60, 1)).expect("room");
    assert_eq!(admit(&mut guests, ACME, 2, &new("b", 41, 1)), quota("MiB of memory", 41, 60, 100));
    assert_eq!(admit(&mut guests, ACME, 3, &new("b", 1, 4)), quota("vCPUs", 4, 1, 4));
    admit(&mut guests, ACME, 4, &new("b", 1, 1)).expect("room");
    admit(&mut guests, ACME, 5, &new("c", 1, 1)).expect("room");
    assert_eq!(admit(&mut guests, ACME, 6, &new("d", 1, 1)), quota("guests", 1, 3, 3));
    // What is dying counts until it is gone.
    guests.set(first, Phase::Dying);
    assert!(admit(&mut guests, ACME, 7, &new("d", 1, 1)).is_err());
    assert_eq!(guests.take_gone(|domid| domid != first).len(), 1);
    admit(&mut guests, ACME, 8, &new("d", 90, 1)).expect("room again");
    // Another tenant's limits are its own.
    admit(&mut guests, OTHER, 1, &new("a", 100, 4)).expect("all of its own");
}

#[test]
fn others_guests_do_not_exist() {
    let mut guests = guests();
    let acmes = admit(&mut guests, ACME, 1, &new("a", 1, 1)).expect("room");
    let others = admit(&mut guests, OTHER, 1, &new("a", 1, 1)).expect("the same name and key are another's");
    for (caller, domid) in [(OTHER, acmes), (ACME, others), (ACME, DomId(1)), (DomId(3), acmes)] {
        assert_eq!(guests.of(caller, domid).map(drop), Err(Refused::Unknown(domid)));
        assert_eq!(guests.whole(caller, domid).map(drop), Err(Refused::Unknown(domid)));
    }
    let list = |guests: &Guests, caller| guests.after(caller, DomId(0)).map(|(d, _)| d).collect::<Vec<_>>();
    assert_eq!((list(&guests, ACME), list(&guests, OTHER)), (vec![acmes], vec![others]));
    assert_eq!(list(&guests, DomId(3)), []);
    assert_eq!(admit(&mut guests, DomId(3), 9, &new("x", 1, 1)), Err(Refused::NoTenant(DomId(3))));
}

#[test]
fn the_same_key_builds_nothing_twice() {
    let mut guests = guests();
    let domid = admit(&mut guests, ACME, 1, &new("a", 1, 1)).expect("room");
    assert_eq!(guests.admit(ACME, 1, &new("a", 1, 1), |_| false), Ok(Admitted::Again(domid)));
    // Without the key it is a second guest of the name.
    assert_eq!(admit(&mut guests, ACME, 2, &new("a", 1, 1)), Err(Refused::Exists("a".into())));
}

#[test]
fn one_is_built_at_a_time_and_numbers_are_not_taken_again_at_once() {
    let mut guests = guests();
    let Ok(Admitted::New(first)) = guests.admit(ACME, 1, &new("a", 1, 1), |_| false) else { panic!("room") };
    assert_eq!(guests.admit(ACME, 2, &new("b", 1, 1), |_| false), Err(Refused::Busy(first)));
    assert_eq!(
        guests.whole(ACME, first).map(drop),
        Err(Refused::State { domid: first, state: "being built" })
    );
    assert_eq!(guests.take_gone(|_| false), [], "Xen may not know it yet");
    guests.remove(first);
    let second = guests.admit(ACME, 3, &new("b", 1, 1), |domid| domid.0 == first.0 + 1);
    assert_eq!(second, Ok(Admitted::New(DomId(first.0 + 2))));
}

#[test]
fn bad_names_and_empty_guests_are_refused() {
    let mut guests = guests();
    for (name, memory, vcpus) in
        [("", 1, 1), ("a/b", 1, 1), ("a b", 1, 1), ("ä", 1, 1), ("a", 0, 1), ("a", 1, 0)]
    {
        let refused = admit(&mut guests, ACME, 1, &new(name, memory, vcpus)).expect_err(name);
        assert_eq!(refused.refusal(), Refusal::Invalid);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is asked for and dies in whatever order, no tenant has more than it may, and nobody more than one of a name.
    #[test]
    fn limits_hold(steps in prop::collection::vec((0..4_u8, 0..2_usize, 0..6_u64, 0..60_u32, 0..3_u32), 0..60)) {
        let mut guests = guests();
        for (what, caller, key, memory, vcpus) in steps {
            let caller = [ACME, OTHER][caller];
            let any = guests.after(caller, DomId(0)).map(|(domid, _)| domid).next();
            match (what, any) {
                (0 | 1, _) => {
                    let wanted = new(&format!("g{key}"), memory, vcpus);
                    if let Ok(Admitted::New(domid)) = guests.admit(caller, key + u64::from(memory) * 10, &wanted, |_| false) {
                        guests.set(domid, Phase::Whole);
                    }
                }
                (2, Some(domid)) => guests.set(domid, Phase::Dying),
                (_, Some(domid)) => {
                    guests.set(domid, Phase::Dying);
                    guests.take_gone(|other| other != domid);
                }
                _ => {}
            }
            for caller in [ACME, OTHER] {
                let own: Vec<&Guest> = guests.after(caller, DomId(0)).map(|(_, guest)| guest).collect();
                prop_assert!(own.len() <= 3);
                prop_assert!(own.iter().map(|guest| guest.memory_mib).sum::<u32>() <= 100);
                prop_assert!(own.iter().map(|guest| guest.vcpus).sum::<u32>() <= 4);
                let mut names: Vec<&str> =
                    own.iter().filter(|guest| guest.phase != Phase::Dying).map(|guest| guest.name.as_str()).collect();
                names.sort_unstable();
                prop_assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
            }
        }
    }
}
