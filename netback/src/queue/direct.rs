//! Guests that are neighbours.

use std::time::Duration;

use ennead_backend::testing::{TestGuest, TestPages};
use proptest::prelude::*;

use super::tests::{ALL, Pass, attach_to, inbox, packet, pass_once, vif};
use super::*;
use crate::config::{Frontend, Vif};
use crate::filter::Mac;
use crate::model::{Front, Layout, Received, TestTap};
use crate::neighbours::{Member, Neighbours};
use crate::netif::{Gso, MAX_PACKET, TX_CHECKSUM_BLANK, Tcp};
use crate::offload::{to_guest, to_tap};

const GSO: Gso = Gso { tcp: Tcp::V4, size: 1448 };
const PLAIN: Layout = Layout { cuts: Vec::new(), offset: 0, flags: 0, gso: None };
const LARGE: Layout = Layout { cuts: Vec::new(), offset: 0, flags: TX_CHECKSUM_BLANK, gso: Some(GSO) };

/// A guest's queue.
struct Guest {
    front: Front,
    tap: TestTap,
    queue: Queue<TestPages, TestGuest, TestTap>,
    inbox: Arc<Inbox>,
}

impl Guest {
    fn pass(&mut self) -> Pass {
        let pass = pass_once(&mut self.queue, Instant::now).unwrap();
        self.front.collect();
        pass
    }

    fn send(&mut self, to: u8, length: usize, layout: &Layout) -> Vec<u8> {
        let packet = to_mac(to, packet(length, to));
        self.front.send(&packet, layout);
        packet
    }

    /// Sends it and says whether it took the tap.
    fn by_tap(&mut self, to: u8, length: usize) -> bool {
        self.send(to, length, &PLAIN);
        while self.pass().busy() {}
        !self.tap.sent().is_empty()
    }

    fn lengths(&mut self) -> Vec<usize> {
        while self.pass().busy() {}
        self.front.receive().iter().map(|p| p.bytes.len()).collect()
    }
}

fn mac(n: u8) -> Mac {
    Mac([0, 0x16, 0x3e, 9, 9, n])
}

/// From any of these guests, whose filter lets all pass.
fn to_mac(to: u8, mut packet: Vec<u8>) -> Vec<u8> {
    packet[..6].copy_from_slice(&mac(to).0);
    packet
}

fn frontend(offloads: Offload) -> Frontend {
    Frontend { queues: Vec::new(), chains: true, offloads }
}

/// A vif of that many queues.
fn guests(
    all: &Neighbours,
    n: u8,
    vif: &Vif,
    queues: usize,
    (offloads, posted): (Offload, usize),
) -> (Vec<Guest>, Member) {
    let vif = Vif { mac: mac(n), filter: Filter::new(Mac(crate::samples::MAC), Vec::new()), ..vif.clone() };
    let inboxes: Vec<_> = (0..queues).map(|_| inbox()).collect();
    let member = all.join(&vif, &frontend(offloads), &inboxes);
    let queue = |(queue, inbox)| {
        let (mut front, tap) = (Front::new(), TestTap::default());
        front.post(posted);
        let (filter, way) = (vif.filter.clone(), all.way(&vif, queue));
        let rules = Rules { filter, vlan: vif.vlan, rate: None, chains: true, offloads, way };
        let queue = attach_to(Arc::clone(&inbox), &front.tx, &front.rx, &front, tap.clone(), rules);
        Guest { front, tap, queue, inbox }
    };
    (inboxes.into_iter().enumerate().map(queue).collect(), member)
}

fn guest(all: &Neighbours, n: u8, vif: &Vif) -> (Guest, Member) {
    guest_with(all, n, vif, 256)
}

fn guest_with(all: &Neighbours, n: u8, vif: &Vif, posted: usize) -> (Guest, Member) {
    let (mut guests, member) = guests(all, n, vif, 1, (ALL, posted));
    (guests.remove(0), member)
}

#[test]
fn a_neighbour_gets_what_was_left_undone() {
    for vlan in [None, Some(5)] {
        let (all, vif) = (Neighbours::default(), vif("a", vlan));
        let ((mut one, _one), (mut two, _two)) = (guest(&all, 1, &vif), guest(&all, 2, &vif));
        let blank = Layout { flags: TX_CHECKSUM_BLANK, cuts: vec![66], ..PLAIN };
        let mut expected = Vec::new();
        for (length, layout) in [(60, &PLAIN), (1514, &blank), (MAX_PACKET, &LARGE), (61, &PLAIN)] {
            let mut bytes = one.send(2, length, layout);
            let header = to_tap(&mut bytes, layout.flags != 0, layout.gso).unwrap();
            let (flags, gso) = to_guest(&header).unwrap();
            expected.push(Received { bytes, flags, gso });
        }
        assert!(two.inbox.is_empty());
        one.pass();
        assert!(!two.inbox.is_empty() && one.tap.sent().is_empty());
        let pass = two.pass();
        assert!(pass.rx.notify && two.queue.rx.wants_packets() && !pass.more());
        assert_eq!(two.front.receive(), expected);
        let counts = (one.queue.counts().0, two.queue.counts().1);
        assert_eq!((counts.0.packets, counts.1.packets, counts.0.full), (4, 4, 0));
    }
}

#[test]
fn who_is_reached_directly() {
    let all = Neighbours::default();
    let (plain, seven) = (vif("a", None), vif("a", Some(7)));
    let apart = Vif { isolated: true, ..plain.clone() };
    let (mut one, _one) = guest(&all, 1, &plain);
    let (mut isolated, _isolated) = guest(&all, 2, &apart);
    let _others = [guest(&all, 3, &apart).1, guest(&all, 4, &seven).1, guest(&all, 5, &vif("b", None)).1];
    let _less: Vec<Member> = [
        (6, Offload { checksum: false, ..ALL }),
        (7, Offload { tcp4: false, ..ALL }),
        (8, Offload { tcp6: false, ..ALL }),
    ]
    .map(|(n, offloads)| guests(&all, n, &plain, 1, (offloads, 256)).1)
    .into();
    // From a vif, and from an isolated one: to itself, both kinds, another VLAN, another bridge, those that take less, nobody.
    let table = [
        (1, true, false),
        (2, false, true),
        (3, false, true),
        (4, true, true),
        (5, true, true),
        (6, true, true),
        (7, true, true),
        (8, true, true),
        (9, true, true),
    ];
    for (to, from_one, from_isolated) in table {
        assert_eq!((one.by_tap(to, 60), isolated.by_tap(to, 60)), (from_one, from_isolated), "{to}");
    }
    assert!(!one.by_tap(2, 1514) && one.by_tap(2, 1515), "the bridge's MTU");
    one.send(2, 1515, &LARGE);
    one.pass();
    assert!(one.tap.sent().is_empty());
    one.front.send(&packet(60, 1), &PLAIN);
    one.pass();
    assert_eq!(one.tap.sent().len(), 1, "a broadcast");
}

#[test]
fn vifs_come_and_go() {
    let (all, vif, other) = (Neighbours::default(), vif("a", None), vif("a", Some(9)));
    let (mut one, _one) = guest(&all, 1, &vif);
    assert!(one.by_tap(2, 60));
    let (mut two, member) = guest(&all, 2, &vif);
    assert!(!one.by_tap(2, 61));
    assert_eq!(two.lengths(), [61]);
    // The same address in another VLAN: the bridge, which looks at no tags, decides.
    let (other, same) = guest(&all, 2, &other);
    assert!(one.by_tap(2, 62));
    drop((other, same));
    assert!(!one.by_tap(2, 63));
    drop(member);
    assert!(one.by_tap(2, 64));
    assert_eq!(two.lengths(), [63]);
}

#[test]
fn a_guest_that_takes_nothing_costs_its_neighbours_nothing() {
    let (all, vif) = (Neighbours::default(), vif("a", None));
    let ((mut one, _one), (mut two, _two)) = (guest(&all, 1, &vif), guest(&all, 2, &vif));
    let (mut three, _three) = guest(&all, 3, &vif);
    for _ in 0..100 {
        one.send(2, MAX_PACKET, &LARGE);
        one.send(3, 70, &PLAIN);
        while one.pass().busy() {}
        assert_eq!((one.front.under_way(), one.front.errors.0), (0, 0));
        assert_eq!(three.lengths(), [70]);
    }
    let sent = one.queue.counts().0;
    assert_eq!((sent.packets, sent.full), (108, 92));
    assert_eq!(two.lengths(), [MAX_PACKET; 8]);
    assert!(!one.by_tap(2, 60));
    assert_eq!(two.lengths(), [60]);
}

#[test]
fn neither_the_bridge_nor_neighbours_starve_the_other() {
    // Who has the large packets.
    for bridge_large in [false, true] {
        let (all, vif) = (Neighbours::default(), vif("a", None));
        let ((mut one, _one), (mut two, _two)) = (guest(&all, 1, &vif), guest_with(&all, 2, &vif, 0));
        let (direct, layout, bridge) = if bridge_large { (60, PLAIN, 20_000) } else { (20_000, LARGE, 60) };
        let (mut small, mut large) = (0, 0);
        for _ in 0..200 {
            one.send(2, direct, &layout);
            while one.pass().busy() {}
            // Buffers for not all of it.
            (0..3).for_each(|_| two.tap.give([0; 10], &packet(bridge, 1)));
            two.front.post(3);
            two.pass();
            for packet in two.front.receive() {
                *(if packet.bytes.len() > 60 { &mut large } else { &mut small }) += 1;
            }
        }
        assert!(small >= 20 && large >= 20, "{small} {large}");
    }
}

#[test]
fn a_connection_stays_in_its_queue() {
    let (all, vif) = (Neighbours::default(), vif("a", None));
    let (mut senders, _senders) = guests(&all, 1, &vif, 3, (ALL, 256));
    let (mut takers, _takers) = guests(&all, 2, &vif, 2, (ALL, 256));
    for (n, length) in [(0, 60), (1, 61), (2, 62), (1, 63)] {
        assert!(!senders[n].by_tap(2, length));
    }
    assert_eq!(takers.iter_mut().map(Guest::lengths).collect::<Vec<_>>(), [vec![60, 62], vec![61, 63]]);
}

#[test]
fn a_rate_and_the_filter_come_first() {
    let (all, vif) = (Neighbours::default(), vif("a", None));
    let ((mut one, _one), (mut two, _two)) = (guest(&all, 1, &vif), guest(&all, 2, &vif));
    let now = Instant::now();
    let rules = Rules {
        filter: Filter::new(Mac(crate::samples::MAC), vec!["10.0.0.2".parse().unwrap()]),
        vlan: None,
        rate: Some(Credit::new("100,1000000".parse().unwrap(), now)),
        chains: true,
        offloads: ALL,
        way: all.way(&Vif { mac: mac(1), ..vif }, 0),
    };
    let inbox = inbox();
    one.queue = attach_to(inbox, &one.front.tx, &one.front.rx, &one.front, one.tap.clone(), rules);
    // Its address is made of the neighbour's number.
    one.send(2, MAX_PACKET, &LARGE);
    one.send(2, 100, &PLAIN);
    one.send(2, 99, &PLAIN);
    let pass = pass_once(&mut one.queue, || now).unwrap();
    assert_eq!(pass.tx.until, Some(now + Duration::from_secs(1)));
    assert_eq!(two.lengths(), [MAX_PACKET, 100]);
    let mut foreign = to_mac(2, packet(100, 3));
    one.front.send(&foreign, &PLAIN);
    foreign[26..30].copy_from_slice(&[10, 0, 0, 2]);
    foreign[6] ^= 2;
    one.front.send(&foreign, &PLAIN);
    for seconds in 1..9 {
        pass_once(&mut one.queue, || now + Duration::from_secs(seconds)).unwrap();
    }
    assert_eq!(one.queue.counts().0.forbidden, 2);
    assert_eq!((two.lengths(), one.tap.sent().len()), (vec![99], 0));
}

#[derive(Debug, Clone)]
enum Action {
    Send(usize, Option<Gso>),
    Bridge(usize),
    Post(usize),
    PassOne,
    PassTwo,
    Take,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => (54..1514_usize).prop_map(|length| Action::Send(length, None)),
        3 => (1515..7500_usize).prop_map(|length| Action::Send(length, Some(GSO))),
        3 => (54..20_000_usize).prop_map(Action::Bridge),
        2 => (1..40_usize).prop_map(Action::Post),
        4 => Just(Action::PassOne),
        3 => Just(Action::PassTwo),
        2 => Just(Action::Take),
    ];
    prop::collection::vec(action, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_a_neighbour_sends_comes_once_and_in_order(actions in actions(), posted in 0..8_usize) {
        let (all, vif) = (Neighbours::default(), vif("a", None));
        let ((mut one, _one), (mut two, _two)) = (guest(&all, 1, &vif), guest_with(&all, 2, &vif, posted));
        let (mut sent, mut given, mut received) = (Vec::new(), Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Send(length, gso) if one.front.has_room() => {
                    let flags = if gso.is_some() { TX_CHECKSUM_BLANK } else { 0 };
                    let mut bytes = one.send(2, length, &Layout { flags, gso, ..PLAIN });
                    let (flags, gso) = to_guest(&to_tap(&mut bytes, gso.is_some(), gso).unwrap()).unwrap();
                    sent.push(Received { bytes, flags, gso });
                }
                Action::Send(..) => {}
                Action::Bridge(length) => {
                    let bytes = packet(length, 1);
                    two.tap.give([0; 10], &bytes);
                    given.push(Received { bytes, flags: 0, gso: None });
                }
                Action::Post(count) => two.front.post(count),
                Action::PassOne => { one.pass(); }
                Action::PassTwo => { two.pass(); }
                Action::Take => received.extend(two.front.receive()),
            }
        }
        while one.pass().busy() {}
        for _ in 0..sent.len() + given.len() + 2 {
            two.front.post(40);
            while { let pass = two.pass(); pass.busy() || pass.more() } {}
            received.extend(two.front.receive());
        }
        let (direct, bridged): (Vec<_>, Vec<_>) = received.into_iter().partition(|p| p.bytes[..6] == mac(2).0);
        prop_assert!(direct == sent && bridged == given);
        prop_assert!(one.tap.sent().is_empty());
        prop_assert_eq!((one.queue.counts().0.full, two.queue.counts().1.errors), (0, 0));
        prop_assert!(two.inbox.is_empty());
    }
}
