//! What is no TOML, unknown or missing keys, unknown words, wrong types.

use expect_test::expect;

use super::{edited, edited_tenants, refused};

#[test]
fn not_toml() {
    refused(
        &edited(&[("name = \"test\"\n", "name = test\n")]),
        expect![[r#"
            error: This is not TOML: invalid boolean, expected `true`
              --> host.toml:2:8
              |
            2 | name = test
              |        ^^^^
            help: correct the TOML here (strings stand in quotes); the other checks come after that

            1 error in host.toml"#]],
    );
}

#[test]
fn two_syntax_errors() {
    refused(
        &edited(&[("name = \"test\"\n", "name = \n"), ("domid = 3\n", "domid = = 3\n")]),
        expect![[r#"
            error: This is not TOML: string values must be quoted, expected literal string
              --> host.toml:2:8
              |
            2 | name = 
              |        ^
            help: correct the TOML here (strings stand in quotes); the other checks come after that

            error: This is not TOML: extra `=`, expected nothing
               --> host.toml:50:9
               |
            50 | domid = = 3
               |         ^
            help: correct the TOML here (strings stand in quotes); the other checks come after that

            error: This is not TOML: unexpected key or value, expected newline, `#`
               --> host.toml:50:11
               |
            50 | domid = = 3
               |           ^
            help: correct the TOML here (strings stand in quotes); the other checks come after that

            3 errors in host.toml"#]],
    );
}

#[test]
fn section_twice() {
    refused(
        &edited(&[("[vm.spare]\n", "[vm.tool]\n")]),
        expect![[r#"
            error: The section `tool` is here a second time
               --> host.toml:89:5
               |
            89 | [vm.tool]
               |     ^^^^
            help: make one section of the two, or give one another name

            1 error in host.toml"#]],
    );
}

#[test]
fn key_twice() {
    refused(
        &edited(&[("domid = 5\n", "domid = 5\ndomid = 8\n")]),
        expect![[r#"
        error: The key `domid` is here a second time
           --> host.toml:40:1
           |
        40 | domid = 8
           | ^^^^^
        help: take one of the two out

        1 error in host.toml"#]],
    );
}

#[test]
fn unknown_section() {
    refused(
        &edited_tenants(&[("[tenant.acme]", "[tenants.acme]")]),
        expect![[r#"
            error: `toolstack-acme` is a toolstack, but no tenant's
               --> host.toml:82:5
               |
            82 | [vm.toolstack-acme]
               |     ^^^^^^^^^^^^^^
            help: add `[tenant.NAME]` with `toolstack = "toolstack-acme"`

            error: Unknown section `tenants`
                --> host.toml:102:2
                |
            102 | [tenants.acme]
                |  ^^^^^^^
            help: did you mean `tenant`?

            error: Guest `web` has the unknown tenant `acme`
                --> host.toml:115:10
                |
            115 | tenant = "acme"
                |          ^^^^^^
            help: the only tenant is `beta`

            3 errors in host.toml"#]],
    );
}

#[test]
fn section_is_no_table() {
    refused(
        &edited(&[("[host]\n", "vm.x = 3\n[host]\n")]),
        expect![[r#"
        error: `vm.x` is of type integer, not a section
          --> host.toml:1:4
          |
        1 | vm.x = 3
          |    ^
        help: write `[vm.x]`, and what belongs to it below

        1 error in host.toml"#]],
    );
}

#[test]
fn unknown_key() {
    refused(
        &edited(&[("memory-mib = 512", "memory_mib = 512")]),
        expect![[r#"
        error: `[host]` has no `memory-mib`
          --> host.toml:1:2
          |
        1 | [host]
          |  ^^^^
        help: add it, for example `memory-mib = 1024`

        error: Unknown key `memory_mib` in `[host]`
          --> host.toml:3:1
          |
        3 | memory_mib = 512
          | ^^^^^^^^^^
        help: did you mean `memory-mib`?

        2 errors in host.toml"#]],
    );
}

#[test]
fn unknown_key_without_likeness() {
    refused(
        &edited(&[("vcpus = 2\nkernel", "colour = \"red\"\nvcpus = 2\nkernel")]),
        expect![[r#"
            error: Unknown key `colour` in `[vm.net]`
               --> host.toml:29:1
               |
            29 | colour = "red"
               | ^^^^^^
            help: the keys of `[vm.net]` are `kind`, `domid`, `successor-domid`, `kernel`, `program`, `memory-mib`, `vcpus`, `kernel-options`, `devices`, `accept-no-reset`, `answers`, `xenstore`, `after`, `built-by`, `autostart`, `restart`, `talks-to`, `network`, `quotas` and `may`

            1 error in host.toml"#]],
    );
}

#[test]
fn missing_keys() {
    refused(
        &edited(&[
            ("kind = \"blkback\"\n", ""),
            ("domid = 5\n", ""),
            ("kernel = \"driver\"\nmemory-mib = 32\ndevices = [\"0000", "devices = [\"0000"),
            ("restart = { policy = \"on-crash\" }\n[vm.blk", "[vm.blk"),
        ]),
        expect![[r#"
            error: `[vm.blk]` has no `kind`
               --> host.toml:37:5
               |
            37 | [vm.blk]
               |     ^^^
            help: add it, for example `kind = "netback"`

            error: `[vm.blk]` has no `domid`
               --> host.toml:37:5
               |
            37 | [vm.blk]
               |     ^^^
            help: add it, for example `domid = 5`

            error: `[vm.blk]` has no `kernel`
               --> host.toml:37:5
               |
            37 | [vm.blk]
               |     ^^^
            help: add it, for example `kernel = "service"`

            error: `[vm.blk]` has no `memory-mib`
               --> host.toml:37:5
               |
            37 | [vm.blk]
               |     ^^^
            help: add it, for example `memory-mib = 32`

            error: `[vm.blk]` has no `restart`
               --> host.toml:37:5
               |
            37 | [vm.blk]
               |     ^^^
            help: add it, for example `restart = { policy = "on-crash" }`

            5 errors in host.toml"#]],
    );
}

#[test]
fn missing_host_keys() {
    refused(
        &edited(&[
            ("name = \"test\"\n", ""),
            ("console = \"com1\"\n", ""),
            ("iommu = { none = \"the test machine has none\" }\n", ""),
        ]),
        expect![[r#"
            error: `[host]` has no `name`
              --> host.toml:1:2
              |
            1 | [host]
              |  ^^^^
            help: add it, for example `name = "ennead"`

            error: `[host]` has no `console`
              --> host.toml:1:2
              |
            1 | [host]
              |  ^^^^
            help: add it, for example `console = "com1"`

            error: `[host]` has no `iommu`
              --> host.toml:1:2
              |
            1 | [host]
              |  ^^^^
            help: add it, for example `iommu = "required"`

            3 errors in host.toml"#]],
    );
}

#[test]
fn missing_tenant_and_guest_keys() {
    refused(
        &edited_tenants(&[
            ("toolstack = \"toolstack-beta\"\nmemory-mib = 128\n", ""),
            ("config = \"guests/web.toml\"\n", ""),
        ]),
        expect![[r#"
            error: `[tenant.beta]` has no `toolstack`
                --> host.toml:108:9
                |
            108 | [tenant.beta]
                |         ^^^^
            help: add it, for example `toolstack = "toolstack"`

            error: `[tenant.beta]` has no `memory-mib`
                --> host.toml:108:9
                |
            108 | [tenant.beta]
                |         ^^^^
            help: add it, for example `memory-mib = 512`

            error: `[guest.web]` has no `config`
                --> host.toml:112:8
                |
            112 | [guest.web]
                |        ^^^
            help: add it, for example `config = "guests/web.toml"`

            3 errors in host.toml"#]],
    );
}

#[test]
fn wrong_types() {
    refused(
        &edited(&[
            ("domid = 4", "domid = \"4\""),
            ("devices = [\"network\"]", "devices = \"network\""),
            ("after = [\"pci\"]\nrestart = { policy = \"on", "after = [3]\nrestart = { policy = \"on"),
            ("autostart = false", "autostart = 0"),
            ("restart = { policy = \"on-request\" }\n[vm.tool", "restart = \"never\"\n[vm.tool"),
            ("build = \"creates guests\"", "build = true"),
        ]),
        expect![[r#"
            error: `domid` is a string, not an integer
               --> host.toml:26:9
               |
            26 | domid = "4"
               |         ^^^
            help: write for example `domid = 5`

            error: `devices` is a string, not an array
               --> host.toml:31:11
               |
            31 | devices = "network"
               |           ^^^^^^^^^
            help: write for example `devices = ["network"]`

            error: `after` is an integer, not a string
               --> host.toml:43:10
               |
            43 | after = [3]
               |          ^
            help: write for example `after = ["pciback"]`

            error: `restart` is a string, not a table
               --> host.toml:85:11
               |
            85 | restart = "never"
               |           ^^^^^^^
            help: write for example `restart = { policy = "on-crash" }`

            error: `build` is a boolean, not a string
               --> host.toml:87:9
               |
            87 | build = true
               |         ^^^^
            help: write for example `build = "why it needs it"`

            error: `autostart` is an integer, not `true` or `false`
               --> host.toml:95:13
               |
            95 | autostart = 0
               |             ^
            help: write for example `autostart = true`

            6 errors in host.toml"#]],
    );
}

#[test]
fn unknown_kind() {
    refused(
        &edited(&[("\"netback\"", "\"netbak\"")]),
        expect![[r#"
        error: Unknown kind `netbak`
           --> host.toml:25:8
           |
        25 | kind = "netbak"
           |        ^^^^^^^^
        help: did you mean `netback`?

        1 error in host.toml"#]],
    );
}

#[test]
fn unknown_kind_without_likeness() {
    refused(
        &edited(&[("\"netback\"", "\"router\"")]),
        expect![[r#"
            error: Unknown kind `router`
               --> host.toml:25:8
               |
            25 | kind = "router"
               |        ^^^^^^^^
            help: write `bootstrapper`, `builder`, `pciback`, `xenstore-logic`, `xenstore-state`, `toolstack`, `blkback`, `netback` or `qemu-stub`

            1 error in host.toml"#]],
    );
}

#[test]
fn unknown_restart_policy() {
    refused(
        &edited(&[("\"on-request\"", "\"on-reqest\"")]),
        expect![[r#"
            error: Unknown restart policy `on-reqest`
               --> host.toml:85:22
               |
            85 | restart = { policy = "on-reqest" }
               |                      ^^^^^^^^^^^
            help: did you mean `on-request`?

            1 error in host.toml"#]],
    );
}

#[test]
fn unknown_builder_of_vms() {
    refused(
        &edited(&[("built-by = \"bootstrapper\"\nafter", "built-by = \"dom0\"\nafter")]),
        expect![[r#"
            error: Unknown builder of VMs `dom0`
               --> host.toml:53:12
               |
            53 | built-by = "dom0"
               |            ^^^^^^
            help: write `bootstrapper` or `builder`

            1 error in host.toml"#]],
    );
}

#[test]
fn unknown_permission() {
    refused(
        &edited(&[("host-events =", "host-event =")]),
        expect![[r#"
        error: `build` lacks the permission `host-events`, without which a VM of kind `builder` cannot work
           --> host.toml:62:5
           |
        62 | [vm.build]
           |     ^^^^^
        help: add `host-events = "why"` under `[vm.build.may]`

        error: Unknown permission `host-event`
           --> host.toml:76:1
           |
        76 | host-event = "Xen tells it when a VM died"
           | ^^^^^^^^^^
        help: did you mean `host-events`?

        2 errors in host.toml"#]],
    );
}

#[test]
fn unknown_device() {
    refused(
        &edited(&[("\"0000:00:1f.2\"", "\"stroage\"")]),
        expect![[r#"
        error: Unknown device `stroage`
           --> host.toml:42:12
           |
        42 | devices = ["stroage"]
           |            ^^^^^^^^^
        help: did you mean `storage`?

        1 error in host.toml"#]],
    );
}

#[test]
fn pci_address_in_upper_case() {
    refused(
        &edited(&[("\"0000:00:1f.2\"", "\"0000:00:1F.2\"")]),
        expect![[r#"
        error: Unknown device `0000:00:1F.2`
           --> host.toml:42:12
           |
        42 | devices = ["0000:00:1F.2"]
           |            ^^^^^^^^^^^^^^
        help: write hex digits in lower case: `"0000:00:1f.2"`

        1 error in host.toml"#]],
    );
}

#[test]
fn pci_address_without_segment() {
    refused(
        &edited(&[("\"0000:00:1f.2\"", "\"00:1f.2\"")]),
        expect![[r#"
        error: Unknown device `00:1f.2`
           --> host.toml:42:12
           |
        42 | devices = ["00:1f.2"]
           |            ^^^^^^^^^
        help: write the PCI segment as well: `"0000:00:1f.2"`

        1 error in host.toml"#]],
    );
}

#[test]
fn pci_address_out_of_range() {
    refused(
        &edited(&[("\"0000:00:1f.2\"", "\"0000:00:20.0\"")]),
        expect![[r#"
        error: Unknown device `0000:00:20.0`
           --> host.toml:42:12
           |
        42 | devices = ["0000:00:20.0"]
           |            ^^^^^^^^^^^^^^
        help: write `all`, `network`, `storage` or a PCI address such as `0000:00:1f.2`

        1 error in host.toml"#]],
    );
}

#[test]
fn unknown_iommu() {
    refused(
        &edited(&[("{ none = \"the test machine has none\" }", "\"maybe\"")]),
        expect![[r#"
        error: `iommu` is `maybe`, which is not known
          --> host.toml:6:9
          |
        6 | iommu = "maybe"
          |         ^^^^^^^
        help: write `iommu = "required"`, or `iommu = { none = "why this host does without" }`

        1 error in host.toml"#]],
    );
}

#[test]
fn iommu_none_without_reason() {
    refused(
        &edited(&[("{ none = \"the test machine has none\" }", "\"none\"")]),
        expect![[r#"
        error: `iommu` is `none` without a reason
          --> host.toml:6:9
          |
        6 | iommu = "none"
          |         ^^^^^^
        help: write `iommu = "required"`, or `iommu = { none = "why this host does without" }`

        1 error in host.toml"#]],
    );
}

#[test]
fn iommu_wrong_type() {
    refused(
        &edited(&[("{ none = \"the test machine has none\" }", "false")]),
        expect![[r#"
        error: `iommu` is a boolean, not a word or a table
          --> host.toml:6:9
          |
        6 | iommu = false
          |         ^^^^^
        help: write for example `iommu = "required"`

        1 error in host.toml"#]],
    );
}

#[test]
fn kernel_path_of_wrong_type() {
    refused(
        &edited(&[("\"kernels/service.config\"", "1")]),
        expect![[r#"
        error: `service` is an integer, not a string
          --> host.toml:9:11
          |
        9 | service = 1
          |           ^
        help: write for example `service = "kernels/service.config"`

        1 error in host.toml"#]],
    );
}

#[test]
fn unknown_key_in_restart() {
    refused(
        &edited(&[("every-seconds = 3600", "every-second = 3600")]),
        expect![[r#"
        error: The restart policy of `net` is `every`, but not how often
           --> host.toml:33:11
           |
        33 | restart = { policy = "every", every-second = 3600 }
           |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        help: add `every-seconds`, for example `{ policy = "every", every-seconds = 3600 }`

        error: Unknown key `every-second` in `[vm.net.restart]`
           --> host.toml:33:31
           |
        33 | restart = { policy = "every", every-second = 3600 }
           |                               ^^^^^^^^^^^^
        help: did you mean `every-seconds`?

        2 errors in host.toml"#]],
    );
}
