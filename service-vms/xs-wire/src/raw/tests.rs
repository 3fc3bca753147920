use alloc::{vec, vec::Vec};

use proptest::prelude::*;

use super::Raw;
use crate::{
    Access, Errno, HEADER_LEN, Header, Message, Op, PAYLOAD_MAX, Perm, Reply, TooLong, reply, text::with_nuls,
};

fn raw(op: Op, payload: &[u8]) -> Raw<'_> {
    Raw { header: Header { op: op as u32, request_id: 1, tx_id: 2, len: payload.len() }, payload }
}

#[test]
fn splits_a_stream_of_bytes() {
    let first = Message::Event { path: b"/a", token: b"t" }.encode();
    let second = Message::Reply { op: 2, request_id: 1, tx_id: 0, reply: Reply::Bytes(b"") }.encode();
    let stream = [first.clone(), second.clone()].concat();
    for cut in 0..first.len() {
        assert_eq!(Raw::split(&stream[..cut]), Ok(None), "{cut}");
    }
    let (message, used) = Raw::split(&stream).unwrap().unwrap();
    assert_eq!((message.event(), used), (Some((&b"/a"[..], &b"t"[..])), first.len()));
    let (message, used) = Raw::split(&stream[used..]).unwrap().unwrap();
    assert_eq!((message.payload, used), (&b""[..], second.len()));
}

#[test]
fn a_claim_too_long_ends_it() {
    let mut bytes = vec![0; HEADER_LEN + PAYLOAD_MAX + 1];
    bytes[12..16].copy_from_slice(&4096_u32.to_le_bytes());
    assert_eq!(Raw::split(&bytes).unwrap().map(|(_, used)| used), Some(HEADER_LEN + PAYLOAD_MAX));
    bytes[12..16].copy_from_slice(&4097_u32.to_le_bytes());
    assert_eq!(Raw::split(&bytes), Err(TooLong(4097)));
    assert_eq!(Raw::split(&bytes[..HEADER_LEN]), Err(TooLong(4097)));
}

#[test]
fn errors_known_and_unknown() {
    assert_eq!(raw(Op::Error, b"EAGAIN\0").error(), Some(Errno::Eagain));
    for payload in [&b"EQUOTA\0"[..], b"EAGAIN", b"", b"\0", b"EAGAIN\0\0"] {
        assert!(raw(Op::Error, payload).is_error());
        assert_eq!(raw(Op::Error, payload).error(), None, "{payload:?}");
        assert_eq!(raw(Op::Error, payload).message(), None, "{payload:?}");
    }
    assert!(!raw(Op::Read, b"EAGAIN\0").is_error());
    assert_eq!(raw(Op::Read, b"EAGAIN\0").error(), None);
}

#[test]
fn events_have_two_strings() {
    assert_eq!(raw(Op::WatchEvent, b"/a\0\0").event(), Some((&b"/a"[..], &b""[..])));
    assert_eq!(raw(Op::Read, b"/a\0t\0").event(), None);
    for payload in [&b""[..], b"/a\0", b"/a\0t", b"/a\0t\0\0"] {
        assert_eq!(raw(Op::WatchEvent, payload).event(), None, "{payload:?}");
        assert_eq!(raw(Op::WatchEvent, payload).message(), None, "{payload:?}");
    }
}

#[test]
fn each_reply_as_specified() {
    for (op, reply, payload) in reply::tests::table() {
        let expected = Message::Reply { op: op as u32, request_id: 1, tx_id: 2, reply };
        assert_eq!(raw(op, &with_nuls(payload)).message(), Some(expected), "{op:?}");
    }
}

#[test]
fn replies_that_no_daemon_gives() {
    for (op, payload) in [
        (Op::Write, "OK"),
        (Op::Write, "|"),
        (Op::Directory, "a|b"),
        (Op::GetPerms, ""),
        (Op::GetPerms, "|"),
        (Op::GetPerms, "r0"),
        (Op::GetPerms, "r0|x1|"),
        (Op::TransactionStart, "4294967296|"),
        (Op::TransactionStart, "1"),
        (Op::GetDomainPath, "/local/domain/5"),
        (Op::IsDomainIntroduced, "T"),
        (Op::DirectoryPart, "12"),
        (Op::DirectoryPart, "x|a|"),
        (Op::DirectoryPart, "12|ab"),
    ] {
        assert_eq!(raw(op, &with_nuls(payload)).message(), None, "{op:?} {payload:?}");
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=u8::MAX, 1..12)
}

proptest! {
    #[test]
    fn a_message_comes_back(
        text in name(), token in name(), bytes: Vec<u8>, names in prop::collection::vec(name(), 0..9),
        domids in prop::collection::vec(any::<u16>(), 1..9), number: u32, generation: u64, flag: bool,
        errno in prop::sample::select(Errno::ALL.to_vec()),
    ) {
        let names: Vec<u8> = names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect();
        let perms = domids.into_iter().map(|domid| Perm { access: Access::Write, domid }).collect();
        let reply = |op: Op, reply| Message::Reply { op: op as u32, request_id: number, tx_id: !number, reply };
        for message in [
            Message::Event { path: &text, token: &token },
            reply(Op::Rm, Reply::Done),
            reply(Op::Read, Reply::Bytes(&bytes)),
            reply(Op::Control, Reply::Bytes(&bytes)),
            reply(Op::GetDomainPath, Reply::Path(&text)),
            reply(Op::Directory, Reply::Names(&names)),
            reply(Op::DirectoryPart, Reply::Part { generation, names: &names, last: flag }),
            reply(Op::GetPerms, Reply::Perms(perms)),
            reply(Op::TransactionStart, Reply::Transaction(number)),
            reply(Op::IsDomainIntroduced, Reply::Flag(flag)),
            reply(Op::Error, Reply::Error(errno)),
        ] {
            let wire = message.encode();
            prop_assert_eq!(wire.len(), message.len());
            let (raw, used) = Raw::split(&wire).expect("short").expect("whole");
            prop_assert_eq!(used, wire.len());
            prop_assert_eq!(raw.message(), Some(message));
        }
    }

    #[test]
    fn any_bytes_are_safe(bytes: Vec<u8>) {
        if let Ok(Some((raw, used))) = Raw::split(&bytes) {
            prop_assert!(used <= bytes.len());
            let _ = raw.message();
        }
    }

    /// What reads as a message is written back as the same bytes.
    #[test]
    fn any_payload_is_safe(op in 0..30_u32, payload in "[\0OKTF0-9a-crE]{0,12}") {
        let payload = payload.as_bytes();
        let raw = Raw { header: Header { op, request_id: 1, tx_id: 2, len: payload.len() }, payload };
        let _ = (raw.error(), raw.event());
        if let Some(message @ Message::Reply { .. }) = raw.message() {
            prop_assert_eq!(message.encode(), [&raw.header.encode(), payload].concat());
        }
    }
}
