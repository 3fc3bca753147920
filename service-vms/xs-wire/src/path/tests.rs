use alloc::{format, vec, vec::Vec};

use proptest::prelude::*;

use super::{canonical, counted_len, is_special, is_valid, name, parent, push_domain, relative_to, segments};
use crate::{ABS_PATH_MAX, Errno, REL_PATH_MAX};

/// `prefix` and as many letters as make `len` bytes.
fn padded(prefix: &str, len: usize) -> Vec<u8> {
    let mut path = prefix.as_bytes().to_vec();
    path.resize(len, b'x');
    path
}

fn canonical_of(path: &[u8], domid: u16) -> Result<Vec<u8>, Errno> {
    let mut out = b"left over".to_vec();
    canonical(path, domid, &mut out).map(|()| out)
}

#[test]
fn accepts_good_paths() {
    for path in
        ["/", "/a", "/a/b", "/local/domain/0", "/A-z_0@9/-/_", "/@introduceDomain", "/local/domain/-1/x"]
    {
        assert!(is_valid(path.as_bytes()), "{path}");
    }
}

#[test]
fn refuses_bad_paths() {
    for path in [
        "",
        "a",
        "a/b",
        "//",
        "/a/",
        "/a//b",
        "//a",
        "/a b",
        "/a.b",
        "/a:b",
        "/a\0",
        "/é",
        "@introduceDomain",
        "/a\n",
    ] {
        assert!(!is_valid(path.as_bytes()), "{path:?}");
    }
}

#[test]
fn every_byte_is_allowed_or_not_as_the_specification_says() {
    let allowed = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@";
    for byte in 0..=u8::MAX {
        assert_eq!(is_valid(&[b'/', b'a', byte, b'b']), allowed.contains(&byte), "{byte}");
    }
}

#[test]
fn lengths_count_after_the_domains_directory() {
    assert!(is_valid(&padded("/", ABS_PATH_MAX)));
    assert!(!is_valid(&padded("/", ABS_PATH_MAX + 1)));
    for prefix in ["/local/domain/7/", "/local/domain/65535/"] {
        assert!(is_valid(&padded(prefix, prefix.len() + REL_PATH_MAX)));
        assert!(!is_valid(&padded(prefix, prefix.len() + REL_PATH_MAX + 1)));
    }
}

#[test]
fn counts_without_the_domains_directory() {
    for (path, counted) in [
        ("/local/domain/7/abc", 3),
        ("/local/domain/65535/a", 1),
        ("/local/domain/99999/a/b", 3),
        ("/local/domain/7/", 0),
        ("/local/domain/7", 15),
        ("/local/domain/123456/a", 22),
        ("/local/domain/x/a", 17),
        ("/local/domain//a", 16),
        ("/local/domain/", 14),
        ("/vm/7/a", 7),
        ("/", 1),
    ] {
        assert_eq!(counted_len(path.as_bytes()), counted, "{path}");
    }
}

#[test]
fn canonical_adds_the_domains_directory() {
    assert_eq!(canonical_of(b"a/b", 5), Ok(b"/local/domain/5/a/b".to_vec()));
    assert_eq!(canonical_of(b"a", 0), Ok(b"/local/domain/0/a".to_vec()));
    assert_eq!(canonical_of(b"a", u16::MAX), Ok(b"/local/domain/65535/a".to_vec()));
    assert_eq!(canonical_of(b"/a/b", 5), Ok(b"/a/b".to_vec()));
    assert_eq!(canonical_of(b"/", 5), Ok(b"/".to_vec()));
    assert_eq!(canonical_of(b"@releaseDomain", 5), Ok(b"@releaseDomain".to_vec()));
    for bad in [&b""[..], b"a/", b"a//b", b"a b", b"/a/", b"//"] {
        assert_eq!(canonical_of(bad, 5), Err(Errno::Einval), "{bad:?}");
    }
}

#[test]
fn xsa_323_the_length_is_that_of_the_whole_path() {
    assert!(canonical_of(&padded("a", REL_PATH_MAX), 5).is_ok());
    assert_eq!(canonical_of(&padded("a", REL_PATH_MAX + 1), 5), Err(Errno::Einval));
    let written_out = padded("/local/domain/5/", 16 + REL_PATH_MAX + 1);
    assert_eq!(canonical_of(&written_out, 5), Err(Errno::Einval));
    assert!(canonical_of(&padded("@", REL_PATH_MAX), 5).is_ok());
    assert_eq!(canonical_of(&padded("@", REL_PATH_MAX + 1), 5), Err(Errno::Einval));
}

#[test]
fn parents_and_names() {
    for (path, up, last) in [("/a", "/", "a"), ("/a/b", "/a", "b"), ("/a/b/cd", "/a/b", "cd")] {
        assert_eq!(parent(path.as_bytes()), Some(up.as_bytes()), "{path}");
        assert_eq!(name(path.as_bytes()), Some(last.as_bytes()), "{path}");
    }
    for path in ["/", "@releaseDomain", ""] {
        assert_eq!(parent(path.as_bytes()), None, "{path}");
        assert_eq!(name(path.as_bytes()), None, "{path}");
    }
}

#[test]
fn segments_from_the_root() {
    assert_eq!(segments(b"/").count(), 0);
    assert_eq!(segments(b"/a/bc/d").collect::<Vec<_>>(), vec![&b"a"[..], b"bc", b"d"]);
}

#[test]
fn relative_paths() {
    for (path, prefix, rest) in [
        ("/a/b", "/a", Some("b")),
        ("/a/b/c", "/a", Some("b/c")),
        ("/a", "/a", Some("")),
        ("/ab", "/a", None),
        ("/a", "/a/b", None),
        ("/a/b", "/", Some("a/b")),
        ("/", "/", Some("")),
        ("@releaseDomain", "/", None),
        ("@releaseDomain", "@releaseDomain", Some("")),
        ("@releaseDomain", "@release", None),
    ] {
        assert_eq!(
            relative_to(path.as_bytes(), prefix.as_bytes()),
            rest.map(str::as_bytes),
            "{path} {prefix}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_safe(path: Vec<u8>, prefix: Vec<u8>, domid: u16) {
        let mut out = Vec::new();
        let good = canonical(&path, domid, &mut out).is_ok();
        prop_assert_eq!(good, is_valid(&out) || (is_special(&out) && out.len() <= REL_PATH_MAX));
        let _ = (parent(&path), name(&path), segments(&path).count(), relative_to(&path, &prefix));
        prop_assert!(counted_len(&path) <= path.len());
    }

    #[test]
    fn valid_paths_come_apart_and_together(parts in prop::collection::vec("[A-Za-z0-9_@-]{1,8}", 1..9), domid: u16) {
        let joined = parts.join("/");
        let path = format!("/{joined}");
        prop_assert!(is_valid(path.as_bytes()));
        let found: Vec<&[u8]> = segments(path.as_bytes()).collect();
        prop_assert_eq!(found, parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        let up = parent(path.as_bytes()).expect("not the root");
        prop_assert_eq!(relative_to(path.as_bytes(), up), name(path.as_bytes()));
        prop_assert_eq!(name(path.as_bytes()), parts.last().map(|part| part.as_bytes()));

        let mut home = Vec::new();
        push_domain(domid, &mut home);
        if !joined.starts_with('@') {
            let whole = canonical_of(joined.as_bytes(), domid).expect("good");
            prop_assert_eq!(relative_to(&whole, &home), Some(joined.as_bytes()));
            prop_assert_eq!(counted_len(&whole), joined.len());
        }
    }
}
