//! A toolstack's own network interface.

use ennead_manifest::check;
use expect_test::expect;

use super::{edited_tenants, refused};

const NETBACK: &str = "
[tenant.acme.backends]
netback = \"its guests' network\"
[vm.netback]
kind = \"netback\"
domid = 9
kernel = \"driver\"
memory-mib = 32
devices = [\"network\"]
xenstore = \"finds vifs\"
restart = { policy = \"on-crash\" }
[vm.netback.may]
use-device = \"the network\"
";

const NETWORK: &str = "
[vm.toolstack-acme.network]
backend = \"netback\"
address = \"10.0.2.40/24\"
gateway = \"10.0.2.2\"
port = 8443
";

/// The manifest with tenants, and this network.
fn with(network: &str) -> String {
    let pciback = "hardware = \"it is Xen's hardware domain\"";
    edited_tenants(&[(pciback, &format!("{pciback}\nlend-devices = \"to netback\""))]) + NETBACK + network
}

fn edited(old: &str, new: &str) -> String {
    assert!(NETWORK.contains(old));
    with(&NETWORK.replace(old, new))
}

#[test]
fn a_network_that_is_right() {
    let plan = check("host.toml", &with(NETWORK)).unwrap_or_else(|e| panic!("{e}"));
    let vm = plan.vm("toolstack-acme").expect("it is there");
    assert_eq!(vm.network.as_ref().map(|network| network.port), Some(8443));
    // Its keys are in its ramdisk, which is no other toolstack's.
    assert_eq!(vm.ramdisk_image(), "toolstack-acme.toolstack.ramdisk");
    let other = plan.vm("toolstack-beta").expect("it is there");
    assert_eq!(other.ramdisk_image(), "toolstack-beta.toolstack.ramdisk");
}

#[test]
fn a_backend_that_does_not_serve_it() {
    refused(
        &edited("\"netback\"", "\"netbakc\""),
        expect![[r#"
        error: The network of `toolstack-acme` is served by `netbakc`, which is not a VM of this host
            --> host.toml:133:11
            |
        133 | backend = "netbakc"
            |           ^^^^^^^^^
        help: did you mean `netback`?

        1 error in host.toml"#]],
    );
    refused(
        &edited("\"netback\"", "\"builder\""),
        expect![[r#"
        error: The network of `toolstack-acme` is served by `builder`, which serves no network
            --> host.toml:133:11
            |
        133 | backend = "builder"
            |           ^^^^^^^^^
        help: the only VM is `netback`

        1 error in host.toml"#]],
    );
    // It serves another tenant's guests.
    refused(
        &with(&NETWORK.replace("acme", "beta")),
        expect![[r#"
        error: The network of `toolstack-beta` is served by `netback`, which is no backend of tenant `beta`
            --> host.toml:133:11
            |
        133 | backend = "netback"
            |           ^^^^^^^^^
        help: add `netback = "why"` in `[tenant.beta.backends]`

        1 error in host.toml"#]],
    );
}

#[test]
fn addresses_that_are_none() {
    refused(
        &edited("10.0.2.40/24", "10.0.2.40"),
        expect![[r#"
        error: `10.0.2.40` is no IPv4 address with the length of its network's prefix
            --> host.toml:134:11
            |
        134 | address = "10.0.2.40"
            |           ^^^^^^^^^^^
        help: write for example `address = "10.0.2.40/24"`

        1 error in host.toml"#]],
    );
    refused(
        &edited("10.0.2.40/24", "10.0.2.255/24"),
        expect![[r#"
        error: 10.0.2.255 is the address of the whole network, or of all in it
            --> host.toml:134:11
            |
        134 | address = "10.0.2.255/24"
            |           ^^^^^^^^^^^^^^^
        help: write one between the two

        1 error in host.toml"#]],
    );
    refused(
        &edited("\"10.0.2.2\"", "\"10.0.3.2\""),
        expect![[r#"
        error: The gateway 10.0.3.2 is not a neighbour of 10.0.2.40/24
            --> host.toml:135:11
            |
        135 | gateway = "10.0.3.2"
            |           ^^^^^^^^^^
        help: write the address of a router in the same network

        1 error in host.toml"#]],
    );
    refused(
        &edited("\"10.0.2.2\"", "\"router\""),
        expect![[r#"
        error: `router` is no IPv4 address
            --> host.toml:135:11
            |
        135 | gateway = "router"
            |           ^^^^^^^^
        help: write for example `gateway = "10.0.2.2"`

        1 error in host.toml"#]],
    );
}

#[test]
fn what_is_missing_or_out_of_range() {
    refused(
        &edited("gateway = \"10.0.2.2\"\n", ""),
        expect![[r#"
        error: `[vm.toolstack-acme.network]` has no `gateway`
            --> host.toml:132:20
            |
        132 | [vm.toolstack-acme.network]
            |                    ^^^^^^^
        help: add it, for example `gateway = "10.0.2.2"`

        1 error in host.toml"#]],
    );
    refused(
        &edited("8443", "443"),
        expect![[r#"
        error: `port` of `[vm.toolstack-acme.network]` is 443
            --> host.toml:136:8
            |
        136 | port = 443
            |        ^^^
        help: write a number from 1024 to 65535

        1 error in host.toml"#]],
    );
    refused(
        &edited("port", "prot"),
        expect![[r#"
        error: `[vm.toolstack-acme.network]` has no `port`
            --> host.toml:132:20
            |
        132 | [vm.toolstack-acme.network]
            |                    ^^^^^^^
        help: add it, for example `port = 8443`

        error: Unknown key `prot` in `[vm.toolstack-acme.network]`
            --> host.toml:136:1
            |
        136 | prot = 8443
            | ^^^^
        help: did you mean `port`?

        2 errors in host.toml"#]],
    );
}

#[test]
fn only_a_toolstack_has_one() {
    refused(
        &with(&NETWORK.replace("toolstack-acme", "pciback")),
        expect![[r#"
        error: `pciback` has a `network`, but is of kind `pciback`
            --> host.toml:132:13
            |
        132 | [vm.pciback.network]
            |             ^^^^^^^
        help: take it out: only a VM of kind `toolstack` has one, for its operators

        1 error in host.toml"#]],
    );
}

#[test]
fn an_address_for_each() {
    let both = NETWORK.to_owned()
        + "[tenant.beta.backends]\nnetback = \"its guests' network\""
        + &NETWORK.replace("acme", "beta");
    refused(
        &with(&both),
        expect![[r#"
        error: The address 10.0.2.40 is taken twice
            --> host.toml:141:11
            |
        141 | address = "10.0.2.40/24"
            |           ^^^^^^^^^^^^^^
            ::: host.toml:134:11
            |
        134 | address = "10.0.2.40/24"
            |           ^^^^^^^^^^^^^^ `network` of `toolstack-acme`
        help: give each VM its own

        1 error in host.toml"#]],
    );
}
