//! What a packet's headers say, as far as checksums and the filter need it. The packet is our copy, its bytes the guest's.

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Extension headers of IPv6 that are walked at most.
const MAX_EXTENSIONS: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// A VLAN's tag follows (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// That of a provider's VLAN (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// IP's number for ICMP over IPv6.
pub const ICMPV6: u8 = 58;
/// IP's number for TCP.
pub const TCP: u8 = 6;
/// IP's number for UDP.
pub const UDP: u8 = 17;

/// So many bytes of a packet.
pub fn bytes<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..)?.first_chunk().copied()
}

/// A number of a packet, in network order.
pub fn number(packet: &[u8], at: usize) -> Option<u16> {
    bytes(packet, at).map(u16::from_be_bytes)
}

/// What follows the Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// ARP.
    Arp,
    /// Anything else, or one of the above that is cut short.
    Other,
}

/// What IP carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// IP's number for it.
    pub protocol: u8,
    /// Where it begins, bytes from the packet's start.
    pub at: usize,
}

/// The headers of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Whether a VLAN tag of either kind stands before them.
    pub tagged: bool,
    /// What follows.
    pub network: Network,
    /// Where that begins, bytes from the packet's start.
    pub at: usize,
    /// What IP carries; nothing in a fragment but the first, or where the headers end too early.
    pub transport: Option<Transport>,
    /// Whether it is a fragment of a packet.
    pub fragment: bool,
}

impl Headers {
    /// Reads them; `None` if the packet has no whole Ethernet header.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let mut kind = number(packet, 12)?;
        let mut at = ETHERNET;
        let tagged = matches!(kind, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN);
        let other = Self { tagged, network: Network::Other, at, transport: None, fragment: false };
        if tagged {
            let Some(inner) = number(packet, 16) else { return Some(other) };
            (kind, at) = (inner, 18);
        }
        let found = match kind {
            ETHERTYPE_IPV4 => v4(packet, at),
            ETHERTYPE_IPV6 => v6(packet, at),
            ETHERTYPE_ARP => Some((Network::Arp, None, false)),
            _ => None,
        };
        let Some((network, transport, fragment)) = found else { return Some(Self { at, ..other }) };
        Some(Self { tagged, network, at, transport, fragment })
    }
}

type Found = (Network, Option<Transport>, bool);

fn v4(packet: &[u8], at: usize) -> Option<Found> {
    let header: [u8; 20] = bytes(packet, at)?;
    let [first, .., _, _, _, _, _, _, _, _] = header;
    let length = usize::from(first & 15) * 4;
    if first >> 4 != 4 || length < header.len() {
        return None;
    }
    let fragment = number(&header, 6)? & 0x3fff;
    let protocol = *header.get(9)?;
    let start = fragment & 0x1fff == 0 && at + length <= packet.len();
    let transport = start.then_some(Transport { protocol, at: at + length });
    Some((Network::V4, transport, fragment != 0))
}

fn v6(packet: &[u8], start: usize) -> Option<Found> {
    let header: [u8; 40] = bytes(packet, start)?;
    if header.first()? >> 4 != 6 {
        return None;
    }
    let (mut protocol, mut at, mut fragment) = (*header.get(6)?, start + header.len(), false);
    for _ in 0..MAX_EXTENSIONS {
        let Some([next, length, offset @ ..]) = bytes::<4>(packet, at) else { break };
        let length = match protocol {
            // Hop-by-hop options, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(length) + 1) * 8,
            // Authentication.
            51 => (usize::from(length) + 2) * 4,
            44 => {
                fragment = true;
                if u16::from_be_bytes(offset) & 0xfff8 != 0 {
                    return Some((Network::V6, None, fragment));
                }
                8
            }
            _ => return Some((Network::V6, Some(Transport { protocol, at }), fragment)),
        };
        (protocol, at) = (next, at + length);
    }
    Some((Network::V6, None, fragment))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples::{arp, ipv4, ipv6, tagged};

    #[test]
    fn headers_of_usual_packets() {
        let tcp = Headers::read(&ipv4([10, 0, 0, 2], TCP, &[0; 20])).unwrap();
        assert_eq!((tcp.network, tcp.at), (Network::V4, 14));
        assert_eq!(tcp.transport, Some(Transport { protocol: TCP, at: 34 }));
        let udp = Headers::read(&ipv6([1; 16], UDP, &[0; 8])).unwrap();
        assert_eq!(udp.transport, Some(Transport { protocol: UDP, at: 54 }));
        assert_eq!(Headers::read(&arp([2; 6], [10, 0, 0, 2])).unwrap().network, Network::Arp);
        let vlan = Headers::read(&tagged(&ipv4([10, 0, 0, 2], TCP, &[0; 20]))).unwrap();
        assert!(vlan.tagged);
        assert_eq!(vlan.transport, Some(Transport { protocol: TCP, at: 38 }));
        assert_eq!(Headers::read(&[0; 13]), None);
        assert_eq!(Headers::read(&[0; 14]).unwrap().network, Network::Other);
    }

    #[test]
    fn options_extensions_and_fragments() {
        let mut options = ipv4([10, 0, 0, 2], TCP, &[0; 40]);
        options[14] = 0x47;
        assert_eq!(Headers::read(&options).unwrap().transport, Some(Transport { protocol: TCP, at: 42 }));
        options[14] = 0x44;
        assert_eq!(Headers::read(&options).unwrap().network, Network::Other, "shorter than a header");
        let mut later = ipv4([10, 0, 0, 2], TCP, &[0; 20]);
        later[21] = 1;
        let later = Headers::read(&later).unwrap();
        assert_eq!((later.transport, later.fragment), (None, true));
        // Hop-by-hop options of 16 bytes, then a first fragment, then UDP.
        let mut chain = vec![44, 1];
        chain.extend([0; 14]);
        chain.extend([UDP, 0, 0, 1, 0, 0, 0, 0]);
        chain.extend([0; 8]);
        let chain = Headers::read(&ipv6([1; 16], 0, &chain)).unwrap();
        assert_eq!(chain.transport, Some(Transport { protocol: UDP, at: 14 + 40 + 16 + 8 }));
        assert!(chain.fragment);
        let endless = Headers::read(&ipv6([1; 16], 0, &[0; 1000])).unwrap();
        assert_eq!(endless.transport, None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn anything_is_read(kind in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x0806, 0x8100]), mut packet in prop::collection::vec(any::<u8>(), 14..200)) {
            packet[12..14].copy_from_slice(&kind.to_be_bytes());
            let headers = Headers::read(&packet).unwrap();
            if let Some(transport) = headers.transport {
                prop_assert!(transport.at <= packet.len());
            }
        }
    }
}
