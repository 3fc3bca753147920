//! XenStore's halves, and VMs with a ring.

use ennead_manifest::check;
use expect_test::expect;

use super::{edited, refused};

/// A XenStore, and one VM with a ring.
const XENSTORE: &str = r#"
[vm.boot.talks-to]
state = "announces VMs"

[vm.state]
kind = "xenstore-state"
domid = 20
successor-domid = 21
kernel = "service"
memory-mib = 32
built-by = "bootstrapper"
answers = ["boot", "build", "logic"]
restart = { policy = "never" }

[vm.logic]
kind = "xenstore-logic"
domid = 22
kernel = "service"
memory-mib = 32
built-by = "bootstrapper"
after = ["state"]
restart = { policy = "on-crash" }
[vm.logic.talks-to]
state = "contents"

[vm.user]
kind = "toolstack"
program = "test-user"
domid = 23
kernel = "service"
memory-mib = 32
xenstore = "writes what it found"
restart = { policy = "on-crash" }
"#;

/// A valid manifest with a XenStore, each `(old, new)` replaced once.
pub(super) fn with_xenstore(edits: &[(&str, &str)]) -> String {
    let announces = "pci = \"which controllers there are\"";
    let text = edited(&[(announces, &format!("{announces}\nstate = \"announces VMs\""))]) + XENSTORE;
    edits.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "{old:?} is not there");
        text.replacen(old, new, 1)
    })
}

#[test]
fn a_ring_is_in_the_plan_with_its_line() {
    let text = with_xenstore(&[]);
    let plan = check("host.toml", &text).unwrap_or_else(|report| panic!("{report}"));
    let ring = plan.vm("user").unwrap().xenstore.clone().unwrap();
    assert_eq!(ring.reason, "writes what it found");
    let line = text.lines().nth(usize::try_from(ring.line).unwrap() - 1);
    assert_eq!(line, Some("xenstore = \"writes what it found\""));
    assert!(plan.vms.iter().filter(|vm| vm.name != "user").all(|vm| vm.xenstore.is_none()));
    assert_eq!(plan.xenstore_logic().unwrap().name, "logic");
    assert_eq!(plan.xenstore_state().unwrap().name, "state");
}

#[test]
fn ring_without_reason_and_of_the_wrong_type() {
    refused(
        &with_xenstore(&[("xenstore = \"writes what it found\"", "xenstore = \" \"")]),
        expect![[r#"
            error: The XenStore ring has no reason
                --> host.toml:129:12
                |
            129 | xenstore = " "
                |            ^^^
            help: say in a few words why: the reason stands in the policy and in the logs

            1 error in host.toml"#]],
    );
    refused(
        &with_xenstore(&[("xenstore = \"writes what it found\"", "xenstore = true")]),
        expect![[r#"
            error: `xenstore` is a boolean, not a string
                --> host.toml:129:12
                |
            129 | xenstore = true
                |            ^^^^
            help: write for example `xenstore = "why it needs it"`

            1 error in host.toml"#]],
    );
}

#[test]
fn ring_without_logic() {
    refused(
        &edited(&[("[vm.tool.talks-to]", "xenstore = \"tells the guests\"\n[vm.tool.talks-to]")]),
        expect![[r#"
            error: `tool` has a XenStore ring, but no VM of this host serves one
               --> host.toml:86:1
               |
            86 | xenstore = "tells the guests"
               | ^^^^^^^^
            help: take the line out, or add `[vm.xenstore-logic]`, as in Ennead's images/host.toml

            1 error in host.toml"#]],
    );
}

#[test]
fn ring_of_a_vm_that_can_have_none() {
    refused(
        &with_xenstore(&[("after = [\"state\"]", "after = [\"state\"]\nxenstore = \"itself\"")]),
        expect![[r#"
            error: `logic` has a XenStore ring, but it is the one that serves rings
                --> host.toml:119:1
                |
            119 | xenstore = "itself"
                | ^^^^^^^^
            help: take the line out

            1 error in host.toml"#]],
    );
    refused(
        &with_xenstore(&[("program = \"bootstrapper\"", "program = \"bootstrapper\"\nxenstore = \"x\"")]),
        expect![[r#"
            error: `boot` has a XenStore ring, but Xen builds the bootstrapper and gives it none
               --> host.toml:15:1
               |
            15 | xenstore = "x"
               | ^^^^^^^^
            help: take the line out

            1 error in host.toml"#]],
    );
}

#[test]
fn ring_of_a_vm_that_starts_before_logic() {
    refused(
        &with_xenstore(&[("devices = [\"all\"]", "devices = [\"all\"]\nxenstore = \"publishes\"")]),
        expect![[r#"
            error: `pci` has a XenStore ring, but starts before `logic`
               --> host.toml:56:1
               |
            56 | xenstore = "publishes"
               | ^^^^^^^^
            help: write `after = ["logic"]` for `pci`, and have `logic` built by the same VM or by the bootstrapper

            1 error in host.toml"#]],
    );
}

#[test]
fn logic_without_state() {
    let (before, _) = XENSTORE.split_once("[vm.state]").unwrap();
    let (_, rest) = XENSTORE.split_once("[vm.logic]").unwrap();
    let text = edited(&[])
        + &format!("{before}[vm.logic]{rest}").replace("[vm.boot.talks-to]\nstate = \"announces VMs\"\n", "");
    refused(
        &text.replace("after = [\"state\"]\n", ""),
        expect![[r#"
            error: `logic` has no contents: there is no VM of kind `xenstore-state`
               --> host.toml:99:5
               |
            99 | [vm.logic]
               |     ^^^^^
            help: add `[vm.xenstore-state]`, as in Ennead's images/host.toml

            error: `logic` talks to `state`, which is not a VM of this host
                --> host.toml:107:1
                |
            107 | state = "contents"
                | ^^^^^
            help: did you mean `spare`?

            2 errors in host.toml"#]],
    );
}

#[test]
fn logic_that_starts_before_state_and_has_no_channel_to_it() {
    refused(
        &with_xenstore(&[
            ("after = [\"state\"]\n", ""),
            (
                "built-by = \"bootstrapper\"\nanswers = [\"boot\", \"build\", \"logic\"]",
                "answers = [\"boot\", \"build\"]",
            ),
            ("[vm.logic.talks-to]\nstate = \"contents\"\n", ""),
        ]),
        expect![[r#"
            error: `state` is built by the builder, but a VM of kind `xenstore-state` must be there before
                --> host.toml:102:5
                |
            102 | [vm.state]
                |     ^^^^^
            help: write `built-by = "bootstrapper"`

            error: `logic` has no channel to `state`, but it reads and writes all contents there
                --> host.toml:111:5
                |
            111 | [vm.logic]
                |     ^^^^^
            help: add `state = "why"` under `[vm.logic.talks-to]`, and `logic` to `answers` of `state`

            error: `logic` needs its contents, but starts before `state`
                --> host.toml:111:5
                |
            111 | [vm.logic]
                |     ^^^^^
            help: write `after = ["state"]` for `logic`, and have `state` built by the same VM or by the bootstrapper

            3 errors in host.toml"#]],
    );
}

#[test]
fn builders_that_do_not_announce() {
    refused(
        &with_xenstore(&[
            ("\nstate = \"announces VMs\"", ""),
            ("[vm.boot.talks-to]\nstate = \"announces VMs\"\n", ""),
            ("answers = [\"boot\", \"build\", \"logic\"]", "answers = [\"logic\"]"),
        ]),
        expect![[r#"
            error: `boot` has no channel to `state`, but it announces there the VMs that have a XenStore ring
               --> host.toml:12:5
               |
            12 | [vm.boot]
               |     ^^^^
            help: add `state = "why"` under `[vm.boot.talks-to]`, and `boot` to `answers` of `state`

            error: `build` has no channel to `state`, but it announces there the VMs that have a XenStore ring
               --> host.toml:62:5
               |
            62 | [vm.build]
               |     ^^^^^
            help: add `state = "why"` under `[vm.build.talks-to]`, and `build` to `answers` of `state`

            2 errors in host.toml"#]],
    );
}

#[test]
fn two_of_a_half() {
    refused(
        &with_xenstore(&[("[vm.user]\nkind = \"toolstack\"", "[vm.user]\nkind = \"xenstore-logic\"")]),
        expect![[r#"
            error: `user` is a second VM of kind `xenstore-logic`
                --> host.toml:124:8
                |
            124 | kind = "xenstore-logic"
                |        ^^^^^^^^^^^^^^^^
                ::: host.toml:113:8
                |
            113 | kind = "xenstore-logic"
                |        ^^^^^^^^^^^^^^^^ `logic` is the first
            help: a host has one XenStore: take one of the two out

            error: `user` has a XenStore ring, but it is the one that serves rings
                --> host.toml:129:1
                |
            129 | xenstore = "writes what it found"
                | ^^^^^^^^
            help: take the line out

            2 errors in host.toml"#]],
    );
}

#[test]
fn state_that_is_to_be_restarted() {
    let never = "answers = [\"boot\", \"build\", \"logic\"]\nrestart = { policy = \"never\" }";
    refused(
        &with_xenstore(&[(never, &never.replace("never", "on-crash"))]),
        expect![[r#"
            error: `state` is of kind `xenstore-state`, which cannot be restarted: XenStore's contents are nowhere else
                --> host.toml:110:22
                |
            110 | restart = { policy = "on-crash" }
                |                      ^^^^^^^^^^
            help: write `restart = { policy = "never" }`

            1 error in host.toml"#]],
    );
}
