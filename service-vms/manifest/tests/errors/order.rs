//! The order of start.

use expect_test::expect;

use super::{edited, refused};

#[test]
fn after_unknown_vm() {
    refused(
        &edited(&[("after = [\"build\"]", "after = [\"builder-of-vms\"]")]),
        expect![[r#"
            error: `pci` starts after `builder-of-vms`, which is not a VM of this host
               --> host.toml:54:10
               |
            54 | after = ["builder-of-vms"]
               |          ^^^^^^^^^^^^^^^^
            help: write `boot`, `net`, `blk`, `pci`, `build`, `tool` or `spare`

            1 error in host.toml"#]],
    );
}

#[test]
fn after_itself() {
    refused(
        &edited(&[("after = [\"build\"]", "after = [\"pci\"]")]),
        expect![[r#"
        error: `pci` starts after itself
           --> host.toml:54:10
           |
        54 | after = ["pci"]
           |          ^^^^^
        help: take it out of `after`

        1 error in host.toml"#]],
    );
}

#[test]
fn after_twice() {
    refused(
        &edited(&[("after = [\"net\", \"blk\"]", "after = [\"net\", \"net\"]")]),
        expect![[r#"
            error: `tool` starts after `net` twice
               --> host.toml:84:17
               |
            84 | after = ["net", "net"]
               |                 ^^^^^
               ::: host.toml:84:10
               |
            84 | after = ["net", "net"]
               |          ^^^^^ first here
            help: take one of the two out

            1 error in host.toml"#]],
    );
}

#[test]
fn circle_of_two() {
    refused(
        &edited(&[("answers = [\"tool\"]\n", "answers = [\"tool\"]\nafter = [\"pci\"]\n")]),
        expect![[r#"
            error: The order of start is a circle: `pci` after `build` after `pci`
               --> host.toml:54:10
               |
            54 | after = ["build"]
               |          ^^^^^^^
            help: take one of these out of the `after` of the one before it

            1 error in host.toml"#]],
    );
}

#[test]
fn two_circles() {
    refused(
        &edited(&[
            ("answers = [\"tool\"]\n", "answers = [\"tool\"]\nafter = [\"pci\"]\n"),
            (
                "after = [\"pci\"]\nrestart = { policy = \"every\"",
                "after = [\"pci\", \"tool\"]\nrestart = { policy = \"every\"",
            ),
        ]),
        expect![[r#"
            error: The order of start is a circle: `net` after `tool` after `net`
               --> host.toml:32:17
               |
            32 | after = ["pci", "tool"]
               |                 ^^^^^^
            help: take one of these out of the `after` of the one before it

            error: The order of start is a circle: `pci` after `build` after `pci`
               --> host.toml:54:10
               |
            54 | after = ["build"]
               |          ^^^^^^^
            help: take one of these out of the `after` of the one before it

            2 errors in host.toml"#]],
    );
}

#[test]
fn bootstrapper_is_not_first() {
    refused(
        &edited(&[("domid = 0\n", "domid = 0\nafter = [\"build\"]\n")]),
        expect![[r#"
        error: The bootstrapper `boot` starts after `build`
           --> host.toml:16:10
           |
        16 | after = ["build"]
           |          ^^^^^^^
        help: take it out of `after`: the bootstrapper is always the first

        1 error in host.toml"#]],
    );
}

#[test]
fn built_by_bootstrapper_after_built_by_builder() {
    refused(
        &edited(&[
            ("after = [\"build\"]", "after = [\"build\", \"net\"]"),
            ("after = [\"pci\"]\nrestart = { policy = \"every\"", "restart = { policy = \"every\""),
        ]),
        expect![[r#"
            error: `pci` is built by the bootstrapper, but starts after `net`, which the builder builds later
               --> host.toml:53:19
               |
            53 | after = ["build", "net"]
               |                   ^^^^^
            help: take it out of `after`, or write `built-by = "bootstrapper"` for `net`

            1 error in host.toml"#]],
    );
}

#[test]
fn starts_after_vm_that_starts_on_request() {
    refused(
        &edited(&[("after = [\"net\", \"blk\"]", "after = [\"net\", \"spare\"]")]),
        expect![[r#"
            error: `tool` starts with the host, but after `spare`, which starts only on request
               --> host.toml:84:17
               |
            84 | after = ["net", "spare"]
               |                 ^^^^^^^
            help: take it out of `after`, or write `autostart = false` for `tool` as well

            1 error in host.toml"#]],
    );
}

#[test]
fn built_by_on_bootstrapper() {
    refused(
        &edited(&[("domid = 0\n", "domid = 0\nbuilt-by = \"builder\"\n")]),
        expect![[r#"
        error: `boot` has a `built-by`, but Xen builds the bootstrapper
           --> host.toml:16:12
           |
        16 | built-by = "builder"
           |            ^^^^^^^^^
        help: take the line out

        1 error in host.toml"#]],
    );
}

#[test]
fn builder_and_pciback_not_built_by_bootstrapper() {
    refused(
        &edited(&[
            ("built-by = \"bootstrapper\"\nafter", "after"),
            ("built-by = \"bootstrapper\"\nanswers", "built-by = \"builder\"\nanswers"),
        ]),
        expect![[r#"
            error: `pci` is built by the builder, but a VM of kind `pciback` must be there before
               --> host.toml:48:5
               |
            48 | [vm.pci]
               |     ^^^
            help: write `built-by = "bootstrapper"`

            error: `build` is built by the builder, but a VM of kind `builder` must be there before
               --> host.toml:67:12
               |
            67 | built-by = "builder"
               |            ^^^^^^^^^
            help: write `built-by = "bootstrapper"`

            2 errors in host.toml"#]],
    );
}

#[test]
fn first_vms_not_autostarted() {
    refused(
        &edited(&[
            ("domid = 3\n", "domid = 3\nautostart = false\n"),
            (
                "autostart = false\nrestart = { policy = \"on-r",
                "autostart = false\nbuilt-by = \"bootstrapper\"\nrestart = { policy = \"on-r",
            ),
        ]),
        expect![[r#"
            error: `net` starts with the host, but after `pci`, which starts only on request
               --> host.toml:32:10
               |
            32 | after = ["pci"]
               |          ^^^^^
            help: take it out of `after`, or write `autostart = false` for `net` as well

            error: `blk` starts with the host, but after `pci`, which starts only on request
               --> host.toml:43:10
               |
            43 | after = ["pci"]
               |          ^^^^^
            help: take it out of `after`, or write `autostart = false` for `blk` as well

            error: `pci` is not started with the host, but only the builder can build a VM later
               --> host.toml:51:13
               |
            51 | autostart = false
               |             ^^^^^
            help: take `autostart = false` out, or let the builder build it if its kind allows that

            error: `spare` is not started with the host, but only the builder can build a VM later
               --> host.toml:96:13
               |
            96 | autostart = false
               |             ^^^^^
            help: take `autostart = false` out, or let the builder build it if its kind allows that

            4 errors in host.toml"#]],
    );
}
