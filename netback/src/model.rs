//! A frontend as Linux's netfront is, and a port of a bridge, for tests. The frontend is as strict as the stock one: what that
//! would go dead on fails the test.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use ennead_backend::testing::{TestGuest, TestPages};
use ennead_xen::{PAGE_SIZE, SharedPage as _};
use rustix::event::{EventfdFlags, eventfd};

use crate::netif::{
    Extra, Gso, RSP_NULL, RX_EXTRA_INFO, RX_MORE_DATA, RX_SLOT, RxRequest, RxResponse, TX_EXTRA_INFO,
    TX_MORE_DATA, TX_SLOT, TxRequest,
};
use crate::offload::VnetHeader;
use crate::tap::Tap;

const SLOTS: u32 = 256;

type Packets = Arc<Mutex<VecDeque<(VnetHeader, Vec<u8>)>>>;

/// A port of a bridge, shared by its clones.
#[derive(Debug, Clone)]
pub(crate) struct TestTap {
    /// Readable when the bridge has sent something, as often as it has.
    told: Arc<OwnedFd>,
    /// What the bridge sends.
    pub(crate) to_guest: Packets,
    /// What came from the guest.
    pub(crate) from_guest: Packets,
}

impl Default for TestTap {
    fn default() -> Self {
        let told = eventfd(0, EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK).unwrap();
        Self { told: Arc::new(told), to_guest: Packets::default(), from_guest: Packets::default() }
    }
}

impl AsFd for TestTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

impl TestTap {
    pub(crate) fn sent(&self) -> Vec<(VnetHeader, Vec<u8>)> {
        self.from_guest.lock().unwrap().drain(..).collect()
    }

    pub(crate) fn give(&self, header: VnetHeader, packet: &[u8]) {
        self.to_guest.lock().unwrap().push_back((header, packet.to_vec()));
        rustix::io::write(&self.told, &1_u64.to_ne_bytes()).unwrap();
    }
}

impl Tap for TestTap {
    fn receive(&mut self, header: &mut VnetHeader, packet: &mut [u8]) -> io::Result<Option<usize>> {
        let Some((head, bytes)) = self.to_guest.lock().unwrap().pop_front() else { return Ok(None) };
        rustix::io::read(&self.told, &mut [0; 8]).unwrap();
        *header = head;
        let length = bytes.len().min(packet.len());
        packet[..length].copy_from_slice(&bytes[..length]);
        Ok(Some(length))
    }

    fn send(&mut self, packets: &[(VnetHeader, &[u8])]) -> Vec<bool> {
        let sent = packets.iter().map(|(header, packet)| (*header, packet.to_vec()));
        self.from_guest.lock().unwrap().extend(sent);
        vec![true; packets.len()]
    }
}

/// How a guest lays a packet out.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Bytes of each piece but the last.
    pub(crate) cuts: Vec<u16>,
    /// Where each piece begins in its page, as far as it fits.
    pub(crate) offset: u16,
    pub(crate) flags: u16,
    pub(crate) gso: Option<Gso>,
}

/// A packet that came to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) flags: u16,
    pub(crate) gso: Option<Gso>,
}

/// A guest with its two rings.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) tx: TestPages,
    pub(crate) rx: TestPages,
    pub(crate) guest: TestGuest,
    tx_prod: u32,
    tx_cons: u32,
    /// Requests under way: number by index; none for extra information.
    pending: BTreeMap<u32, Option<u16>>,
    free: Vec<u16>,
    rx_prod: u32,
    rx_cons: u32,
    /// Buffers under way, by index.
    posted: BTreeMap<u32, RxRequest>,
    next_gref: u32,
    /// Responses with an error: packets sent, buffers.
    pub(crate) errors: (usize, usize),
}

impl Front {
    pub(crate) fn new() -> Self {
        Self {
            tx: TestPages::ring(1),
            rx: TestPages::ring(1),
            guest: TestGuest::new(),
            tx_prod: 0,
            tx_cons: 0,
            pending: BTreeMap::new(),
            free: (0..256).rev().collect(),
            rx_prod: 0,
            rx_cons: 0,
            posted: BTreeMap::new(),
            next_gref: 8,
            errors: (0, 0),
        }
    }

    pub(crate) fn grant(&mut self, bytes: &[u8], writable: bool) -> u32 {
        self.next_gref += 1;
        self.guest.grant(self.next_gref, bytes, writable);
        self.next_gref
    }

    pub(crate) const fn last_gref(&self) -> u32 {
        self.next_gref
    }

    /// Puts a slot on the ring from the guest, not yet shown.
    pub(crate) fn put(&mut self, slot: &[u8], id: Option<u16>) {
        self.tx.write(64 + (self.tx_prod % SLOTS) as usize * TX_SLOT, slot);
        self.pending.insert(self.tx_prod, id);
        self.tx_prod = self.tx_prod.wrapping_add(1);
    }

    pub(crate) fn push(&self) {
        self.tx.store(0, self.tx_prod);
    }

    /// Room for a packet of any shape.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.len() + 20 <= SLOTS as usize
    }

    pub(crate) fn send(&mut self, packet: &[u8], layout: &Layout) {
        let mut pieces = Vec::new();
        let mut rest = packet;
        for cut in layout.cuts.iter().take(17) {
            let (piece, after) = rest.split_at(rest.len().min(usize::from(*cut).clamp(1, PAGE_SIZE)));
            pieces.push(piece);
            rest = after;
        }
        let missing = 18 - pieces.len();
        pieces.extend(rest.chunks(PAGE_SIZE.max(rest.len().div_ceil(missing))));
        pieces.retain(|piece| !piece.is_empty());
        let last = pieces.len() - 1;
        for (n, piece) in pieces.iter().enumerate() {
            let offset = usize::from(layout.offset).min(PAGE_SIZE - piece.len());
            let gref = self.grant(&[&vec![0xee; offset], *piece].concat(), false);
            let mut flags = if n < last { TX_MORE_DATA } else { 0 };
            let mut size = piece.len();
            if n == 0 {
                flags |= layout.flags | if layout.gso.is_some() { TX_EXTRA_INFO } else { 0 };
                size = packet.len();
            }
            let id = self.free.pop().unwrap();
            let offset = u16::try_from(offset).unwrap();
            let request = TxRequest { gref, offset, flags, id, size: u16::try_from(size).unwrap() };
            self.put(&request.bytes(), Some(id));
            if let (0, Some(gso)) = (n, layout.gso) {
                self.put(&gso.bytes(), None);
            }
        }
        self.push();
    }

    /// Takes the responses to what was sent.
    pub(crate) fn collect(&mut self) -> usize {
        let prod = self.tx.load(8);
        assert!(prod.wrapping_sub(self.tx_cons) <= self.tx_prod.wrapping_sub(self.tx_cons), "illegal number");
        let mut slots = 0;
        while self.tx_cons != prod {
            let mut slot = [0; 4];
            self.tx.read(64 + (self.tx_cons % SLOTS) as usize * TX_SLOT, &mut slot);
            let (id, status) =
                (u16::from_le_bytes([slot[0], slot[1]]), i16::from_le_bytes([slot[2], slot[3]]));
            match self.pending.remove(&self.tx_cons).unwrap() {
                None => assert_eq!(status, RSP_NULL, "extra information"),
                Some(expected) => {
                    assert_eq!(id, expected, "index {}", self.tx_cons);
                    assert_ne!(status, RSP_NULL);
                    self.free.push(id);
                    self.errors.0 += usize::from(status != 0);
                }
            }
            self.tx_cons = self.tx_cons.wrapping_add(1);
            slots += 1;
        }
        self.tx.store(12, prod.wrapping_add(1));
        slots
    }

    pub(crate) fn under_way(&self) -> usize {
        self.pending.len()
    }

    /// Offers so many buffers, as far as there is room.
    pub(crate) fn post(&mut self, count: usize) {
        for _ in 0..count.min(SLOTS as usize - self.posted.len()) {
            let gref = self.grant(&[0xaa; PAGE_SIZE], true);
            self.post_one(gref);
        }
        self.rx.store(0, self.rx_prod);
    }

    fn post_one(&mut self, gref: u32) {
        let request = RxRequest { id: u16::try_from(self.rx_prod % SLOTS).unwrap(), gref };
        self.rx.write(64 + (self.rx_prod % SLOTS) as usize * RX_SLOT, &request.bytes());
        self.posted.insert(self.rx_prod, request);
        self.rx_prod = self.rx_prod.wrapping_add(1);
    }

    /// Takes the next response to a buffer.
    fn filled(&mut self) -> Option<([u8; RX_SLOT], RxRequest)> {
        let prod = self.rx.load(8);
        if prod == self.rx_cons {
            return None;
        }
        let request = self.posted.remove(&self.rx_cons).expect("illegal number of responses");
        let mut slot = [0; RX_SLOT];
        self.rx.read(64 + (self.rx_cons % SLOTS) as usize * RX_SLOT, &mut slot);
        self.rx_cons = self.rx_cons.wrapping_add(1);
        Some((slot, request))
    }

    /// Takes the packets that have come. Buffers that were not used are offered again.
    pub(crate) fn receive(&mut self) -> Vec<Received> {
        let mut packets = Vec::new();
        while let Some((slot, request)) = self.filled() {
            let first = RxResponse::read(&slot);
            let mut packet = Received { bytes: Vec::new(), flags: first.flags & 3, gso: None };
            let mut unused = Vec::new();
            if first.flags & RX_EXTRA_INFO != 0 {
                let (slot, request) = self.filled().expect("missing extra info");
                let extra = Extra::read(&slot);
                assert!(!extra.more);
                packet.gso = Some(extra.gso.expect("invalid extra info"));
                unused.push(request.gref);
            }
            let (mut response, mut request, mut slots, mut wrong) = (first, request, 1, false);
            loop {
                assert_eq!(response.id, request.id);
                if let Ok(length) = usize::try_from(response.status) {
                    packet.bytes.extend(&self.guest.page(request.gref).unwrap()[..length]);
                } else {
                    wrong = true;
                    self.errors.1 += 1;
                    unused.push(request.gref);
                }
                if response.flags & RX_MORE_DATA == 0 {
                    break;
                }
                let (slot, next) = self.filled().expect("need more slots");
                (response, request) = (RxResponse::read(&slot), next);
                slots += 1;
            }
            assert!(slots <= 18, "too many slots");
            for gref in unused {
                self.post_one(gref);
            }
            if !wrong {
                packets.push(packet);
            }
        }
        self.rx.store(0, self.rx_prod);
        self.rx.store(12, self.rx_cons.wrapping_add(1));
        packets
    }
}
