//! What toolstack and frontend say about a vif in XenStore.

use std::net::IpAddr;

use ennead_backend::device::{Failure, Nodes, number, text};
use ennead_os::Offload;
use ennead_xen::{GrantRef, Port};

use crate::filter::{Filter, Mac};
use crate::rate::Rate;

/// The bridge that holds the NIC, and vifs for which none is named.
pub const DEFAULT_BRIDGE: &str = "xenbr0";
/// Addresses of one vif at most.
const MAX_ADDRESSES: usize = 16;

/// What the toolstack says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vif {
    /// The guest's address on the network.
    pub mac: Mac,
    /// What it may send.
    pub filter: Filter,
    /// How much.
    pub rate: Option<Rate>,
    /// Where.
    pub bridge: String,
    /// Not to other isolated vifs.
    pub isolated: bool,
}

/// What the frontend says: where its rings are, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frontend {
    /// Page of the ring from the guest.
    pub tx_ring: GrantRef,
    /// Page of the ring to the guest.
    pub rx_ring: GrantRef,
    /// Port for the ring from the guest.
    pub tx_port: Port,
    /// Port for the ring to the guest; may be the same.
    pub rx_port: Port,
    /// A packet to the guest may take more than one slot.
    pub chains: bool,
    /// What may be left undone in packets to the guest.
    pub offloads: Offload,
}

/// What every frontend is offered; the same after each restart.
#[must_use]
pub fn offer() -> Vec<(String, String)> {
    let features = [
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-rx-copy", "1"),
        ("feature-rx-flip", "0"),
        ("feature-split-event-channels", "1"),
        ("multi-queue-max-queues", "1"),
    ];
    features.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
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
        Ok(Self {
            mac,
            filter: Filter::new(mac, addresses),
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
        if number(nodes, "multi-queue-num-queues", u32::MAX)?.is_some_and(|queues| queues != 1) {
            return Err(Failure::refused("multi-queue-num-queues is not 1"));
        }
        let need = |nodes: &mut dyn Nodes, key: &str| {
            number(nodes, key, u32::MAX)?.ok_or_else(|| Failure::Refused(format!("{key} is missing")))
        };
        let split = number(nodes, "event-channel-tx", u32::MAX)?;
        let (tx_port, rx_port) = match split {
            Some(tx) => (tx, need(nodes, "event-channel-rx")?),
            None => {
                let both = need(nodes, "event-channel")?;
                (both, both)
            }
        };
        let chains = flag(nodes, "feature-sg")?;
        // Linux does not know checksums over IPv6 from those over IPv4 when it gives a packet to a tap.
        let checksum = !flag(nodes, "feature-no-csum-offload")? && flag(nodes, "feature-ipv6-csum-offload")?;
        Ok(Self {
            tx_ring: GrantRef(need(nodes, "tx-ring-ref")?),
            rx_ring: GrantRef(need(nodes, "rx-ring-ref")?),
            tx_port: Port(tx_port),
            rx_port: Port(rx_port),
            chains,
            offloads: Offload {
                checksum,
                tcp4: checksum && chains && flag(nodes, "feature-gso-tcpv4")?,
                tcp6: checksum && chains && flag(nodes, "feature-gso-tcpv6")?,
            },
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
        let expected = Frontend {
            tx_ring: GrantRef(768),
            rx_ring: GrantRef(769),
            tx_port: Port(21),
            rx_port: Port(22),
            chains: true,
            offloads: all,
        };
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
        let single = Frontend::read(&mut single).unwrap();
        assert_eq!((single.tx_port, single.rx_port), (Port(5), Port(5)));
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
            rate: None,
            bridge: "xenbr0".to_owned(),
            isolated: false,
        };
        assert_eq!(Vif::read(&mut nodes).unwrap(), plain);
        for (key, value) in
            [("ip", "10.0.0.2 fd00::2"), ("rate", "1000,50000"), ("bridge", "inner"), ("isolated", "1")]
        {
            nodes.0.insert(key.to_owned(), value.as_bytes().to_vec());
        }
        let addresses = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let full = Vif {
            mac,
            filter: Filter::new(mac, addresses),
            rate: Some("1000,50000".parse().unwrap()),
            bridge: "inner".to_owned(),
            isolated: true,
        };
        assert_eq!(Vif::read(&mut nodes).unwrap(), full);
        for (key, value) in [("mac", "x"), ("ip", "10.0.0.2/24"), ("rate", "10Mb/s")] {
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
