use alloc::{vec, vec::Vec};

use super::{Message, Reply};
use crate::{Access, Errno, HEADER_LEN, Header, Op, Perm, Raw, text::with_nuls};

/// Each form of a reply to an operation that has it, with its bytes as the specification writes them: `|` is a NUL.
pub(crate) fn table() -> Vec<(Op, Reply<'static>, &'static str)> {
    let perms = vec![Perm { access: Access::None, domid: 0 }, Perm { access: Access::Read, domid: 32752 }];
    vec![
        (Op::Control, Reply::Bytes(b"OK\0"), "OK|"),
        (Op::Directory, Reply::Names(b"a\0bc\0"), "a|bc|"),
        (Op::Directory, Reply::Names(b""), ""),
        (Op::Read, Reply::Bytes(b"va\0l"), "va|l"),
        (Op::GetPerms, Reply::Perms(perms), "n0|r32752|"),
        (Op::Watch, Reply::Done, "OK|"),
        (Op::Unwatch, Reply::Done, "OK|"),
        (Op::TransactionStart, Reply::Transaction(4_294_967_295), "4294967295|"),
        (Op::TransactionEnd, Reply::Done, "OK|"),
        (Op::Introduce, Reply::Done, "OK|"),
        (Op::Release, Reply::Done, "OK|"),
        (Op::GetDomainPath, Reply::Path(b"/local/domain/5"), "/local/domain/5|"),
        (Op::Write, Reply::Done, "OK|"),
        (Op::Mkdir, Reply::Done, "OK|"),
        (Op::Rm, Reply::Done, "OK|"),
        (Op::SetPerms, Reply::Done, "OK|"),
        (Op::IsDomainIntroduced, Reply::Flag(true), "T|"),
        (Op::IsDomainIntroduced, Reply::Flag(false), "F|"),
        (Op::Resume, Reply::Done, "OK|"),
        (Op::SetTarget, Reply::Done, "OK|"),
        (Op::ResetWatches, Reply::Done, "OK|"),
        (Op::DirectoryPart, Reply::Part { generation: 12, names: b"a\0bc\0", last: false }, "12|a|bc|"),
        (Op::DirectoryPart, Reply::Part { generation: 12, names: b"a\0bc\0", last: true }, "12|a|bc||"),
        (Op::DirectoryPart, Reply::Part { generation: 0, names: b"", last: true }, "0||"),
        (Op::Error, Reply::Error(Errno::Enoent), "ENOENT|"),
    ]
}

#[test]
fn each_reply_as_specified() {
    for (op, reply, payload) in table() {
        let payload = with_nuls(payload);
        let message = Message::Reply { op: op as u32, request_id: 0x0102_0304, tx_id: 9, reply };
        let header = Header { op: op as u32, request_id: 0x0102_0304, tx_id: 9, len: payload.len() };
        let bytes = message.encode();
        assert_eq!(bytes, [&header.encode(), &payload[..]].concat(), "{op:?}");
        assert_eq!(message.len(), bytes.len());
    }
}

#[test]
fn every_error_whatever_was_asked() {
    for errno in Errno::ALL {
        for op in [Op::Read as u32, 20, u32::MAX] {
            let bytes = Message::Reply { op, request_id: 1, tx_id: 2, reply: Reply::Error(errno) }.encode();
            let (raw, _) = Raw::split(&bytes).expect("short").expect("whole");
            assert_eq!((raw.header.op, raw.header.request_id, raw.header.tx_id), (16, 1, 2));
            assert_eq!(raw.payload, [errno.name().as_bytes(), b"\0"].concat());
            assert_eq!(raw.error(), Some(errno));
        }
    }
}

#[test]
fn an_event() {
    let bytes = Message::Event { path: b"/a", token: b"tok" }.encode();
    assert_eq!(bytes, b"\x0f\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0/a\0tok\0");
}

#[test]
fn into_a_buffer_of_any_size() {
    for (op, reply, payload) in table() {
        let payload = with_nuls(payload);
        let message = Message::Reply { op: op as u32, request_id: 1, tx_id: 2, reply };
        let whole = HEADER_LEN + payload.len();
        for size in 0..whole + 3 {
            let mut out = vec![0xaa; size];
            let written = message.encode_into(&mut out);
            if size < whole {
                assert_eq!(written, None);
                assert!(out.iter().all(|&byte| byte == 0xaa));
            } else {
                assert_eq!(written, Some(whole));
                assert_eq!(out[..whole], message.encode());
                assert!(out[whole..].iter().all(|&byte| byte == 0xaa));
            }
        }
    }
}
