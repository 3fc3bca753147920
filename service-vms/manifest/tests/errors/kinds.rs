//! Domids, and what follows from a VM's kind.

use expect_test::expect;

use super::{edited, refused};

#[test]
fn duplicate_domid() {
    refused(
        &edited(&[("domid = 5", "domid = 4")]),
        expect![[r#"
        error: Domid 4 is taken twice: by `net` and by `blk`
           --> host.toml:39:9
           |
        39 | domid = 4
           |         ^
           ::: host.toml:26:9
           |
        26 | domid = 4
           |         ^ `domid` of `net`
        help: give each its own, for example 8

        1 error in host.toml"#]],
    );
}

#[test]
fn duplicate_domid_of_successor() {
    refused(
        &edited(&[("domid = 5", "domid = 2")]),
        expect![[r#"
        error: Domid 2 is taken twice: by `blk` and by `build`
           --> host.toml:65:19
           |
        65 | successor-domid = 2
           |                   ^
           ::: host.toml:39:9
           |
        39 | domid = 2
           |         ^ `domid` of `blk`
        help: give each its own, for example 8

        1 error in host.toml"#]],
    );
}

#[test]
fn successor_domid_is_own_domid() {
    refused(
        &edited(&[("successor-domid = 2", "successor-domid = 1")]),
        expect![[r#"
            error: Both domids of `build` are 1
               --> host.toml:65:19
               |
            65 | successor-domid = 1
               |                   ^
               ::: host.toml:64:9
               |
            64 | domid = 1
               |         ^ `domid` of `build`
            help: give each its own, for example 8

            1 error in host.toml"#]],
    );
}

#[test]
fn domid_out_of_range() {
    refused(
        &edited(&[
            ("domid = 5", "domid = 32752"),
            ("domid = 4", "domid = -1"),
            ("domid = 6", "domid = 99999999999999999999"),
        ]),
        expect![[r#"
            error: `domid` of `[vm.net]` is -1
               --> host.toml:26:9
               |
            26 | domid = -1
               |         ^^
            help: write a number from 0 to 32751

            error: `domid` of `[vm.blk]` is 32752
               --> host.toml:39:9
               |
            39 | domid = 32752
               |         ^^^^^
            help: write a number from 0 to 32751

            error: `domid` of `[vm.tool]` is 99999999999999999999
               --> host.toml:81:9
               |
            81 | domid = 99999999999999999999
               |         ^^^^^^^^^^^^^^^^^^^^
            help: write a number from 0 to 32751

            3 errors in host.toml"#]],
    );
}

#[test]
fn domid_0_for_another() {
    refused(
        &edited(&[("domid = 5", "domid = 0")]),
        expect![[r#"
        error: Domid 0 is taken twice: by `boot` and by `blk`
           --> host.toml:39:9
           |
        39 | domid = 0
           |         ^
           ::: host.toml:15:9
           |
        15 | domid = 0
           |         ^ `domid` of `boot`
        help: give each its own, for example 8

        error: `domid` of `blk` is 0, which is the bootstrapper's
           --> host.toml:39:9
           |
        39 | domid = 0
           |         ^
        help: write a number from 1 to 32751

        2 errors in host.toml"#]],
    );
}

#[test]
fn successor_domid_0() {
    refused(
        &edited(&[("successor-domid = 2", "successor-domid = 0")]),
        expect![[r#"
        error: Domid 0 is taken twice: by `boot` and by `build`
           --> host.toml:65:19
           |
        65 | successor-domid = 0
           |                   ^
           ::: host.toml:15:9
           |
        15 | domid = 0
           |         ^ `domid` of `boot`
        help: give each its own, for example 8

        error: `successor-domid` of `build` is 0, which is the bootstrapper's
           --> host.toml:65:19
           |
        65 | successor-domid = 0
           |                   ^
        help: write a number from 1 to 32751

        2 errors in host.toml"#]],
    );
}

#[test]
fn bootstrapper_with_another_domid() {
    refused(
        &edited(&[("domid = 0", "domid = 8")]),
        expect![[r#"
        error: `boot` is the bootstrapper, but its domid is 8
           --> host.toml:15:9
           |
        15 | domid = 8
           |         ^
        help: write `domid = 0`: Xen starts the bootstrapper as domain 0

        1 error in host.toml"#]],
    );
}

#[test]
fn successor_domid_missing() {
    refused(
        &edited(&[("successor-domid = 2\n", "")]),
        expect![[r#"
        error: `build` has no `successor-domid`, which a VM of kind `builder` needs
           --> host.toml:62:5
           |
        62 | [vm.build]
           |     ^^^^^
        help: add one that no other VM has: its successor starts under it, takes over and destroys it

        1 error in host.toml"#]],
    );
}

#[test]
fn successor_domid_where_none_belongs() {
    refused(
        &edited(&[("domid = 4\n", "domid = 4\nsuccessor-domid = 9\n")]),
        expect![[r#"
        error: `net` has a `successor-domid`, but a VM of kind `netback` is rebuilt under its own domid
           --> host.toml:27:19
           |
        27 | successor-domid = 9
           |                   ^
        help: take the line out; only `builder` and `xenstore-state` replace themselves

        1 error in host.toml"#]],
    );
}

#[test]
fn no_bootstrapper_builder_pciback() {
    refused(
        &edited(&[
            ("kind = \"bootstrapper\"", "kind = \"qemu-stub\""),
            ("kind = \"builder\"", "kind = \"xenstore-state\""),
            ("kind = \"pciback\"", "kind = \"xenstore-logic\""),
        ]),
        expect![[r#"
            error: `domid` of `boot` is 0, which is the bootstrapper's
               --> host.toml:15:9
               |
            15 | domid = 0
               |         ^
            help: write a number from 1 to 32751

            error: `boot` is of kind `qemu-stub`, which may never `build-vms`
               --> host.toml:20:1
               |
            20 | build-vms = "it builds the first VMs"
               | ^^^^^^^^^
            help: take the line out: that is for `bootstrapper` and `builder`; a `qemu-stub` may have `write-host-console`

            error: `boot` is of kind `qemu-stub`, which may never `create-hardware-domain`
               --> host.toml:21:1
               |
            21 | create-hardware-domain = "pciback takes the hardware over"
               | ^^^^^^^^^^^^^^^^^^^^^^
            help: take the line out: that is for `bootstrapper`; a `qemu-stub` may have `write-host-console`

            error: `boot` is of kind `qemu-stub`, which may never `list-vms`
               --> host.toml:22:1
               |
            22 | list-vms = "it waits for the VMs"
               | ^^^^^^^^
            help: take the line out: that is for `bootstrapper` and `builder`; a `qemu-stub` may have `write-host-console`

            error: `pci` has no channel to `build`, but it reads and writes all contents there
               --> host.toml:48:5
               |
            48 | [vm.pci]
               |     ^^^
            help: add `build = "why"` under `[vm.pci.talks-to]`, and `pci` to `answers` of `build`

            error: `pci` has the device `all`, which a VM of kind `xenstore-logic` may not have
               --> host.toml:55:12
               |
            55 | devices = ["all"]
               |            ^^^^^
            help: take it out: only `pciback`, `blkback` and `netback` have devices

            error: `pci` is of kind `xenstore-logic`, which may never `hardware`
               --> host.toml:59:1
               |
            59 | hardware = "it is Xen's hardware domain"
               | ^^^^^^^^
            help: take the line out: that is for `pciback`; a `xenstore-logic` may have `write-host-console`

            error: `pci` is of kind `xenstore-logic`, which may never `lend-devices`
               --> host.toml:60:1
               |
            60 | lend-devices = "only it can hand a device's rights on"
               | ^^^^^^^^^^^^
            help: take the line out: that is for `pciback`; a `xenstore-logic` may have `write-host-console`

            error: `build` is of kind `xenstore-state`, which cannot be restarted: XenStore's contents are nowhere else
               --> host.toml:70:22
               |
            70 | restart = { policy = "on-crash" }
               |                      ^^^^^^^^^^
            help: write `restart = { policy = "never" }`

            error: `build` is of kind `xenstore-state`, which may never `build-vms`
               --> host.toml:74:1
               |
            74 | build-vms = "it builds the others"
               | ^^^^^^^^^
            help: take the line out: that is for `bootstrapper` and `builder`; a `xenstore-state` may have `write-host-console`

            error: `build` is of kind `xenstore-state`, which may never `list-vms`
               --> host.toml:75:1
               |
            75 | list-vms = "notices dead VMs"
               | ^^^^^^^^
            help: take the line out: that is for `bootstrapper` and `builder`; a `xenstore-state` may have `write-host-console`

            error: `build` is of kind `xenstore-state`, which may never `host-events`
               --> host.toml:76:1
               |
            76 | host-events = "Xen tells it when a VM died"
               | ^^^^^^^^^^^
            help: take the line out: that is for `builder`; a `xenstore-state` may have `write-host-console`

            error: There is no VM of kind `bootstrapper`
              --> host.toml
            help: every host has one: add `[vm.bootstrapper]`, as in Ennead's images/host.toml

            error: There is no VM of kind `builder`
              --> host.toml
            help: every host has one: add `[vm.builder]`, as in Ennead's images/host.toml

            error: There is no VM of kind `pciback`
              --> host.toml
            help: every host has one: add `[vm.pciback]`, as in Ennead's images/host.toml

            15 errors in host.toml"#]],
    );
}

#[test]
fn two_pcibacks() {
    refused(
        &edited(&[("kind = \"netback\"", "kind = \"pciback\"")]),
        expect![[r#"
            error: `net` is built by the builder, but a VM of kind `pciback` must be there before
               --> host.toml:24:5
               |
            24 | [vm.net]
               |     ^^^
            help: write `built-by = "bootstrapper"`

            error: `net` lacks the permission `hardware`, without which a VM of kind `pciback` cannot work
               --> host.toml:24:5
               |
            24 | [vm.net]
               |     ^^^
            help: add `hardware = "why"` under `[vm.net.may]`

            error: `net` lacks the permission `lend-devices`, without which a host that lends `blk` a device cannot work
               --> host.toml:24:5
               |
            24 | [vm.net]
               |     ^^^
            help: add `lend-devices = "why"` under `[vm.net.may]`

            error: `net` has the device `network`, which a VM of kind `pciback` may not have
               --> host.toml:31:12
               |
            31 | devices = ["network"]
               |            ^^^^^^^^^
            help: write `devices = ["all"]`: it has them all and lends them out

            error: `net` is of kind `pciback`, which cannot be restarted: its end is the end of the host
               --> host.toml:33:22
               |
            33 | restart = { policy = "every", every-seconds = 3600 }
               |                      ^^^^^^^
            help: write `restart = { policy = "never" }`

            error: `net` is of kind `pciback`, which may never `use-device`
               --> host.toml:35:1
               |
            35 | use-device = "its controller"
               | ^^^^^^^^^^
            help: take the line out: that is for `blkback` and `netback`; a `pciback` may have `hardware`, `host-power`, `lend-devices` and `write-host-console`

            error: `pci` is a second VM of kind `pciback`
               --> host.toml:49:8
               |
            49 | kind = "pciback"
               |        ^^^^^^^^^
               ::: host.toml:25:8
               |
            25 | kind = "pciback"
               |        ^^^^^^^^^ `net` is the first
            help: a host has exactly one: take one of the two out

            7 errors in host.toml"#]],
    );
}

#[test]
fn every_without_seconds() {
    refused(
        &edited(&[(", every-seconds = 3600", "")]),
        expect![[r#"
        error: The restart policy of `net` is `every`, but not how often
           --> host.toml:33:11
           |
        33 | restart = { policy = "every" }
           |           ^^^^^^^^^^^^^^^^^^^^
        help: add `every-seconds`, for example `{ policy = "every", every-seconds = 3600 }`

        1 error in host.toml"#]],
    );
}

#[test]
fn every_with_0_seconds() {
    refused(
        &edited(&[("3600", "0")]),
        expect![[r#"
        error: `every-seconds` of `[vm.net.restart]` is 0
           --> host.toml:33:47
           |
        33 | restart = { policy = "every", every-seconds = 0 }
           |                                               ^
        help: write a number from 1 to 4294967295

        1 error in host.toml"#]],
    );
}

#[test]
fn seconds_without_every() {
    refused(
        &edited(&[("policy = \"every\"", "policy = \"on-crash\"")]),
        expect![[r#"
        error: `every-seconds` without the policy `every`: the policy of `net` is `on-crash`
           --> host.toml:33:50
           |
        33 | restart = { policy = "on-crash", every-seconds = 3600 }
           |                                                  ^^^^
        help: take it out, or write `policy = "every"`

        1 error in host.toml"#]],
    );
}

#[test]
fn restarts_of_bootstrapper_and_pciback() {
    refused(
        &edited(&[
            ("restart = { policy = \"never\" }\n[vm.boot", "restart = { policy = \"on-crash\" }\n[vm.boot"),
            ("restart = { policy = \"never\" }\n[vm.pci", "restart = { policy = \"on-request\" }\n[vm.pci"),
        ]),
        expect![[r#"
            error: `boot` is of kind `bootstrapper`, which cannot be restarted: it ends by design
               --> host.toml:18:22
               |
            18 | restart = { policy = "on-crash" }
               |                      ^^^^^^^^^^
            help: write `restart = { policy = "never" }`

            error: `pci` is of kind `pciback`, which cannot be restarted: its end is the end of the host
               --> host.toml:57:22
               |
            57 | restart = { policy = "on-request" }
               |                      ^^^^^^^^^^^^
            help: write `restart = { policy = "never" }`

            2 errors in host.toml"#]],
    );
}
