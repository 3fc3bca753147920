//! Quotas of XenStore.

use ennead_manifest::{Quota, check};
use expect_test::expect;

use super::refused;
use super::xenstore::with_xenstore;

/// A valid manifest with these lines below `[vm.state.quotas]`.
fn with_quotas(lines: &str) -> String {
    with_xenstore(&[("[vm.logic]", &format!("[vm.state.quotas]\n{lines}\n[vm.logic]"))])
}

#[test]
fn what_is_set_is_in_the_plan_and_nothing_else() {
    let of = |lines: &str| {
        let plan = check("host.toml", &with_quotas(lines)).unwrap_or_else(|report| panic!("{report}"));
        assert!(plan.vms.iter().all(|vm| vm.name == "state" || vm.quotas.is_empty()));
        plan.xenstore_state().unwrap().quotas.clone().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of(""), []);
    assert_eq!(of("events = 16\nnodes = 2_000"), [(Quota::Nodes, 2000), (Quota::Events, 16)]);
    let all: String = Quota::ALL.iter().map(|quota| format!("{quota} = {}\n", quota.range().end())).collect();
    let all = all.replace("1073741824", "33554431");
    assert_eq!(of(&all).len(), Quota::ALL.len());
}

#[test]
fn out_of_bounds_and_of_the_wrong_type() {
    refused(
        &with_quotas(
            "nodes = 0\nnode-size = \"2 KiB\"\npath-max = 2049\nmemory = 4_294_967_296\nevents = -1",
        ),
        expect![[r#"
            error: `nodes` of `[vm.state.quotas]` is 0
                --> host.toml:113:9
                |
            113 | nodes = 0
                |         ^
            help: write a number from 16 to 1000000

            error: `node-size` is a string, not an integer
                --> host.toml:114:13
                |
            114 | node-size = "2 KiB"
                |             ^^^^^^^
            help: write for example `node-size = 2048`

            error: `path-max` of `[vm.state.quotas]` is 2049
                --> host.toml:115:12
                |
            115 | path-max = 2049
                |            ^^^^
            help: write a number from 256 to 2048

            error: `memory` of `[vm.state.quotas]` is 4294967296
                --> host.toml:116:10
                |
            116 | memory = 4_294_967_296
                |          ^^^^^^^^^^^^^
            help: write a number from 65536 to 1073741824

            error: `events` of `[vm.state.quotas]` is -1
                --> host.toml:117:10
                |
            117 | events = -1
                |          ^^
            help: write a number from 16 to 65536

            5 errors in host.toml"#]],
    );
}

#[test]
fn unknown_quota() {
    refused(
        &with_quotas("node = 2000\nrings = 3"),
        expect![[r#"
            error: Unknown key `node` in `[vm.state.quotas]`
                --> host.toml:113:1
                |
            113 | node = 2000
                | ^^^^
            help: did you mean `nodes`?

            error: Unknown key `rings` in `[vm.state.quotas]`
                --> host.toml:114:1
                |
            114 | rings = 3
                | ^^^^^
            help: the keys of `[vm.state.quotas]` are `nodes`, `node-size`, `watches`, `transactions`, `transaction-nodes`, `permissions`, `path-max`, `memory` and `events`

            2 errors in host.toml"#]],
    );
}

#[test]
fn quotas_that_are_no_section() {
    refused(
        &with_xenstore(&[("[vm.logic]\n", "[vm.logic]\nquotas = 1000\n")]),
        expect![[r#"
            error: `vm.logic.quotas` is of type integer, not a section
                --> host.toml:113:1
                |
            113 | quotas = 1000
                | ^^^^^^
            help: write `[vm.logic.quotas]`, and what belongs to it below

            1 error in host.toml"#]],
    );
}

#[test]
fn quotas_of_another_kind() {
    refused(
        &with_xenstore(&[("[vm.logic.talks-to]", "quotas = { nodes = 100 }\n[vm.logic.talks-to]")]),
        expect![[r#"
            error: `logic` has `quotas`, but is of kind `xenstore-logic`
                --> host.toml:120:1
                |
            120 | quotas = { nodes = 100 }
                | ^^^^^^
            help: take them out: what a guest may use of XenStore stands at the VM of kind `xenstore-state`

            1 error in host.toml"#]],
    );
}

#[test]
fn a_guest_that_may_fill_all_memory() {
    refused(
        &with_quotas("memory = 33_554_432"),
        expect![[r#"
            error: One guest may use 33554432 bytes of XenStore, but `state` has only 32 MiB for all
                --> host.toml:113:10
                |
            113 | memory = 33_554_432
                |          ^^^^^^^^^^
            help: write a smaller number of bytes, or raise `memory-mib` of `state`

            1 error in host.toml"#]],
    );
}
