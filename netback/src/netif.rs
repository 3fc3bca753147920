//! The slots of the two rings, as bytes: xen/include/public/io/netif.h. What a slot holds is the guest's word.

/// Most bytes of a packet, from either side (the field `size` has 16 bits).
pub const MAX_PACKET: usize = 65_535;
/// Most slots with data that a guest may use for one packet (`XEN_NETIF_NR_SLOTS_MIN`).
pub const MAX_DATA_SLOTS: usize = 18;
/// Most slots with extra information after a packet's first: one of each type.
pub const MAX_EXTRA_SLOTS: usize = 5;
/// Bytes of a slot of the ring from the guest.
pub const TX_SLOT: usize = 12;
/// Bytes of a slot of the ring to the guest.
pub const RX_SLOT: usize = 8;

/// `NETTXF_csum_blank`: the guest left the checksum to us.
pub const TX_CHECKSUM_BLANK: u16 = 1;
/// `NETTXF_more_data`: the packet goes on in the next slot.
pub const TX_MORE_DATA: u16 = 4;
/// `NETTXF_extra_info`: the next slot says more about the packet.
pub const TX_EXTRA_INFO: u16 = 8;

/// `NETRXF_data_validated`: the checksum is right, or will be made so by the last hop.
pub const RX_DATA_VALIDATED: u16 = 1;
/// `NETRXF_csum_blank`: the checksum field holds only that of the pseudo header.
pub const RX_CHECKSUM_BLANK: u16 = 2;
/// `NETRXF_more_data`: the packet goes on in the next slot.
pub const RX_MORE_DATA: u16 = 4;
/// `NETRXF_extra_info`: the next slot says more about the packet.
pub const RX_EXTRA_INFO: u16 = 8;

/// `NETIF_RSP_OKAY`: sent, or dropped on purpose.
pub const RSP_OKAY: i16 = 0;
/// `NETIF_RSP_ERROR`: not sent, or nothing in this buffer.
pub const RSP_ERROR: i16 = -1;
/// `NETIF_RSP_NULL`: this slot was none with data.
pub const RSP_NULL: i16 = 1;

/// `XEN_NETIF_EXTRA_TYPE_GSO`.
const EXTRA_GSO: u8 = 1;
/// `XEN_NETIF_EXTRA_FLAG_MORE`.
const EXTRA_MORE: u8 = 1;

/// Two bytes at an offset; zero if they are not there.
fn word(bytes: &[u8], at: usize) -> u16 {
    let array = bytes.get(at..).and_then(|rest| rest.first_chunk());
    array.map_or(0, |array| u16::from_le_bytes(*array))
}

/// What a guest asks to send: a piece of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxRequest {
    /// The page with the piece.
    pub gref: u32,
    /// Where in the page, bytes.
    pub offset: u16,
    /// `TX_...`.
    pub flags: u16,
    /// The guest's number for it.
    pub id: u16,
    /// Bytes; in a packet's first slot those of the whole packet.
    pub size: u16,
}

impl TxRequest {
    /// Reads a slot.
    #[must_use]
    pub fn read(slot: &[u8; TX_SLOT]) -> Self {
        let gref = slot.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Self { gref, offset: word(slot, 4), flags: word(slot, 6), id: word(slot, 8), size: word(slot, 10) }
    }

    /// As a guest writes it.
    #[cfg(test)]
    pub(crate) fn bytes(self) -> [u8; TX_SLOT] {
        let mut slot = [0; TX_SLOT];
        slot[..4].copy_from_slice(&self.gref.to_le_bytes());
        for (at, value) in [(4, self.offset), (6, self.flags), (8, self.id), (10, self.size)] {
            slot[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        slot
    }
}

/// The answer to a piece: the first bytes of its slot. What follows them stays, the request's number above all
/// (`recovery` lives by that).
#[must_use]
pub fn tx_response(id: u16, status: i16) -> [u8; 4] {
    let ([a, b], [c, d]) = (id.to_le_bytes(), status.to_le_bytes());
    [a, b, c, d]
}

/// A buffer that a guest offers for a piece of a packet to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RxRequest {
    /// The guest's number for it.
    pub id: u16,
    /// The page.
    pub gref: u32,
}

impl RxRequest {
    /// Reads a slot.
    #[must_use]
    pub fn read(slot: &[u8; RX_SLOT]) -> Self {
        let gref = slot.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Self { id: word(slot, 0), gref }
    }

    /// As a guest writes it.
    #[cfg(test)]
    pub(crate) fn bytes(self) -> [u8; RX_SLOT] {
        let mut slot = [0; RX_SLOT];
        slot[..2].copy_from_slice(&self.id.to_le_bytes());
        slot[4..].copy_from_slice(&self.gref.to_le_bytes());
        slot
    }
}

/// What a guest's buffer holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RxResponse {
    /// The request's number.
    pub id: u16,
    /// `RX_...`.
    pub flags: u16,
    /// Bytes from the start of the page, or `RSP_ERROR`.
    pub status: i16,
}

impl RxResponse {
    /// As it goes into the slot.
    #[must_use]
    pub fn bytes(self) -> [u8; RX_SLOT] {
        let ([a, b], [c, d], [e, f]) =
            (self.id.to_le_bytes(), self.flags.to_le_bytes(), self.status.to_le_bytes());
        [a, b, 0, 0, c, d, e, f]
    }

    /// As a guest reads it.
    #[cfg(test)]
    pub(crate) fn read(slot: &[u8; RX_SLOT]) -> Self {
        let status = i16::from_le_bytes([slot[6], slot[7]]);
        Self { id: word(slot, 0), flags: word(slot, 4), status }
    }
}

/// TCP over which a large packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tcp {
    /// `XEN_NETIF_GSO_TYPE_TCPV4`.
    V4,
    /// `XEN_NETIF_GSO_TYPE_TCPV6`.
    V6,
}

/// A large packet that the last hop cuts into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Of what.
    pub tcp: Tcp,
    /// Payload of each segment, bytes; not zero.
    pub size: u16,
}

/// A slot with extra information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extra {
    /// What it says; no other type than GSO is offered, so no other is known.
    pub gso: Option<Gso>,
    /// Another follows.
    pub more: bool,
}

impl Extra {
    /// Reads a slot of either ring.
    #[must_use]
    pub fn read(slot: &[u8]) -> Self {
        let more = slot.get(1).is_some_and(|flags| flags & EXTRA_MORE != 0);
        let tcp = match (slot.first(), slot.get(4)) {
            (Some(&EXTRA_GSO), Some(1)) => Some(Tcp::V4),
            (Some(&EXTRA_GSO), Some(2)) => Some(Tcp::V6),
            _ => None,
        };
        let size = word(slot, 2);
        Self { gso: tcp.filter(|_| size != 0).map(|tcp| Gso { tcp, size }), more }
    }
}

impl Gso {
    /// As it goes into a slot to the guest, nothing following.
    #[must_use]
    pub fn bytes(self) -> [u8; RX_SLOT] {
        let [low, high] = self.size.to_le_bytes();
        let tcp = match self.tcp {
            Tcp::V4 => 1,
            Tcp::V6 => 2,
        };
        [EXTRA_GSO, 0, low, high, tcp, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_lie_as_in_the_header() {
        let slot = [4, 3, 2, 1, 6, 5, 8, 7, 10, 9, 12, 11];
        let request = TxRequest { gref: 0x0102_0304, offset: 0x506, flags: 0x708, id: 0x90a, size: 0xb0c };
        assert_eq!(TxRequest::read(&slot), request);
        assert_eq!(request.bytes(), slot);
        assert_eq!(tx_response(0x102, RSP_ERROR), [2, 1, 255, 255]);
        let slot = [2, 1, 9, 9, 6, 5, 4, 3];
        assert_eq!(RxRequest::read(&slot), RxRequest { id: 0x102, gref: 0x0304_0506 });
        let response = RxResponse { id: 0x102, flags: 0x304, status: 0x506 };
        assert_eq!(response.bytes(), [2, 1, 0, 0, 4, 3, 6, 5]);
        assert_eq!(RxResponse::read(&response.bytes()), response);
    }

    #[test]
    fn a_large_packet_says_so_in_its_extra_slot() {
        for tcp in [Tcp::V4, Tcp::V6] {
            let gso = Gso { tcp, size: 1448 };
            assert_eq!(Extra::read(&gso.bytes()), Extra { gso: Some(gso), more: false });
        }
        let nothing = Extra { gso: None, more: false };
        for slot in [[1, 0, 0, 0, 1, 0, 0, 0], [1, 0, 1, 0, 3, 0, 0, 0], [2, 0, 1, 0, 1, 0, 0, 0]] {
            assert_eq!(Extra::read(&slot), nothing, "{slot:?}");
        }
        assert_eq!(Extra::read(&[]), nothing);
        assert!(Extra::read(&[1, 1, 1, 0, 1, 0, 0, 0]).more);
    }
}
