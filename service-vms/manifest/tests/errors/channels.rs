//! Channels.

use expect_test::expect;

use super::{edited, refused};

#[test]
fn talks_to_unknown_vm() {
    refused(
        &edited(&[("pci = \"which", "pcy = \"which")]),
        expect![[r#"
        error: `pci` answers `build`, which never talks to it
           --> host.toml:56:12
           |
        56 | answers = ["build"]
           |            ^^^^^^^
        help: take it out, or add `pci = "why"` under `[vm.build.talks-to]`

        error: `build` talks to `pcy`, which is not a VM of this host
           --> host.toml:72:1
           |
        72 | pcy = "which controllers there are"
           | ^^^
        help: did you mean `pci`?

        2 errors in host.toml"#]],
    );
}

#[test]
fn talks_to_vm_that_does_not_answer() {
    refused(
        &edited(&[("answers = [\"build\"]\n", "")]),
        expect![[r#"
        error: `build` talks to `pci`, which does not answer it
           --> host.toml:71:1
           |
        71 | pci = "which controllers there are"
           | ^^^
           ::: host.toml:48:5
           |
        48 | [vm.pci]
           |     ^^^ `answers` of `pci` does not name `build`
        help: add `build` to `answers` in `[vm.pci]`

        1 error in host.toml"#]],
    );
}

#[test]
fn talks_to_itself() {
    refused(
        &edited(&[("build = \"creates guests\"", "build = \"creates guests\"\ntool = \"monologue\"")]),
        expect![[r#"
            error: `tool` talks to itself
               --> host.toml:88:1
               |
            88 | tool = "monologue"
               | ^^^^
            help: take the line out: a channel is between two VMs

            1 error in host.toml"#]],
    );
}

#[test]
fn answers_unknown_vm() {
    refused(
        &edited(&[("answers = [\"tool\"]", "answers = [\"tool\", \"tol\"]")]),
        expect![[r#"
        error: `build` answers `tol`, which is not a VM of this host
           --> host.toml:69:20
           |
        69 | answers = ["tool", "tol"]
           |                    ^^^^^
        help: did you mean `tool`?

        1 error in host.toml"#]],
    );
}

#[test]
fn answers_vm_that_never_talks_to_it() {
    refused(
        &edited(&[("answers = [\"tool\"]", "answers = [\"tool\", \"net\"]")]),
        expect![[r#"
        error: `build` answers `net`, which never talks to it
           --> host.toml:69:20
           |
        69 | answers = ["tool", "net"]
           |                    ^^^^^
        help: take it out, or add `build = "why"` under `[vm.net.talks-to]`

        1 error in host.toml"#]],
    );
}

#[test]
fn answers_itself() {
    refused(
        &edited(&[("answers = [\"tool\"]", "answers = [\"tool\", \"build\"]")]),
        expect![[r#"
        error: `build` answers itself
           --> host.toml:69:20
           |
        69 | answers = ["tool", "build"]
           |                    ^^^^^^^
        help: take it out: a channel is between two VMs

        1 error in host.toml"#]],
    );
}

#[test]
fn answers_twice() {
    refused(
        &edited(&[("answers = [\"tool\"]", "answers = [\"tool\", \"tool\"]")]),
        expect![[r#"
        error: `build` answers `tool` twice
           --> host.toml:69:20
           |
        69 | answers = ["tool", "tool"]
           |                    ^^^^^^
           ::: host.toml:69:12
           |
        69 | answers = ["tool", "tool"]
           |            ^^^^^^ first here
        help: take one of the two out

        1 error in host.toml"#]],
    );
}
