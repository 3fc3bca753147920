use super::world::World;

#[test]
fn the_owner_the_named_and_the_others() {
    let mut w = World::new();
    let [one, two, three] = [1, 2, 3].map(|domid| w.guest(domid));
    w.op("write /n v");
    w.expect("chmod /n r1 w2 n3", "OK|");
    assert_eq!(w.by(one, "write /n 1"), "OK|");
    assert_eq!(w.by(two, "read /n"), "EACCES|");
    assert_eq!(w.by(two, "write /n 2"), "OK|");
    assert_eq!(w.by(three, "read /n"), "EACCES|");
    let four = w.guest(4);
    assert_eq!(w.by(four, "read /n"), "2");
    assert_eq!(w.by(four, "write /n 4"), "EACCES|");
    assert_eq!(w.by(four, "perms /n"), "r1|w2|n3|");
}

#[test]
fn only_the_owner_changes_permissions_and_only_the_operator_the_owner() {
    let mut w = World::new();
    let (one, two) = (w.guest(1), w.guest(2));
    w.op("write /n v");
    w.expect("chmod /n b1 b2", "OK|");
    assert_eq!(w.by(two, "chmod /n b1"), "EACCES|");
    assert_eq!(w.by(one, "chmod /n n1 r2"), "OK|");
    assert_eq!(w.by(one, "chmod /n n2"), "EPERM|");
    assert_eq!(w.by(one, "perms /n"), "n1|r2|");
    w.expect("chmod /n n2", "OK|");
    assert_eq!(w.by(one, "perms /n"), "EACCES|");
    w.check();
}

#[test]
fn new_nodes_inherit_and_belong_to_their_creator() {
    let mut w = World::new();
    let one = w.guest(1);
    w.op("write /d");
    w.expect("chmod /d b0 r1 w9", "OK|");
    w.expect("write /d/operators 1", "OK|");
    w.expect("perms /d/operators", "b0|r1|w9|");
    w.expect("chmod /d b0", "OK|");
    assert_eq!(w.by(one, "write /d/x/y 1"), "OK|");
    w.expect("perms /d/x", "b1|");
    w.expect("perms /d/x/y", "b1|");
    // The operator's nodes below belong to the guest.
    w.expect("write /d/x/z 1", "OK|");
    w.expect("perms /d/x/z", "b1|");
    assert_eq!(w.nodes_of(1), 4);
    w.check();
}

#[test]
fn who_has_no_rights_above_does_not_learn_what_is_missing() {
    let mut w = World::new();
    let one = w.guest(1);
    w.op("write /secret/a");
    w.op("write /open");
    w.op("chmod /open r0");
    for op in ["read", "ls", "perms", "write", "mkdir", "rm"] {
        assert_eq!(w.by(one, &alloc::format!("{op} /secret/missing/deep")), "EACCES|", "{op}");
        assert_eq!(w.by(one, &alloc::format!("{op} /secret/a")), "EACCES|", "{op}");
    }
    assert_eq!(w.by(one, "read /open/missing"), "ENOENT|");
    assert_eq!(w.by(one, "write /open/missing"), "EACCES|");
    assert_eq!(w.by(one, "rm /open/missing"), "EACCES|");
}

#[test]
fn domains_that_do_not_exist_own_nothing_and_get_nothing() {
    let mut w = World::new();
    w.op("write /n v");
    w.expect("chmod /n n9", "ENOENT|");
    w.expect("chmod /n n0 r9", "OK|");
    w.expect("perms /n", "n0|r9|");
    let nine = w.guest(9);
    assert_eq!(w.by(nine, "read /n"), "EACCES|");
    w.expect("perms /n", "n0|r9|");
    // Nor does a later change of the node make the entry count.
    w.expect("write /n w", "OK|");
    assert_eq!(w.by(nine, "read /n"), "EACCES|");
    w.expect("chmod /n n0 r9", "OK|");
    assert_eq!(w.by(nine, "read /n"), "w");
    w.check();
}

#[test]
fn a_stub_domain_has_its_targets_rights() {
    let mut w = World::new();
    let (stub, target) = (w.guest(6), w.guest(5));
    assert_eq!(w.by(target, "write data 1"), "OK|");
    assert_eq!(w.by(stub, "read /local/domain/5/data"), "EACCES|");
    w.expect("target 6 5", "OK|");
    assert_eq!(w.by(stub, "read /local/domain/5/data"), "1");
    assert_eq!(w.by(stub, "write /local/domain/5/data 2"), "OK|");
    assert_eq!(w.by(target, "read /local/domain/6"), "EACCES|");
    assert_eq!(w.op("target 6 7"), "ENOENT|");
    assert_eq!(w.by(stub, "target 6 5"), "EACCES|");
}

#[test]
fn special_paths_have_permissions() {
    let mut w = World::new();
    let one = w.guest(1);
    assert_eq!(w.by(one, "chmod @releaseDomain r0"), "EACCES|");
    w.expect("chmod @nothing r0", "EINVAL|");
    assert_eq!(w.by(one, "watch @releaseDomain t"), "OK|");
    assert_eq!(w.events(one), ["@releaseDomain t"]);
    w.guest(2);
    w.state.domain_shut_down(2);
    assert_eq!(w.events(one).len(), 0);
    w.expect("chmod @releaseDomain n0 r1", "OK|");
    w.state.died(2);
    assert_eq!(w.events(one), ["@releaseDomain t"]);
    // Owner: may change them.
    w.expect("chmod @introduceDomain n1", "OK|");
    assert_eq!(w.by(one, "chmod @introduceDomain b1"), "OK|");
}
