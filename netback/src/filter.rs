//! What a guest may not send: packets in others' names.
//!
//! The source MAC is always the vif's, and there is no VLAN tag: which VLAN a guest is in is not its own to say. Where the operator
//! has named addresses, nothing but ARP, IPv4 and IPv6 from them passes, and what a host must send before it has an address: DHCP
//! requests, ARP probes, neighbour discovery. Over IPv6 also the link-local address made from the MAC (RFC 4291, not a random one); no router advertisements and no
//! redirects, and neighbour advertisements for own addresses only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::headers::{Headers, ICMPV6, Network, Transport, UDP, bytes, number};

/// A NIC's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

/// What should be a MAC address is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no MAC address of a single NIC, such as 00:16:3e:01:02:03")]
pub struct NoMac;

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or(NoMac)?;
        }
        let [first, ..] = mac;
        let single = first & 1 == 0 && mac != [0; 6] && parts.next().is_none();
        single.then_some(Self(mac)).ok_or(NoMac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Mac {
    /// The link-local address that belongs to it.
    fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// It is too short to have a source.
    Short,
    /// From another MAC address.
    Mac,
    /// Another IPv4 or IPv6 address, or ARP for one.
    Address,
    /// Neither ARP, IPv4 nor IPv6.
    Kind,
    /// In a VLAN by itself.
    Tagged,
    /// What only a router says.
    Router,
}

/// What one vif may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    mac: Mac,
    /// Nothing: any address.
    addresses: Option<Vec<IpAddr>>,
}

impl Filter {
    /// For a vif with that MAC address, and addresses if the operator has named any.
    #[must_use]
    pub fn new(mac: Mac, addresses: Vec<IpAddr>) -> Self {
        Self { mac, addresses: Some(addresses).filter(|named| !named.is_empty()) }
    }

    /// Looks at a packet from the guest.
    ///
    /// # Errors
    /// Why it may not pass.
    pub fn check(&self, packet: &[u8]) -> Result<(), Forbidden> {
        let headers = Headers::read(packet).ok_or(Forbidden::Short)?;
        if bytes(packet, 6) != Some(self.mac.0) {
            return Err(Forbidden::Mac);
        }
        if headers.tagged {
            return Err(Forbidden::Tagged);
        }
        let Some(addresses) = &self.addresses else { return Ok(()) };
        let ours = |address: IpAddr| addresses.contains(&address) || address == self.mac.link_local();
        let allowed = match headers.network {
            Network::Other => return Err(Forbidden::Kind),
            Network::Arp => self.arp(packet, headers.at, ours),
            Network::V4 => v4(packet, &headers, ours),
            Network::V6 => return v6(packet, &headers, ours),
        };
        allowed.filter(|allowed| *allowed).map(|_| ()).ok_or(Forbidden::Address)
    }

    /// Sender of ARP: this NIC, under one of its addresses or none yet.
    fn arp(&self, packet: &[u8], at: usize, ours: impl Fn(IpAddr) -> bool) -> Option<bool> {
        // Over Ethernet, for IPv4.
        let kind = bytes(packet, at)? == [0, 1, 8, 0, 6, 4];
        let sender = Ipv4Addr::from(bytes::<4>(packet, at + 14)?);
        let named = sender.is_unspecified() || ours(sender.into());
        Some(kind && bytes(packet, at + 8)? == self.mac.0 && named)
    }
}

fn v4(packet: &[u8], headers: &Headers, ours: impl Fn(IpAddr) -> bool) -> Option<bool> {
    let source = Ipv4Addr::from(bytes::<4>(packet, headers.at + 12)?);
    if ours(source.into()) {
        return Some(true);
    }
    let Transport { protocol, at } = headers.transport?;
    let dhcp = number(packet, at)? == 68 && number(packet, at + 2)? == 67;
    Some(source.is_unspecified() && protocol == UDP && dhcp && !headers.fragment)
}

fn v6(packet: &[u8], headers: &Headers, ours: impl Fn(IpAddr) -> bool) -> Result<(), Forbidden> {
    const ROUTER_ADVERTISEMENT: u8 = 134;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const REDIRECT: u8 = 137;
    let address = |at| bytes(packet, at).map(Ipv6Addr::from).ok_or(Forbidden::Address);
    let source = address(headers.at + 8)?;
    let icmp = headers.transport.filter(|transport| transport.protocol == ICMPV6);
    let unnamed = source.is_unspecified() && icmp.is_some();
    if !unnamed && !ours(source.into()) {
        return Err(Forbidden::Address);
    }
    // Headers that are not understood could hide what is looked for below. (A later fragment has no headers; hosts take no
    // neighbour discovery in fragments, RFC 6980.)
    if headers.transport.is_none() && !headers.fragment {
        return Err(Forbidden::Kind);
    }
    let Some(Transport { at, .. }) = icmp else { return Ok(()) };
    match *packet.get(at).ok_or(Forbidden::Short)? {
        ROUTER_ADVERTISEMENT | REDIRECT => Err(Forbidden::Router),
        NEIGHBOUR_ADVERTISEMENT if !ours(address(at + 8)?.into()) => Err(Forbidden::Address),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::TCP;
    use crate::samples::{MAC, arp, ipv4, ipv6, tagged};

    const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0x16, 0x3e, 0xff, 0xfe, 1, 2, 3];
    const NAMED: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const OTHER: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    const UDP_DHCP: [u8; 8] = [0, 68, 0, 67, 0, 8, 0, 0];

    fn advertisement(kind: u8, target: [u8; 16]) -> Vec<u8> {
        let mut icmp = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        icmp.extend(target);
        icmp
    }

    #[test]
    fn the_table() {
        let named = ["10.0.0.2".parse().unwrap(), IpAddr::from(NAMED)];
        let strict = Filter::new(Mac(MAC), named.to_vec());
        let free = Filter::new(Mac(MAC), Vec::new());
        let mut foreign = ipv4([10, 0, 0, 2], TCP, &[0; 20]);
        foreign[11] ^= 1;
        let mut wrong_arp = arp(MAC, [10, 0, 0, 2]);
        wrong_arp[16] = 9;
        let mut dhcp_fragment = ipv4([0; 4], UDP, &UDP_DHCP);
        dhcp_fragment[20] = 0x20;
        let mut lldp = ipv4([10, 0, 0, 2], TCP, &[0; 20]);
        lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
        let mut provider = tagged(&ipv4([10, 0, 0, 2], TCP, &[0; 20]));
        provider[12..14].copy_from_slice(&[0x88, 0xa8]);
        let hidden: Vec<u8> =
            [vec![0; 8 * 8], vec![58, 0, 0, 0, 0, 0, 0, 0], advertisement(134, NAMED)].concat();
        let behind_options: Vec<u8> = [vec![58, 0, 0, 0, 0, 0, 0, 0], advertisement(134, NAMED)].concat();
        use Forbidden::{Address, Kind, Mac as WrongMac, Router, Short, Tagged};
        let ok = Ok(());
        type Checked = Result<(), Forbidden>;
        // Name, packet, with named addresses, without.
        let table: Vec<(&str, Vec<u8>, Checked, Checked)> = vec![
            ("own IPv4", ipv4([10, 0, 0, 2], TCP, &[0; 20]), ok, ok),
            ("other IPv4", ipv4([10, 0, 0, 3], TCP, &[0; 20]), Err(Address), ok),
            ("other MAC", foreign, Err(WrongMac), Err(WrongMac)),
            ("no header", vec![0; 13], Err(Short), Err(Short)),
            ("empty", vec![], Err(Short), Err(Short)),
            ("DHCP request", ipv4([0; 4], UDP, &UDP_DHCP), ok, ok),
            ("DHCP answer", ipv4([0; 4], UDP, &[0, 67, 0, 68, 0, 8, 0, 0]), Err(Address), ok),
            ("DHCP in TCP", ipv4([0; 4], TCP, &UDP_DHCP), Err(Address), ok),
            ("DHCP in fragments", dhcp_fragment, Err(Address), ok),
            ("own ARP", arp(MAC, [10, 0, 0, 2]), ok, ok),
            ("ARP probe", arp(MAC, [0; 4]), ok, ok),
            ("ARP for another", arp(MAC, [10, 0, 0, 1]), Err(Address), ok),
            ("ARP from another NIC", arp([2; 6], [10, 0, 0, 2]), Err(Address), ok),
            ("ARP for other things", wrong_arp, Err(Address), ok),
            ("short ARP", arp(MAC, [10, 0, 0, 2])[..30].to_vec(), Err(Address), ok),
            ("short IPv4", ipv4([10, 0, 0, 2], TCP, &[])[..33].to_vec(), Err(Kind), ok),
            ("own IPv6", ipv6(NAMED, TCP, &[0; 20]), ok, ok),
            ("link-local", ipv6(LINK_LOCAL, UDP, &[0; 8]), ok, ok),
            ("other IPv6", ipv6(OTHER, TCP, &[0; 20]), Err(Address), ok),
            ("no address, TCP", ipv6([0; 16], TCP, &[0; 20]), Err(Address), ok),
            ("duplicate detection", ipv6([0; 16], ICMPV6, &advertisement(135, OTHER)), ok, ok),
            ("neighbour advertisement", ipv6(NAMED, ICMPV6, &advertisement(136, NAMED)), ok, ok),
            ("for another", ipv6(NAMED, ICMPV6, &advertisement(136, OTHER)), Err(Address), ok),
            ("cut", ipv6(NAMED, ICMPV6, &advertisement(136, OTHER)[..20]), Err(Address), ok),
            ("router advertisement", ipv6(LINK_LOCAL, ICMPV6, &advertisement(134, OTHER)), Err(Router), ok),
            ("behind options", ipv6(NAMED, 0, &behind_options), Err(Router), ok),
            ("behind too many options", ipv6(NAMED, 0, &hidden), Err(Kind), ok),
            ("redirect", ipv6(LINK_LOCAL, ICMPV6, &advertisement(137, OTHER)), Err(Router), ok),
            ("tagged", tagged(&ipv4([10, 0, 0, 2], TCP, &[0; 20])), Err(Tagged), Err(Tagged)),
            ("a provider's tag", provider, Err(Tagged), Err(Tagged)),
            ("LLDP", lldp, Err(Kind), ok),
        ];
        for (name, packet, strictly, freely) in table {
            assert_eq!(strict.check(&packet), strictly, "{name}, addresses named");
            assert_eq!(free.check(&packet), freely, "{name}, any address");
        }
    }

    #[test]
    fn mac_addresses() {
        let mac: Mac = "00:16:3E:01:02:03".parse().unwrap();
        assert_eq!(mac, Mac(MAC));
        assert_eq!(mac.to_string(), "00:16:3e:01:02:03");
        for wrong in [
            "",
            "00:16:3e:01:02",
            "00:16:3e:01:02:03:04",
            "01:16:3e:01:02:03",
            "0:16:3e:01:02:03",
            "00:00:00:00:00:00",
            "+1:16:3e:01:02:03",
        ] {
            assert_eq!(wrong.parse::<Mac>(), Err(NoMac), "{wrong}");
        }
    }
}
