//! Valid manifests and the plans that they mean. `UPDATE_EXPECT=1 cargo test` writes the snapshots anew: read the difference.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use ennead_manifest::{BootPlan, Image, Kind, Permission, Plan, check};
use expect_test::expect_file;

const VALID: &str = include_str!("valid.toml");
const TENANTS: &str = include_str!("tenants.toml");
const SHIPPED: &str = include_str!("../../../images/host.toml");

fn plan(text: &str) -> Plan {
    check("host.toml", text).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn shipped_manifest() {
    expect_file!["host.plan.toml"].assert_eq(&toml::to_string(&plan(SHIPPED)).unwrap());
}

#[test]
fn manifest_with_everything() {
    expect_file!["valid.plan.toml"].assert_eq(&toml::to_string(&plan(VALID)).unwrap());
}

#[test]
fn manifest_with_tenants() {
    expect_file!["tenants.plan.toml"].assert_eq(&toml::to_string(&plan(TENANTS)).unwrap());
}

#[test]
fn labels_are_those_of_the_kind_but_for_a_tenants() {
    let plan = plan(&TENANTS.replace("[tenant.beta]", "[tenant.beta-2]"));
    let types = |name: &str| {
        let vm = plan.vm(name).unwrap();
        (vm.running_type(), vm.starting_type(), vm.building_type())
    };
    let three = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(types("builder"), three("builder_t", "builder_t", "builder_building_t"));
    assert_eq!(types("pciback"), three("pciback_t", "pciback_starting_t", "pciback_building_t"));
    assert_eq!(
        types("toolstack-beta"),
        three("toolstack_beta_2_t", "toolstack_beta_2_t", "toolstack_beta_2_building_t")
    );
    let beta = &plan.tenants[1];
    assert_eq!((beta.guest_running_type(), beta.guest_building_type()), {
        ("guest_beta_2_t".to_owned(), "guest_beta_2_building_t".to_owned())
    });
    let labels = plan.labels();
    for named in ["guest_acme_t", "guest_acme_building_t", "toolstack_acme_building_t", "pciback_starting_t"]
    {
        assert!(labels.contains(named), "{named}");
    }
    assert!(!labels.iter().any(|label| label.starts_with("bootstrapper")));
    for vm in plan.vms.iter().filter(|vm| vm.tenant.is_none()) {
        assert_eq!(
            (vm.running_type(), vm.building_type()),
            (vm.kind.running_type(), vm.kind.building_type())
        );
    }
}

#[test]
fn order_of_start_is_that_of_stages_then_of_after_then_of_the_file() {
    let names: Vec<String> = plan(VALID).vms.into_iter().map(|vm| vm.name).collect();
    assert_eq!(names, ["boot", "build", "pci", "net", "blk", "tool", "spare"]);
}

#[test]
fn lookups() {
    let plan = plan(VALID);
    let name = |domid| plan.vm_by_domid(domid).map(|vm| vm.name.as_str());
    assert_eq!(
        [name(0), name(1), name(2), name(3), name(99)],
        [Some("boot"), Some("build"), Some("build"), Some("pci"), None]
    );
    let build = plan.vm("build").unwrap();
    assert_eq!((build.client_index("tool"), build.client_index("pci")), (Some(0), None));
    assert_eq!(build.channel_to("pci").unwrap().reason, "which controllers there are");
    assert!(build.channel_to("tool").is_none());
    assert_eq!(build.grant(Permission::ListVms).unwrap().reason, "notices dead VMs");
    assert!(build.grant(Permission::Hardware).is_none());
    assert_eq!(plan.vms_of_kind(Kind::Toolstack).count(), 2);
    let names = |vms: &mut dyn Iterator<Item = &ennead_manifest::Vm>| {
        vms.map(|vm| vm.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut plan.built_by_bootstrapper()), ["build", "pci"]);
    assert!(plan.vm("nobody").is_none());
}

#[test]
fn a_line_in_the_plan_is_the_line_of_the_name() {
    let plan = plan(VALID);
    let build = plan.vm("build").unwrap();
    let line = |n: u32| VALID.lines().nth(usize::try_from(n).unwrap() - 1).unwrap();
    assert_eq!(line(build.line), "[vm.build]");
    assert_eq!(line(build.talks_to[0].line), "pci = \"which controllers there are\"");
    assert_eq!(line(build.may[1].line), "list-vms = \"notices dead VMs\"");
    let plan = self::plan(TENANTS);
    let line = |n: u32| TENANTS.lines().nth(usize::try_from(n).unwrap() - 1).unwrap();
    assert_eq!(line(plan.tenants[1].line), "[tenant.beta]");
    assert_eq!(line(plan.guests[0].line), "[guest.web]");
}

#[test]
fn the_memory_of_the_host_may_be_just_enough() {
    assert_eq!(plan(&VALID.replace("memory-mib = 512", "memory-mib = 384")).host.memory_mib, 384);
}

#[test]
fn defaults() {
    let plan = plan(&VALID.replace("xen-options = \"loglvl=all\"\n", ""));
    assert_eq!(plan.host.xen_options, "");
    let blk = plan.vm("blk").unwrap();
    assert_eq!((blk.program.as_str(), blk.vcpus, blk.kernel_options.as_str()), ("blkback", 1, ""));
    assert!(blk.autostart && !blk.built_by_bootstrapper);
}

#[test]
fn windows_line_ends_change_nothing() {
    assert_eq!(plan(&VALID.replace('\n', "\r\n")), plan(VALID));
}

#[test]
fn the_shipped_plan_goes_to_the_host_and_back() {
    let plan = plan(SHIPPED);
    let image = || Image { sha256: "0f".repeat(32), size: 1 << 40 };
    let vms = plan.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper);
    let images: BTreeMap<_, _> =
        vms.flat_map(|vm| [vm.kernel_image(), vm.ramdisk_image()]).map(|name| (name, image())).collect();
    let boot = BootPlan { manifest_sha256: "a0".repeat(32), images, plan };
    assert_eq!(BootPlan::from_toml(&boot.to_toml().unwrap()).unwrap(), boot);
    let builder = boot.plan.vm("builder").unwrap();
    assert_eq!(boot.images_of(builder), Some((&image(), &image())));
}
