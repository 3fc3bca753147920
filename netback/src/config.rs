//! What toolstack and frontend say about a vif in XenStore.

use std::net::IpAddr;

use ennead_backend::device::{Failure, Nodes, number, text};
use ennead_os::Offload;
use ennead_xen::{GrantRef, Port};

use crate::filter::{Filter, Mac};
use crate::rate::Rate;
use crate::vlan::Vlan;

/// The bridge that holds the NIC, and vifs for which none is named.
pub const DEFAULT_BRIDGE: &str = "xenbr0";
/// Queues of one vif at most; [`crate::vif`] says what each takes of memory.
pub const MAX_QUEUES: u32 = 4;
/// Addresses of one vif at most.
const MAX_ADDRESSES: usize = 16;

/// What the toolstack says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vif {
    /// The guest's address on the network.
    pub mac: Mac,
    /// What it may send.
    pub filter: Filter,
    /// The VLAN that it is in, if any: of that its guest sees packets without tags, of others none.
    pub vlan: Option<Vlan>,
    /// How much it may send.
    pub rate: Option<Rate>,
    /// Where.
    pub bridge: String,
    /// Not to other isolated vifs.
    pub isolated: bool,
}

/// What the frontend says: where its rings are, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// Its queues, at least one and at most [`MAX_QUEUES`].
    pub queues: Vec<Rings>,
    /// A packet to the guest may take more than one slot.
    pub chains: bool,
    /// What may be left undone in packets to the guest.
    pub offloads: Offload,
}

/// What the frontend says of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rings {
    /// Page of the ring from the guest.
    pub tx_ring: GrantRef,
    /// Page of the ring to the guest.
    pub rx_ring: GrantRef,
    /// Port for the ring from the guest.
    pub tx_port: Port,
    /// Port for the ring to the guest; may be the same.
    pub rx_port: Port,
}

/// What a frontend is offered; but for the number of queues it is the same after each restart.
#[must_use]
pub fn offer(queues: u32) -> Vec<(String, String)> {
    let features = [
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-rx-copy", "1"),
        ("feature-rx-flip", "0"),
        ("feature-split-event-channels", "1"),
    ];
    let queues = ("multi-queue-max-queues".to_owned(), queues.to_string());
    features.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().chain([queues]).collect()
}

fn flag(nodes: &mut dyn Nodes, key: &str) -> Result<bool, Failure> {
    Ok(number(nodes, key, u32::MAX)?.is_some_and(|value| value != 0))
}

impl Vif {
    /// Reads our own directory.
    ///
    /// # Errors
    /// The toolstack has written what cannot be; XenStore cannot be reached.
    pub fn read(own: &mut dyn Nodes) -> Result<Self, Failure> {
        let mac = text(own, "mac")?.ok_or_else(|| Failure::refused("mac is missing"))?;
        let mac: Mac = mac.parse().map_err(|e| Failure::Refused(format!("mac is {e}")))?;
        let addresses = text(own, "ip")?.unwrap_or_default();
        let addresses: Result<Vec<IpAddr>, _> = addresses.split_whitespace().map(str::parse).collect();
        let addresses = addresses.ok().filter(|all| all.len() <= MAX_ADDRESSES);
        let addresses = addresses.ok_or_else(|| Failure::refused("ip is no list of up to 16 addresses"))?;
        let rate = text(own, "rate")?.map(|rate| rate.parse()).transpose();
        let rate = rate.map_err(|e| Failure::Refused(format!("rate is {e}")))?;
        let vlan = number(own, "vlan", u16::MAX.into())?.map(|id| {
            let id = u16::try_from(id).ok().and_then(Vlan::new);
            id.ok_or_else(|| Failure::refused("vlan is no number from 1 to 4094"))
        });
        Ok(Self {
            mac,
            filter: Filter::new(mac, addresses),
            vlan: vlan.transpose()?,
            rate,
            bridge: text(own, "bridge")?.unwrap_or_else(|| DEFAULT_BRIDGE.to_owned()),
            isolated: flag(own, "isolated")?,
        })
    }
}

impl Frontend {
    /// Reads the frontend's directory.
    ///
    /// # Errors
    /// What it has written cannot be served; XenStore cannot be reached.
    pub fn read(nodes: &mut dyn Nodes) -> Result<Self, Failure> {
        for must in ["request-rx-copy", "feature-rx-notify"] {
            if !flag(nodes, must)? {
                return Err(Failure::Refused(format!("{must} is not 1")));
            }
        }
        // One queue's nodes have no directory of their own.
        let queues = match number(nodes, "multi-queue-num-queues", MAX_QUEUES)?.unwrap_or(1) {
            0 => return Err(Failure::refused("multi-queue-num-queues is 0")),
            1 => vec![Rings::read(nodes, "")?],
            many => {
                (0..many).map(|n| Rings::read(nodes, &format!("queue-{n}/"))).collect::<Result<_, _>>()?
            }
        };
        let chains = flag(nodes, "feature-sg")?;
        // Linux does not know checksums over IPv6 from those over IPv4 when it gives a packet to a tap.
        let checksum = !flag(nodes, "feature-no-csum-offload")? && flag(nodes, "feature-ipv6-csum-offload")?;
        Ok(Self {
            queues,
            chains,
            offloads: Offload {
                checksum,
                tcp4: checksum && chains && flag(nodes, "feature-gso-tcpv4")?,
                tcp6: checksum && chains && flag(nodes, "feature-gso-tcpv6")?,
            },
        })
    }
}

impl Rings {
    fn read(nodes: &mut dyn Nodes, queue: &str) -> Result<Self, Failure> {
        let find = |nodes: &mut dyn Nodes, key: &str| number(nodes, &format!("{queue}{key}"), u32::MAX);
        let need = |nodes: &mut dyn Nodes, key: &str| {
            find(nodes, key)?.ok_or_else(|| Failure::Refused(format!("{queue}{key} is missing")))
        };
        let (tx_port, rx_port) = match find(nodes, "event-channel-tx")? {
            Some(tx) => (tx, need(nodes, "event-channel-rx")?),
            None => {
                let both = need(nodes, "event-channel")?;
                (both, both)
            }
        };
        Ok(Self {
            tx_ring: GrantRef(need(nodes, "tx-ring-ref")?),
            rx_ring: GrantRef(need(nodes, "rx-ring-ref")?),
            tx_port: Port(tx_port),
            rx_port: Port(rx_port),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Directory(BTreeMap<String, Vec<u8>>);

    impl Nodes for Directory {
        fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, ennead_xs_client::Error> {
            Ok(self.0.get(key).cloned())
        }
    }

    fn directory(nodes: &[(&str, &str)]) -> Directory {
        Directory(nodes.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect())
    }

    /// As Linux's netfront writes it.
    const LINUX: [(&str, &str); 10] = [
        ("tx-ring-ref", "768"),
        ("rx-ring-ref", "769"),
        ("event-channel-tx", "21"),
        ("event-channel-rx", "22"),
        ("request-rx-copy", "1"),
        ("feature-rx-notify", "1"),
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
    ];

    fn with(key: &str, value: Option<&str>) -> Directory {
        let mut nodes = directory(&LINUX);
        match value {
            Some(value) => nodes.0.insert(key.to_owned(), value.as_bytes().to_vec()),
            None => nodes.0.remove(key),
        };
        nodes
    }

    #[test]
    fn linux_gets_everything() {
        let all = Offload { checksum: true, tcp4: true, tcp6: true };
        let queues = vec![Rings {
            tx_ring: GrantRef(768),
            rx_ring: GrantRef(769),
            tx_port: Port(21),
            rx_port: Port(22),
        }];
        let expected = Frontend { queues, chains: true, offloads: all };
        assert_eq!(Frontend::read(&mut directory(&LINUX)).unwrap(), expected);
    }

    #[test]
    fn frontends_with_less_get_less() {
        let read = |key, value| Frontend::read(&mut with(key, value)).unwrap();
        let offloads = |key, value| read(key, value).offloads;
        let all = Offload { checksum: true, tcp4: true, tcp6: true };
        assert_eq!(offloads("feature-gso-tcpv4", None), Offload { tcp4: false, ..all });
        assert_eq!(offloads("feature-gso-tcpv6", Some("0")), Offload { tcp6: false, ..all });
        assert_eq!(offloads("feature-sg", None), Offload { checksum: true, ..Offload::default() });
        assert!(!read("feature-sg", None).chains);
        assert_eq!(offloads("feature-no-csum-offload", Some("1")), Offload::default());
        assert_eq!(offloads("feature-ipv6-csum-offload", None), Offload::default());
        let mut single = with("event-channel-tx", None);
        single.0.insert("event-channel".to_owned(), b"5".to_vec());
        let single = Frontend::read(&mut single).unwrap().queues[0];
        assert_eq!((single.tx_port, single.rx_port), (Port(5), Port(5)));
    }

    #[test]
    fn queues() {
        let mut many = with("multi-queue-num-queues", Some("1"));
        assert_eq!(Frontend::read(&mut many).unwrap().queues.len(), 1);
        // As Linux's netfront writes more than one.
        let rings = ["tx-ring-ref", "rx-ring-ref", "event-channel-tx", "event-channel-rx"];
        rings.iter().for_each(|key| drop(many.0.remove(*key)));
        for (queue, key) in (0..4).flat_map(|queue| rings.map(|key| (queue, key))) {
            let value = queue * 10 + rings.iter().position(|one| *one == key).unwrap();
            many.0.insert(format!("queue-{queue}/{key}"), value.to_string().into_bytes());
        }
        for (count, found) in [("2", Some(2)), ("4", Some(4)), ("0", None), ("1", None), ("5", None)] {
            many.0.insert("multi-queue-num-queues".to_owned(), count.into());
            match Frontend::read(&mut many) {
                Ok(frontend) => {
                    assert_eq!(Some(frontend.queues.len()), found, "{count}");
                    let second = Rings {
                        tx_ring: GrantRef(10),
                        rx_ring: GrantRef(11),
                        tx_port: Port(12),
                        rx_port: Port(13),
                    };
                    assert_eq!(frontend.queues[1], second);
                }
                Err(failure) => assert!(matches!(failure, Failure::Refused(_)) && found.is_none(), "{count}"),
            }
        }
        many.0.insert("multi-queue-num-queues".to_owned(), "4".into());
        many.0.remove("queue-3/rx-ring-ref");
        let refused = Frontend::read(&mut many).unwrap_err();
        assert_eq!(refused.to_string(), "queue-3/rx-ring-ref is missing");
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for (key, value) in [
            ("request-rx-copy", None),
            ("request-rx-copy", Some("0")),
            ("feature-rx-notify", None),
            ("tx-ring-ref", None),
            ("tx-ring-ref", Some("-1")),
            ("rx-ring-ref", Some("4294967296")),
            ("event-channel-rx", None),
            ("event-channel-tx", None),
            ("event-channel-tx", Some("")),
            ("multi-queue-num-queues", Some("2")),
            ("feature-sg", Some("yes")),
        ] {
            let refused = Frontend::read(&mut with(key, value)).unwrap_err();
            assert!(matches!(refused, Failure::Refused(_)), "{key} {value:?}");
        }
    }

    #[test]
    fn what_the_toolstack_says() {
        let mut nodes = directory(&[("mac", "00:16:3e:01:02:03")]);
        let mac = Mac(crate::samples::MAC);
        let plain = Vif {
            mac,
            filter: Filter::new(mac, Vec::new()),
            vlan: None,
            rate: None,
            bridge: "xenbr0".to_owned(),
            isolated: false,
        };
        assert_eq!(Vif::read(&mut nodes).unwrap(), plain);
        for (key, value) in [
            ("ip", "10.0.0.2 fd00::2"),
            ("vlan", "7"),
            ("rate", "1000,50000"),
            ("bridge", "inner"),
            ("isolated", "1"),
        ] {
            nodes.0.insert(key.to_owned(), value.as_bytes().to_vec());
        }
        let addresses = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let full = Vif {
            mac,
            filter: Filter::new(mac, addresses),
            vlan: Vlan::new(7),
            rate: Some("1000,50000".parse().unwrap()),
            bridge: "inner".to_owned(),
            isolated: true,
        };
        assert_eq!(Vif::read(&mut nodes).unwrap(), full);
        let wrong = [
            ("mac", "x"),
            ("ip", "10.0.0.2/24"),
            ("vlan", "0"),
            ("vlan", "4095"),
            ("vlan", "lan"),
            ("rate", "10Mb/s"),
        ];
        for (key, value) in wrong {
            let before = nodes.0.insert(key.to_owned(), value.as_bytes().to_vec()).unwrap();
            assert!(matches!(Vif::read(&mut nodes), Err(Failure::Refused(_))), "{key}");
            nodes.0.insert(key.to_owned(), before);
        }
        assert!(matches!(Vif::read(&mut Directory::default()), Err(Failure::Refused(_))), "no mac");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn anything_a_frontend_writes_is_read_or_refused(at in 0_usize..LINUX.len(), value: Vec<u8>) {
            let mut nodes = directory(&LINUX);
            nodes.0.insert(LINUX[at].0.to_owned(), value);
            if let Err(failure) = Frontend::read(&mut nodes) {
                prop_assert!(matches!(failure, Failure::Refused(_)));
            }
        }
    }
}
