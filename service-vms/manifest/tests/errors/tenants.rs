//! Tenants and their guests.

use expect_test::expect;

use super::{edited, refused};

#[test]
fn unknown_toolstack() {
    refused(
        &edited(&[("toolstack = \"tool\"", "toolstack = \"toool\"")]),
        expect![[r#"
        error: The toolstack `toool` of tenant `acme` is not a VM of this host
           --> host.toml:97:13
           |
        97 | toolstack = "toool"
           |             ^^^^^^^
        help: did you mean `tool`?

        1 error in host.toml"#]],
    );
}

#[test]
fn toolstack_of_another_kind() {
    refused(
        &edited(&[("toolstack = \"spare\"", "toolstack = \"build\"")]),
        expect![[r#"
            error: The toolstack `build` of tenant `other` is of kind `builder`
                --> host.toml:103:13
                |
            103 | toolstack = "build"
                |             ^^^^^^^
            help: write `tool` or `spare`

            1 error in host.toml"#]],
    );
}

#[test]
fn one_toolstack_for_two_tenants() {
    refused(
        &edited(&[("toolstack = \"spare\"", "toolstack = \"tool\"")]),
        expect![[r#"
        error: Tenants `acme` and `other` have one toolstack, `tool`
            --> host.toml:103:13
            |
        103 | toolstack = "tool"
            |             ^^^^^^
           ::: host.toml:97:13
           |
        97 | toolstack = "tool"
           |             ^^^^^^ tenant `acme`
        help: give each tenant a toolstack of its own: that is what keeps them apart

        1 error in host.toml"#]],
    );
}

#[test]
fn guest_with_unknown_tenant() {
    refused(
        &edited(&[("tenant = \"acme\"", "tenant = \"acne\"")]),
        expect![[r#"
        error: Guest `web` has the unknown tenant `acne`
            --> host.toml:109:10
            |
        109 | tenant = "acne"
            |          ^^^^^^
        help: did you mean `acme`?

        1 error in host.toml"#]],
    );
}

#[test]
fn more_guests_than_the_tenant_may_have() {
    refused(
        &edited(&[(
            "[guest.web]\n",
            "[guest.db]\ntenant = \"acme\"\nconfig = \"guests/db.toml\"\n[guest.web]\n",
        )]),
        expect![[r#"
            error: Guest `web` is number 2 of tenant `acme`, which may have 1
                --> host.toml:112:10
                |
            112 | tenant = "acme"
                |          ^^^^^^
                ::: host.toml:100:10
                |
            100 | guests = 1
                |          ^ the limit
            help: raise `guests` of the tenant, or start this guest later

            1 error in host.toml"#]],
    );
}

#[test]
fn guest_without_any_tenant() {
    refused(
        &edited(&[(
            "[tenant.acme]\ntoolstack = \"tool\"\nmemory-mib = 256\nvcpus = 4\nguests = 1\n\n[tenant.other]\ntoolstack = \"spare\"\nmemory-mib = 128\nvcpus = 2\nguests = 2\n",
            "",
        )]),
        expect![[r#"
            error: Guest `web` has the unknown tenant `acme`
               --> host.toml:98:10
               |
            98 | tenant = "acme"
               |          ^^^^^^
            help: there is no tenant yet: add one, or take this out

            1 error in host.toml"#]],
    );
}
