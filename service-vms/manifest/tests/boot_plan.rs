//! What the host refuses in a boot plan, with the exact words.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use ennead_manifest::{BootPlan, Device, Image, Kind, MAX_BOOT_PLAN_LENGTH, Plan, Quota, Ring, Vm};
use expect_test::{Expect, expect};

fn valid() -> BootPlan {
    boot_plan(include_str!("valid.plan.toml"))
}

fn with_tenants() -> BootPlan {
    boot_plan(include_str!("tenants.plan.toml"))
}

fn boot_plan(text: &str) -> BootPlan {
    let plan: Plan = toml::from_str(text).expect("the snapshot is a plan");
    let vms = plan.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper);
    let images: BTreeMap<_, _> = vms
        .flat_map(|vm| [vm.kernel_image(), vm.ramdisk_image()])
        .map(|name| (name, Image { sha256: "1".repeat(64), size: 1 }))
        .collect();
    BootPlan { manifest_sha256: "2".repeat(64), images, plan }
}

fn vm<'p>(boot: &'p mut BootPlan, name: &str) -> &'p mut Vm {
    boot.plan.vms.iter_mut().find(|vm| vm.name == name).expect("there is such a VM")
}

/// Both ways refuse the edited plan, in the same words.
fn refused(edit: impl FnOnce(&mut BootPlan), words: Expect) {
    refused_of(valid(), edit, words);
}

#[expect(clippy::needless_pass_by_value, reason = "`expect!` makes a value for one use")]
fn refused_of(mut boot: BootPlan, edit: impl FnOnce(&mut BootPlan), words: Expect) {
    edit(&mut boot);
    let text = toml::to_string(&boot).expect("it can be written");
    let error = BootPlan::from_toml(&text).expect_err("it was accepted").to_string();
    assert_eq!(boot.to_toml().expect_err("it was written").to_string(), error);
    words.assert_eq(&error);
}

#[expect(clippy::needless_pass_by_value, reason = "`expect!` makes a value for one use")]
fn unreadable(text: &str, words: Expect) {
    words.assert_eq(&BootPlan::from_toml(text).expect_err("it was accepted").to_string());
}

#[test]
fn the_unedited_plan_comes_back_the_same() {
    let boot = valid();
    assert_eq!(BootPlan::from_toml(&boot.to_toml().unwrap()).unwrap(), boot);
}

#[test]
fn length() {
    let longest = " ".repeat(MAX_BOOT_PLAN_LENGTH - valid().to_toml().unwrap().len());
    let text = format!("{longest}{}", valid().to_toml().unwrap());
    assert!(BootPlan::from_toml(&text).is_ok());
    unreadable(
        &format!(" {text}"),
        expect![
            "The boot plan has 262145 bytes, more than 262144: take VMs out of host.toml or shorten its reasons"
        ],
    );
    let mut boot = valid();
    boot.plan.host.xen_options = "x".repeat(MAX_BOOT_PLAN_LENGTH);
    assert!(boot.to_toml().is_err());
}

#[test]
fn syntax() {
    unreadable(
        "manifest-sha256 = \"x\"\n[images\n",
        expect![
            "The boot plan is not readable in line 2: unclosed table, expected `]`. Build the image again, with tools of the same version"
        ],
    );
}

#[test]
fn unknown_key() {
    unreadable(
        &format!("colour = \"\\u001b\"\n{}", valid().to_toml().unwrap()),
        expect![
            "The boot plan is not readable in line 1: unknown field `colour`, expected one of `manifest-sha256`, `images`, `plan`. Build the image again, with tools of the same version"
        ],
    );
}

#[test]
fn unknown_kind_with_control_characters() {
    let text = valid().to_toml().unwrap().replace("kind = \"netback\"", "kind = \"\\u001b[2J\"");
    unreadable(
        &text,
        expect![[
            r#"The boot plan is not readable in line 162: unknown variant `\u{1b}[2J`, expected one of `bootstrapper`, `builder`, `pciback`, `xenstore-logic`, `xenstore-state`, `toolstack`, `blkback`, `netback`, `qemu-stub`. Build the image again, with tools of the same version"#
        ]],
    );
}

#[test]
fn hash_of_the_manifest() {
    refused(
        |boot| boot.manifest_sha256 = "A".repeat(64),
        expect![[
            r#"The boot plan is not acceptable: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", the hash of host.toml, is no SHA-256 in lower-case hex. Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn hash_of_an_image() {
    refused(
        |boot| boot.images.get_mut("driver.kernel").unwrap().sha256.truncate(63),
        expect![[
            r#"The boot plan is not acceptable: "111111111111111111111111111111111111111111111111111111111111111", the hash of driver.kernel, is no SHA-256 in lower-case hex. Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn image_name() {
    let image = || Image { sha256: "1".repeat(64), size: 1 };
    refused(
        |boot| drop(boot.images.insert("../x.kernel".to_owned(), image())),
        expect![[
            r#"The boot plan is not acceptable: image "../x.kernel" is not called NAME.kernel or NAME.ramdisk. Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| drop(boot.images.insert("x.txt".to_owned(), image())),
        expect![[
            r#"The boot plan is not acceptable: image "x.txt" is not called NAME.kernel or NAME.ramdisk. Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn image_missing() {
    refused(
        |boot| drop(boot.images.remove("netback.ramdisk")),
        expect![
            "The boot plan is not acceptable: there is no image netback.ramdisk, which VM net needs. Check host.toml and build the image again"
        ],
    );
    refused(
        |boot| drop(boot.images.remove("service.kernel")),
        expect![
            "The boot plan is not acceptable: there is no image service.kernel, which VM build needs. Check host.toml and build the image again"
        ],
    );
}

#[test]
fn domid_taken() {
    refused(
        |boot| vm(boot, "net").domid = 2,
        expect![
            "The boot plan is not acceptable: VM net has domid 2, which is taken. Check host.toml and build the image again"
        ],
    );
}

#[test]
fn domid_0() {
    refused(
        |boot| vm(boot, "boot").domid = 9,
        expect![
            "The boot plan is not acceptable: VM boot of kind bootstrapper has domid 9; 0 is the bootstrapper's. Check host.toml and build the image again"
        ],
    );
    refused(
        |boot| vm(boot, "build").successor_domid = Some(0),
        expect![
            "The boot plan is not acceptable: VM build has domid 0, which is taken. Check host.toml and build the image again"
        ],
    );
}

#[test]
fn domid_out_of_range() {
    refused(
        |boot| vm(boot, "build").successor_domid = Some(32_752),
        expect![
            "The boot plan is not acceptable: VM build has a domid above 32751. Check host.toml and build the image again"
        ],
    );
}

#[test]
fn names() {
    refused(
        |boot| vm(boot, "spare").name = "a\nb".to_owned(),
        expect![[
            r#"The boot plan is not acceptable: "a\nb" is no name for a VM. Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| vm(boot, "spare").name = "net".to_owned(),
        expect![
            "The boot plan is not acceptable: two VMs are called net. Check host.toml and build the image again"
        ],
    );
    refused(
        |boot| vm(boot, "net").program = "-rf".to_owned(),
        expect![[
            r#"The boot plan is not acceptable: "-rf" is no name for a program. Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| boot.plan.host.name.clear(),
        expect![[
            r#"The boot plan is not acceptable: "" is no name for a host. Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| drop(boot.plan.kernels.insert("K".to_owned(), String::new())),
        expect![[
            r#"The boot plan is not acceptable: "K" is no name for a kernel. Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn kernel() {
    refused(
        |boot| vm(boot, "net").kernel = "other".to_owned(),
        expect![[
            r#"The boot plan is not acceptable: VM net has the unknown kernel "other". Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn memory_and_vcpus() {
    refused(
        |boot| vm(boot, "net").memory_mib = 0,
        expect![
            "The boot plan is not acceptable: VM net has 0 MiB of memory. Check host.toml and build the image again"
        ],
    );
    refused(
        |boot| vm(boot, "net").vcpus = 9,
        expect![
            "The boot plan is not acceptable: VM net has 9 vCPUs. Check host.toml and build the image again"
        ],
    );
}

#[test]
fn peers() {
    refused(
        |boot| vm(boot, "build").answers.push("ghost".to_owned()),
        expect![[
            r#"The boot plan is not acceptable: VM build has the unknown peer "ghost". Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| vm(boot, "build").talks_to[0].peer = "ghost".to_owned(),
        expect![[
            r#"The boot plan is not acceptable: VM build has the unknown peer "ghost". Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn order_of_start() {
    refused(
        |boot| vm(boot, "net").after.push("tool".to_owned()),
        expect![[
            r#"The boot plan is not acceptable: VM net comes before "tool", after which it starts. Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn kinds() {
    refused(
        |boot| vm(boot, "spare").kind = Kind::Pciback,
        expect![
            "The boot plan is not acceptable: 2 VMs are of kind pciback, not 1. Check host.toml and build the image again"
        ],
    );
    refused(
        |boot| boot.plan.vms.retain(|vm| vm.kind != Kind::Bootstrapper),
        expect![
            "The boot plan is not acceptable: 0 VMs are of kind bootstrapper, not 1. Check host.toml and build the image again"
        ],
    );
}

#[test]
fn device() {
    refused(
        |boot| vm(boot, "blk").devices = vec![Device::Address("00:1f.2".to_owned())],
        expect![[
            r#"The boot plan is not acceptable: VM blk has the device "00:1f.2", which is no PCI address. Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn tenants_and_guests() {
    let refused = |edit: fn(&mut BootPlan), words| refused_of(with_tenants(), edit, words);
    refused(
        |boot| boot.plan.tenants[0].toolstack = "builder".to_owned(),
        expect![[
            r#"The boot plan is not acceptable: tenant acme has no toolstack "builder". Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| boot.plan.guests[0].tenant = "ghost".to_owned(),
        expect![[
            r#"The boot plan is not acceptable: guest web has no tenant "ghost". Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| boot.plan.tenants[1].name = "A".to_owned(),
        expect![[
            r#"The boot plan is not acceptable: "A" is no name for a tenant. Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| boot.plan.tenants[1].name = "acme-building".to_owned(),
        expect![[
            r#"The boot plan is not acceptable: "acme-building" is no name for a tenant. Check host.toml and build the image again"#
        ]],
    );
}

#[test]
fn labels_of_tenants_are_apart() {
    let refused = |edit: fn(&mut BootPlan), words| refused_of(with_tenants(), edit, words);
    // A toolstack that names another tenant, none, or one that has another toolstack.
    refused(
        |boot| vm(boot, "toolstack-beta").tenant = Some("acme".to_owned()),
        expect![[
            r#"The boot plan is not acceptable: tenant beta has no toolstack "toolstack-beta". Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| vm(boot, "toolstack-beta").tenant = None,
        expect![[
            r#"The boot plan is not acceptable: tenant beta has no toolstack "toolstack-beta". Check host.toml and build the image again"#
        ]],
    );
    refused(
        |boot| vm(boot, "builder").tenant = Some("acme".to_owned()),
        expect![
            "The boot plan is not acceptable: VM builder is not the toolstack of the tenant that it names. Check host.toml and build the image again"
        ],
    );
    refused(
        |boot| {
            boot.plan.tenants[1].name = "acme".to_owned();
            vm(boot, "toolstack-beta").tenant = Some("acme".to_owned());
        },
        expect![
            "The boot plan is not acceptable: two tenants are called acme. Check host.toml and build the image again"
        ],
    );
}

#[test]
fn sizes_beyond_signed_integers_come_back() {
    let mut boot = valid();
    boot.images.get_mut("driver.kernel").unwrap().size = u64::MAX;
    assert_eq!(BootPlan::from_toml(&boot.to_toml().unwrap()).unwrap(), boot);
}

#[test]
fn messages_are_short() {
    for long in ["x".repeat(100_000), "\u{1b}".repeat(100_000)] {
        let mut boot = valid();
        vm(&mut boot, "net").kernel = long;
        assert!(boot.to_toml().unwrap_err().to_string().len() < 400);
    }
    let error = BootPlan::from_toml(&format!("{} = 1", "x".repeat(100_000))).unwrap_err().to_string();
    assert!(error.len() < 400, "{error}");
}

#[test]
fn xenstore() {
    let ring = || Some(Ring { reason: "x".to_owned(), line: 1 });
    refused(
        |boot| vm(boot, "tool").xenstore = ring(),
        expect![
            "The boot plan is not acceptable: VM tool has a XenStore ring, but no VM before it serves one. Check host.toml and build the image again"
        ],
    );
    refused(
        |boot| {
            vm(boot, "net").kind = Kind::XenstoreLogic;
            vm(boot, "spare").kind = Kind::XenstoreLogic;
        },
        expect![
            "The boot plan is not acceptable: 2 VMs are of kind xenstore-logic, at most 1 can be. Check host.toml and build the image again"
        ],
    );
    let mut boot = valid();
    vm(&mut boot, "net").kind = Kind::XenstoreLogic;
    vm(&mut boot, "blk").xenstore = ring();
    assert_eq!(BootPlan::from_toml(&boot.to_toml().unwrap()).unwrap(), boot);
}

#[test]
fn quotas() {
    let set = |boot: &mut BootPlan, quota, value| vm(boot, "net").quotas = [(quota, value)].into();
    refused(
        |boot| set(boot, Quota::Nodes, 1000),
        expect![
            "The boot plan is not acceptable: VM net of kind netback has the quota nodes = 1000. Check host.toml and build the image again"
        ],
    );
    refused(
        |boot| {
            vm(boot, "net").kind = Kind::XenstoreState;
            set(boot, Quota::PathMax, 0);
        },
        expect![
            "The boot plan is not acceptable: VM net of kind xenstore-state has the quota path-max = 0. Check host.toml and build the image again"
        ],
    );
}
