//! Packets for tests.

/// The address of the guest's NIC in tests.
pub(crate) const MAC: [u8; 6] = [0, 0x16, 0x3e, 1, 2, 3];

fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xff; 6];
    packet.extend(MAC);
    packet.extend(kind.to_be_bytes());
    packet.extend(rest);
    packet
}

pub(crate) fn ipv4(source: [u8; 4], protocol: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + rest.len()).unwrap().to_be_bytes();
    let mut ip = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    ip.extend(source);
    ip.extend([10, 9, 8, 7]);
    let sum: u32 = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    ip.extend(rest);
    ethernet(0x0800, &ip)
}

pub(crate) fn ipv6(source: [u8; 16], next: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let mut ip = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    ip.extend(source);
    ip.extend([0xfd; 16]);
    ip.extend(rest);
    ethernet(0x86dd, &ip)
}

pub(crate) fn arp(sender: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(sender);
    arp.extend(address);
    arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    ethernet(0x0806, &arp)
}

/// The packet with a VLAN tag.
pub(crate) fn tagged(packet: &[u8]) -> Vec<u8> {
    let mut tagged = packet[..12].to_vec();
    tagged.extend([0x81, 0, 0, 5]);
    tagged.extend(&packet[12..]);
    tagged
}

/// A TCP header with such ports and nothing after it.
pub(crate) fn tcp_header() -> [u8; 20] {
    let mut tcp = [0; 20];
    tcp[..4].copy_from_slice(&[0, 80, 0x30, 0x39]);
    tcp[12] = 0x50;
    tcp
}
