//! Domains built on the fake, read as their kernel would.

use crate::fake::{Fake, FakeError, SHARED_INFO};
use crate::synth::{self, BASE, linux, noise};
use crate::{
    Built, Construction, Error, Kernel, LayoutError, Limits, MAX_VCPUS, Prepared, Spec, build, ramdisk_bytes,
};
use ennead_xen::{DomId, DomainKind, GrantRef, Port, Sid};

pub(crate) const STORE: DomId = DomId(2);
pub(crate) const CONSOLE: DomId = DomId(5);
const EXTRA: usize = 128;

pub(crate) struct Case {
    pub(crate) kind: DomainKind,
    pub(crate) kernel: Vec<u8>,
    pub(crate) ramdisk: Vec<Vec<u8>>,
    pub(crate) memory_mib: u32,
    pub(crate) vcpus: u32,
    pub(crate) hardware_domain: bool,
    pub(crate) xenstore: Option<DomId>,
    pub(crate) console: Option<DomId>,
    pub(crate) cmdline: String,
    pub(crate) extra: Result<&'static str, &'static str>,
}

pub(crate) fn case() -> Case {
    Case {
        kind: DomainKind::Pv,
        kernel: synth::bzimage(&synth::lz4(&linux().bytes())),
        ramdisk: vec![noise(3 << 20 | 5, 3), noise(70_001, 4), vec![]],
        memory_mib: 33,
        vcpus: 2,
        hardware_domain: false,
        xenstore: Some(STORE),
        console: Some(CONSOLE),
        cmdline: "quiet".to_owned(),
        extra: Ok("ennead.health=0:9"),
    }
}

impl Case {
    pub(crate) fn build(&self, fake: &Fake) -> Result<Built, Error> {
        let parts: Vec<&[u8]> = self.ramdisk.iter().map(Vec::as_slice).collect();
        let kernel = self.prepared();
        build(fake, self.spec(&kernel), &kernel, &parts, |d| {
            assert!(fake.state.borrow().created.is_some_and(|c| c.domid == d));
            Ok(self.extra.map(str::to_owned)?)
        })
    }

    fn prepared(&self) -> Prepared {
        let kernel = Kernel::parse(&self.kernel, 128 << 20).unwrap();
        Prepared::read(&kernel.prepare(self.kind).unwrap()).unwrap()
    }

    pub(crate) fn spec(&self, kernel: &Prepared) -> Spec {
        let parts: Vec<&[u8]> = self.ramdisk.iter().map(Vec::as_slice).collect();
        Spec {
            domid: DomId(7),
            sid: Sid(40),
            memory_mib: self.memory_mib,
            vcpus: self.vcpus,
            kernel: kernel.plan().clone(),
            ramdisk_bytes: ramdisk_bytes(&parts),
            cmdline: self.cmdline.clone(),
            extra_bytes: EXTRA,
            hardware_domain: self.hardware_domain,
            iommu: true,
            xenstore: self.xenstore,
            console: self.console,
            limits: Limits::default(),
        }
    }

    pub(crate) fn good(&self) -> (Fake, Built) {
        let fake = Fake::default();
        let built = self.build(&fake).unwrap();
        assert_eq!(fake.state.borrow().mapped, 0, "still mapped");
        assert!(!fake.state.borrow().destroyed);
        (fake, built)
    }
}

fn rsi(fake: &Fake) -> u64 {
    fake.state.borrow().vcpu.unwrap().rsi
}

fn start_info_frame(fake: &Fake) -> u64 {
    let vcpu = fake.state.borrow().vcpu.unwrap();
    fake.walk(vcpu.cr3, vcpu.rsi).unwrap().0.0
}

#[test]
fn a_domain_finds_all_it_needs() {
    let case = case();
    let (fake, built) = case.good();
    let s = fake.state.borrow();
    let new = s.created.unwrap();
    assert_eq!((new.domid, new.sid, new.vcpus, new.iommu), (DomId(7), Sid(40), 2, true));
    assert_eq!((s.max_kib, s.pages.len()), (33 * 1024, 33 * 256 + 1));
    assert_eq!((built.pages, built.used_kib), (33 * 256, 33 * 1024));
    assert!(s.most_mapped <= 256, "maps in bounded pieces");

    // Kernel, with all else in its pages zero.
    let elf = linux();
    let mut kernel = vec![0; 0x8000];
    for (paddr, _, data) in &elf.loads {
        let at = usize::try_from(paddr - 0x20_0000).unwrap();
        kernel[at..at + data.len()].copy_from_slice(data);
    }
    assert!(fake.read(BASE + 0x20_0000, 0x8000) == kernel);
    let vcpu = s.vcpu.unwrap();
    assert_eq!(vcpu.rip, BASE + 0x20_0010);
    assert_eq!(fake.walk(vcpu.cr3, BASE + 0x20_1000).unwrap().0, s.hypercall_page.unwrap());

    // Start info, field by field at the offsets of `struct start_info`.
    let info = vcpu.rsi;
    assert_eq!(fake.read(info, 32), b"xen-3.0-x86_64\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let field = |offset| fake.number(info + offset);
    assert_eq!(field(32), 33 * 256, "nr_pages");
    assert_eq!(field(40), SHARED_INFO.0 * 4096, "shared_info");
    assert_eq!(field(48), 0, "flags");
    let (store, console) = (built.store.unwrap(), built.console.unwrap());
    assert_eq!((field(56), field(64)), (store.0.0, u64::from(store.1.0)), "store");
    assert_eq!((field(72), field(80)), (console.0.0, u64::from(console.1.0)), "console");
    assert_eq!(s.ports, [STORE, CONSOLE]);
    assert_eq!((store.1, console.1), (Port(1), Port(2)));
    assert_eq!(s.grants, [(GrantRef(0), CONSOLE, console.0), (GrantRef(1), STORE, store.0)]);
    assert_eq!((fake.page(store.0), fake.page(console.0)), ([0; 4096], [0; 4096]));
    let pt_base = field(88);
    assert_eq!(fake.walk(vcpu.cr3, pt_base), Some((vcpu.cr3, false)), "pt_base");
    assert_eq!(field(96), 7, "nr_pt_frames: L4, L3 and L2 for one region of 8 MiB");
    let text = fake.read(info + 128, 1024);
    assert_eq!(&text[..24], b"quiet ennead.health=0:9\0");
    assert!(text[24..].iter().all(|b| *b == 0));

    // Ramdisk.
    let mut ramdisk = Vec::new();
    for part in &case.ramdisk {
        ramdisk.extend(part);
        ramdisk.resize(ramdisk.len().next_multiple_of(4), 0);
    }
    assert_eq!(field(120), ramdisk.len() as u64, "mod_len");
    assert!(fake.read(field(112), ramdisk.len()) == ramdisk);

    // The list of frames, at the address that the kernel asks for, and where its own frames are.
    assert_eq!(field(104), 1 << 39, "mfn_list");
    let (first, frames) = (field(1152), field(1160));
    assert_eq!(frames, 17 + 3, "17 pages of list, one L3, L2 and L1");
    let mut seen = std::collections::HashSet::new();
    for pfn in 0..built.pages {
        let mfn = fake.number((1 << 39) + pfn * 8);
        assert!(s.pages.contains_key(&mfn) && mfn != SHARED_INFO.0 && seen.insert(mfn));
    }
    assert_eq!(fake.walk(vcpu.cr3, 1 << 39).unwrap().0.0, fake.number((1 << 39) + first * 8));

    // Stack, and 512 KiB mapped after it.
    assert_eq!(vcpu.rsp % 4096, 0);
    assert_eq!(fake.read(vcpu.rsp - 4096, 4096), [0; 4096]);
    assert!(fake.walk(vcpu.cr3, vcpu.rsp + (512 << 10) - 1).unwrap().1);

    let shared = fake.page(SHARED_INFO);
    assert!((0..4096).all(|i| shared[i] == u8::from(i < 2048 && i % 64 == 1)));
}

#[test]
fn the_hardware_domain_has_no_console_union() {
    let (fake, built) = Case { hardware_domain: true, console: None, ..case() }.good();
    let info = rsi(&fake);
    assert_eq!(fake.number(info + 48), 3);
    assert_eq!(fake.read(info + 72, 16), [0; 16]);
    assert_eq!(built.console, None);
    assert_eq!(fake.number(info + 56), built.store.unwrap().0.0);
    let refused = Case { hardware_domain: true, ..case() }.build(&Fake::default());
    assert!(matches!(refused, Err(Error::Console(_))));
}

#[test]
fn a_domain_without_peers_has_no_rings() {
    let (fake, built) = Case { xenstore: None, console: None, ramdisk: vec![], ..case() }.good();
    let info = rsi(&fake);
    assert_eq!(fake.read(info + 56, 32), [0; 32]);
    assert_eq!(fake.read(info + 112, 16), [0; 16], "no ramdisk");
    assert_eq!((built.store, built.console), (None, None));
    let s = fake.state.borrow();
    assert!(s.ports.is_empty() && s.grants.is_empty());
}

#[test]
fn a_kernel_without_init_p2m_has_its_list_in_the_region() {
    let (fake, _) = Case { kernel: linux().without(15).bytes(), ..case() }.good();
    let info = rsi(&fake);
    let list = fake.number(info + 104);
    assert!(list > fake.number(info + 112) && list < info);
    assert_eq!(fake.read(info + 1152, 16), [0; 16]);
    let pfn = (info - BASE) / 4096;
    assert_eq!(fake.number(list + pfn * 8), start_info_frame(&fake));
}

#[test]
fn scattered_memory_does_as_well() {
    for superpages in [0, 3] {
        let fake = Fake { superpages: Some(superpages), ..Fake::default() };
        case().build(&fake).unwrap();
        let listed = fake.number((1 << 39) + (rsi(&fake) - BASE) / 4096 * 8);
        assert_eq!(listed, start_info_frame(&fake));
    }
}

#[test]
fn too_little_memory_in_xen_leaves_nothing() {
    let fake = Fake { memory: Some(20 * 256 + 1), ..Fake::default() };
    assert!(matches!(case().build(&fake), Err(Error::Memory { got, wanted: 8448, .. }) if got < 8448));
    assert!(fake.state.borrow().destroyed);
}

#[test]
fn whatever_fails_nothing_is_left() {
    for kind in [DomainKind::Pv, DomainKind::Pvh] {
        let case = Case { kind, memory_mib: 20, ..case() };
        let calls = case.good().0.state.borrow().calls;
        assert!(calls > 30);
        for n in 0..calls {
            let fake = Fake { fail_at: Some(n), ..Fake::default() };
            let error = case.build(&fake).unwrap_err();
            let Error::Xen { source, doing, .. } = &error else { panic!("call {n}: {error}") };
            assert_eq!(source.downcast_ref(), Some(&FakeError::Told), "call {n}: {doing}");
            let s = fake.state.borrow();
            assert_eq!(s.mapped, 0, "call {n}: {doing}");
            assert_eq!(s.destroyed, s.created.is_some(), "call {n}: {doing}");
            assert_eq!(s.created.is_some(), n > 0, "only the first call creates");
        }
    }
}

#[test]
fn a_half_built_hardware_domain_is_left_for_the_host_to_be_stopped_through() {
    let fake = Fake { fail_at: Some(9), ..Fake::default() };
    let error = Case { hardware_domain: true, console: None, ..case() }.build(&fake).unwrap_err();
    assert!(matches!(error, Error::Hardware { domid: DomId(7), .. }), "{error}");
    assert!(!fake.state.borrow().destroyed);
    assert_eq!(fake.state.borrow().mapped, 0);
}

#[test]
fn a_domain_that_cannot_be_destroyed_is_told_of() {
    let fake = Fake { fail_at: Some(9), destroy_fails: true, ..Fake::default() };
    let error = case().build(&fake).unwrap_err();
    assert!(matches!(error, Error::Left { domid: DomId(7), .. }), "{error}");
}

#[test]
fn a_failed_or_long_preparation_destroys() {
    const LONG: &str = match std::str::from_utf8(&[b'x'; EXTRA + 1]) {
        Ok(s) => s,
        Err(_) => "",
    };
    for extra in [Err("no port"), Ok(LONG), Ok("a\0b")] {
        let fake = Fake::default();
        assert!(Case { extra, ..case() }.build(&fake).is_err());
        assert!(fake.state.borrow().destroyed);
    }
    let fake = Fake::default();
    let panics = std::panic::AssertUnwindSafe(|| {
        let case = case();
        let kernel = case.prepared();
        build(&fake, case.spec(&kernel), &kernel, &[], |_| panic!("as told"))
    });
    assert!(std::panic::catch_unwind(panics).is_err());
    assert!(fake.state.borrow().destroyed);
}

#[test]
fn what_cannot_work_never_reaches_xen() {
    let bad = [
        Case { cmdline: "x".repeat(895), ..case() },
        Case { cmdline: "x\0".to_owned(), ..case() },
        Case { memory_mib: 7, ..case() },
        Case { memory_mib: 0, ..case() },
        Case { memory_mib: u32::MAX, ..case() },
        Case { vcpus: 0, ..case() },
        Case { vcpus: MAX_VCPUS + 1, ..case() },
        Case { kind: DomainKind::Pvh, memory_mib: 5, ..case() },
        Case { kind: DomainKind::Pvh, memory_mib: u32::MAX, ..case() },
        Case { kind: DomainKind::Pvh, hardware_domain: true, console: None, ..case() },
    ];
    for case in bad {
        let fake = Fake::default();
        assert!(case.build(&fake).is_err());
        assert_eq!(fake.state.borrow().calls, 0);
    }
}

#[test]
fn the_longest_command_line_fits() {
    const ADDED: &str = match std::str::from_utf8(&[b'y'; EXTRA]) {
        Ok(s) => s,
        Err(_) => "",
    };
    let (fake, _) = Case { cmdline: "x".repeat(894), extra: Ok(ADDED), ..case() }.good();
    let text = fake.read(rsi(&fake) + 128, 1024);
    assert_eq!((text[893], text[894], text[895], text[1022], text[1023]), (b'x', b' ', b'y', b'y', 0));
}

#[test]
fn the_size_that_is_said_to_do_does() {
    for kind in [DomainKind::Pv, DomainKind::Pvh] {
        for ramdisk in [0, 1, 5 << 20, 100 << 20] {
            let case = Case { kind, ramdisk: vec![vec![0; ramdisk]], ..case() };
            let begin = |memory_mib| {
                let spec = Spec { memory_mib, ..case.spec(&case.prepared()) };
                Construction::begin(&Fake::default(), spec).map(drop)
            };
            let Err(Error::Layout(LayoutError::TooSmall { needs, gives: 1 })) = begin(1) else {
                panic!("fits into nothing")
            };
            let needs = u32::try_from(needs).unwrap();
            assert!(begin(needs).is_ok());
            let Err(Error::Layout(LayoutError::TooSmall { needs: again, gives })) = begin(needs - 1) else {
                panic!("fits into less")
            };
            assert_eq!((again, gives), (u64::from(needs), u64::from(needs - 1)));
        }
    }
}

/// `ENNEAD_TEST_KERNELS`: kernel files, separated by colons.
#[test]
fn real_kernels_build() {
    let Ok(files) = std::env::var("ENNEAD_TEST_KERNELS") else { return };
    for file in files.split(':') {
        let case = Case { kernel: std::fs::read(file).unwrap(), memory_mib: 256, ..case() };
        let (fake, built) = case.good();
        let vcpu = fake.state.borrow().vcpu.unwrap();
        println!("{file}: {built:x?} {vcpu:x?} {} calls", fake.state.borrow().calls);
        assert_ne!(fake.walk(vcpu.cr3, vcpu.rip), None);
        assert_eq!(fake.walk(vcpu.cr3, BASE - 4096), None);
    }
}
