//! A Logic that has been taken over: whatever it calls, State lives, keeps its order and its answers' size, and others keep
//! what is theirs.

use alloc::vec::Vec;

use ennead_xs_link::{CallKind, encode_request};
use ennead_xs_wire::{Access, Perm, Request};
use proptest::prelude::*;

use super::*;
use crate::{Head, Identity, Settings};

/// Domains with rings, which such a Logic serves.
const GUESTS: [u16; 3] = [10, 11, 12];
/// One without a ring: it is beyond Logic's reach.
const OTHER: u16 = 20;
const SECRET: &[u8] = b"/local/domain/20/secret";

const KINDS: [CallKind; 13] = [
    CallKind::Attach,
    CallKind::Open,
    CallKind::Close,
    CallKind::Request,
    CallKind::Stash,
    CallKind::Unsent,
    CallKind::Writable,
    CallKind::Take,
    CallKind::Progress,
    CallKind::Reset,
    CallKind::Mapped,
    CallKind::Broken,
    CallKind::Domain,
];

fn ask(state: &mut State, conn: Conn, request: &Request<'_>) {
    state.request(conn, Head { op: request.op() as u32, request_id: 0, tx_id: 0 }, Ok(request));
    while state.pop(conn).is_some() {}
}

fn service() -> (Service, Conn) {
    let mut state = State::new(Settings::default());
    let operator = state.open(Identity::Operator);
    for domid in GUESTS.into_iter().chain([OTHER]) {
        state.created(domid, None);
        let home = alloc::format!("/local/domain/{domid}");
        ask(&mut state, operator, &Request::Write { path: home.as_bytes(), value: b"" });
        let perms = alloc::vec![Perm { access: Access::None, domid }];
        ask(&mut state, operator, &Request::SetPerms { path: home.as_bytes(), perms });
    }
    ask(&mut state, operator, &Request::Write { path: SECRET, value: b"untouched" });
    for domid in GUESTS {
        assert!(state.introduce(domid, 1, None).is_ok());
    }
    (Service::new(state, Mode::Xen), operator)
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let path = prop::sample::select(alloc::vec![
        &b"data"[..],
        b"data/a",
        b"/local/domain/10/x",
        SECRET,
        b"/",
        b"@releaseDomain",
        b"//",
        b"",
    ]);
    let request = (0..12_u8, path, 0..3_u32, any::<u16>()).prop_map(|(what, path, tx_id, n)| {
        let number = [b'0' + u8::try_from(n % 10).unwrap_or(0)];
        let request = match what {
            0 => Request::Write { path, value: b"v" },
            1 => Request::Read { path },
            2 => Request::Directory { path },
            3 => Request::Watch { path, token: &number },
            4 => Request::Unwatch { path, token: &number },
            5 => Request::TransactionStart,
            6 => Request::TransactionEnd { commit: n % 2 == 0 },
            7 => Request::Rm { path },
            8 => Request::SetPerms { path, perms: alloc::vec![Perm { access: Access::Both, domid: n }] },
            9 => Request::ResetWatches,
            10 => Request::Release { domid: n },
            _ => Request::Mkdir { path },
        };
        let mut body = alloc::vec![0; MAX_BODY];
        let head = ennead_xs_link::Head { op: request.op() as u32, request_id: 1, tx_id };
        let used = encode_request(head, Ok(request), &mut body).unwrap_or(0);
        body.truncate(used);
        body
    });
    prop_oneof![3 => request, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

fn call() -> impl Strategy<Value = (Call, Vec<u8>)> {
    let line = prop_oneof![8 => 0..4_u32, 1 => any::<u32>(), 1 => Just(OPERATOR)];
    let index = || prop_oneof![4 => 0..3000_u32, 1 => any::<u32>()];
    let kind = prop_oneof![
        6 => Just(CallKind::Request),
        2 => Just(CallKind::Open),
        8 => prop::sample::select(KINDS.to_vec()),
    ];
    (kind, line, index(), index(), request())
        .prop_map(|(kind, line, req_cons, rsp_cons, body)| (Call { kind, line, req_cons, rsp_cons }, body))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_logic_that_calls_anything_reaches_its_guests_connections_only(
        calls in prop::collection::vec(call(), 1..120),
        again in any::<bool>(),
    ) {
        let (mut service, operator) = service();
        let mut out = RecordWriter::default();
        for (at, (call, body)) in calls.iter().enumerate() {
            service.handle(call, body, &mut out);
            prop_assert!(out.bytes().len() <= MAX_BODY);
            service.tick(u64::try_from(at).unwrap_or(0) * 10);
            prop_assert_eq!(service.state.check(), Ok(()));
        }
        // Nobody gave it this.
        ask_for(&mut service.state, operator)?;
        if again {
            // A new Logic goes on with whatever it finds.
            let attach = Call { kind: CallKind::Attach, line: 0, req_cons: 0, rsp_cons: 0 };
            let mut more = service.handle(&attach, &[], &mut out);
            let mut turns = 0;
            while more && turns < 2000 {
                let take = Call { kind: CallKind::Take, ..attach };
                more = service.handle(&take, &[], &mut out);
                turns += 1;
            }
            prop_assert!(turns < 2000, "there is always more");
        }
    }
}

fn ask_for(state: &mut State, operator: Conn) -> Result<(), TestCaseError> {
    let request = Request::Read { path: SECRET };
    state.request(operator, Head { op: request.op() as u32, request_id: 0, tx_id: 0 }, Ok(&request));
    let mut value = None;
    while let Some(item) = state.pop(operator) {
        if let ennead_xs_wire::Message::Reply { reply: ennead_xs_wire::Reply::Bytes(bytes), .. } =
            item.message()
        {
            value = Some(bytes.to_vec());
        }
    }
    prop_assert_eq!(value.as_deref(), Some(&b"untouched"[..]));
    Ok(())
}
