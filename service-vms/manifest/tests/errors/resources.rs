//! Kernels, devices, memory, numbers.

use expect_test::expect;

use super::{edited, edited_tenants, refused};

#[test]
fn unknown_kernel() {
    refused(
        &edited(&[("kernel = \"service\"", "kernel = \"servise\"")]),
        expect![[r#"
        error: `build` has the unknown kernel `servise`
           --> host.toml:66:10
           |
        66 | kernel = "servise"
           |          ^^^^^^^^^
        help: did you mean `service`?

        1 error in host.toml"#]],
    );
}

#[test]
fn unknown_kernel_and_none_known() {
    refused(
        &edited(&[("service = \"kernels/service.config\"\ndriver = \"kernels/driver.config\"\n", "")]),
        expect![[r#"
            error: `boot` has the unknown kernel `driver`
               --> host.toml:14:10
               |
            14 | kernel = "driver"
               |          ^^^^^^^^
            help: name it under `[kernel]`, for example `service = "kernels/service.config"`

            error: `net` has the unknown kernel `driver`
               --> host.toml:25:10
               |
            25 | kernel = "driver"
               |          ^^^^^^^^
            help: name it under `[kernel]`, for example `service = "kernels/service.config"`

            error: `blk` has the unknown kernel `driver`
               --> host.toml:38:10
               |
            38 | kernel = "driver"
               |          ^^^^^^^^
            help: name it under `[kernel]`, for example `service = "kernels/service.config"`

            error: `pci` has the unknown kernel `driver`
               --> host.toml:49:10
               |
            49 | kernel = "driver"
               |          ^^^^^^^^
            help: name it under `[kernel]`, for example `service = "kernels/service.config"`

            error: `build` has the unknown kernel `service`
               --> host.toml:64:10
               |
            64 | kernel = "service"
               |          ^^^^^^^^^
            help: name it under `[kernel]`, for example `service = "kernels/service.config"`

            error: `tool` has the unknown kernel `service`
               --> host.toml:80:10
               |
            80 | kernel = "service"
               |          ^^^^^^^^^
            help: name it under `[kernel]`, for example `service = "kernels/service.config"`

            error: `spare` has the unknown kernel `service`
               --> host.toml:91:10
               |
            91 | kernel = "service"
               |          ^^^^^^^^^
            help: name it under `[kernel]`, for example `service = "kernels/service.config"`

            7 errors in host.toml"#]],
    );
}

#[test]
fn same_device_address() {
    refused(
        &edited(&[("[\"network\"]", "[\"0000:00:1f.2\"]")]),
        expect![[r#"
        error: `net` and `blk` both have the device `0000:00:1f.2`
           --> host.toml:42:12
           |
        42 | devices = ["0000:00:1f.2"]
           |            ^^^^^^^^^^^^^^
           ::: host.toml:31:12
           |
        31 | devices = ["0000:00:1f.2"]
           |            ^^^^^^^^^^^^^^ `net` has it here
        help: a device belongs to one VM: take it out of the other

        1 error in host.toml"#]],
    );
}

#[test]
fn same_device_class() {
    refused(
        &edited(&[
            ("kind = \"toolstack\"\nprogram = \"test-spare\"", "kind = \"netback\"\ndevices = [\"network\"]"),
            (
                "autostart = false\nrestart = { policy = \"on-request\" }",
                "autostart = false\nrestart = { policy = \"on-request\" }\nmay.use-device = \"x\"",
            ),
        ]),
        expect![[r#"
            error: `net` and `spare` both have the device `network`
               --> host.toml:91:12
               |
            91 | devices = ["network"]
               |            ^^^^^^^^^
               ::: host.toml:31:12
               |
            31 | devices = ["network"]
               |            ^^^^^^^^^ `net` has it here
            help: name the controllers by their PCI addresses, such as `"0000:00:1f.2"` (`lspci -D` shows them)

            1 error in host.toml"#]],
    );
}

#[test]
fn device_twice_in_one_vm() {
    refused(
        &edited(&[("[\"network\"]", "[\"network\", \"network\"]")]),
        expect![[r#"
        error: `net` names the device `network` twice
           --> host.toml:31:23
           |
        31 | devices = ["network", "network"]
           |                       ^^^^^^^^^
           ::: host.toml:31:12
           |
        31 | devices = ["network", "network"]
           |            ^^^^^^^^^ `net` has it here
        help: name the controllers by their PCI addresses, such as `"0000:00:1f.2"` (`lspci -D` shows them)

        1 error in host.toml"#]],
    );
}

#[test]
fn devices_that_the_kind_may_not_have() {
    refused(
        &edited(&[
            ("[\"network\"]", "[\"storage\", \"all\"]"),
            ("devices = [\"all\"]", "devices = [\"all\", \"0000:00:03.0\"]"),
            ("domid = 6\n", "domid = 6\ndevices = [\"network\"]\n"),
        ]),
        expect![[r#"
            error: `net` has the device `storage`, which a VM of kind `netback` may not have
               --> host.toml:31:12
               |
            31 | devices = ["storage", "all"]
               |            ^^^^^^^^^
            help: write `"network"`, or the controller's PCI address

            error: `net` has the device `all`, which a VM of kind `netback` may not have
               --> host.toml:31:23
               |
            31 | devices = ["storage", "all"]
               |                       ^^^^^
            help: write `"network"`, or the controller's PCI address

            error: `pci` has the device `0000:00:03.0`, which a VM of kind `pciback` may not have
               --> host.toml:55:19
               |
            55 | devices = ["all", "0000:00:03.0"]
               |                   ^^^^^^^^^^^^^^
            help: write `devices = ["all"]`: it has them all and lends them out

            error: `tool` has the device `network`, which a VM of kind `toolstack` may not have
               --> host.toml:82:12
               |
            82 | devices = ["network"]
               |            ^^^^^^^^^
            help: take it out: only `pciback`, `blkback` and `netback` have devices

            4 errors in host.toml"#]],
    );
}

#[test]
fn devices_missing() {
    refused(
        &edited(&[
            ("devices = [\"network\"]\n", ""),
            ("devices = [\"all\"]\n", ""),
            ("[\"0000:00:1f.2\"]", "[]"),
        ]),
        expect![[r#"
            error: `net` has no devices, which a VM of kind `netback` needs
               --> host.toml:24:5
               |
            24 | [vm.net]
               |     ^^^
            help: write `devices = ["network"]`

            error: `blk` has no devices, which a VM of kind `blkback` needs
               --> host.toml:36:5
               |
            36 | [vm.blk]
               |     ^^^
            help: write `devices = ["storage"]`

            error: `pci` has no devices, which a VM of kind `pciback` needs
               --> host.toml:47:5
               |
            47 | [vm.pci]
               |     ^^^
            help: write `devices = ["all"]`

            3 errors in host.toml"#]],
    );
}

#[test]
fn too_little_memory() {
    refused(
        &edited(&[("memory-mib = 512", "memory-mib = 383")]),
        expect![[r#"
        error: The host has 383 MiB, but its VMs need 288 MiB and Xen 96 MiB: 384 MiB together
          --> host.toml:3:14
          |
        3 | memory-mib = 383
          |              ^^^
        help: write `memory-mib = 384` or more if the machine has it, or give the VMs less

        1 error in host.toml"#]],
    );
}

#[test]
fn absurd_numbers() {
    refused(
        &edited(&[
            ("memory-mib = 64", "memory-mib = 0"),
            ("memory-mib = 512", "memory-mib = 1_048_577"),
            ("vcpus = 2\nkernel", "vcpus = 9\nkernel"),
        ]),
        expect![[r#"
            error: `memory-mib` of `[host]` is 1048577
              --> host.toml:3:14
              |
            3 | memory-mib = 1_048_577
              |              ^^^^^^^^^
            help: write a number from 1 to 1048576

            error: `memory-mib` of `[vm.boot]` is 0
               --> host.toml:17:14
               |
            17 | memory-mib = 0
               |              ^
            help: write a number from 1 to 1048576

            error: `vcpus` of `[vm.net]` is 9
               --> host.toml:29:9
               |
            29 | vcpus = 9
               |         ^
            help: write a number from 1 to 8

            3 errors in host.toml"#]],
    );
    refused(
        &edited_tenants(&[("vcpus = 4", "vcpus = 0"), ("guests = 1", "guests = 0")]),
        expect![[r#"
        error: `vcpus` of `[tenant.acme]` is 0
            --> host.toml:105:9
            |
        105 | vcpus = 0
            |         ^
        help: write a number from 1 to 65536

        error: `guests` of `[tenant.acme]` is 0
            --> host.toml:106:10
            |
        106 | guests = 0
            |          ^
        help: write a number from 1 to 32751

        2 errors in host.toml"#]],
    );
}
