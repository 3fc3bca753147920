use alloc::{string::String, vec, vec::Vec};

use proptest::prelude::*;

use super::Request;
use crate::{Access, Errno, Header, Op, Perm, Raw, text::with_nuls};

fn decode(op: Op, payload: &[u8]) -> Result<Request<'_>, Errno> {
    Request::decode(op as u32, payload)
}

/// One request of each kind, with its bytes as the specification writes them: `|` is a NUL.
fn table() -> Vec<(Op, &'static str, Request<'static>)> {
    let path = &b"/a/b"[..];
    let perms = vec![Perm { access: Access::None, domid: 0 }, Perm { access: Access::Both, domid: 17 }];
    vec![
        (Op::Control, "print|hello|", Request::Control(b"print\0hello\0")),
        (Op::Directory, "/a/b|", Request::Directory { path }),
        (Op::Read, "/a/b|", Request::Read { path }),
        (Op::GetPerms, "/a/b|", Request::GetPerms { path }),
        (Op::Watch, "/a/b|t k|", Request::Watch { path, token: b"t k" }),
        (Op::Unwatch, "/a/b||", Request::Unwatch { path, token: b"" }),
        (Op::TransactionStart, "|", Request::TransactionStart),
        (Op::TransactionEnd, "T|", Request::TransactionEnd { commit: true }),
        (Op::TransactionEnd, "F|", Request::TransactionEnd { commit: false }),
        (Op::Introduce, "5|1048575|7|", Request::Introduce { domid: 5, gfn: 0xf_ffff, port: 7 }),
        (Op::Release, "5|", Request::Release { domid: 5 }),
        (Op::GetDomainPath, "65535|", Request::GetDomainPath { domid: 65535 }),
        (Op::Write, "/a/b|va|l", Request::Write { path, value: b"va\0l" }),
        (Op::Write, "/a/b|", Request::Write { path, value: b"" }),
        (Op::Mkdir, "/a/b|", Request::Mkdir { path }),
        (Op::Rm, "/a/b|", Request::Rm { path }),
        (Op::SetPerms, "/a/b|n0|b17|", Request::SetPerms { path, perms }),
        (Op::IsDomainIntroduced, "0|", Request::IsDomainIntroduced { domid: 0 }),
        (Op::Resume, "5|", Request::Resume { domid: 5 }),
        (Op::SetTarget, "5|6|", Request::SetTarget { domid: 5, target: 6 }),
        (Op::ResetWatches, "|", Request::ResetWatches),
        (Op::DirectoryPart, "/a/b|4000|", Request::DirectoryPart { path, offset: 4000 }),
    ]
}

#[test]
fn each_operation_as_specified() {
    for (op, payload, request) in table() {
        let payload = with_nuls(payload);
        assert_eq!(decode(op, &payload), Ok(request.clone()), "{op:?}");
        assert_eq!(request.op(), op);
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        assert_eq!(bytes, payload, "{op:?}");
    }
}

#[test]
fn whole_message() {
    let request = Request::Read { path: b"/a" };
    assert_eq!(request.message(3, 4), b"\x02\0\0\0\x03\0\0\0\x04\0\0\0\x03\0\0\0/a\0");
}

#[test]
fn unknown_operations() {
    for op in [Op::WatchEvent as u32, Op::Error as u32, 20, 23, 24, 25, 26, 27, 0xffff, u32::MAX] {
        for payload in [&b""[..], b"\0", b"/a\0", b"/a"] {
            assert_eq!(Request::decode(op, payload), Err(Errno::Enosys), "{op}");
        }
    }
}

#[test]
fn no_payload() {
    for op in (0..=22).filter_map(Op::from_u32).filter(|op| !matches!(op, Op::WatchEvent | Op::Error)) {
        let expected = match op {
            Op::TransactionStart => Ok(Request::TransactionStart),
            Op::ResetWatches => Ok(Request::ResetWatches),
            _ => Err(Errno::Einval),
        };
        assert_eq!(decode(op, b""), expected, "{op:?}");
    }
}

#[test]
fn start_and_reset_take_anything() {
    for payload in [&b"x"[..], b"a\0b\0", b"\0\0"] {
        assert_eq!(decode(Op::TransactionStart, payload), Ok(Request::TransactionStart));
        assert_eq!(decode(Op::ResetWatches, payload), Ok(Request::ResetWatches));
    }
}

#[test]
fn wrong_forms() {
    let one_string = [Op::Directory, Op::Read, Op::GetPerms, Op::Mkdir, Op::Rm];
    let one_domid = [Op::Release, Op::Resume, Op::GetDomainPath, Op::IsDomainIntroduced];
    let mut wrong = Vec::new();
    for op in one_string {
        wrong.extend([(op, "/a"), (op, "/a|b"), (op, "/a||")]);
    }
    for op in one_domid {
        for payload in ["5", "|", "abc|", "5||", "-1|", "65536|", "70000|", " 5|", "5x|", "05|"] {
            wrong.push((op, payload));
        }
    }
    wrong.extend([
        (Op::Control, "check"),
        (Op::Write, "/a"),
        (Op::Watch, "/a|"),
        (Op::Watch, "/a|token"),
        (Op::Watch, "/a|token|1|"),
        (Op::Unwatch, "/a|"),
        (Op::Unwatch, "/a|token||"),
        (Op::TransactionEnd, "T"),
        (Op::TransactionEnd, "|"),
        (Op::TransactionEnd, "t|"),
        (Op::TransactionEnd, "TF|"),
        (Op::TransactionEnd, "T||"),
        (Op::Introduce, "5|7|"),
        (Op::Introduce, "5|1|7"),
        (Op::Introduce, "5|1|0|"),
        (Op::Introduce, "5|1|4294967296|"),
        (Op::Introduce, "x|1|7|"),
        (Op::SetTarget, "5|"),
        (Op::SetTarget, "5|6"),
        (Op::SetTarget, "5|x|"),
        (Op::SetTarget, "65536|1|"),
        (Op::SetPerms, "/a|"),
        (Op::SetPerms, "/a|r0"),
        (Op::SetPerms, "/a||"),
        (Op::SetPerms, "/a|x0|"),
        (Op::SetPerms, "/a|r|"),
        (Op::SetPerms, "/a|r0||"),
        (Op::SetPerms, "/a|r0|w65536|"),
        (Op::DirectoryPart, "/a|"),
        (Op::DirectoryPart, "/a|0"),
        (Op::DirectoryPart, "/a|0||"),
    ]);
    for (op, payload) in wrong {
        assert_eq!(decode(op, &with_nuls(payload)), Err(Errno::Einval), "{op:?} {payload:?}");
    }
}

#[test]
fn what_c_ignores_is_ignored() {
    let path = &b"/a"[..];
    let perms = vec![Perm { access: Access::Read, domid: 0 }];
    for (op, payload, request) in [
        (Op::Control, "check|tail", Request::Control(b"check\0")),
        (Op::Watch, "/a|t|tail", Request::Watch { path, token: b"t" }),
        (Op::Unwatch, "/a|t|tail", Request::Unwatch { path, token: b"t" }),
        (Op::SetPerms, "/a|r0|tail", Request::SetPerms { path, perms }),
        (Op::SetTarget, "5|6|7|tail", Request::SetTarget { domid: 5, target: 6 }),
        (Op::Introduce, "5|1|7|path|tail", Request::Introduce { domid: 5, gfn: 1, port: 7 }),
        (Op::Introduce, "5|-1|7|", Request::Introduce { domid: 5, gfn: 0, port: 7 }),
        (Op::DirectoryPart, "/a|2|tail", Request::DirectoryPart { path, offset: 2 }),
    ] {
        assert_eq!(decode(op, &with_nuls(payload)), Ok(request), "{payload:?}");
    }
}

#[test]
fn offsets_as_atoi_reads_them() {
    for (text, offset) in [
        ("0", 0),
        ("12", 12),
        ("012", 12),
        (" 12", 12),
        ("+12", 12),
        ("12abc", 12),
        ("", 0),
        ("abc", 0),
        ("-0", 0),
        ("-1", u32::MAX),
        ("99999999999", u32::MAX),
    ] {
        let payload = [b"/a\0", text.as_bytes(), b"\0"].concat();
        assert_eq!(
            decode(Op::DirectoryPart, &payload),
            Ok(Request::DirectoryPart { path: b"/a", offset }),
            "{text:?}"
        );
    }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=u8::MAX, 0..40)
}

fn perm() -> impl Strategy<Value = Perm> {
    let access = prop::sample::select(vec![Access::None, Access::Read, Access::Write, Access::Both]);
    (access, any::<u16>()).prop_map(|(access, domid)| Perm { access, domid })
}

proptest! {
    #[test]
    fn comes_back(
        path in text(), token in text(), value: Vec<u8>, perms in prop::collection::vec(perm(), 1..12),
        domid: u16, target: u16, gfn: u64, port in 1..=u32::MAX, offset: u32, commit: bool,
    ) {
        let control = [&path[..], b"\0", &value, b"\0"].concat();
        for request in [
            Request::Control(&control),
            Request::Directory { path: &path },
            Request::DirectoryPart { path: &path, offset },
            Request::Read { path: &path },
            Request::GetPerms { path: &path },
            Request::Watch { path: &path, token: &token },
            Request::Unwatch { path: &path, token: &token },
            Request::TransactionStart,
            Request::TransactionEnd { commit },
            Request::Introduce { domid, gfn, port },
            Request::Release { domid },
            Request::GetDomainPath { domid },
            Request::Write { path: &path, value: &value },
            Request::Mkdir { path: &path },
            Request::Rm { path: &path },
            Request::SetPerms { path: &path, perms },
            Request::IsDomainIntroduced { domid },
            Request::Resume { domid },
            Request::SetTarget { domid, target },
            Request::ResetWatches,
        ] {
            let message = request.message(offset, port);
            let (raw, used) = Raw::split(&message).expect("short").expect("whole");
            prop_assert_eq!(used, message.len());
            let header = Header { op: request.op() as u32, request_id: offset, tx_id: port, len: raw.payload.len() };
            prop_assert_eq!(raw.header, header);
            prop_assert_eq!(Request::decode(raw.header.op, raw.payload), Ok(request));
        }
    }

    /// Whatever decodes is the same request after its own encoding: nothing a guest sends reads in two ways.
    #[test]
    fn any_payload_is_safe(op in 0..30_u32, payload in loose_payload()) {
        if let Ok(request) = Request::decode(op, &payload) {
            let mut again = Vec::new();
            request.encode(&mut again);
            prop_assert_eq!(Request::decode(op, &again), Ok(request));
        }
    }
}

/// Bytes that often look like a payload.
fn loose_payload() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        "[0-9rwbn/aTF-]{0,6}".prop_map(String::into_bytes),
        Just(vec![0]),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}
