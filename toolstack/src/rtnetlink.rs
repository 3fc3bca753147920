//! Requests to Linux about network interfaces (include/uapi/linux/{netlink,rtnetlink,if_addr,if_link}.h).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use rustix::net::{RecvFlags, SendFlags, recv, send};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// `NLM_F_REQUEST | NLM_F_ACK`, and for what may be there already `NLM_F_REPLACE | NLM_F_CREATE`.
const ASK: u16 = 0x001 | 0x004;
const PUT: u16 = ASK | 0x100 | 0x400;
const AF_INET: u8 = 2;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Gives an interface an address.
#[must_use]
pub fn address(index: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    // IFA_ADDRESS, IFA_LOCAL.
    attribute(&mut body, 1, address.octets());
    attribute(&mut body, 2, address.octets());
    message(RTM_NEWADDR, PUT, &body)
}

/// Takes an interface into use.
#[must_use]
pub fn up(index: u32) -> Vec<u8> {
    const IFF_UP: u32 = 1;
    let mut body = vec![0; 4];
    for number in [index, IFF_UP, IFF_UP] {
        body.extend(number.to_ne_bytes());
    }
    message(RTM_NEWLINK, ASK, &body)
}

/// Sends what is not for a neighbour by a gateway.
#[must_use]
pub fn default_route(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    // RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST; no flags.
    let mut body = vec![AF_INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    // RTA_GATEWAY, RTA_OIF.
    attribute(&mut body, 5, gateway.octets());
    attribute(&mut body, 4, index.to_ne_bytes());
    message(RTM_NEWROUTE, PUT, &body)
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    const LENGTH: u16 = 8;
    body.extend(LENGTH.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER.saturating_add(body.len())).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // No sequence: one is asked after the other. No sender: Linux knows.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Has Linux do it. `socket` is one of `NETLINK_ROUTE`.
///
/// # Errors
/// Linux's.
pub fn ask(socket: impl AsFd, message: &[u8]) -> io::Result<()> {
    send(&socket, message, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::empty())?;
    result(answer.get(..length).unwrap_or_default())
}

/// What an acknowledgement says: an error's number, negative, or 0.
fn result(answer: &[u8]) -> io::Result<()> {
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "Linux's answer is none");
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error =
        answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(nonsense()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

    use super::*;

    #[test]
    fn messages_say_how_long_they_are() {
        let ours = Ipv4Addr::new(10, 0, 2, 40);
        for (message, length) in [(address(2, ours, 24), 40), (up(2), 32), (default_route(2, ours), 44)] {
            assert_eq!(message.len(), length);
            assert_eq!(message.get(..4), Some(&u32::try_from(length).unwrap().to_ne_bytes()[..]));
        }
        assert_eq!(address(2, ours, 24).get(HEADER..HEADER + 8), Some(&[2, 24, 0, 0, 2, 0, 0, 0][..]));
    }

    /// Linux understands them: it says that there is no such interface, or that it is not ours to change.
    #[test]
    fn linux_answers() {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
        let ours = Ipv4Addr::new(10, 0, 2, 40);
        let nowhere = 0x7fff_fff0;
        for message in [address(nowhere, ours, 24), up(nowhere), default_route(nowhere, ours)] {
            let error = ask(&socket, &message).unwrap_err();
            // EPERM, ENODEV, ENETUNREACH
            assert!(matches!(error.raw_os_error(), Some(1 | 19 | 101)), "{error}");
        }
    }
}
