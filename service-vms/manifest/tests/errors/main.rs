//! Every mistake that the checker knows, with the exact text that it is reported with. `UPDATE_EXPECT=1 cargo test` writes
//! the texts anew: read the difference.
#![forbid(unsafe_code)]

mod channels;
mod kinds;
mod network;
mod order;
mod privileges;
mod quotas;
mod resources;
mod syntax;
mod tenants;
mod text;
mod xenstore;

use ennead_manifest::{MAX_MANIFEST_LENGTH, check};
use expect_test::{Expect, expect};

const VALID: &str = include_str!("../valid.toml");
const TENANTS: &str = include_str!("../tenants.toml");

/// The valid manifest with each `(old, new)` replaced once.
fn edited(edits: &[(&str, &str)]) -> String {
    edit(VALID, edits)
}

/// The same of the one with tenants.
fn edited_tenants(edits: &[(&str, &str)]) -> String {
    edit(TENANTS, edits)
}

fn edit(text: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old:?} is not in the manifest");
        text.replacen(old, new, 1)
    })
}

#[expect(clippy::needless_pass_by_value, reason = "`expect!` makes a value for one use")]
fn refused(text: &str, report: Expect) {
    report.assert_eq(&check("host.toml", text).expect_err("the checker found nothing").to_string());
}

#[test]
fn the_unedited_manifests_are_valid() {
    for text in [VALID, TENANTS] {
        assert!(check("host.toml", text).is_ok());
    }
}

#[test]
fn too_long() {
    refused(
        &" ".repeat(MAX_MANIFEST_LENGTH + 1),
        expect![[r#"
        error: The manifest has 131073 bytes, more than 131072
          --> host.toml
        help: is this really a host.toml? Take out what is not needed

        1 error in host.toml"#]],
    );
}

#[test]
fn empty() {
    refused(
        "",
        expect![[r#"
        error: There is no section `[host]`
          --> host.toml
        help: add `[host]`, as in Ennead's images/host.toml

        error: There is no section `[kernel]`
          --> host.toml
        help: add `[kernel]`, as in Ennead's images/host.toml

        error: There is no VM of kind `bootstrapper`
          --> host.toml
        help: every host has one: add `[vm.bootstrapper]`, as in Ennead's images/host.toml

        error: There is no VM of kind `builder`
          --> host.toml
        help: every host has one: add `[vm.builder]`, as in Ennead's images/host.toml

        error: There is no VM of kind `pciback`
          --> host.toml
        help: every host has one: add `[vm.pciback]`, as in Ennead's images/host.toml

        5 errors in host.toml"#]],
    );
}

#[test]
fn terminals_see_no_control_characters() {
    let report =
        check("a\u{1b}[2J", "\"\\u001b[2J\" = 1\n[vm.\"\\u001b\"]\n# \u{202e}\n").expect_err("nonsense");
    let report = report.to_string();
    assert!(report.contains("\\u{1b}[2J"), "{report}");
    assert!(!report.contains('\u{1b}') && !report.contains('\u{202e}'), "{report:?}");
}

#[test]
fn a_tab_and_wide_letters_leave_the_caret_in_place() {
    refused(
        &edited(&[("name = \"test\"", "\tname\t=\t\"äöü\"")]),
        expect![[r#"
        error: `äöü` is no name for the host
          --> host.toml:2:9
          |
        2 |  name = "äöü"
          |         ^^^^^
        help: a name is 1 to 32 of `a-z`, `0-9` and `-`, and does not begin with `-`

        1 error in host.toml"#]],
    );
}
