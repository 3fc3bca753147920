//! Disks (xen/include/public/io/blkif.h).

use anyhow::ensure;
use ennead_xen::{DomId, GrantedPage, GrantedRegion};

use super::fake::{Case, Fake, judge_all, served, with};
use super::{Fate, Frontend, Ring};

const SLOT: usize = 112;
const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 3;
const DISCARD: u8 = 5;
const INDIRECT: u8 = 6;
/// A reference that this guest has not given out.
const NO_GRANT: u32 = 0x7fff;

/// A ring, and a page for data.
#[derive(Debug)]
pub struct Disk {
    ring: Ring,
    data: GrantedRegion,
}

fn request(operation: u8, count: u8, sector: u64, segments: &[(u32, u8, u8)]) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = slot.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, &[operation, count]);
    put(8, &7_u64.to_le_bytes());
    put(16, &sector.to_le_bytes());
    for (n, (gref, first, last)) in segments.iter().enumerate() {
        put(24 + n * 8, &gref.to_le_bytes());
        put(28 + n * 8, &[*first, *last]);
    }
    slot
}

fn indirect(inner: u8, count: u16, sector: u64, gref: u32) -> [u8; SLOT] {
    let mut slot = request(INDIRECT, inner, sector, &[]);
    let [low, high] = count.to_le_bytes();
    let [a, b, c, d] = gref.to_le_bytes();
    for (at, byte) in [(2, low), (3, high), (28, a), (29, b), (30, c), (31, d)] {
        if let Some(place) = slot.get_mut(at) {
            *place = byte;
        }
    }
    slot
}

impl Fake for Disk {
    fn new(peer: DomId) -> anyhow::Result<Self> {
        Ok(Self { ring: Ring::new(peer, SLOT)?, data: GrantedRegion::new(peer, 1)? })
    }

    fn nodes(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![("ring-ref", self.ring.reference()), ("event-channel", self.ring.channel())]
    }

    fn spoil(&self, frontend: &mut Frontend) -> anyhow::Result<()> {
        self.ring.scribble(1000, || frontend.random())
    }
}

impl Disk {
    fn page(&self) -> u32 {
        self.data.grefs().first().map_or(NO_GRANT, |gref| gref.0)
    }

    /// The status of the answer to a request.
    fn status(&mut self, request: &[u8; SLOT]) -> anyhow::Result<i16> {
        let answer = self.ring.ask(request)?;
        let status = answer.get(10..12).and_then(|bytes| bytes.first_chunk());
        Ok(status.map_or(0, |bytes| i16::from_le_bytes(*bytes)))
    }

    /// An honest read works.
    fn works(&mut self) -> anyhow::Result<()> {
        let request = request(READ, 1, 0, &[(self.page(), 0, 7)]);
        let status = self.status(&request)?;
        ensure!(status == 0, "an honest read gets {status}");
        Ok(())
    }

    /// Requests that no disk can fulfil, each of which gets an error and harms nobody.
    fn wrong(&mut self) -> anyhow::Result<()> {
        let page = self.page();
        let far = 1 << 40;
        for (what, slot) in [
            ("an unknown operation", request(77, 1, 0, &[(page, 0, 7)])),
            ("no segments", request(READ, 0, 0, &[])),
            ("too many segments", request(READ, 12, 0, &[(page, 0, 7)])),
            ("255 segments", request(WRITE, 255, 0, &[(page, 0, 7)])),
            ("a segment that ends before it begins", request(READ, 1, 0, &[(page, 5, 2)])),
            ("a segment behind its page's end", request(READ, 1, 0, &[(page, 0, 8)])),
            ("a segment of 256 sectors", request(WRITE, 1, 0, &[(page, 0, 255)])),
            ("a wrong grant to read to", request(READ, 1, 0, &[(NO_GRANT, 0, 7)])),
            ("a wrong grant to write from", request(WRITE, 1, 8, &[(NO_GRANT, 0, 7)])),
            ("a grant far behind the table", request(WRITE, 1, 8, &[(u32::MAX, 0, 7)])),
            ("sectors behind the end", request(READ, 1, far, &[(page, 0, 7)])),
            ("sectors at the end of all numbers", request(WRITE, 1, u64::MAX, &[(page, 0, 7)])),
            ("a flush with segments", request(FLUSH, 3, 0, &[(page, 0, 7)])),
            ("a discard of everything and more", request(DISCARD, 0, 0, &[(u32::MAX, 255, 255)])),
            ("65535 indirect segments", indirect(READ, u16::MAX, 0, page)),
            ("no indirect segments", indirect(READ, 0, 0, page)),
            ("a wrong grant for indirect segments", indirect(WRITE, 16, 0, NO_GRANT)),
            ("an indirect flush", indirect(FLUSH, 1, 0, page)),
            ("an indirect indirect request", indirect(INDIRECT, 1, 0, page)),
        ] {
            let status = self.status(&slot)?;
            ensure!(status < 0, "{what} gets {status}");
        }
        self.works()
    }
}

/// Its grants are used again and again, it says; more of them are wrong than a backend keeps.
fn keeps(frontend: &mut Frontend) -> anyhow::Result<String> {
    frontend.begin()?;
    let mut disk = Disk::new(frontend.peer)?;
    let persistent = ("feature-persistent", b"1".to_vec());
    let state = frontend.connect(&[disk.nodes(), vec![persistent]].concat())?;
    disk.works()?;
    for gref in 0..200 {
        let status = disk.status(&request(WRITE, 1, 8, &[(NO_GRANT - gref, 0, 7)]))?;
        ensure!(status < 0, "wrong grant {gref} gets {status}");
    }
    disk.wrong()?;
    Ok(state)
}

/// All cases; gives how many there were, and how many held.
///
/// # Errors
/// When the device cannot be had any more.
pub fn cases(frontend: &mut Frontend) -> anyhow::Result<(u32, u32)> {
    let all: [Case; 17] = [
        ("requests-that-cannot-be", Fate::Served, |frontend| served::<Disk>(frontend, Disk::wrong)),
        ("req_prod-far-ahead", Fate::Broken("ahead"), |frontend| {
            served::<Disk>(frontend, |disk| disk.ring.claim(1 << 31))
        }),
        ("req_prod-one-too-many", Fate::Broken("ahead"), |frontend| {
            served::<Disk>(frontend, |disk| disk.ring.claim(disk.ring.slots() + 1))
        }),
        ("req_prod-backwards", Fate::Broken("ahead"), |frontend| {
            served::<Disk>(frontend, |disk| disk.works().and_then(|()| disk.ring.claim(0)))
        }),
        ("ring-ref-not-granted", Fate::Refused("map_grant_refs"), |frontend| {
            with::<Disk>(frontend, "ring-ref", b"32767")
        }),
        ("ring-ref-huge", Fate::Refused("ring-ref is no number"), |frontend| {
            with::<Disk>(frontend, "ring-ref", b"1099511627776")
        }),
        ("ring-ref-garbage", Fate::Refused("ring-ref is no number"), |frontend| {
            with::<Disk>(frontend, "ring-ref", &[0xff; 1000])
        }),
        ("ring-ref-of-another", Fate::Refused("map_grant_refs"), |frontend| {
            let page = GrantedPage::new(DomId(1))?;
            with::<Disk>(frontend, "ring-ref", page.gref().to_string().as_bytes())
        }),
        ("event-channel-not-there", Fate::Refused("bind_interdomain"), |frontend| {
            with::<Disk>(frontend, "event-channel", b"1000")
        }),
        ("kept-grants", Fate::Served, keeps),
        ("feature-persistent-is-many", Fate::Refused("feature-persistent"), |frontend| {
            with::<Disk>(frontend, "feature-persistent", b"64")
        }),
        ("protocol-unknown", Fate::Refused("protocol"), |frontend| {
            with::<Disk>(frontend, "protocol", b"arm-abi")
        }),
        ("ring-page-order-31", Fate::Refused("ring-page-order"), |frontend| {
            with::<Disk>(frontend, "ring-page-order", b"31")
        }),
        ("queues-without-end", Fate::Refused("multi-queue-num-queues"), |frontend| {
            with::<Disk>(frontend, "multi-queue-num-queues", b"4294967295")
        }),
        ("forged-record", Fate::Served, |frontend| {
            frontend.begin()?;
            let mut disk = Disk::new(frontend.peer)?;
            disk.ring.forge(1, u32::MAX);
            let state = frontend.connect(&disk.nodes())?;
            disk.works()?;
            Ok(state)
        }),
        ("events-without-requests", Fate::Served, |frontend| {
            served::<Disk>(frontend, |disk| {
                (0..20_000).try_for_each(|_| disk.ring.notify())?;
                disk.works()
            })
        }),
        ("states-in-any-order", Fate::Served, |frontend| {
            frontend.flap(200)?;
            served::<Disk>(frontend, Disk::works)
        }),
    ];
    judge_all(frontend, &all)
}
