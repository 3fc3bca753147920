//! Network interfaces (xen/include/public/io/netif.h).

use anyhow::ensure;
use ennead_xen::{DomId, GrantedPage, GrantedRegion, SharedPage as _};

use super::fake::{Case, Fake, judge_all, served, with};
use super::{Fate, Frontend, Ring};

const TX_SLOT: usize = 12;
const RX_SLOT: usize = 8;
const MORE_DATA: u16 = 4;
const EXTRA_INFO: u16 = 8;
/// A reference that this guest has not given out.
const NO_GRANT: u32 = 0x7fff;

/// Both rings, and a page with a packet.
#[derive(Debug)]
pub struct Interface {
    tx: Ring,
    rx: Ring,
    data: GrantedRegion,
}

fn request(gref: u32, offset: u16, flags: u16, size: u16) -> [u8; TX_SLOT] {
    let mut slot = [0; TX_SLOT];
    let bytes =
        gref.to_le_bytes().into_iter().chain([offset, flags, 7, size].into_iter().flat_map(u16::to_le_bytes));
    for (place, byte) in slot.iter_mut().zip(bytes) {
        *place = byte;
    }
    slot
}

impl Fake for Interface {
    fn new(peer: DomId) -> anyhow::Result<Self> {
        let data = GrantedRegion::new(peer, 1)?;
        data.write(0, &[0xff; 6]);
        Ok(Self { tx: Ring::new(peer, TX_SLOT)?, rx: Ring::new(peer, RX_SLOT)?, data })
    }

    fn nodes(&self) -> Vec<(&'static str, Vec<u8>)> {
        let yes = || b"1".to_vec();
        vec![
            ("tx-ring-ref", self.tx.reference()),
            ("rx-ring-ref", self.rx.reference()),
            ("event-channel-tx", self.tx.channel()),
            ("event-channel-rx", self.rx.channel()),
            ("request-rx-copy", yes()),
            ("feature-rx-notify", yes()),
            ("feature-sg", yes()),
        ]
    }

    fn spoil(&self, frontend: &mut Frontend) -> anyhow::Result<()> {
        self.tx.scribble(500, || frontend.random())?;
        self.rx.scribble(500, || frontend.random())
    }
}

impl Interface {
    fn page(&self) -> u32 {
        self.data.grefs().first().map_or(NO_GRANT, |gref| gref.0)
    }

    fn status(&mut self, request: &[u8; TX_SLOT]) -> anyhow::Result<i16> {
        let answer = self.tx.ask(request)?;
        let status = answer.get(2..4).and_then(|bytes| bytes.first_chunk());
        Ok(status.map_or(0, |bytes| i16::from_le_bytes(*bytes)))
    }

    /// A packet is taken, and dropped since its sender's address is none of the guest's.
    fn works(&mut self) -> anyhow::Result<()> {
        let request = request(self.page(), 0, 0, 60);
        let status = self.status(&request)?;
        ensure!(status == 0, "an honest packet gets {status}");
        Ok(())
    }

    /// Packets that are not taken, each of which gets an error.
    fn wrong(&mut self) -> anyhow::Result<()> {
        let page = self.page();
        for (what, slot) in [
            ("a wrong grant", request(NO_GRANT, 0, 0, 60)),
            ("a grant far behind the table", request(u32::MAX, 0, 0, 60)),
            ("no bytes", request(page, 0, 0, 0)),
            ("less than a header", request(page, 0, 0, 5)),
        ] {
            let status = self.status(&slot)?;
            ensure!(status == -1, "{what} gets {status}");
        }
        self.works()
    }

    fn send(&mut self, requests: &[[u8; TX_SLOT]]) -> anyhow::Result<()> {
        for request in requests {
            self.tx.put(request);
        }
        self.tx.push()
    }
}

/// Two queues.
#[derive(Debug)]
struct Pair([Interface; 2]);

/// The nodes of each.
const QUEUES: [[&str; 4]; 2] = [
    ["queue-0/tx-ring-ref", "queue-0/rx-ring-ref", "queue-0/event-channel-tx", "queue-0/event-channel-rx"],
    ["queue-1/tx-ring-ref", "queue-1/rx-ring-ref", "queue-1/event-channel-tx", "queue-1/event-channel-rx"],
];

impl Fake for Pair {
    fn new(peer: DomId) -> anyhow::Result<Self> {
        Ok(Self([Interface::new(peer)?, Interface::new(peer)?]))
    }

    fn nodes(&self) -> Vec<(&'static str, Vec<u8>)> {
        let [first, _] = &self.0;
        let mut nodes = first.nodes();
        nodes.push(("multi-queue-num-queues", b"2".to_vec()));
        for (names, Interface { tx, rx, .. }) in QUEUES.into_iter().zip(&self.0) {
            nodes.extend(names.into_iter().zip([tx.reference(), rx.reference(), tx.channel(), rx.channel()]));
        }
        nodes
    }

    fn spoil(&self, frontend: &mut Frontend) -> anyhow::Result<()> {
        self.0.iter().try_for_each(|queue| queue.spoil(frontend))
    }
}

/// All cases; gives how many there were, and how many held.
///
/// # Errors
/// When the device cannot be had any more.
pub fn cases(frontend: &mut Frontend) -> anyhow::Result<(u32, u32)> {
    let all: [Case; 20] = [
        ("packets-that-cannot-be", Fate::Served, |frontend| served::<Interface>(frontend, Interface::wrong)),
        ("tx-req_prod-far-ahead", Fate::Broken("ahead"), |frontend| {
            served::<Interface>(frontend, |vif| vif.tx.claim(1 << 31))
        }),
        ("rx-req_prod-far-ahead", Fate::Broken("ahead"), |frontend| {
            served::<Interface>(frontend, |vif| vif.rx.claim(vif.rx.slots() + 1))
        }),
        ("next-slot-missing", Fate::Broken("next slot is missing"), |frontend| {
            served::<Interface>(frontend, |vif| vif.send(&[request(vif.page(), 0, MORE_DATA, 100)]))
        }),
        ("extra-missing", Fate::Broken("next slot is missing"), |frontend| {
            served::<Interface>(frontend, |vif| vif.send(&[request(vif.page(), 0, EXTRA_INFO, 100)]))
        }),
        ("extra-unknown", Fate::Broken("extra information"), |frontend| {
            served::<Interface>(frontend, |vif| {
                vif.send(&[request(vif.page(), 0, EXTRA_INFO, 100), [0xee; TX_SLOT]])
            })
        }),
        ("across-pages", Fate::Broken("not within a page"), |frontend| {
            served::<Interface>(frontend, |vif| vif.send(&[request(vif.page(), 4000, 0, 200)]))
        }),
        ("pieces-longer-than-packet", Fate::Broken("longer"), |frontend| {
            served::<Interface>(frontend, |vif| {
                vif.send(&[request(vif.page(), 0, MORE_DATA, 10), request(vif.page(), 0, 0, 100)])
            })
        }),
        ("forty-slots", Fate::Broken("slots"), |frontend| {
            served::<Interface>(frontend, |vif| {
                vif.tx.put(&request(vif.page(), 0, MORE_DATA, 1000));
                vif.send(&[request(vif.page(), 0, MORE_DATA, 1); 39])
            })
        }),
        ("ring-ref-not-granted", Fate::Refused("map_grant_refs"), |frontend| {
            with::<Interface>(frontend, "tx-ring-ref", b"32767")
        }),
        ("ring-ref-of-another", Fate::Refused("map_grant_refs"), |frontend| {
            let page = GrantedPage::new(DomId(1))?;
            with::<Interface>(frontend, "rx-ring-ref", page.gref().to_string().as_bytes())
        }),
        ("event-channel-not-there", Fate::Refused("bind_interdomain"), |frontend| {
            with::<Interface>(frontend, "event-channel-rx", b"1000")
        }),
        ("must-not-copy", Fate::Refused("request-rx-copy"), |frontend| {
            with::<Interface>(frontend, "request-rx-copy", b"0")
        }),
        ("features-garbage", Fate::Refused("feature-sg"), |frontend| {
            with::<Interface>(frontend, "feature-sg", &[0xfe; 1500])
        }),
        ("two-queues", Fate::Served, |frontend| {
            served::<Pair>(frontend, |pair| pair.0.iter_mut().try_for_each(Interface::works))
        }),
        ("second-queue-breaks", Fate::Broken("ahead"), |frontend| {
            served::<Pair>(frontend, |Pair([first, second])| {
                first.works()?;
                second.tx.claim(1 << 31)
            })
        }),
        ("queues-beyond-count", Fate::Refused("multi-queue-num-queues"), |frontend| {
            with::<Pair>(frontend, "multi-queue-num-queues", b"4000000000")
        }),
        ("second-queue-not-granted", Fate::Refused("map_grant_refs"), |frontend| {
            with::<Pair>(frontend, "queue-1/rx-ring-ref", b"32767")
        }),
        ("events-without-packets", Fate::Served, |frontend| {
            served::<Interface>(frontend, |vif| {
                (0..20_000).try_for_each(|_| vif.tx.notify().and_then(|()| vif.rx.notify()))?;
                vif.works()
            })
        }),
        ("states-in-any-order", Fate::Served, |frontend| {
            frontend.flap(200)?;
            served::<Interface>(frontend, Interface::works)
        }),
    ];
    judge_all(frontend, &all)
}
