//! Tenants and their guests.

use ennead_manifest::check;
use expect_test::expect;

use super::{edited_tenants, refused};

#[test]
fn unknown_toolstack() {
    refused(
        &edited_tenants(&[("toolstack = \"toolstack-acme\"", "toolstack = \"toolstack-acne\"")]),
        expect![[r#"
            error: The toolstack `toolstack-acne` of tenant `acme` is not a VM of this host
                --> host.toml:103:13
                |
            103 | toolstack = "toolstack-acne"
                |             ^^^^^^^^^^^^^^^^
            help: did you mean `toolstack-acme`?

            1 error in host.toml"#]],
    );
}

#[test]
fn toolstack_of_another_kind() {
    refused(
        &edited_tenants(&[("toolstack = \"toolstack-beta\"", "toolstack = \"builder\"")]),
        expect![[r#"
            error: The toolstack `builder` of tenant `beta` is of kind `builder`
                --> host.toml:109:13
                |
            109 | toolstack = "builder"
                |             ^^^^^^^^^
            help: write `toolstack-acme` or `toolstack-beta`

            1 error in host.toml"#]],
    );
}

#[test]
fn one_toolstack_for_two_tenants() {
    refused(
        &edited_tenants(&[("toolstack = \"toolstack-beta\"", "toolstack = \"toolstack-acme\"")]),
        expect![[r#"
            error: Tenants `acme` and `beta` have one toolstack, `toolstack-acme`
                --> host.toml:109:13
                |
            109 | toolstack = "toolstack-acme"
                |             ^^^^^^^^^^^^^^^^
                ::: host.toml:103:13
                |
            103 | toolstack = "toolstack-acme"
                |             ^^^^^^^^^^^^^^^^ tenant `acme`
            help: give each tenant a toolstack of its own: that is what keeps them apart

            1 error in host.toml"#]],
    );
}

#[test]
fn guest_with_unknown_tenant() {
    refused(
        &edited_tenants(&[("tenant = \"acme\"", "tenant = \"acne\"")]),
        expect![[r#"
            error: Guest `web` has the unknown tenant `acne`
                --> host.toml:115:10
                |
            115 | tenant = "acne"
                |          ^^^^^^
            help: did you mean `acme`?

            1 error in host.toml"#]],
    );
}

#[test]
fn more_guests_than_the_tenant_may_have() {
    refused(
        &edited_tenants(&[(
            "[guest.web]\n",
            "[guest.db]\ntenant = \"acme\"\nconfig = \"guests/db.toml\"\n[guest.web]\n",
        )]),
        expect![[r#"
            error: Guest `web` is number 2 of tenant `acme`, which may have 1
                --> host.toml:118:10
                |
            118 | tenant = "acme"
                |          ^^^^^^
                ::: host.toml:106:10
                |
            106 | guests = 1
                |          ^ the limit
            help: raise `guests` of the tenant, or start this guest later

            1 error in host.toml"#]],
    );
}

#[test]
fn guest_without_any_tenant() {
    refused(
        &edited_tenants(&[(
            "[tenant.acme]\ntoolstack = \"toolstack-acme\"\nmemory-mib = 256\nvcpus = 4\nguests = 1\n\n[tenant.beta]\ntoolstack = \"toolstack-beta\"\nmemory-mib = 128\nvcpus = 2\nguests = 2\n",
            "",
        )]),
        expect![[r#"
            error: `toolstack-acme` is a toolstack, but no tenant's
               --> host.toml:82:5
               |
            82 | [vm.toolstack-acme]
               |     ^^^^^^^^^^^^^^
            help: add `[tenant.NAME]` with `toolstack = "toolstack-acme"`

            error: `toolstack-beta` is a toolstack, but no tenant's
               --> host.toml:92:5
               |
            92 | [vm.toolstack-beta]
               |     ^^^^^^^^^^^^^^
            help: add `[tenant.NAME]` with `toolstack = "toolstack-beta"`

            error: Guest `web` has the unknown tenant `acme`
                --> host.toml:104:10
                |
            104 | tenant = "acme"
                |          ^^^^^^
            help: there is no tenant yet: add one, or take this out

            3 errors in host.toml"#]],
    );
}

#[test]
fn toolstack_without_tenant() {
    refused(
        &edited_tenants(&[(
            "[tenant.beta]\ntoolstack = \"toolstack-beta\"\nmemory-mib = 128\nvcpus = 2\nguests = 2\n",
            "",
        )]),
        expect![[r#"
            error: `toolstack-beta` is a toolstack, but no tenant's
               --> host.toml:92:5
               |
            92 | [vm.toolstack-beta]
               |     ^^^^^^^^^^^^^^
            help: add `[tenant.NAME]` with `toolstack = "toolstack-beta"`

            1 error in host.toml"#]],
    );
}

#[test]
fn a_program_that_is_no_toolstack_needs_no_tenant() {
    let text = edited_tenants(&[
        ("[tenant.beta]\ntoolstack = \"toolstack-beta\"\nmemory-mib = 128\nvcpus = 2\nguests = 2\n", ""),
        ("[vm.toolstack-beta]\n", "[vm.toolstack-beta]\nprogram = \"test\"\n"),
    ]);
    let plan = check("host.toml", &text).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(plan.vm("toolstack-beta").unwrap().running_type(), "toolstack_t");
}

#[test]
fn toolstack_that_lacks_builder_and_xenstore() {
    refused(
        &edited_tenants(&[
            ("answers = [\"toolstack-acme\", \"toolstack-beta\"]", "answers = [\"toolstack-acme\"]"),
            ("xenstore = \"the trees of Beta's guests\"\n", ""),
            ("[vm.toolstack-beta.talks-to]\nbuilder = \"asks it to build Beta's guests\"\n", ""),
        ]),
        expect![[r#"
            error: `toolstack-beta` has no channel to `builder`, but it asks it to build its tenant's guests
               --> host.toml:92:5
               |
            92 | [vm.toolstack-beta]
               |     ^^^^^^^^^^^^^^
            help: add `builder = "why"` under `[vm.toolstack-beta.talks-to]`, and `toolstack-beta` to `answers` of `builder`

            error: `toolstack-beta` has no XenStore ring, but it writes there what its tenant's guests find
               --> host.toml:92:5
               |
            92 | [vm.toolstack-beta]
               |     ^^^^^^^^^^^^^^
            help: write `xenstore = "why"` in `[vm.toolstack-beta]`

            2 errors in host.toml"#]],
    );
}

#[test]
fn names_that_would_make_two_types_one() {
    for name in ["building", "acme-building", "acme-self", "channel", "acme-starting"] {
        let text = edited_tenants(&[("[tenant.beta]", &format!("[tenant.{name}]"))]);
        let report = check("host.toml", &text).expect_err(name).to_string();
        assert!(report.contains(&format!("error: `{name}` is no name for a tenant")), "{report}");
    }
    refused(
        &edited_tenants(&[("[tenant.beta]", "[tenant.acme-building]")]),
        expect![[r#"
        error: `acme-building` is no name for a tenant
            --> host.toml:108:9
            |
        108 | [tenant.acme-building]
            |         ^^^^^^^^^^^^^
        help: take one that does not end in `building`, `starting`, `self` or `channel`: types of the policy end so

        1 error in host.toml"#]],
    );
}

#[test]
fn backends_that_serve_nothing() {
    let limits = "guests = 2";
    let backends = "guests = 2\n[tenant.beta.backends]\nnetbakc = \"its NICs\"\nbuilder = \"\"";
    refused(
        &edited_tenants(&[(limits, backends)]),
        expect![[r#"
        error: The backend `netbakc` of tenant `beta` is not a VM of this host
            --> host.toml:114:1
            |
        114 | netbakc = "its NICs"
            | ^^^^^^^
        help: there is no backend yet: add one, or take this out

        error: The backend `builder` of tenant `beta` serves neither disks nor NICs
            --> host.toml:115:1
            |
        115 | builder = ""
            | ^^^^^^^
        help: there is no backend yet: add one, or take this out

        error: The backend `builder` has no reason
            --> host.toml:115:11
            |
        115 | builder = ""
            |           ^^
        help: say in a few words why: the reason stands in the policy and in the logs

        3 errors in host.toml"#]],
    );
}
