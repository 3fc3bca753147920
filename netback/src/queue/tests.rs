use std::time::Duration;

use ennead_backend::testing::{TestGuest, TestPages};
use ennead_xen::PAGE_SIZE;
use proptest::prelude::*;

use super::*;
use crate::bell::Bell;
use crate::config::Vif;
use crate::filter::Mac;
use crate::headers::TCP;
use crate::model::{Front, Layout, Received, TestTap};
use crate::neighbours::Neighbours;
use crate::netif::{Gso, MAX_PACKET, TX_CHECKSUM_BLANK, TX_EXTRA_INFO, TX_MORE_DATA, Tcp, TxRequest};
use crate::offload::{VnetHeader, to_guest, to_tap};
use crate::samples::{MAC, ipv4, tcp_header};
use crate::vlan::TAG;

pub(crate) const ALL: Offload = Offload { checksum: true, tcp4: true, tcp6: true };
const GSO: Gso = Gso { tcp: Tcp::V4, size: 1448 };
/// A tap's header of a large packet.
const LARGE: VnetHeader = [1, 1, 54, 0, 168, 5, 34, 0, 16, 0];
const PLAIN: Layout = Layout { cuts: Vec::new(), offset: 0, flags: 0, gso: None };

type TestQueue = Queue<TestPages, TestGuest, TestTap>;

pub(crate) fn vif(bridge: &str, vlan: Option<u16>) -> Vif {
    let (mac, vlan) = (Mac(MAC), vlan.and_then(Vlan::new));
    let filter = Filter::new(mac, Vec::new());
    Vif { mac, filter, vlan, rate: None, bridge: bridge.to_owned(), isolated: false }
}

/// Of a vif without neighbours.
pub(super) fn rules() -> Rules {
    let vif = vif("bridge", None);
    let way = Neighbours::default().way(&vif, 0);
    Rules { filter: vif.filter, vlan: None, rate: None, chains: true, offloads: ALL, way }
}

/// Of a thread that nobody has to wake.
pub(crate) fn inbox() -> Arc<Inbox> {
    Arc::new(Inbox::new(Arc::new(Bell::new().unwrap())).unwrap())
}

pub(crate) fn attach_to<T: Tap>(
    inbox: Arc<Inbox>,
    tx: &TestPages,
    rx: &TestPages,
    front: &Front,
    tap: T,
    rules: Rules,
) -> Queue<TestPages, TestGuest, T> {
    Queue::attach((tx.clone(), rx.clone()), front.guest.clone(), tap, inbox, rules).unwrap()
}

pub(super) fn attach<T: Tap>(
    tx: &TestPages,
    rx: &TestPages,
    front: &Front,
    tap: T,
    rules: Rules,
) -> Queue<TestPages, TestGuest, T> {
    attach_to(inbox(), tx, rx, front, tap, rules)
}

fn with(front: &Front, tap: &TestTap, rules: Rules) -> TestQueue {
    attach(&front.tx, &front.rx, front, tap.clone(), rules)
}

fn start() -> (Front, TestTap, TestQueue) {
    let (front, tap) = (Front::new(), TestTap::default());
    let queue = with(&front, &tap, rules());
    (front, tap, queue)
}

/// A TCP packet of so many bytes, no two alike.
pub(crate) fn packet(length: usize, seed: u8) -> Vec<u8> {
    let mut tcp = tcp_header().to_vec();
    tcp.resize(length.max(54) - 34, 0);
    for (n, byte) in tcp.iter_mut().enumerate().skip(20) {
        *byte = u8::try_from((n * 7 + n / 256 + usize::from(seed)) % 256).unwrap();
    }
    ipv4([10, 0, 0, seed], TCP, &tcp)
}

/// The packet as it is on the bridge.
fn in_vlan(vlan: Option<Vlan>, packet: &[u8], header: &mut VnetHeader) -> Vec<u8> {
    let Some(vlan) = vlan else { return packet.to_vec() };
    let mut tagged = [&[0; TAG], packet].concat();
    vlan.tag(&mut tagged, header);
    tagged
}

/// A round in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) tx: Round,
    pub(super) rx: Round,
}

impl Pass {
    pub(super) const fn busy(&self) -> bool {
        self.tx.busy || self.rx.busy
    }

    pub(super) const fn more(&self) -> bool {
        self.tx.more || self.rx.more
    }
}

fn rounds<T: Tap>(
    queue: &mut Queue<TestPages, TestGuest, T>,
    now: impl Fn() -> Instant,
) -> Result<Pass, Error> {
    Ok(Pass { tx: queue.take(now)?, rx: queue.give()? })
}

/// With a question to the bridge in any case.
pub(super) fn pass_once<T: Tap>(
    queue: &mut Queue<TestPages, TestGuest, T>,
    now: impl Fn() -> Instant,
) -> Result<Pass, Error> {
    queue.tap_is_ready();
    rounds(queue, now)
}

fn passes(queue: &mut TestQueue) {
    while {
        let pass = pass_once(queue, Instant::now).unwrap();
        pass.busy() || pass.more()
    } {}
}

fn layouts() -> impl Strategy<Value = (usize, Layout)> {
    let cuts = prop::collection::vec(prop_oneof![1..200_u16, Just(4096)], 0..6);
    let length = prop_oneof![54..1600_usize, 1600..20_000_usize, Just(MAX_PACKET), Just(54)];
    (length, cuts, 0..4096_u16, any::<bool>(), any::<bool>()).prop_map(
        |(length, cuts, offset, blank, large)| {
            let flags = if blank || large { TX_CHECKSUM_BLANK } else { 0 };
            let cuts = if length > 40_000 { vec![100; cuts.len().min(1)] } else { cuts };
            (length, Layout { cuts, offset, flags, gso: large.then_some(GSO) })
        },
    )
}

#[derive(Debug, Clone)]
enum Action {
    Send(usize, Layout),
    Bridge(usize, bool),
    /// A packet of another VLAN.
    Foreign(usize),
    Post(usize),
    Pass,
    Take,
    Restart,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => layouts().prop_map(|(length, layout)| Action::Send(length, layout)),
        4 => (54..20_000_usize, any::<bool>()).prop_map(|(length, large)| Action::Bridge(length, large)),
        1 => Just(Action::Bridge(MAX_PACKET, true)),
        1 => (54..20_000_usize).prop_map(Action::Foreign),
        2 => (1..40_usize).prop_map(Action::Post),
        4 => Just(Action::Pass),
        2 => Just(Action::Take),
        1 => Just(Action::Restart),
    ];
    prop::collection::vec(action, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out(actions in actions(), vlan in prop::option::of(1..4094_u16)) {
        let foreign = vlan.map_or(Vlan::new(1), |id| Vlan::new(id + 1));
        let vlan = vlan.and_then(Vlan::new);
        let rules = || Rules { vlan, ..rules() };
        let (mut front, tap) = (Front::new(), TestTap::default());
        let mut queue = with(&front, &tap, rules());
        let (mut sent, mut given, mut received, mut seed) = (Vec::new(), Vec::new(), Vec::new(), 0_u8);
        for action in actions {
            seed = seed.wrapping_add(1);
            match action {
                Action::Send(length, layout) if front.has_room() => {
                    let packet = packet(length, seed);
                    front.send(&packet, &layout);
                    let mut expected = packet;
                    let blank = layout.flags & TX_CHECKSUM_BLANK != 0;
                    let mut header = to_tap(&mut expected, blank, layout.gso).unwrap();
                    let expected = in_vlan(vlan, &expected, &mut header);
                    sent.push((header, expected));
                }
                Action::Send(..) => {}
                Action::Bridge(length, large) => {
                    let header = if large { LARGE } else { [0; 10] };
                    let packet = packet(length, seed);
                    let (flags, gso) = to_guest(&header).unwrap();
                    tap.give(header, &in_vlan(vlan, &packet, &mut header.clone()));
                    given.push(Received { bytes: packet, flags, gso });
                }
                Action::Foreign(length) => {
                    tap.give([0; 10], &in_vlan(foreign, &packet(length, seed), &mut [0; 10]));
                }
                Action::Post(count) => front.post(count),
                Action::Pass => { pass_once(&mut queue, Instant::now).unwrap(); }
                Action::Take => { front.collect(); received.extend(front.receive()); }
                // Politely: between two passes. A packet that waits for buffers would be lost.
                Action::Restart => if !queue.rx.is_holding() { queue = with(&front, &tap, rules()); }
            }
        }
        for _ in 0..given.len() + 2 {
            front.post(40);
            passes(&mut queue);
            front.collect();
            received.extend(front.receive());
        }
        prop_assert_eq!(front.under_way(), 0);
        prop_assert_eq!(front.errors, (0, 0));
        prop_assert_eq!(tap.sent(), sent);
        prop_assert_eq!(received, given);
        prop_assert_eq!(queue.counts().1.errors, 0);
    }

    #[test]
    fn rings_full_of_anything_break_nothing(
        slots in prop::collection::vec(any::<[u8; 12]>(), 1..40), flags in prop::collection::vec(0..16_u16, 40),
        size in prop::option::of(0..200_u16), ahead in prop_oneof![Just(0_u32), 0..300_u32],
    ) {
        let (mut front, tap, mut queue) = start();
        for _ in 0..40 {
            front.grant(&[7; PAGE_SIZE], true);
        }
        for (mut slot, flags) in slots.into_iter().zip(flags) {
            // Mostly believable: a known page, few flags, short.
            let gref = u32::from(slot[0] % 64);
            slot[..4].copy_from_slice(&gref.to_le_bytes());
            slot[5] &= 0x0f;
            slot[6..8].copy_from_slice(&flags.to_le_bytes());
            if let Some(size) = size {
                slot[10..].copy_from_slice(&size.to_le_bytes());
            }
            front.put(&slot, None);
        }
        front.push();
        front.rx.store(0, ahead);
        tap.give([0; 10], &packet(9000, 1));
        for _ in 0..4 {
            if pass_once(&mut queue, Instant::now).is_err() {
                break;
            }
        }
        for (_, packet) in tap.sent() {
            prop_assert!(packet.len() <= MAX_PACKET && packet[6..12] == MAC);
        }
    }
}

/// Kills a backend at each of its stores into one ring, lets a successor go on, and then looks at everything as the guest.
#[test]
fn a_backend_killed_anywhere_while_it_sends_is_not_noticed() {
    let large = Layout { cuts: vec![66], offset: 10, flags: TX_CHECKSUM_BLANK, gso: Some(GSO) };
    let mut stores = 0;
    loop {
        let (mut front, tap) = (Front::new(), TestTap::default());
        let packets = [packet(60, 1), packet(9000, 2), packet(1514, 3)];
        for (packet, layout) in packets.iter().zip([&PLAIN, &large, &PLAIN]) {
            front.send(packet, layout);
        }
        let cut = front.tx.cut_after(stores);
        let mut first = attach(&cut, &front.rx, &front, tap.clone(), rules());
        passes_at_most(&mut first, 3);
        let whole = !cut.is_cut();
        front.collect();
        // The second is killed too, at the same store of its own.
        let cut = front.tx.cut_after(stores);
        let mut second = attach(&cut, &front.rx, &front, tap.clone(), rules());
        passes_at_most(&mut second, 3);
        front.collect();
        let mut third = with(&front, &tap, rules());
        passes(&mut third);
        front.collect();
        assert_eq!((front.under_way(), front.errors), (0, (0, 0)), "after {stores} stores");
        let sent = tap.sent();
        for (n, packet) in packets.iter().enumerate() {
            let same = |other: &[u8]| other.len() == packet.len() && other[52..] == packet[52..];
            assert!(sent.iter().any(|(_, other)| same(other)), "packet {n} is lost after {stores} stores");
        }
        front.send(&packet(70, 4), &PLAIN);
        passes(&mut third);
        assert_eq!(tap.sent().len(), 1);
        if whole {
            break;
        }
        stores += 1;
    }
    assert!(stores > 40, "{stores}");
}

#[test]
fn a_backend_killed_anywhere_while_it_receives_loses_packets_only() {
    let mut stores = 0;
    loop {
        let (mut front, tap) = (Front::new(), TestTap::default());
        front.post(12);
        for (n, (header, length)) in [([0; 10], 60), (LARGE, 9000), ([0; 10], 1514)].into_iter().enumerate() {
            tap.give(header, &packet(length, u8::try_from(n).unwrap()));
        }
        let cut = front.rx.cut_after(stores);
        let mut first = attach(&front.tx, &cut, &front, tap.clone(), rules());
        passes_at_most(&mut first, 3);
        let whole = !cut.is_cut();
        let mut received = front.receive().len();
        let cut = front.rx.cut_after(stores);
        let mut second = attach(&front.tx, &cut, &front, tap.clone(), rules());
        passes_at_most(&mut second, 3);
        received += front.receive().len();
        let mut third = with(&front, &tap, rules());
        passes(&mut third);
        received += front.receive().len();
        assert!(received <= 3 && (!whole || received == 3), "{received} after {stores} stores");
        // Every buffer is still there: as many packets as before fit.
        let after: Vec<_> = (0..7).map(|n| packet(100 + n, 9)).collect();
        after.iter().for_each(|packet| tap.give([0; 10], packet));
        passes(&mut third);
        let bytes: Vec<_> = front.receive().into_iter().map(|packet| packet.bytes).collect();
        assert_eq!(bytes, after, "after {stores} stores");
        if whole {
            break;
        }
        stores += 1;
    }
    assert!(stores > 40, "{stores}");
}

fn passes_at_most(queue: &mut TestQueue, count: usize) {
    for _ in 0..count {
        // A backend that is dead does not see what it has not written.
        let _ = pass_once(queue, Instant::now);
    }
}

#[test]
fn a_frontend_that_breaks_the_protocol_is_found_out() {
    let slot = |flags, offset, size| TxRequest { gref: 9, offset, flags, id: 1, size }.bytes();
    let extra = |bytes: [u8; 8]| {
        let mut slot = [0; 12];
        slot[..8].copy_from_slice(&bytes);
        slot
    };
    let chain = |count: usize| {
        let mut slots = vec![slot(TX_MORE_DATA, 0, 1000)];
        slots.extend(vec![slot(TX_MORE_DATA, 0, 1); count]);
        slots.push(slot(0, 0, 1));
        slots
    };
    let extras = vec![extra([1, 1, 1, 0, 1, 0, 0, 0]); 6];
    let table = [
        ("no end", vec![slot(TX_MORE_DATA, 0, 100)], Broken::Unfinished),
        ("no extra", vec![slot(TX_EXTRA_INFO, 0, 100)], Broken::Unfinished),
        ("unknown extra", vec![slot(TX_EXTRA_INFO, 0, 100), extra([2, 0, 1, 0, 1, 0, 0, 0])], Broken::Extra),
        ("GSO of size 0", vec![slot(TX_EXTRA_INFO, 0, 100), extra([1, 0, 0, 0, 1, 0, 0, 0])], Broken::Extra),
        ("extras", [vec![slot(TX_EXTRA_INFO, 0, 100)], extras].concat(), Broken::Extra),
        ("slots", chain(17), Broken::TooManySlots),
        ("page", vec![slot(0, 4000, 97)], Broken::AcrossPages { offset: 4000, size: 97 }),
        (
            "second page",
            vec![slot(TX_MORE_DATA, 0, 1000), slot(0, 4096, 1)],
            Broken::AcrossPages { offset: 4096, size: 1 },
        ),
        (
            "too long for one slot",
            vec![slot(TX_MORE_DATA, 0, 4197), slot(0, 0, 100)],
            Broken::AcrossPages { offset: 0, size: 4097 },
        ),
        ("longer pieces", vec![slot(TX_MORE_DATA, 0, 99), slot(0, 0, 100)], Broken::TooLong { size: 99 }),
    ];
    for (name, slots, expected) in table {
        let (mut front, tap, mut queue) = start();
        front.grant(&packet(100, 1), false);
        slots.iter().for_each(|slot| front.put(slot, None));
        front.push();
        match pass_once(&mut queue, Instant::now) {
            Err(Error::Broken(broken)) => assert_eq!(broken, expected, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(tap.sent().is_empty(), "{name}");
    }
    let (mut front, _tap, mut queue) = start();
    chain(16).iter().for_each(|slot| front.put(slot, Some(1)));
    front.push();
    assert!(pass_once(&mut queue, Instant::now).is_ok(), "18 slots are allowed");
    front.tx.store(0, 257 + 18);
    assert!(matches!(pass_once(&mut queue, Instant::now), Err(Error::Broken(Broken::Ring(_)))));
    let (front, _tap, mut queue) = start();
    front.rx.store(0, 257);
    assert!(matches!(pass_once(&mut queue, Instant::now), Err(Error::Broken(Broken::Ring(_)))));
}

#[test]
fn bad_pages_cost_their_packet_only() {
    let (mut front, tap, mut queue) = start();
    front.send(&packet(100, 1), &PLAIN);
    let lost = TxRequest { gref: 0xffff, offset: 0, flags: 0, id: 200, size: 100 };
    front.put(&lost.bytes(), Some(200));
    front.put(&TxRequest { gref: 9, size: 13, id: 201, ..lost }.bytes(), Some(201));
    front.send(&packet(101, 2), &PLAIN);
    passes(&mut queue);
    assert_eq!(tap.sent().iter().map(|(_, packet)| packet.len()).collect::<Vec<_>>(), [100, 101]);
    assert_eq!(front.collect(), 4);
    assert_eq!(front.errors, (2, 0), "an unknown page, and a packet without a header");
    assert_eq!((queue.counts().0.packets, queue.counts().0.errors), (2, 2));
    front.post(5);
    // A page of the second packet cannot be written: none of it is given, and what follows is.
    front.guest.grant(front.last_gref() - 1, &[], false);
    tap.give([0; 10], &packet(60, 1));
    tap.give(LARGE, &packet(4097, 2));
    tap.give([0; 10], &packet(62, 3));
    passes(&mut queue);
    let received = front.receive();
    assert_eq!(received.iter().map(|p| p.bytes.len()).collect::<Vec<_>>(), [60, 62]);
    assert_eq!(front.errors.1, 3);
}

#[test]
fn what_may_not_pass_is_dropped_and_answered() {
    let (mut front, tap, mut queue) = start();
    let mut foreign = packet(100, 1);
    foreign[6] ^= 2;
    front.send(&foreign, &PLAIN);
    // Not TCP, but to be cut into segments.
    let mut udp = packet(3000, 1);
    udp[23] = 17;
    front.send(&udp, &Layout { gso: Some(GSO), ..PLAIN });
    passes(&mut queue);
    assert!(tap.sent().is_empty());
    assert_eq!(front.collect(), 3);
    assert_eq!(front.errors.0, 1, "only the second is an error");
    assert_eq!((queue.counts().0.forbidden, queue.counts().0.errors), (1, 1));
}

#[test]
fn packets_wait_for_credit_and_for_buffers() {
    let (mut front, tap) = (Front::new(), TestTap::default());
    let start = Instant::now();
    let rate = Credit::new("1000,1000000".parse().unwrap(), start);
    let mut queue = with(&front, &tap, Rules { rate: Some(rate), ..rules() });
    let large = Layout { cuts: vec![66], ..PLAIN };
    front.send(&packet(MAX_PACKET, 1), &large);
    front.send(&packet(1000, 2), &PLAIN);
    front.send(&packet(1000, 3), &PLAIN);
    let pass = pass_once(&mut queue, || start).unwrap();
    assert_eq!(tap.sent().len(), 2);
    let until = pass.tx.until.unwrap();
    assert_eq!(until, start + Duration::from_secs(1));
    assert!(!pass.tx.more);
    assert!(!pass_once(&mut queue, || start).unwrap().tx.busy);
    // A killed backend forgets that it held a packet, and takes it again.
    let mut queue = with(&front, &tap, rules());
    passes(&mut queue);
    assert_eq!(tap.sent().len(), 1);
    front.collect();
    assert_eq!(front.under_way(), 0);

    tap.give(LARGE, &packet(9000, 1));
    tap.give([0; 10], &packet(60, 2));
    let pass = pass_once(&mut queue, || start).unwrap();
    assert!(!queue.rx.wants_packets() && !pass.more(), "no buffer: the tap is left alone");
    assert_eq!(tap.to_guest.lock().unwrap().len(), 2);
    for posted in [1, 1, 1] {
        front.post(posted);
        passes(&mut queue);
        assert!(front.receive().is_empty());
        assert_eq!(tap.to_guest.lock().unwrap().len(), 1, "one is held, not more");
    }
    front.post(2);
    passes(&mut queue);
    let lengths: Vec<_> = front.receive().into_iter().map(|packet| packet.bytes.len()).collect();
    assert_eq!(lengths, [9000, 60]);
}

#[test]
fn a_frontend_without_features_gets_plain_packets_only() {
    let (mut front, tap) = (Front::new(), TestTap::default());
    let mut queue = with(&front, &tap, Rules { chains: false, offloads: Offload::default(), ..rules() });
    front.post(10);
    tap.give(LARGE, &packet(3000, 1));
    tap.give([1, 0, 54, 0, 0, 0, 34, 0, 16, 0], &packet(100, 2));
    tap.give([0; 10], &packet(4097, 3));
    tap.give([0; 10], &packet(4096, 4));
    tap.give([0; 10], &vec![0; 70_000]);
    tap.give([0; 10], &[0; 13]);
    passes(&mut queue);
    assert_eq!(front.receive().iter().map(|p| p.bytes.len()).collect::<Vec<_>>(), [4096]);
    assert_eq!(queue.counts().1.errors, 5);
}

#[test]
fn an_event_is_asked_for_and_sent_when_it_is_needed() {
    let (mut front, tap, mut queue) = start();
    front.post(1);
    tap.give([0; 10], &packet(60, 1));
    front.send(&packet(60, 1), &PLAIN);
    let pass = pass_once(&mut queue, Instant::now).unwrap();
    assert!(pass.tx.notify && pass.rx.notify);
    assert_eq!((front.tx.load(4), front.rx.load(4)), (1, 1), "as in the beginning: it looks itself");
    assert!(!queue.rest(1).unwrap());
    assert_eq!(
        (front.tx.load(4), front.rx.load(4)),
        (2, 2),
        "the next request of either ring brings an event"
    );
    front.send(&packet(60, 2), &PLAIN);
    assert!(!pass_once(&mut queue, Instant::now).unwrap().tx.notify, "the guest has not looked since");
    front.collect();
    front.receive();
    front.post(4);
    tap.give([0; 10], &packet(60, 3));
    assert!(pass_once(&mut queue, Instant::now).unwrap().rx.notify);
}

#[test]
fn a_tap_is_asked_until_it_has_nothing() {
    let (mut front, tap, mut queue) = start();
    front.post(4);
    tap.give([0; 10], &packet(60, 1));
    assert!(!rounds(&mut queue, Instant::now).unwrap().more(), "nobody says that it has something");
    queue.tap_is_ready();
    assert!((queue.has_to_take() || queue.has_to_give()));
    rounds(&mut queue, Instant::now).unwrap();
    assert_eq!(front.receive().len(), 1);
    tap.give([0; 10], &packet(60, 1));
    assert!(!(queue.has_to_take() || queue.has_to_give()));
    rounds(&mut queue, Instant::now).unwrap();
    assert!(front.receive().is_empty());
}

#[test]
fn what_a_queue_that_rests_is_asked_for_is_seen() {
    let (mut front, _, mut queue) = start();
    front.send(&packet(60, 1), &PLAIN);
    assert!((queue.has_to_take() || queue.has_to_give()) && queue.rest(1).unwrap(), "a packet");
    passes(&mut queue);
    assert!(!queue.rest(1).unwrap() && !queue.rx.wants_packets());
    front.post(1);
    assert!(
        (queue.has_to_take() || queue.has_to_give()) && queue.rest(1).unwrap(),
        "a buffer, which it has none of"
    );
    passes(&mut queue);
    let asks = front.rx.load(4);
    front.post(1);
    assert!(!(queue.has_to_take() || queue.has_to_give() || queue.rest(1).unwrap()), "one more");
    assert_eq!(front.rx.load(4), asks, "and no event is asked for");
    front.tx.store(0, 1 << 31);
    assert!((queue.has_to_take() || queue.has_to_give()) && queue.rest(1).is_err());
}
