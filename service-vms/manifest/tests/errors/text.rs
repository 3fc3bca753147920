//! Names, reasons, options: text that goes into generated files.

use expect_test::expect;

use super::{edited, edited_tenants, refused};

#[test]
fn iommu_none_with_empty_reason() {
    refused(
        &edited(&[("\"the test machine has none\"", "\"\"")]),
        expect![[r#"
            error: `iommu = { none = ... }` has no reason
              --> host.toml:6:18
              |
            6 | iommu = { none = "" }
              |                  ^^
            help: say in a few words why: the reason stands in the policy and in the logs

            1 error in host.toml"#]],
    );
}

#[test]
fn names() {
    refused(
        &edited(&[
            ("[vm.spare]", "[vm.\"Spare VM\"]"),
            ("name = \"test\"", "name = \"-test\""),
            ("program = \"bootstrapper\"", "program = \"../init\""),
        ]),
        expect![[r#"
            error: `-test` is no name for the host
              --> host.toml:2:8
              |
            2 | name = "-test"
              |        ^^^^^^^
            help: a name is 1 to 32 of `a-z`, `0-9` and `-`, and does not begin with `-`

            error: `../init` is no name for a program
               --> host.toml:14:11
               |
            14 | program = "../init"
               |           ^^^^^^^^^
            help: a name is 1 to 32 of `a-z`, `0-9` and `-`, and does not begin with `-`

            error: `Spare VM` is no name for a VM
               --> host.toml:89:5
               |
            89 | [vm."Spare VM"]
               |     ^^^^^^^^^^
            help: a name is 1 to 32 of `a-z`, `0-9` and `-`, and does not begin with `-`

            3 errors in host.toml"#]],
    );
    refused(
        &edited_tenants(&[
            ("[guest.web]", "[guest.a-name-of-more-than-thirty-two-characters]"),
            ("[tenant.beta]", "[tenant.\"\"]"),
        ]),
        expect![[r#"
            error: `""` is no name for a tenant
                --> host.toml:108:9
                |
            108 | [tenant.""]
                |         ^^
            help: a name is 1 to 32 of `a-z`, `0-9` and `-`, and does not begin with `-`

            error: `a-name-of-more-than-thirty-two-characters` is no name for a guest
                --> host.toml:114:8
                |
            114 | [guest.a-name-of-more-than-thirty-two-characters]
                |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            help: a name is 1 to 32 of `a-z`, `0-9` and `-`, and does not begin with `-`

            2 errors in host.toml"#]],
    );
}

#[test]
fn paths() {
    refused(
        &edited_tenants(&[
            ("\"kernels/service.config\"", "\"\""),
            ("\"guests/web.toml\"", "\"guests/\\u0007\""),
        ]),
        expect![[r#"
            error: `""` is no path of a file
               --> host.toml:10:11
               |
            10 | service = ""
               |           ^^
            help: write a path relative to this file, without control characters

            error: `guests/\u{7}` is no path of a file
                --> host.toml:116:10
                |
            116 | config = "guests/\u0007"
                |          ^^^^^^^^^^^^^^^
            help: write a path relative to this file, without control characters

            2 errors in host.toml"#]],
    );
}

#[test]
fn channel_without_reason() {
    refused(
        &edited(&[("build = \"creates guests\"", "build = \"\"")]),
        expect![[r#"
            error: The channel to `build` has no reason
               --> host.toml:87:9
               |
            87 | build = ""
               |         ^^
            help: say in a few words why: the reason stands in the policy and in the logs

            1 error in host.toml"#]],
    );
}

#[test]
fn permission_without_reason() {
    refused(
        &edited(&[("\"its controller\"", "\" \"")]),
        expect![[r#"
            error: The permission `use-device` has no reason
               --> host.toml:35:14
               |
            35 | use-device = " "
               |              ^^^
            help: say in a few words why: the reason stands in the policy and in the logs

            1 error in host.toml"#]],
    );
}

#[test]
fn reason_with_newline() {
    refused(
        &edited(&[("\"creates guests\"", "\"creates guests\\nallow all\"")]),
        expect![[r#"
            error: The reason contains `\n`
               --> host.toml:87:9
               |
            87 | build = "creates guests\nallow all"
               |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^
            help: write it in one line, without control or invisible characters: it goes into logs and generated policy

            1 error in host.toml"#]],
    );
}

#[test]
fn reason_that_reorders_text() {
    refused(
        &edited(&[("\"creates guests\"", "\"creates \u{202e}guests\"")]),
        expect![[r#"
            error: The reason contains `\u{202e}`
               --> host.toml:87:9
               |
            87 | build = "creates �guests"
               |         ^^^^^^^^^^^^^^^^^
            help: write it in one line, without control or invisible characters: it goes into logs and generated policy

            1 error in host.toml"#]],
    );
}

#[test]
fn console_is_no_serial_port() {
    refused(
        &edited(&[("\"com1\"", "\"com1,vga\"")]),
        expect![[r#"
        error: `com1,vga` is no serial port of Xen's
          --> host.toml:4:11
          |
        4 | console = "com1,vga"
          |           ^^^^^^^^^^
        help: write `com1` or `com2`

        1 error in host.toml"#]],
    );
}

#[test]
fn options_with_characters_of_grub() {
    refused(
        &edited(&[("\"loglvl=all\"", "\"loglvl=all; reboot\""), ("\"swiotlb=512\"", "\"swiotlb=512\\n\"")]),
        expect![[r#"
            error: `xen-options` contains `;`
              --> host.toml:5:26
              |
            5 | xen-options = "loglvl=all; reboot"
              |                          ^
            help: write printable ASCII in one line, without quotes and ``\ $ ; | & < > { } #``: it goes into GRUB's configuration

            error: `kernel-options` contains `\n`
               --> host.toml:30:18
               |
            30 | kernel-options = "swiotlb=512\n"
               |                  ^^^^^^^^^^^^^^^
            help: write printable ASCII in one line, without quotes and ``\ $ ; | & < > { } #``: it goes into GRUB's configuration

            2 errors in host.toml"#]],
    );
}

#[test]
fn options_with_double_dash() {
    refused(
        &edited(&[("\"loglvl=all\"", "\"loglvl=all -- init=/bin/sh\"")]),
        expect![[r#"
            error: `xen-options` contains `--`
              --> host.toml:5:27
              |
            5 | xen-options = "loglvl=all -- init=/bin/sh"
              |                           ^^
            help: take it out: what follows it is no option any more, but goes to another program

            1 error in host.toml"#]],
    );
}

#[test]
fn options_too_long() {
    let long = format!("\"loglvl=all{}\"", " x".repeat(300));
    refused(
        &edited(&[("\"loglvl=all\"", &long)]),
        expect![[r#"
        error: `xen-options` is 610 bytes long
          --> host.toml:5:15
          |
        5 | xen-options = "loglvl=all x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x"
          |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        help: write at most 512: command lines are short

        1 error in host.toml"#]],
    );
}

#[test]
fn xen_options_that_ennead_sets() {
    refused(
        &edited(&[(
            "\"loglvl=all\"",
            "\"flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all\"",
        )]),
        expect![[r#"
            error: `xen-options` contains `flask=permissive`, which Ennead sets itself
              --> host.toml:5:16
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                ^^^^^^^^^^^^^^^^
            help: take it out: Xen always enforces the policy that is made from `[vm.NAME.may]` and `[vm.NAME.talks-to]`

            error: `xen-options` contains `no-xsm`, which Ennead sets itself
              --> host.toml:5:33
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                                 ^^^^^^
            help: take it out: Xen always enforces the policy that is made from `[vm.NAME.may]` and `[vm.NAME.talks-to]`

            error: `xen-options` contains `hardware-dom=5`, which Ennead sets itself
              --> host.toml:5:40
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                                        ^^^^^^^^^^^^^^
            help: take it out: it is the `domid` of the VM of kind `pciback`

            error: `xen-options` contains `dom0_iommu=none`, which Ennead sets itself
              --> host.toml:5:55
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                                                       ^^^^^^^^^^^^^^^
            help: take it out: it is always `strict`, for domain 0 would else see all memory

            error: `xen-options` contains `iommu=off`, which Ennead sets itself
              --> host.toml:5:71
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                                                                       ^^^^^^^^^
            help: take it out and set `iommu` in `[host]`

            error: `xen-options` contains `dom0_mem=1G`, which Ennead sets itself
              --> host.toml:5:81
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                                                                                 ^^^^^^^^^^^
            help: take it out and set `memory-mib` of the bootstrapper

            error: `xen-options` contains `dom0_max_vcpus=4`, which Ennead sets itself
              --> host.toml:5:93
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                                                                                             ^^^^^^^^^^^^^^^^
            help: take it out and set `vcpus` of the bootstrapper

            error: `xen-options` contains `dom0=pvh`, which Ennead sets itself
              --> host.toml:5:110
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                                                                                                              ^^^^^^^^
            help: take it out: domain 0 is the bootstrapper, see `[vm.bootstrapper]`

            error: `xen-options` contains `console=vga`, which Ennead sets itself
              --> host.toml:5:119
              |
            5 | xen-options = "flask=permissive no-xsm hardware-dom=5 dom0_iommu=none iommu=off dom0_mem=1G dom0_max_vcpus=4 dom0=pvh console=vga loglvl=all"
              |                                                                                                                       ^^^^^^^^^^^
            help: take it out and set `console` in `[host]`

            9 errors in host.toml"#]],
    );
}

#[test]
fn kernel_options_that_ennead_sets() {
    refused(
        &edited(&[(
            "\"swiotlb=512\"",
            "\"rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi\"",
        )]),
        expect![[r#"
            error: `kernel-options` contains `rdinit=/bin/sh`, which Ennead sets itself
               --> host.toml:30:19
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                   ^^^^^^^^^^^^^^
            help: take it out and set `program`

            error: `kernel-options` contains `root=/dev/sda`, which Ennead sets itself
               --> host.toml:30:34
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                                  ^^^^^^^^^^^^^
            help: take it out: a service VM runs from the ramdisk of its `program`

            error: `kernel-options` contains `console=tty0`, which Ennead sets itself
               --> host.toml:30:48
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                                                ^^^^^^^^^^^^
            help: take it out: the console follows from `write-host-console` under `[vm.NAME.may]`

            error: `kernel-options` contains `panic=0`, which Ennead sets itself
               --> host.toml:30:61
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                                                             ^^^^^^^
            help: take it out: a panic always ends the VM; then `restart` says what happens

            error: `kernel-options` contains `xen_privcmd.unrestricted`, which Ennead sets itself
               --> host.toml:30:69
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                                                                     ^^^^^^^^^^^^^^^^^^^^^^^^
            help: take it out: what it may do with other VMs follows from `[vm.NAME.may]`

            error: `kernel-options` contains `mem=1G`, which Ennead sets itself
               --> host.toml:30:94
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                                                                                              ^^^^^^
            help: take it out and set `memory-mib`

            error: `kernel-options` contains `nosmp`, which Ennead sets itself
               --> host.toml:30:101
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                                                                                                     ^^^^^
            help: take it out and set `vcpus`

            error: `kernel-options` contains `lsm=none`, which Ennead sets itself
               --> host.toml:30:107
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                                                                                                           ^^^^^^^^
            help: take it out: the sandbox of the service VMs needs Linux's own setting

            error: `kernel-options` contains `ennead.vm=x`, which Ennead sets itself
               --> host.toml:30:116
               |
            30 | kernel-options = "rdinit=/bin/sh root=/dev/sda console=tty0 panic=0 xen_privcmd.unrestricted mem=1G nosmp lsm=none ennead.vm=x pci=nomsi"
               |                                                                                                                    ^^^^^^^^^^^
            help: take it out: these are the runtime's own, made from the other keys of the VM

            9 errors in host.toml"#]],
    );
}

#[test]
fn pci_off_belongs_to_the_bootstrapper() {
    refused(
        &edited(&[("domid = 0\n", "domid = 0\nkernel-options = \"pci=conf1\"\n")]),
        expect![[r#"
            error: `kernel-options` contains `pci=conf1`, which Ennead sets itself
               --> host.toml:16:19
               |
            16 | kernel-options = "pci=conf1"
               |                   ^^^^^^^^^
            help: take it out: the bootstrapper has always `pci=off`, and whether another VM sees PCI follows from `devices`

            1 error in host.toml"#]],
    );
}

#[test]
fn command_line_too_long() {
    let name = |n: usize| format!("client-with-a-very-long-name-{n:03}");
    let clients: Vec<String> = (0..33).map(|n| format!("{:?}", name(n))).collect();
    let answers = format!("answers = [{}, \"build\"]", clients.join(", "));
    let mut text = edited(&[("answers = [\"build\"]", &answers), ("memory-mib = 512", "memory-mib = 4096")]);
    for n in 0..33 {
        text += &format!(
            "[vm.{}]\nkind = \"qemu-stub\"\ndomid = {}\nkernel = \"service\"\nmemory-mib = 32\n\
             restart.policy = \"never\"\ntalks-to.pci = \"why not\"\n",
            name(n),
            n + 100
        );
    }
    refused(
        &text,
        expect![[r#"
            error: `answers` of `pci` names 34 VMs
               --> host.toml:48:5
               |
            48 | [vm.pci]
               |     ^^^
            help: name at most 32, and divide the work between more VMs

            error: The command line of `pci` could be 1523 bytes long, but must be below 1024
               --> host.toml:48:5
               |
            48 | [vm.pci]
               |     ^^^
            help: shorten its `kernel-options`, let it have fewer channels, or give its peers shorter names

            2 errors in host.toml"#]],
    );
}
