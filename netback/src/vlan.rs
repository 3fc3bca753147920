//! VLANs (IEEE 802.1Q). A guest never sees a tag: what it sends has none, what it gets neither. A vif in a VLAN has its packets
//! tagged on their way to the bridge, and gets only what has that tag; a vif in none gets only what has none. The bridge looks at
//! no tags: it needs no option for this, and one NIC's address must not be in two VLANs of a bridge.

use crate::headers::{ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, bytes, number};
use crate::offload::{VnetHeader, move_headers};

/// Bytes of a tag.
pub const TAG: usize = 4;
/// Where it stands: behind the two addresses.
const AT: usize = 12;

/// A VLAN's number, 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan(u16);

impl Vlan {
    /// `None` if no VLAN has that number.
    #[must_use]
    pub fn new(id: u16) -> Option<Self> {
        (1..=4094).contains(&id).then_some(Self(id))
    }

    /// Its number.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0
    }

    /// Puts the tag into a packet, which begins after [`TAG`] bytes of room.
    pub fn tag(self, packet: &mut [u8], header: &mut VnetHeader) {
        if packet.len() < TAG + AT {
            return;
        }
        packet.copy_within(TAG..TAG + AT, 0);
        let [a, b] = ETHERTYPE_VLAN.to_be_bytes();
        let [c, d] = self.0.to_be_bytes();
        packet.iter_mut().skip(AT).zip([a, b, c, d]).for_each(|(to, from)| *to = from);
        move_headers(header, TAG);
    }
}

/// Whether a packet from the bridge, which may have a tag, is for a vif in this VLAN or in none.
#[must_use]
pub fn is_for(vlan: Option<Vlan>, packet: &[u8]) -> bool {
    let Some(Vlan(id)) = vlan else { return !is_tagged(packet, AT) };
    let tag =
        bytes(packet, AT).map(|[a, b, c, d]: [u8; TAG]| [[a, b], [c & 0x0f, d]].map(u16::from_be_bytes));
    // A second tag would be the guest's to see.
    tag == Some([ETHERTYPE_VLAN, id]) && !is_tagged(packet, AT + TAG)
}

fn is_tagged(packet: &[u8], at: usize) -> bool {
    matches!(number(packet, at), Some(ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN))
}

/// Takes the tag out of a packet: it begins [`TAG`] bytes later then.
pub fn strip(packet: &mut [u8]) {
    if packet.len() >= AT + TAG {
        packet.copy_within(..AT, TAG);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::TCP;
    use crate::offload::{to_guest, to_tap};
    use crate::samples::{ipv4, tagged, tcp_header};

    /// As [`tagged`] tags.
    const FIVE: Option<Vlan> = Some(Vlan(5));

    #[test]
    fn numbers() {
        assert_eq!([0, 1, 4094, 4095].map(Vlan::new), [None, Some(Vlan(1)), Some(Vlan(4094)), None]);
    }

    #[test]
    fn a_tag_moves_what_the_header_points_to() {
        let mut plain = ipv4([10, 0, 0, 2], TCP, &tcp_header());
        let mut by_hand = tagged(&plain);
        let mut header = to_tap(&mut plain, true, None).unwrap();
        let mut packet = [&[0xee; TAG], plain.as_slice()].concat();
        Vlan(5).tag(&mut packet, &mut header);
        // As if the guest had tagged it.
        assert_eq!(header, to_tap(&mut by_hand, true, None).unwrap());
        assert_eq!(packet, by_hand);
        let mut header = [0; 10];
        Vlan(5).tag(&mut packet, &mut header);
        assert_eq!(header, [0; 10], "nothing is left undone");
        Vlan(5).tag(&mut [0; 15], &mut header);
    }

    #[test]
    fn who_gets_what() {
        let plain = ipv4([10, 0, 0, 2], TCP, &tcp_header());
        let with = |kind: [u8; 2], tag: [u8; 2]| {
            let mut packet = tagged(&plain);
            packet[12..14].copy_from_slice(&kind);
            packet[14..16].copy_from_slice(&tag);
            packet
        };
        // Name, packet, for whom.
        let table = [
            ("plain", plain.clone(), [true, false, false]),
            ("5", with([0x81, 0], [0, 5]), [false, true, false]),
            ("5 with a priority", with([0x81, 0], [0xf0, 5]), [false, true, false]),
            ("4094", with([0x81, 0], [0x0f, 0xfe]), [false, false, true]),
            ("priority only", with([0x81, 0], [0x20, 0]), [false, false, false]),
            ("a provider's", with([0x88, 0xa8], [0, 5]), [false, false, false]),
            ("two tags", tagged(&tagged(&plain)), [false, false, false]),
            ("cut", with([0x81, 0], [0, 5])[..15].to_vec(), [false, false, false]),
        ];
        for (name, packet, expected) in table {
            assert_eq!([None, FIVE, Vlan::new(4094)].map(|vlan| is_for(vlan, &packet)), expected, "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_tagged_is_as_before_without(id in 1..=4094_u16, other in 1..=4094_u16, rest in prop::collection::vec(any::<u8>(), 20..200), blank: bool) {
            let mut plain = ipv4([10, 0, 0, 2], TCP, &rest);
            let mut header = to_tap(&mut plain, blank, None).unwrap();
            let before = header;
            let mut packet = [&[0; TAG], plain.as_slice()].concat();
            Vlan(id).tag(&mut packet, &mut header);
            prop_assert_eq!(to_guest(&header), to_guest(&before));
            prop_assert_eq!(is_for(Vlan::new(other), &packet), id == other);
            prop_assert!(is_for(Vlan::new(id), &packet) && !is_for(None, &packet) && is_for(None, &plain));
            strip(&mut packet);
            prop_assert_eq!(&packet[TAG..], plain.as_slice());
        }

        #[test]
        fn anything_has_a_tag_or_none(mut packet in prop::collection::vec(any::<u8>(), 0..40), vlan in 0..=4095_u16) {
            let _ = is_for(Vlan::new(vlan), &packet);
            strip(&mut packet);
            Vlan(vlan).tag(&mut packet, &mut [0; 10]);
        }
    }
}
