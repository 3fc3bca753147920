use expect_test::expect;

use crate::check;
use crate::fake::Fake;

#[test]
fn a_life() {
    let fake = Fake::new();
    check(
        &fake,
        &["volume", "create", "data", "--size", "10G"],
        &expect![[r#"
        data: 10.0 GiB, ready
    "#]],
    );
    check(
        &fake,
        &["volume", "copy", "data", "more"],
        &expect![[r#"
        more: 10.0 GiB, ready
    "#]],
    );
    check(
        &fake,
        &["volume", "resize", "more", "--size", "11G"],
        &expect![[r#"
        more: 11.0 GiB, ready
    "#]],
    );
    fake.memory().volumes.get_mut("data").unwrap().used_by.push("web".to_owned());
    check(
        &fake,
        &["volume", "list"],
        &expect![[r#"
        NAME      SIZE  STATE  USED BY  KEPT BY
        data  10.0 GiB  ready  web      blkback
        more  11.0 GiB  ready  -        blkback

        5.0 GiB are free
    "#]],
    );
    check(
        &fake,
        &["volume", "list", "--json"],
        &expect![[r#"
        {"volumes":[{"name":"data","backend":"blkback","bytes":10737418240,"used-by":["web"]},{"name":"more","backend":"blkback","bytes":11811160064,"used-by":[]}],"free-bytes":5368709120}
    "#]],
    );
    check(
        &fake,
        &["volume", "delete", "more"],
        &expect![[r#"
        more: deleted
    "#]],
    );
    check(
        &fake,
        &["volume", "delete", "more"],
        &expect![[r#"
        stderr: error: There is no volume `more`
        exit status: 4
    "#]],
    );
    check(
        &fake,
        &["volume", "create", "../x", "--size", "1G"],
        &expect![[r#"
        stderr: error: invalid value '../x' for '<NAME>': a volume's name is 1 to 32 of a-z, 0-9, `_` and `-`, the first a letter or digit
        stderr:
        stderr: For more information, try '--help'.
        exit status: 2
    "#]],
    );
}
