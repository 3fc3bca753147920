use alloc::vec::Vec;

use ennead_xs_wire::Access;

use super::*;
use crate::perms::Entry;

fn perms(tree: &mut Tree, domid: u16) -> PermsId {
    tree.perms.intern(&[Entry { domid, access: Access::None, ignored: false }])
}

/// `/a/b` and `/c`.
fn tree() -> (Tree, NodeId) {
    let mut tree = Tree::new();
    let list = perms(&mut tree, 0);
    let mut root = tree.root(list, 1);
    for (parent, name) in [("/", "a"), ("/a", "b"), ("/", "c")] {
        let at = tree.edit(&mut root, parent.as_bytes()).expect("it is there");
        let list = perms(&mut tree, 0);
        tree.attach(at, name.as_bytes(), b"1", list, 1);
    }
    (tree, root)
}

fn value<'a>(tree: &'a Tree, root: NodeId, path: &str) -> Option<&'a [u8]> {
    tree.find(root, path.as_bytes()).map(|id| tree.value(id))
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let (mut tree, mut root) = tree();
    let snapshot = tree.share(root);
    let id = tree.edit(&mut root, b"/a/b").expect("it is there");
    tree.set_value(id, b"2");
    let at = tree.edit(&mut root, b"/").expect("it is there");
    let gone = tree.detach(at, b"c").expect("it is there");
    tree.release(gone);
    assert_eq!(value(&tree, root, "/a/b"), Some(b"2".as_slice()));
    assert_eq!(value(&tree, snapshot, "/a/b"), Some(b"1".as_slice()));
    assert_eq!(value(&tree, root, "/c"), None);
    assert_eq!(value(&tree, snapshot, "/c"), Some(b"1".as_slice()));
    assert_eq!(tree.verify([root, snapshot].into_iter(), core::iter::empty()), Ok(()));
    tree.release(snapshot);
    assert_eq!(tree.totals().0, 3);
    assert_eq!(tree.verify([root].into_iter(), core::iter::empty()), Ok(()));
    tree.release(root);
    assert_eq!(tree.totals(), (0, 0));
    assert_eq!(tree.perms.references().count(), 0);
}

#[test]
fn only_what_changes_is_copied() {
    let (mut tree, mut root) = tree();
    let snapshot = tree.share(root);
    let shared = tree.find(root, b"/c");
    let id = tree.edit(&mut root, b"/a/b").expect("it is there");
    assert_eq!(tree.totals().0, 4 + 3);
    assert_eq!(tree.edit(&mut root, b"/a/b"), Some(id));
    assert_eq!(tree.totals().0, 4 + 3);
    assert_eq!(tree.find(root, b"/c"), shared);
    assert_eq!(tree.find(snapshot, b"/c"), shared);
}

#[test]
fn children_are_found_by_name_and_listed_by_age() {
    let (mut tree, mut root) = tree();
    for number in (0..100).rev() {
        let at = tree.edit(&mut root, b"/c").expect("it is there");
        let list = perms(&mut tree, number);
        tree.attach(at, alloc::format!("n{number}").as_bytes(), b"", list, 1);
    }
    let at = tree.edit(&mut root, b"/c").expect("it is there");
    for number in [0, 99, 50] {
        let gone = tree.detach(at, alloc::format!("n{number}").as_bytes()).expect("it is there");
        tree.release(gone);
    }
    assert_eq!(tree.detach(at, b"n50"), None);
    let listing = tree.listing(at);
    assert!(listing.starts_with(b"n98\0n97\0n96\0") && listing.ends_with(b"n2\0n1\0"));
    assert_eq!(tree.find(root, b"/c/n7").map(|id| tree.owner(id)), Some(7));
    assert_eq!(tree.find(root, b"/c/n50"), None);
    assert_eq!(tree.verify([root].into_iter(), core::iter::empty()), Ok(()));
}

#[test]
fn a_walk_goes_parents_first_and_where_it_is_let() {
    let (tree, root) = tree();
    let mut seen = Vec::new();
    tree.walk(root, b"/", |_, path| {
        seen.push(path.to_vec());
        path != b"/a"
    });
    assert_eq!(seen, [b"/".as_slice(), b"/a", b"/c"]);
    let mut below = Vec::new();
    let a = tree.find(root, b"/a").expect("it is there");
    tree.walk(a, b"/a", |id, path| {
        below.push((path.to_vec(), tree.name(id).to_vec()));
        true
    });
    assert_eq!(below, [(b"/a".to_vec(), b"a".to_vec()), (b"/a/b".to_vec(), b"b".to_vec())]);
}

#[test]
fn wrong_counts_are_found() {
    let (mut tree, root) = tree();
    let leaked = tree.share(root);
    assert!(tree.verify([root].into_iter(), core::iter::empty()).is_err());
    tree.release(leaked);
    let list = perms(&mut tree, 0);
    assert!(tree.verify([root].into_iter(), core::iter::empty()).is_err());
    assert_eq!(tree.verify([root].into_iter(), [list].into_iter()), Ok(()));
    tree.bytes += 1;
    assert!(tree.verify([root].into_iter(), [list].into_iter()).is_err());
}

/// The sizes that the figure of bytes a node rests on.
#[test]
fn a_node_is_small() {
    assert!(size_of::<Node>() <= 48);
    assert_eq!(size_of::<Option<Node>>(), size_of::<Node>());
}
