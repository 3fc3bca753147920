//! What is saved comes back, and a stream that lies is refused or harmless.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use proptest::prelude::*;

use super::world::World;
use crate::{Backend, Conn, DeviceKind, Identity, Notice, Quotas, Role, Settings, State, StreamError};

/// All that must come back, without numbers that may differ.
fn picture(state: &State) -> Vec<String> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut lines = Vec::new();
    state.store.tree.walk(state.store.root, b"/", |id, path| {
        let (perms, generation) = state.store.seen(id);
        let perms = state.store.tree.perms.get(perms).iter().map(|entry| {
            let counts = !entry.ignored && state.store.domains.is_meant(entry.domid, generation);
            format!("{}{}{}", char::from(entry.access.letter()), entry.domid, if counts { "" } else { "!" })
        });
        lines.push(format!(
            "{} {} {:?} {generation}",
            text(path),
            text(state.store.tree.value(id)),
            perms.collect::<Vec<_>>()
        ));
        true
    });
    lines.push(format!("{:?}", state.specials));
    let mut order = BTreeMap::new();
    for (domid, domain) in state.store.domains.iter() {
        lines.push(format!(
            "{domid} {} {} {} {} {:?} {:?} {:?} {} {} {} {}",
            domain.announced,
            domain.introduced,
            domain.shutdown,
            domain.restarting,
            domain.manager,
            domain.target,
            domain.ring.map(|(_, port)| port),
            domain.nodes,
            domain.memory,
            domain.watches,
            state.has_role(domid),
        ));
        order.extend(domain.ring.map(|(conn, _)| (conn, domid)));
    }
    for (_, watch) in state.watches.iter() {
        if let Some(domid) = order.get(&watch.conn) {
            lines.push(format!(
                "{domid} watches {} {} {}",
                text(&watch.path),
                text(&watch.token),
                watch.skip
            ));
        }
    }
    for (conn, domid) in order {
        let waiting = state.connections[&conn].outbox.iter().map(|item| text(&item.message().encode()));
        lines.push(format!("{domid} waits for {:?}", waiting.collect::<Vec<_>>()));
        lines.push(format!("{domid} comes to {}", state.connections[&conn].next_transaction));
        for (tx_id, txn) in &state.connections[&conn].transactions {
            lines.push(format!(
                "{domid} has {tx_id} {:?}",
                (
                    txn.started,
                    txn.created,
                    &txn.owners,
                    txn.checks_quota,
                    txn.failed,
                    txn.stale,
                    txn.memory()
                )
            ));
            for (path, touch) in &txn.touched {
                let generation = touch.before.map(|(_, generation)| generation);
                let at = (touch.order, generation, touch.modified, touch.created, touch.event);
                lines.push(format!("  {} {at:?}", text(path)));
            }
            state.store.tree.walk(txn.root, b"/", |id, path| {
                let value = text(state.store.tree.value(id));
                lines.push(format!("  {} {value} {}", text(path), state.store.tree.generation(id)));
                true
            });
        }
    }
    lines
}

fn again(state: &State) -> State {
    let loaded = State::load(state.settings.clone(), &state.save()).expect("it is whole");
    loaded.check().expect("all counts are right");
    loaded
}

/// The ring of a domain.
fn ring(state: &State, domid: u16) -> Conn {
    state.store.domains.get(domid).and_then(|domain| domain.ring).expect("it has a ring").0
}

/// One step in words, by the operator (0) or a guest.
type Step = (u16, String);

fn step() -> impl Strategy<Value = Step> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..4)
        .prop_map(|names| format!("/{}", names.join("/")));
    let perm = (prop::sample::select(vec!['n', 'r', 'w', 'b']), 0..4_u16);
    let perms = prop::collection::vec(perm, 1..4).prop_map(|perms| {
        perms.iter().map(|(letter, domid)| format!("{letter}{domid}")).collect::<Vec<_>>().join(" ")
    });
    (0..3_u16, 0..22_u8, path, perms).prop_map(|(who, op, path, perms)| {
        let request = match op {
            0..=4 => format!("write {path} value"),
            5..=7 => format!("chmod {path} {perms}"),
            8 if path != "/" => format!("rm {path}"),
            9 | 10 => format!("watch {path} token"),
            11 => format!("watch {} relative", path.trim_start_matches('/').replace('/', "-")),
            12 => format!("unwatch {path} token"),
            13 => format!("chmod @releaseDomain {perms}"),
            14 => "watch @releaseDomain token".to_string(),
            16 => "start".to_string(),
            17 | 18 => format!("in write {path} other"),
            19 => format!("in chmod {path} {perms}"),
            20 if path != "/" => format!("in rm {path}"),
            21 => format!("in read {path}"),
            _ => "die".to_string(),
        };
        (who, request)
    })
}

/// A State after these steps, the operator's client gone. What the guests were told by the last steps waits for them.
fn after(steps: &[Step]) -> State {
    let mut w = World::new();
    let mut guests = BTreeMap::from([(1, w.guest(1)), (2, w.guest(2))]);
    w.state.set_role(2, Role::Service);
    w.state.created(3, Some(2));
    for (who, request) in steps {
        match (guests.get(who).copied(), request.as_str()) {
            (Some(_), "die") => {
                w.state.died(*who);
                while w.state.next_notice().is_some() {}
                guests.insert(*who, w.guest(*who));
            }
            (None, "die") => w.state.domain_shut_down(1),
            (Some(guest), request) => match request.strip_prefix("in ") {
                Some(request) => {
                    let newest = w.state.connections[&guest].transactions.last_key_value();
                    if let Some(tx_id) = newest.map(|(tx_id, _)| *tx_id) {
                        w.within(guest, tx_id, request);
                    }
                }
                None => drop(w.by(guest, request)),
            },
            (None, request) => drop(w.by(w.operator, request.trim_start_matches("in "))),
        }
    }
    w.op("write /a last");
    w.state.close(w.operator);
    w.state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_saved_comes_back(steps in prop::collection::vec(step(), 0..60), reads in prop::collection::vec(step(), 10)) {
        let mut before = after(&steps);
        let mut now = again(&before);
        prop_assert_eq!(picture(&before), picture(&now));
        // A stream of what was loaded is the same but for connections' numbers, which start anew.
        prop_assert_eq!(again(&now).save(), now.save());
        for domid in [1, 2] {
            for state in [&mut before, &mut now] {
                let conn = ring(state, domid);
                while state.pop(conn).is_some() {}
            }
        }
        let answers = |state: State| {
            let mut w = World::of(state);
            let mut all = Vec::new();
            for (who, request) in &reads {
                let path = request.split(' ').nth(1).unwrap_or("/");
                for op in ["read", "ls", "perms", "write"] {
                    let conn = if *who == 0 { w.operator } else { ring(&w.state, *who) };
                    all.push(w.by(conn, &format!("{op} {path}")));
                }
            }
            for domid in [1, 2] {
                let conn = ring(&w.state, domid);
                let open: Vec<_> = w.state.connections[&conn].transactions.keys().copied().collect();
                for tx_id in open {
                    for request in ["ls /", "ls /a", "write /a/b mine", "commit"] {
                        all.push(w.within(conn, tx_id, request));
                    }
                }
            }
            for domid in [1, 2] {
                let conn = ring(&w.state, domid);
                all.extend(w.events(conn));
            }
            w.check();
            all.extend(picture(&w.state).into_iter().filter(|line| line.starts_with('/')));
            all
        };
        prop_assert_eq!(answers(before), answers(now));
    }

    #[test]
    fn a_stream_that_lies_is_refused_or_harmless(
        steps in prop::collection::vec(step(), 0..30),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = after(&steps).save();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(State::load(Settings::default(), &bytes).is_err());
        } else if let Ok(state) = State::load(Settings::default(), &bytes) {
            prop_assert_eq!(state.check(), Ok(()));
            prop_assert_eq!(picture(&again(&state)), picture(&state));
        }
    }

    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        let stream = [&b"xenstore\0\0\0\x01\0\0\0\0"[..], &bytes].concat();
        if let Ok(state) = State::load(Settings::default(), &stream) {
            prop_assert_eq!(state.check(), Ok(()));
        }
    }
}

#[test]
fn open_transactions_go_on() {
    let mut w = World::new();
    let guest = w.guest(1);
    let (mine, lost) = (w.start(guest), w.start(guest));
    assert_eq!(w.within(guest, mine, "write name/a mine"), "OK|");
    assert_eq!(w.within(guest, lost, "read other"), "ENOENT|");
    w.expect("write /local/domain/1/other x", "OK|");
    let mut w = World::of(again(&w.state));
    let guest = ring(&w.state, 1);
    assert_eq!(w.by(guest, "read name/a"), "ENOENT|");
    assert_eq!(w.within(guest, mine, "read name/a"), "mine");
    assert_eq!(w.within(guest, mine, "read other"), "ENOENT|", "it sees what was when it began");
    assert_eq!(w.within(guest, mine, "commit"), "EAGAIN|", "and that is not so any more");
    assert_eq!(w.within(guest, lost, "commit"), "EAGAIN|");
    let whole = w.start(guest);
    assert_eq!(w.within(guest, whole, "write name/a mine"), "OK|");
    let mut w = World::of(again(&w.state));
    let guest = ring(&w.state, 1);
    assert_eq!(w.within(guest, whole, "commit"), "OK|");
    assert_eq!(w.by(guest, "read name/a"), "mine");
    assert_eq!(w.within(guest, whole, "commit"), "ENOENT|");
    assert_eq!(w.usage(1, "transactions"), 0);
    w.check();
}

/// A daemon of Xen's says only that there is one.
#[test]
fn transactions_of_which_nothing_is_known_end_with_eagain() {
    let mut w = World::new();
    let guest = w.guest(1);
    let txn = w.start(guest);
    let mut bytes = w.state.save();
    // Its record's kind becomes that of file descriptors, which are of no use.
    let kind = 0x8000_0006_u32.to_le_bytes();
    let at = bytes.windows(4).position(|four| *four == kind).expect("there is one");
    bytes[at..at + 4].copy_from_slice(&1_u32.to_le_bytes());
    let mut w = World::of(State::load(Settings::default(), &bytes).expect("whole"));
    let guest = ring(&w.state, 1);
    assert_eq!(w.within(guest, txn, "write other mine"), "OK|");
    assert_eq!(w.within(guest, txn, "commit"), "EAGAIN|");
    w.check();
}

#[test]
fn it_does_not_matter_how_a_stream_is_cut() {
    let mut w = World::new();
    let guest = w.guest(1);
    for n in 0..200 {
        w.expect(&format!("write /a/n{n} {n}"), "OK|");
    }
    let txn = w.start(guest);
    w.within(guest, txn, "write name mine");
    let whole = w.state.save();
    for piece in [1, 7, 4096] {
        let mut loader = crate::stream::Loader::new(Settings::default());
        whole.chunks(piece).for_each(|piece| loader.push(piece).expect("whole"));
        let (state, _) = loader.finish().expect("whole");
        assert_eq!(state.save(), again(&w.state).save());
    }
    let mut pieces = Vec::new();
    let mut keep = |piece: &[u8]| {
        pieces.push(piece.len());
        pieces.len() < 2
    };
    assert!(!w.state.save_with(|_| crate::stream::Carried::default(), &mut keep), "it was stopped");
    assert!(pieces.len() == 2 && pieces.iter().all(|len| *len < 8192), "{pieces:?}");
}

#[test]
fn what_waits_is_still_read_and_rings_are_told_of() {
    let mut w = World::new();
    let guest = w.guest(1);
    assert_eq!(w.by(guest, "watch name token"), "OK|");
    w.events(guest);
    w.expect("write /local/domain/1/name x", "OK|");
    let mut w = World::of(again(&w.state));
    let guest = ring(&w.state, 1);
    assert_eq!(w.state.next_notice(), Some(Notice::Connect { conn: guest, domid: 1, port: 1 }));
    assert_eq!(w.state.next_with_output(), Some(guest));
    assert_eq!(w.events(guest), ["name token"]);
    w.expect("write /local/domain/1/name y", "OK|");
    assert_eq!(w.events(guest), ["name token"]);
}

#[test]
fn a_permission_of_a_domain_that_was_stays_without_effect() {
    let mut w = World::new();
    w.guest(1);
    w.expect("write /a 1", "OK|");
    w.expect("chmod /a n0 r1", "OK|");
    w.state.died(1);
    let mut w = World::of(again(&w.state));
    let guest = w.guest(1);
    assert_eq!(w.op("perms /a"), "n0|r1|");
    assert_eq!(w.by(guest, "read /a"), "EACCES|");
}

#[test]
fn who_builds_vms_is_not_taken_from_a_stream() {
    let mut w = World::new();
    w.state.created(5, None);
    w.state.set_role(5, Role::Builder);
    let loaded = State::load(Settings::default(), &w.state.save()).expect("it is whole");
    assert_eq!(loaded.settings.roles.get(&5), Some(&Role::Service));
    let backends = vec![Backend { domid: 8, kind: DeviceKind::Vif }];
    w.state.set_role(5, Role::Toolstack { backends: backends.clone() });
    let loaded = State::load(Settings::default(), &w.state.save()).expect("it is whole");
    assert_eq!(loaded.settings.roles.get(&5), Some(&Role::Toolstack { backends }));
}

#[test]
fn quotas_are_those_of_today() {
    let mut w = World::new();
    let guest = w.guest(1);
    for name in ["a", "b", "c"] {
        assert_eq!(w.by(guest, &format!("write {name} 1")), "OK|");
    }
    let settings = Settings { quotas: Quotas { nodes: 2, ..Quotas::GUEST }, ..Settings::default() };
    let loaded = State::load(settings, &w.state.save()).expect("more nodes than the quota are no fault");
    let mut w = World::of(loaded);
    let guest = ring(&w.state, 1);
    assert_eq!(w.by(guest, "read c"), "1");
    assert_eq!(w.by(guest, "write d 1"), "ENOSPC|");
}

/// Written by hand after Xen's documentation, as C xenstored would: lengths with padding, a socket, no records of ours.
#[test]
fn a_stream_of_another_daemon() {
    let mut bytes = Vec::from(*b"xenstore\0\0\0\x01\0\0\0\0");
    let mut record = |kind: u32, body: &[u8]| {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(8), 0);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
    };
    record(1, &[3, 0, 0, 0, 4, 0, 0, 0]);
    // A socket, and the ring of domain 7 on port 9 with two bytes read.
    record(2, &[1, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    record(2, &[2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0xf4, 0x7f, 9, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    record(3, b"\x01\0\0\0\x03\0\x02\0/a\0t\0");
    record(3, b"\x02\0\0\0\x02\0\x02\0a\0t\0");
    record(5, b"\0\0\0\0\0\0\0\0\x0f\0\0\0\0\0\x01\0n\0\0\0@releaseDomain\0");
    record(5, b"\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\x01\0n\0\0\0/\0");
    record(5, b"\0\0\0\0\0\0\0\0\x03\0\x01\0\0\0\x02\0n\0\x07\0r\x01\x08\0/a\0v");
    record(0, &[]);
    let mut w = World::of(State::load(Settings::default(), &bytes).expect("Xen's form"));
    w.check();
    assert_eq!((w.op("ls /"), w.op("perms /a")), ("a|".into(), "n7|r8|".into()));
    let guest = ring(&w.state, 7);
    assert_eq!(w.by(guest, "read /a"), "v");
    w.expect("write /local/domain/7/a 1", "OK|");
    assert_eq!(w.events(guest), Vec::<String>::new());
    assert_eq!(w.usage(7, "watches"), 1);
}

#[test]
fn what_is_wrong_is_said() {
    let load = |bytes: &[u8]| State::load(Settings::default(), bytes).expect_err("it is wrong");
    let good = State::new(Settings::default()).save();
    assert_eq!(load(b"xenstor"), StreamError::NoStream);
    assert_eq!(load(b"xenstore\0\0\0\x02\0\0\0\x01"), StreamError::Version(2, 1));
    assert_eq!(load(&good[..good.len() - 8]), StreamError::Length);
    assert_eq!(load(&[&good[..], &[0; 8]].concat()), StreamError::Length);
    let mut twice = good[..good.len() - 8].to_vec();
    twice.extend_from_slice(&good[good.len() - 72..]);
    let message = load(&twice);
    assert!(
        matches!(message, StreamError::Record { kind: 5, why: "there is such a node already", .. }),
        "{message}"
    );
}

#[test]
fn identities_without_a_ring_are_not_carried() {
    let mut state = State::new(Settings::default());
    state.open(Identity::Domain(4));
    let loaded = again(&state);
    assert!(loaded.connections.is_empty() && loaded.exists(4));
}
