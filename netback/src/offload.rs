//! Checksums and segments that one side leaves to the next: netif's flags on the guest's side, `virtio_net_hdr` on the tap's
//! (Linux's include/uapi/linux/virtio_net.h).

use crate::headers::{Headers, Network, TCP, Transport, UDP, bytes, number};
use crate::netif::{Gso, RX_CHECKSUM_BLANK, RX_DATA_VALIDATED, Tcp};

use ennead_os::Offload;
pub use ennead_os::VNET_HEADER;

/// What stands before a packet to and from the tap.
pub type VnetHeader = [u8; VNET_HEADER];

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// The packet has TCP's congestion flag; it says nothing that netif could.
const GSO_ECN: u8 = 0x80;

/// Whether a packet from the tap may go as it is to a frontend that takes this.
#[must_use]
pub fn allow(offload: Offload, flags: u16, gso: Option<Gso>) -> bool {
    let large = match gso {
        None => true,
        Some(Gso { tcp: Tcp::V4, .. }) => offload.tcp4,
        Some(Gso { tcp: Tcp::V6, .. }) => offload.tcp6,
    };
    large && (offload.checksum || flags & RX_CHECKSUM_BLANK == 0)
}

/// A guest's packet is not what its flags say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet's headers are not what its flags say")]
pub struct Contradiction;

/// The header for a guest's packet. The blank checksum gets that of the pseudo header, whatever the guest has put there.
///
/// # Errors
/// Something is to be done that the packet's headers do not allow.
pub fn to_tap(packet: &mut [u8], blank: bool, gso: Option<Gso>) -> Result<VnetHeader, Contradiction> {
    if !blank && gso.is_none() {
        return Ok([0; VNET_HEADER]);
    }
    header(packet, gso).ok_or(Contradiction)
}

fn header(packet: &mut [u8], gso: Option<Gso>) -> Option<VnetHeader> {
    let headers = Headers::read(packet)?;
    let Transport { protocol, at } = headers.transport.filter(|_| !headers.fragment)?;
    let (offset, shortest) = match protocol {
        TCP => (16, 20),
        UDP => (6, 8),
        _ => return None,
    };
    if packet.len().checked_sub(at)? < shortest {
        return None;
    }
    let (mut kind, mut size, mut end) = (0, 0, at + shortest);
    if let Some(gso) = gso {
        kind = match (gso.tcp, headers.network, protocol) {
            (Tcp::V4, Network::V4, TCP) => GSO_TCPV4,
            (Tcp::V6, Network::V6, TCP) => GSO_TCPV6,
            _ => return None,
        };
        let tcp = usize::from(packet.get(at + 12)? >> 4) * 4;
        size = gso.size;
        end = Some(at + tcp).filter(|end| tcp >= shortest && *end <= packet.len())?;
    }
    let sum = pseudo(packet, &headers, protocol, at)?;
    packet.get_mut(at + offset..at + offset + 2)?.copy_from_slice(&sum.to_be_bytes());
    let [e, f] = u16::try_from(end).ok()?.to_le_bytes();
    let [s, t] = size.to_le_bytes();
    let [a, b] = u16::try_from(at).ok()?.to_le_bytes();
    let [o, p] = u16::try_from(offset).ok()?.to_le_bytes();
    Some([NEEDS_CHECKSUM, kind, e, f, s, t, a, b, o, p])
}

/// The packet's headers, and with them what the header points to, come so many bytes later.
pub fn move_headers(header: &mut VnetHeader, by: usize) {
    if header.first().is_none_or(|flags| flags & NEEDS_CHECKSUM == 0) {
        return;
    }
    // `hdr_len` and `csum_start`; `csum_offset` counts from the latter.
    for at in [2, 6] {
        let moved =
            bytes(header, at).map_or(0, u16::from_le_bytes).saturating_add(u16::try_from(by).unwrap_or(0));
        header.iter_mut().skip(at).zip(moved.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
}

/// The checksum of TCP's or UDP's pseudo header.
fn pseudo(packet: &[u8], headers: &Headers, protocol: u8, transport: usize) -> Option<u16> {
    let at = headers.at;
    let (addresses, end) = match headers.network {
        Network::V4 => (packet.get(at + 12..at + 20)?, at + usize::from(number(packet, at + 2)?)),
        Network::V6 => (packet.get(at + 8..at + 40)?, at + 40 + usize::from(number(packet, at + 4)?)),
        _ => return None,
    };
    let length = end.checked_sub(transport).filter(|_| end <= packet.len())?;
    let words = (0..addresses.len()).step_by(2).filter_map(|at| number(addresses, at));
    let sum: u32 = words.map(u32::from).sum();
    let mut sum = sum + u32::from(protocol) + u32::try_from(length).ok()?;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).ok()
}

/// What the guest is told of a packet from the tap: flags of its first slot, and whether it is large.
///
/// # Errors
/// The header asks for something that netif does not have.
pub fn to_guest(header: &VnetHeader) -> Result<(u16, Option<Gso>), Contradiction> {
    let [flags, kind, ..] = *header;
    let size = bytes(header, 4).map_or(0, u16::from_le_bytes);
    let gso = match kind & !GSO_ECN {
        0 => None,
        GSO_TCPV4 if size != 0 => Some(Gso { tcp: Tcp::V4, size }),
        GSO_TCPV6 if size != 0 => Some(Gso { tcp: Tcp::V6, size }),
        _ => return Err(Contradiction),
    };
    let told = if flags & NEEDS_CHECKSUM != 0 {
        RX_CHECKSUM_BLANK | RX_DATA_VALIDATED
    } else if flags & DATA_VALID != 0 {
        RX_DATA_VALIDATED
    } else {
        0
    };
    Ok((told, gso))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples::{ipv4, ipv6, tagged, tcp_header};

    const V4: Gso = Gso { tcp: Tcp::V4, size: 1448 };
    const V6: Gso = Gso { tcp: Tcp::V6, size: 1428 };

    #[test]
    fn a_whole_packet_needs_nothing() {
        assert_eq!(to_tap(&mut [1, 2, 3], false, None), Ok([0; 10]));
    }

    #[test]
    fn a_blank_checksum_is_found_and_prepared() {
        let mut packet = ipv4([10, 0, 0, 2], TCP, &tcp_header());
        assert_eq!(to_tap(&mut packet, true, None), Ok([1, 0, 54, 0, 0, 0, 34, 0, 16, 0]));
        // 0a00 + 0002 + 0a09 + 0807 + 6 + 20.
        assert_eq!(packet[50..52], [0x1c, 0x2c]);
        let mut packet = tagged(&ipv6([0xff; 16], UDP, &[0; 8]));
        assert_eq!(to_tap(&mut packet, true, None), Ok([1, 0, 66, 0, 0, 0, 58, 0, 6, 0]));
    }

    #[test]
    fn a_completed_checksum_is_right() {
        let mut packet = ipv4([10, 0, 0, 2], UDP, &[0, 1, 0, 2, 0, 12, 0, 0, 1, 2, 3, 4]);
        to_tap(&mut packet, true, None).unwrap();
        // What the last hop does: the sum over everything from the start, complemented.
        let sum = |bytes: &[u8]| {
            let mut sum: u32 = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            u16::try_from(sum).unwrap()
        };
        let checksum = !sum(&packet[34..]);
        // By hand: the pseudo header is 0a00+0002+0a09+0807+0011+000c, the rest 0001+0002+000c+0102+0304.
        assert_eq!(checksum, !0x2044);
    }

    #[test]
    fn a_large_packet_is_announced() {
        let mut tcp = tcp_header().to_vec();
        tcp.extend([7; 4000]);
        let mut packet = ipv4([10, 0, 0, 2], TCP, &tcp);
        assert_eq!(to_tap(&mut packet, true, Some(V4)), Ok([1, 1, 54, 0, 168, 5, 34, 0, 16, 0]));
        assert_eq!(to_tap(&mut packet.clone(), false, Some(V4)), to_tap(&mut packet, true, Some(V4)));
        assert_eq!(to_tap(&mut packet, true, Some(V6)), Err(Contradiction));
        let mut packet = ipv6([1; 16], TCP, &tcp);
        assert_eq!(to_tap(&mut packet, true, Some(V6)), Ok([1, 4, 74, 0, 148, 5, 54, 0, 16, 0]));
        packet[54 + 12] = 0x40;
        assert_eq!(to_tap(&mut packet, true, Some(V6)), Err(Contradiction), "TCP header too short");
        packet[54 + 12] = 0xf0;
        packet.truncate(54 + 59);
        packet[19] = 59;
        packet[18] = 0;
        assert_eq!(to_tap(&mut packet, true, Some(V6)), Err(Contradiction), "TCP header cut");
    }

    #[test]
    fn what_has_no_checksum_cannot_be_blank() {
        assert_eq!(to_tap(&mut ipv4([10, 0, 0, 2], 1, &[0; 40]), true, None), Err(Contradiction));
        assert_eq!(to_tap(&mut ipv4([10, 0, 0, 2], TCP, &[0; 19]), true, None), Err(Contradiction));
        let mut fragment = ipv4([10, 0, 0, 2], UDP, &[0; 40]);
        fragment[20] = 0x20;
        assert_eq!(to_tap(&mut fragment, true, None), Err(Contradiction));
        let mut long = ipv4([10, 0, 0, 2], UDP, &[0; 40]);
        long[16] = 0xff;
        assert_eq!(to_tap(&mut long, true, None), Err(Contradiction), "longer than it is");
    }

    #[test]
    fn a_tap_s_header_becomes_flags() {
        assert_eq!(to_guest(&[0; 10]), Ok((0, None)));
        assert_eq!(to_guest(&[1, 0, 54, 0, 0, 0, 34, 0, 16, 0]), Ok((3, None)));
        assert_eq!(to_guest(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok((1, None)));
        assert_eq!(to_guest(&[1, 1, 54, 0, 168, 5, 34, 0, 16, 0]), Ok((3, Some(V4))));
        assert_eq!(to_guest(&[1, 0x84, 54, 0, 148, 5, 34, 0, 16, 0]), Ok((3, Some(V6))));
        assert_eq!(to_guest(&[1, 3, 54, 0, 168, 5, 34, 0, 16, 0]), Err(Contradiction));
        assert_eq!(to_guest(&[1, 1, 54, 0, 0, 0, 34, 0, 16, 0]), Err(Contradiction));
    }

    #[test]
    fn a_frontend_gets_what_it_takes() {
        let all = Offload { checksum: true, tcp4: true, tcp6: true };
        assert!(allow(all, RX_CHECKSUM_BLANK, Some(V4)) && allow(all, RX_CHECKSUM_BLANK, Some(V6)));
        assert!(!allow(Offload { tcp6: false, ..all }, RX_CHECKSUM_BLANK, Some(V6)));
        assert!(!allow(Offload { tcp4: false, ..all }, RX_CHECKSUM_BLANK, Some(V4)));
        assert!(!allow(Offload::default(), RX_CHECKSUM_BLANK, None));
        assert!(allow(Offload::default(), RX_DATA_VALIDATED, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_packet_is_mapped_or_refused(
            v6: bool, protocol in prop::sample::select(vec![TCP, UDP, 0, 44, 58]),
            mut rest in prop::collection::vec(any::<u8>(), 0..120), noise in prop::collection::vec((0_usize..160, any::<u8>()), 0..4),
            blank: bool, size: u16,
        ) {
            rest.resize(rest.len().max(1), 0);
            let mut packet = if v6 { ipv6([1; 16], protocol, &rest) } else { ipv4([1; 4], protocol, &rest) };
            for (at, byte) in noise {
                if let Some(place) = packet.get_mut(at) { *place = byte; }
            }
            let gso = (size % 3 != 0).then_some(Gso { tcp: if v6 { Tcp::V6 } else { Tcp::V4 }, size });
            let before = packet.len();
            if let Ok(header) = to_tap(&mut packet, blank, gso) {
                let word = |at| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
                prop_assert_eq!(packet.len(), before);
                prop_assert!(word(6) + word(8) + 2 <= before && word(2) <= before);
                prop_assert_eq!(to_guest(&header).unwrap().1, gso);
            }
        }
    }
}
