//! What holds for every layout of a PV domain.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::Layout;
use crate::layout::{LayoutError, MAX_MEMORY_MIB};
use crate::memory::P2m;
use crate::plan::{KernelPlan, Mode, PvEntry, Segment};
use crate::synth::BASE;
use crate::{MAX_INITIAL, PAGE};
use ennead_xen::Mfn;

/// A kernel from `start` on.
fn sparse(start: u64, size: u64, base: u64, init_p2m: Option<u64>) -> KernelPlan {
    let entry = PvEntry { entry: base.wrapping_add(start), virt_base: base, hypercall_page: None, init_p2m };
    let segment = Segment { paddr: start, file_bytes: 1.min(size), memory_bytes: size };
    KernelPlan { mode: Mode::Pv(entry), segments: vec![segment] }
}

fn layout(plan: &KernelPlan, ramdisk: u64, memory: u64, rings: (bool, bool)) -> Result<Layout, LayoutError> {
    let Mode::Pv(entry) = &plan.mode else { panic!("a PV plan") };
    Layout::new(entry, plan.pages(), ramdisk, memory, rings)
}

/// Frames in no order, as few superpages as asked for.
fn scattered(pages: u64, superpages: u64) -> P2m {
    let superpages = superpages.min(pages / 512);
    let rest = pages - superpages * 512;
    P2m {
        superpages: (0..superpages).map(|i| Mfn((i * 7919 % 8192 + 16) * 512)).collect(),
        pages: (0..rest).map(|i| Mfn((1 << 32) + i * 104_729 % (1 << 27))).collect(),
    }
}

fn entries(layout: &Layout, table: &super::layout::Table, p2m: &P2m) -> Vec<u64> {
    layout.entries(table, |pfn| p2m.mfn(pfn).ok_or(())).unwrap()
}

fn tables(layout: &Layout, p2m: &P2m) -> HashMap<u64, Vec<u64>> {
    let all = layout.tables.iter().map(|t| (p2m.mfn(t.pfn).unwrap().0, entries(layout, t, p2m)));
    let map: HashMap<_, _> = all.collect();
    assert_eq!(map.len(), layout.tables.len(), "two tables in one frame");
    map
}

fn walk(tables: &HashMap<u64, Vec<u64>>, root: u64, va: u64) -> Option<u64> {
    (0..4).rev().try_fold(root << 12, |at, level| {
        let entry = tables[&(at << 12 >> 24)][(va >> (12 + 9 * level)) as usize % 512];
        (entry & 1 == 1).then_some(entry)
    })
}

fn bases() -> impl Strategy<Value = (u64, Option<u64>)> {
    let base = prop_oneof![
        Just(BASE),
        Just(0xffff_8800_0000_0000),
        Just(1 << 40),
        (0u64..1 << 35).prop_map(|p| p * PAGE)
    ];
    let p2m = prop_oneof![
        Just(None),
        Just(Some(1 << 39)),
        (0u64..1 << 35).prop_map(|p| Some(p * PAGE)),
        (1u64..1 << 18).prop_map(|p| Some(BASE - p * PAGE)),
    ];
    (base, p2m).prop_map(|(base, p2m)| (base, p2m.filter(|p| *p < base)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_layout_holds_together(
        start in 0u64..64 << 20,
        size in 1u64..40 << 20,
        (base, init_p2m) in bases(),
        ramdisk in prop_oneof![Just(0), 1u64..80 << 20],
        memory in 1u64..400,
        (xenstore, console) in any::<(bool, bool)>(),
        superpages in 0u64..200,
    ) {
        let plan = sparse(start, size, base, init_p2m);
        prop_assert_eq!(plan.check(), Ok(()));
        let rings = (xenstore, console);
        let layout = match layout(&plan, ramdisk, memory, rings) {
            Ok(layout) => layout,
            Err(LayoutError::TooSmall { needs, gives }) => {
                prop_assert!(needs > gives && gives == memory);
                prop_assert!(layout(&plan, ramdisk, needs, rings).is_ok());
                return Ok(());
            }
            // The list would reach into the region.
            Err(LayoutError::Address { va, pages }) => {
                prop_assert!(
                    Some(va) == init_p2m && va + pages * PAGE > base
                    || va < 1 << 47 && va + pages * PAGE > 1 << 47
                    || (1 << 47..0xffff_8800_0000_0000).contains(&va)
                );
                return Ok(());
            }
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        };

        // In order, without holes or overlaps, in the memory that there is.
        let one = |pfn: Option<u64>| pfn.map(|p| p..p + 1);
        let list = Some(layout.p2m.clone());
        let parts: Vec<_> = [
            Some(layout.kernel.clone()),
            Some(layout.ramdisk.clone()),
            list.clone().filter(|_| init_p2m.is_none()),
            one(Some(layout.start_info)),
            one(layout.xenstore),
            one(layout.console),
            Some(layout.page_tables.clone()),
            one(Some(layout.boot_stack)),
        ]
        .into_iter()
        .flatten()
        .collect();
        prop_assert!(parts.windows(2).all(|w| w[0].end == w[1].start), "{parts:?}");
        let region = layout.mappings[0].clone();
        prop_assert_eq!((region.va, region.pfns.start), (base, 0));
        prop_assert!(region.pfns.end >= layout.boot_stack + 1 + 128);
        prop_assert_eq!((base + region.pfns.end * PAGE) % (4 << 20), 0);
        prop_assert!(layout.p2m_tables.end.max(region.pfns.end) <= layout.pages);
        prop_assert_eq!(layout.pages, memory * 256);
        prop_assert_eq!(layout.kernel.clone(), start / PAGE..(start + size).div_ceil(PAGE));
        prop_assert_eq!(layout.ramdisk.end - layout.ramdisk.start, ramdisk.div_ceil(PAGE));
        prop_assert_eq!(layout.p2m.end - layout.p2m.start, memory.div_ceil(2));
        prop_assert_eq!(layout.p2m_va, init_p2m.unwrap_or(base + layout.p2m.start * PAGE));
        if init_p2m.is_some() {
            prop_assert_eq!(layout.p2m.start, region.pfns.end);
            prop_assert_eq!(layout.p2m_tables.start, layout.p2m.end);
        }
        prop_assert_eq!(layout.tables[0].pfn, layout.page_tables.start);
        for (pfn, t) in layout.page_tables.clone().chain(layout.p2m_tables.clone()).zip(&layout.tables) {
            prop_assert_eq!(pfn, t.pfn);
        }

        // Each virtual page shows its frame, page tables read-only, and nothing else is there.
        let p2m = scattered(layout.pages, superpages);
        let tables = tables(&layout, &p2m);
        let root = p2m.mfn(layout.page_tables.start).unwrap().0;
        let mut shown = 0;
        for m in &layout.mappings {
            for pfn in m.pfns.clone() {
                let va = m.va + (pfn - m.pfns.start) * PAGE;
                let mfn = p2m.mfn(pfn).unwrap().0;
                let flags = if tables.contains_key(&mfn) { 0x21 } else { 0x23 };
                prop_assert_eq!(walk(&tables, root, va), Some(mfn << 12 | flags), "at {:#x}", va);
                shown += 1;
            }
        }
        let lowest = layout.tables.iter().filter(|t| t.level == 1);
        let present = lowest.flat_map(|t| &tables[&p2m.mfn(t.pfn).unwrap().0]).filter(|e| **e != 0).count();
        prop_assert_eq!(present, shown);
        let above = layout.tables.iter().filter(|t| t.level > 1);
        let links = above.flat_map(|t| &tables[&p2m.mfn(t.pfn).unwrap().0]).filter(|e| **e != 0).count();
        prop_assert_eq!(links, layout.tables.len() - 1, "each table but the root has one entry");
        let vas: HashSet<u64> = layout.mappings.iter().map(|m| m.va).collect();
        prop_assert_eq!(vas.len(), layout.mappings.len());
    }

    #[test]
    fn strange_addresses_do_not_panic(
        start in any::<u64>(),
        size in any::<u64>(),
        base in any::<u64>(),
        p2m in any::<Option<u64>>(),
        ramdisk in any::<u64>(),
        memory in any::<u64>(),
        round in any::<[bool; 4]>(),
    ) {
        let page = |n: u64, round: bool| if round { n & !(PAGE - 1) } else { n };
        let (start, size) = if round[0] { (start % MAX_INITIAL, size % MAX_INITIAL) } else { (start, size) };
        let base = page(base, round[1]);
        let plan = sparse(start, size, base, p2m.map(|va| page(va, round[2])));
        if plan.check().is_ok() {
            let memory = if round[3] { memory % 4096 } else { memory % (MAX_MEMORY_MIB + 1) };
            let _ = layout(&plan, ramdisk % MAX_INITIAL, memory, (true, true));
        }
    }
}
