//! Permissions.

use expect_test::expect;

use super::{edited, refused};

#[test]
fn permission_that_the_kind_may_never_have() {
    refused(
        &edited(&[("[vm.net.may]\n", "[vm.net.may]\nbuild-vms = \"convenience\"\n")]),
        expect![[r#"
        error: `net` is of kind `netback`, which may never `build-vms`
           --> host.toml:35:1
           |
        35 | build-vms = "convenience"
           | ^^^^^^^^^
        help: take the line out: that is for `bootstrapper` and `builder`; a `netback` may have `use-device` and `write-host-console`

        1 error in host.toml"#]],
    );
}

#[test]
fn permissions_missing() {
    refused(
        &edited(&[
            (
                "build-vms = \"it builds the first VMs\"\ncreate-hardware-domain = \"pciback takes the hardware over\"\nlist-vms = \"it waits for the VMs\"\n",
                "",
            ),
            (
                "build-vms = \"it builds the others\"\nlist-vms = \"notices dead VMs\"\nhost-events = \"Xen tells it when a VM died\"\n",
                "",
            ),
            ("hardware = \"it is Xen's hardware domain\"\n", ""),
        ]),
        expect![[r#"
            error: `boot` lacks the permission `build-vms`, without which a VM of kind `bootstrapper` cannot work
               --> host.toml:12:5
               |
            12 | [vm.boot]
               |     ^^^^
            help: add `build-vms = "why"` under `[vm.boot.may]`

            error: `boot` lacks the permission `create-hardware-domain`, without which a VM of kind `bootstrapper` cannot work
               --> host.toml:12:5
               |
            12 | [vm.boot]
               |     ^^^^
            help: add `create-hardware-domain = "why"` under `[vm.boot.may]`

            error: `boot` lacks the permission `list-vms`, without which a VM of kind `bootstrapper` cannot work
               --> host.toml:12:5
               |
            12 | [vm.boot]
               |     ^^^^
            help: add `list-vms = "why"` under `[vm.boot.may]`

            error: `pci` lacks the permission `hardware`, without which a VM of kind `pciback` cannot work
               --> host.toml:45:5
               |
            45 | [vm.pci]
               |     ^^^
            help: add `hardware = "why"` under `[vm.pci.may]`

            error: `build` lacks the permission `build-vms`, without which a VM of kind `builder` cannot work
               --> host.toml:58:5
               |
            58 | [vm.build]
               |     ^^^^^
            help: add `build-vms = "why"` under `[vm.build.may]`

            error: `build` lacks the permission `list-vms`, without which a VM of kind `builder` cannot work
               --> host.toml:58:5
               |
            58 | [vm.build]
               |     ^^^^^
            help: add `list-vms = "why"` under `[vm.build.may]`

            error: `build` lacks the permission `host-events`, without which a VM of kind `builder` cannot work
               --> host.toml:58:5
               |
            58 | [vm.build]
               |     ^^^^^
            help: add `host-events = "why"` under `[vm.build.may]`

            7 errors in host.toml"#]],
    );
}

#[test]
fn use_device_and_lend_devices_missing() {
    refused(
        &edited(&[
            ("use-device = \"its controller\"\n", ""),
            ("lend-devices = \"only it can hand a device's rights on\"\n", ""),
        ]),
        expect![[r#"
            error: `net` lacks the permission `use-device`, without which a VM of kind `netback` cannot work
               --> host.toml:24:5
               |
            24 | [vm.net]
               |     ^^^
            help: add `use-device = "why"` under `[vm.net.may]`

            error: `pci` lacks the permission `lend-devices`, without which a host that lends `net` a device cannot work
               --> host.toml:47:5
               |
            47 | [vm.pci]
               |     ^^^
            help: add `lend-devices = "why"` under `[vm.pci.may]`

            2 errors in host.toml"#]],
    );
}
