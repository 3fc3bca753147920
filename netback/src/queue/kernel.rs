//! Two guests at real taps in a real bridge: what this kernel makes of our headers, and we of its.
//!
//! `unshare -nm sh -c 'mount -t sysfs sysfs /sys; cargo test -p ennead-netback -- --ignored'`

use ennead_backend::testing::{TestGuest, TestPages};
use ennead_os::{Interfaces, TapDevice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::tests::{ALL, attach, packet, pass_once, rules, vif};
use super::*;
use crate::config::Vif;
use crate::headers::{Headers, TCP};
use crate::model::{Front, Layout, Received};
use crate::netif::{Gso, MAX_PACKET, RX_CHECKSUM_BLANK, RX_DATA_VALIDATED, TX_CHECKSUM_BLANK, Tcp};
use crate::offload::to_tap;
use crate::samples::{ipv6, tcp_header};
use crate::vif::port;

struct Guest {
    front: Front,
    queue: Queue<TestPages, TestGuest, TapDevice>,
}

impl Guest {
    fn new(name: &str, offloads: Offload, isolated: bool) -> Self {
        Self::of(name, offloads, &Vif { isolated, ..vif("ennead-bridge", None) })
    }

    fn of(name: &str, offloads: Offload, vif: &Vif) -> Self {
        Self::queues(name, offloads, vif, 1).remove(0)
    }

    fn queues(name: &str, offloads: Offload, vif: &Vif, count: usize) -> Vec<Self> {
        let taps = port(&Interfaces::open().unwrap(), name, vif, offloads, count).unwrap();
        let queue = |tap| {
            let mut front = Front::new();
            front.post(200);
            let rules = Rules { offloads, vlan: vif.vlan, ..rules() };
            let queue = attach(&front.tx, &front.rx, &front, tap, rules);
            Self { front, queue }
        };
        taps.into_iter().map(queue).collect()
    }

    fn send(&mut self, packet: &[u8], flags: u16, gso: Option<Gso>) {
        self.front.send(packet, &Layout { cuts: vec![66], offset: 100, flags, gso });
        while pass_once(&mut self.queue, Instant::now).unwrap().busy() {}
        self.front.collect();
        assert_eq!((self.front.under_way(), self.front.errors.0), (0, 0));
    }

    /// All TCP that comes within a tenth of a second.
    fn receive(&mut self) -> Vec<Received> {
        let mut received = Vec::new();
        let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while poll(&mut [PollFd::new(self.queue.tap(), PollFlags::IN)], Some(&patience)).unwrap() > 0 {
            pass_once(&mut self.queue, Instant::now).unwrap();
            received.extend(self.front.receive());
            self.front.post(200);
        }
        // This kernel has something to say itself on a new interface.
        let is_tcp =
            |p: &Received| Headers::read(&p.bytes).unwrap().transport.is_some_and(|t| t.protocol == TCP);
        received.retain(is_tcp);
        received
    }
}

/// Whether a packet's TCP checksum is right.
fn is_right(packet: &[u8]) -> bool {
    let at = Headers::read(packet).unwrap().transport.unwrap().at;
    let mut copy = packet.to_vec();
    // Leaves the pseudo header's sum where the checksum was.
    to_tap(&mut copy, true, None).unwrap();
    let sum: u32 =
        copy[at..].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap() == u16::from_be_bytes([packet[at + 16], packet[at + 17]])
}

#[test]
#[ignore = "needs a network namespace of its own, and CAP_NET_ADMIN in it"]
fn packets_go_through_this_kernel() {
    let mut sender = Guest::new("ennead-a", ALL, false);
    let mut taker = Guest::new("ennead-b", ALL, true);
    let mut plain = Guest::new("ennead-c", Offload::default(), true);
    for guest in [&mut sender, &mut taker, &mut plain] {
        guest.receive();
    }

    let small = packet(100, 1);
    sender.send(&small, 0, None);
    for guest in [&mut taker, &mut plain] {
        let received = guest.receive();
        assert_eq!(received.iter().map(|p| &p.bytes).collect::<Vec<_>>(), [&small]);
        assert_eq!((received[0].flags, received[0].gso), (0, None));
    }

    let blank = packet(1514, 2);
    sender.send(&blank, TX_CHECKSUM_BLANK, None);
    let received = taker.receive();
    assert_eq!(received[0].flags, RX_CHECKSUM_BLANK | RX_DATA_VALIDATED);
    assert_eq!(received[0].bytes[54..], blank[54..]);
    let received = plain.receive();
    assert_eq!(received[0].flags & RX_CHECKSUM_BLANK, 0);
    assert!(is_right(&received[0].bytes) && !is_right(&blank));

    let mut over6 = tcp_header().to_vec();
    over6.extend(&packet(40_000, 4)[54..]);
    let over6 = ipv6([0xfd; 16], TCP, &over6);
    let table = [(packet(60_000, 3), Tcp::V4, 54, 1448), (over6, Tcp::V6, 74, 1428)];
    for (large, tcp, header, size) in table {
        let gso = Some(Gso { tcp, size });
        sender.send(&large, TX_CHECKSUM_BLANK, gso);
        let received = taker.receive();
        assert_eq!(received.len(), 1, "{tcp:?}");
        assert_eq!((received[0].flags, received[0].gso), (RX_CHECKSUM_BLANK | RX_DATA_VALIDATED, gso));
        assert_eq!(received[0].bytes[header..], large[header..]);
        let received = plain.receive();
        assert_eq!(received.len(), (large.len() - header).div_ceil(size.into()), "{tcp:?}");
        assert!(received.iter().all(|p| p.gso.is_none() && p.flags & RX_CHECKSUM_BLANK == 0));
        assert!(received.iter().all(|p| is_right(&p.bytes)));
        let payload: Vec<u8> = received.iter().flat_map(|p| p.bytes[header..].to_vec()).collect();
        assert!(payload == large[header..]);
    }
    // All of a burst is sent in one system call.
    let burst: Vec<Vec<u8>> = (0..20).map(|n| packet(200 + usize::from(n), n)).collect();
    for packet in &burst {
        let layout = Layout { cuts: vec![66], offset: 100, flags: 0, gso: None };
        sender.front.send(packet, &layout);
    }
    while pass_once(&mut sender.queue, Instant::now).unwrap().busy() {}
    sender.front.collect();
    let received: Vec<Vec<u8>> = taker.receive().into_iter().map(|p| p.bytes).collect();
    assert_eq!(received, burst);
    plain.receive();

    // One isolated vif reaches others, but no isolated one.
    taker.send(&small, 0, None);
    assert_eq!((sender.receive().len(), plain.receive().len()), (1, 0));
    assert_eq!(taker.queue.counts().1.errors + plain.queue.counts().1.errors, 0);
}

#[test]
#[ignore = "needs a network namespace of its own, and CAP_NET_ADMIN in it"]
fn vlans_are_apart() {
    let guest = |name, offloads, vlan| Guest::of(name, offloads, &vif("ennead-vlans", vlan));
    let mut sender = guest("vlan-a", ALL, Some(5));
    let mut taker = guest("vlan-b", ALL, Some(5));
    let mut plain = guest("vlan-c", Offload::default(), Some(5));
    let mut other = guest("vlan-d", ALL, Some(6));
    let mut none = guest("vlan-e", ALL, None);
    for guest in [&mut sender, &mut taker, &mut plain, &mut other, &mut none] {
        guest.receive();
    }
    let gso = Gso { tcp: Tcp::V4, size: 1448 };
    for (packet, flags, gso) in [
        (packet(100, 1), 0, None),
        (packet(1514, 2), TX_CHECKSUM_BLANK, None),
        (packet(60_000, 3), TX_CHECKSUM_BLANK, Some(gso)),
        (packet(MAX_PACKET, 4), TX_CHECKSUM_BLANK, Some(gso)),
    ] {
        sender.send(&packet, flags, gso);
        let received = taker.receive();
        assert_eq!(received.len(), 1, "{}", packet.len());
        assert_eq!((&received[0].bytes[54..], received[0].gso), (&packet[54..], gso));
        assert_eq!(received[0].bytes[..12], packet[..12]);
        let received = plain.receive();
        assert!(received.iter().all(|p| p.gso.is_none() && (flags == 0 || is_right(&p.bytes))));
        let payload: Vec<u8> = received.iter().flat_map(|p| p.bytes[54..].to_vec()).collect();
        assert!(payload == packet[54..]);
        assert_eq!((other.receive(), none.receive()), (vec![], vec![]));
    }
    none.send(&packet(100, 5), 0, None);
    let reached = [&mut sender, &mut taker, &mut plain, &mut other].map(|guest| guest.receive().len());
    assert_eq!(reached, [0; 4]);
    for guest in [&sender, &taker, &plain, &other, &none] {
        assert_eq!((guest.queue.counts().0.errors, guest.queue.counts().1.errors), (0, 0));
    }
}

#[test]
#[ignore = "needs a network namespace of its own, and CAP_NET_ADMIN in it"]
fn a_connection_stays_in_its_queue() {
    let vif = vif("ennead-queues", Some(5));
    let mut many = Guest::queues("queues-a", ALL, &vif, 4);
    let mut other = Guest::of("queues-b", ALL, &vif);
    other.receive();
    for sender in 0..4 {
        many.iter_mut().for_each(|queue| drop(queue.receive()));
        let sent = packet(100, u8::try_from(sender).unwrap());
        many[sender].send(&sent, 0, None);
        assert_eq!(other.receive().len(), 1);
        // The answer: addresses and ports change places.
        let mut answer = sent;
        answer[26..34].rotate_left(4);
        answer[34..38].rotate_left(2);
        other.send(&answer, 0, None);
        let received: Vec<usize> = many.iter_mut().map(|queue| queue.receive().len()).collect();
        assert_eq!(received.iter().sum::<usize>(), 1);
        assert_eq!(received[sender], 1, "{received:?}");
    }
}
