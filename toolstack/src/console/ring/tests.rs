use ennead_xen::LocalPage;
use proptest::prelude::*;

use super::*;

/// What Linux's hvc_xen does at the other end.
struct Guest(LocalPage);

impl Guest {
    fn write(&self, bytes: &[u8]) -> usize {
        let (cons, mut prod) = (self.0.load(OUT_CONS), self.0.load(OUT_PROD));
        let room = 2048 - usize::try_from(prod.wrapping_sub(cons)).unwrap();
        for byte in bytes.iter().take(room) {
            self.0.write(OUT + index(prod % OUT_SIZE), &[*byte]);
            prod = prod.wrapping_add(1);
        }
        self.0.store(OUT_PROD, prod);
        bytes.len().min(room)
    }

    fn read(&self, most: usize) -> Vec<u8> {
        let (mut cons, prod) = (self.0.load(IN_CONS), self.0.load(IN_PROD));
        let mut bytes = Vec::new();
        while cons != prod && bytes.len() < most {
            let mut byte = [0];
            self.0.read(IN + index(cons % IN_SIZE), &mut byte);
            bytes.extend(byte);
            cons = cons.wrapping_add(1);
        }
        self.0.store(IN_CONS, cons);
        bytes
    }
}

fn ends(start: u32) -> (Guest, Ring<LocalPage>) {
    let page = LocalPage::new();
    for offset in [IN_CONS, IN_PROD, OUT_CONS, OUT_PROD] {
        page.store(offset, start);
    }
    (Guest(page.clone()), Ring::new(page))
}

fn taken(ring: &mut Ring<LocalPage>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let count = ring.take(|piece| bytes.extend_from_slice(piece)).unwrap();
    assert_eq!(count, bytes.len());
    bytes
}

#[test]
fn a_full_ring_is_taken_whole() {
    let (guest, mut ring) = ends(u32::MAX - 5);
    let bytes: Vec<u8> = (0..=255).cycle().take(2048).collect();
    assert_eq!(guest.write(&bytes), 2048);
    assert_eq!(guest.write(b"x"), 0);
    assert_eq!(taken(&mut ring), bytes);
    assert_eq!(guest.write(b"x"), 1);
    assert_eq!(taken(&mut ring), b"x");
    assert_eq!(taken(&mut ring), b"");
}

#[test]
fn a_successor_goes_on_where_its_predecessor_was() {
    let (guest, mut ring) = ends(7);
    guest.write(b"abc");
    taken(&mut ring);
    ring.give(b"12").unwrap();
    let mut ring = Ring::new(guest.0.clone());
    guest.write(b"def");
    assert_eq!(taken(&mut ring), b"def");
    ring.give(b"3").unwrap();
    assert_eq!(guest.read(9), b"123");
}

#[test]
fn impossible_indices_are_told_once_and_the_ring_goes_on() {
    let (guest, mut ring) = ends(100);
    guest.0.store(OUT_PROD, 100 + 2049);
    assert_eq!(ring.take(|_| panic!("nothing")), Err(Impossible { producer: 2149, consumer: 100 }));
    assert_eq!(guest.write(b"again"), 5);
    assert_eq!(taken(&mut ring), b"again");
    guest.0.store(IN_CONS, 101);
    assert_eq!(ring.give(b"x"), Err(Impossible { producer: 100, consumer: 101 }));
    assert_eq!(ring.give(b"y"), Ok(1));
    assert_eq!(guest.read(9), b"y");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn nothing_is_lost_or_added_or_out_of_order(
        start: u32,
        steps in prop::collection::vec((0..4_u8, 0..3000_usize), 1..40),
    ) {
        let (guest, mut ring) = ends(start);
        let mut bytes = (0..=255_u8).cycle();
        let (mut out, mut seen) = (Vec::new(), Vec::new());
        let (mut given, mut read) = (Vec::new(), Vec::new());
        for (kind, count) in steps {
            let data: Vec<u8> = bytes.by_ref().take(count).collect();
            match kind {
                0 => out.extend_from_slice(&data[..guest.write(&data)]),
                1 => seen.extend(taken(&mut ring)),
                2 => given.extend_from_slice(&data[..ring.give(&data).unwrap()]),
                _ => read.extend(guest.read(count)),
            }
        }
        seen.extend(taken(&mut ring));
        read.extend(guest.read(2000));
        prop_assert_eq!(seen, out);
        prop_assert_eq!(read, given);
    }

    #[test]
    fn whatever_stands_in_the_page(
        words in prop::collection::vec((0..1024_usize, any::<u32>()), 0..20),
        indices: [u32; 4],
        more: [u32; 4],
    ) {
        let page = LocalPage::new();
        let set = |values: [u32; 4]| {
            for (offset, value) in [IN_CONS, IN_PROD, OUT_CONS, OUT_PROD].into_iter().zip(values) {
                page.store(offset, value);
            }
        };
        for (word, value) in words {
            page.store(word * 4, value);
        }
        set(indices);
        let mut ring = Ring::new(page.clone());
        for _ in 0..2 {
            let mut total = 0;
            let taken = ring.take(|piece| total += piece.len());
            prop_assert!(taken.map_or(total == 0, |count| count == total && count <= 2048));
            prop_assert!(ring.give(&[1; 3000]).map_or(true, |count| count <= 1024));
            set(more);
        }
    }
}
