//! Domains built step by step, from plans that somebody else made.

use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::fake::{Fake, FakeError};
use crate::plan::{Mode, PvEntry, Segment};
use crate::{MAX_INITIAL, PAGE};

fn spec(kernel: KernelPlan, ramdisk_bytes: u64, memory_mib: u32) -> Spec {
    Spec {
        domid: DomId(7),
        sid: Sid(40),
        memory_mib,
        vcpus: 1,
        kernel,
        ramdisk_bytes,
        cmdline: "quiet".to_owned(),
        extra_bytes: 0,
        hardware_domain: false,
        iommu: false,
        xenstore: Some(DomId(2)),
        console: Some(DomId(5)),
        limits: Limits::default(),
    }
}

fn small() -> Spec {
    let segments = vec![Segment { paddr: 0x10_0010, file_bytes: 9000, memory_bytes: 20_000 }];
    spec(KernelPlan { mode: Mode::Pvh { entry: 0x10_0010 }, segments }, 5000, 8)
}

#[test]
fn a_construction_can_be_kept_and_dropped_anywhere() {
    for steps in 0..3 {
        let fake = Rc::new(Fake::default());
        let mut kept = [Construction::begin(Rc::clone(&fake), small()).unwrap()];
        assert_eq!(kept[0].domid(), DomId(7));
        if steps > 0 {
            kept[0].load_kernel(0, 10, &[1; 8990]).unwrap();
        }
        if steps > 1 {
            kept[0].load_ramdisk(0, &[2; 5000]).unwrap();
        }
        assert_eq!(fake.state.borrow().mapped, 0);
        drop(kept);
        assert!(fake.state.borrow().destroyed, "{steps}");
    }
    let fake = Rc::new(Fake::default());
    Construction::begin(Rc::clone(&fake), small()).unwrap().finish("").unwrap();
    assert!(!fake.state.borrow().destroyed);
}

#[test]
fn what_is_not_inside_ends_the_building() {
    let kernel =
        |index, offset, len| move |c: &mut Construction<&Fake>| c.load_kernel(index, offset, &vec![1; len]);
    let ramdisk = |offset, len| move |c: &mut Construction<&Fake>| c.load_ramdisk(offset, &vec![1; len]);
    type Step = Box<dyn Fn(&mut Construction<&Fake>) -> Result<(), Error>>;
    let good: [Step; 5] = [
        Box::new(kernel(0, 0, 9000)),
        Box::new(kernel(0, 9000, 0)),
        Box::new(kernel(0, 8999, 1)),
        Box::new(ramdisk(4999, 1)),
        Box::new(ramdisk(5000, 0)),
    ];
    let bad: [Step; 7] = [
        Box::new(kernel(0, 0, 9001)),
        Box::new(kernel(0, 8999, 2)),
        Box::new(kernel(0, u64::MAX, 1)),
        Box::new(kernel(1, 0, 1)),
        Box::new(kernel(usize::MAX, 0, 0)),
        Box::new(ramdisk(5000, 1)),
        Box::new(ramdisk(u64::MAX - 1, 5)),
    ];
    for (steps, is_good) in [(&good[..], true), (&bad[..], false)] {
        for (n, step) in steps.iter().enumerate() {
            let fake = Fake::default();
            let mut construction = Construction::begin(&fake, small()).unwrap();
            let result = step(&mut construction);
            assert_eq!((result.is_ok(), fake.state.borrow().destroyed), (is_good, !is_good), "{n}");
            if !is_good {
                assert!(matches!(result, Err(Error::Outside { .. } | Error::NoSegment { .. })));
                let calls = fake.state.borrow().calls;
                assert!(matches!(construction.load_ramdisk(0, &[1]), Err(Error::Over(DomId(7)))));
                assert!(matches!(construction.finish(""), Err(Error::Over(DomId(7)))));
                assert_eq!(fake.state.borrow().calls, calls, "no call for a domain that is gone");
            }
        }
    }
}

/// Some pieces of so many bytes, in any order, twice too.
fn pieces() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), 0usize..1 << 20, any::<u8>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever came in whatever order is there, and all else is zero.
    #[test]
    fn pieces_come_together(
        is_pv in any::<bool>(),
        gaps in prop::collection::vec((0u64..9000, 0u64..700_000, 0u64..9000), 1..5),
        ramdisk in 0u64..2_000_000,
        loads in prop::collection::vec((0usize..5, pieces()), 0..4),
    ) {
        let mut end = 0x10_0000;
        let segments: Vec<Segment> = gaps
            .iter()
            .map(|&(gap, file_bytes, more)| {
                let segment =
                    Segment { paddr: end + gap, file_bytes, memory_bytes: file_bytes + more + 1 };
                end = segment.paddr + segment.memory_bytes;
                segment
            })
            .collect();
        let start = segments[0].paddr;
        let mode = if is_pv {
            Mode::Pv(PvEntry { entry: start, virt_base: 0, hypercall_page: None, init_p2m: None })
        } else {
            Mode::Pvh { entry: u32::try_from(start).unwrap() }
        };
        let fake = Fake::default();
        let plan = KernelPlan { mode, segments: segments.clone() };
        let mut construction = Construction::begin(&fake, spec(plan, ramdisk, 32)).unwrap();
        let pages = construction.layout.loaded();
        let first = pages.start * PAGE;
        let ramdisk_at = construction.layout.ramdisk();
        let mut expected = vec![0; ((pages.end - pages.start) * PAGE) as usize];
        for (target, pieces) in loads {
            let (at, size) = match segments.get(target) {
                Some(segment) => (segment.paddr, segment.file_bytes),
                None => (ramdisk_at, ramdisk),
            };
            for (index, len, byte) in pieces {
                let offset = index.index(size as usize + 1);
                let data = vec![byte; len.min(size as usize - offset)];
                match segments.get(target) {
                    Some(_) => construction.load_kernel(target, offset as u64, &data).unwrap(),
                    None => construction.load_ramdisk(offset as u64, &data).unwrap(),
                }
                let to = (at - first) as usize + offset;
                expected[to..to + data.len()].copy_from_slice(&data);
            }
        }
        construction.finish("").unwrap();
        let found = if is_pv {
            fake.read(first, expected.len())
        } else {
            fake.physical(first, expected.len())
        };
        prop_assert!(found == expected);
        prop_assert!(fake.state.borrow().most_mapped <= 256);
    }

    /// Whatever a plan says: refused before Xen hears of it, or built; and never a write outside the domain's memory, which the
    /// fake refuses.
    #[test]
    fn no_plan_reaches_outside(
        mode in modes(),
        segments in prop::collection::vec(segments(), 0..18),
        ordered in prop::bool::weighted(0.8),
        ramdisk in prop_oneof![Just(0), 1u64..4 << 20, any::<u64>()],
        memory in prop_oneof![0u32..48, any::<u32>()],
    ) {
        let mut segments = segments;
        if ordered {
            segments.sort_by_key(|s| s.paddr);
        }
        let fake = Fake { memory: Some(64 << 8), ..Fake::default() };
        let loads = segments.len();
        match Construction::begin(&fake, spec(KernelPlan { mode, segments }, ramdisk, memory)) {
            Err(Error::Memory { .. }) => prop_assert!(fake.state.borrow().destroyed),
            Err(error) => {
                let is_xen = matches!(error, Error::Xen { .. } | Error::Left { .. } | Error::Nonsense(_));
                prop_assert!(!is_xen, "{error:?}");
                prop_assert_eq!(fake.state.borrow().calls, 0, "{:?}", error);
            }
            Ok(mut construction) => {
                for index in 0..loads {
                    construction.load_kernel(index, 0, &[]).unwrap();
                }
                let built = construction.finish("");
                prop_assert!(built.is_ok(), "{built:?}");
            }
        }
    }
}

fn addresses() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0x20_0000u64..0x40_0000,
        2 => (0u64..1024).prop_map(|n| n * PAGE),
        1 => MAX_INITIAL - 0x4000..MAX_INITIAL + 0x4000,
        1 => any::<u64>(),
    ]
}

fn segments() -> impl Strategy<Value = Segment> {
    let sizes = || prop_oneof![8 => 0u64..100_000, 1 => any::<u64>()];
    (addresses(), sizes(), sizes(), prop::bool::weighted(0.9)).prop_map(|(paddr, a, b, sane)| Segment {
        paddr,
        file_bytes: if sane { a.min(b) } else { a },
        memory_bytes: if sane { a.max(b) } else { b },
    })
}

fn modes() -> impl Strategy<Value = Mode> {
    let base =
        || prop_oneof![3 => Just(0u64), 2 => (0u64..1 << 36).prop_map(|n| n * PAGE), 1 => any::<u64>()];
    let pv = (addresses(), base(), prop::option::of(addresses()), prop::option::of(base())).prop_map(
        |(entry, virt_base, page, init_p2m)| {
            let at = |address: u64| virt_base.wrapping_add(address);
            let hypercall_page = page.map(|p| at(p / PAGE * PAGE));
            Mode::Pv(PvEntry { entry: at(entry), virt_base, hypercall_page, init_p2m })
        },
    );
    prop_oneof![
        pv,
        any::<u32>().prop_map(|entry| Mode::Pvh { entry }),
        (0x20_0000u32..0x40_0000).prop_map(|entry| Mode::Pvh { entry })
    ]
}

#[test]
fn a_mapping_is_bounded_whatever_the_size_of_a_piece() {
    let fake = Fake::default();
    let segments = vec![Segment { paddr: 0x10_0fff, file_bytes: 3 << 20, memory_bytes: 3 << 20 }];
    let plan = KernelPlan { mode: Mode::Pvh { entry: 0x10_0fff }, segments };
    let mut construction = Construction::begin(&fake, spec(plan, 0, 8)).unwrap();
    construction.load_kernel(0, 0, &vec![7; 3 << 20]).unwrap();
    assert_eq!(fake.state.borrow().most_mapped, 256);
    construction.finish("").unwrap();
    assert!(fake.physical(0x10_0fff, 3 << 20) == vec![7; 3 << 20]);
    assert_eq!(fake.physical(0x10_0000, 0xfff), [0; 0xfff]);
}

#[test]
fn an_error_from_xen_in_a_step_destroys() {
    let calls_before = {
        let fake = Fake::default();
        let construction = Construction::begin(&fake, small()).unwrap();
        let calls = fake.state.borrow().calls;
        drop(construction);
        calls
    };
    let fake = Fake { fail_at: Some(calls_before), ..Fake::default() };
    let mut construction = Construction::begin(&fake, small()).unwrap();
    let error = construction.load_ramdisk(0, &[1]).unwrap_err();
    let Error::Xen { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.downcast_ref(), Some(&FakeError::Told));
    assert!(fake.state.borrow().destroyed);
}
