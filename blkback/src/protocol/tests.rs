use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { sectors: 1 << 20, block: 512, writable: true, discard: true };

fn segment(gref: u32, first: u8, last: u8) -> [u8; SEGMENT] {
    let [a, b, c, d] = gref.to_le_bytes();
    [a, b, c, d, first, last, 0, 0]
}

/// A slot with the fields that all requests share.
fn slot(operation: u8, second: u8, sector: u64) -> [u8; SLOT_64] {
    let mut slot = [0; SLOT_64];
    (slot[0], slot[1]) = (operation, second);
    slot[8..16].copy_from_slice(&0x0807_0605_0403_0201_u64.to_le_bytes());
    slot[16..24].copy_from_slice(&sector.to_le_bytes());
    slot
}

fn body<const SLOT: usize>(slot: &[u8; SLOT]) -> Body {
    let request = Request::parse(slot);
    assert_eq!(request.id, 0x0807_0605_0403_0201);
    request.body
}

fn plan(write: bool, sector: u64, segments: &[[u8; SEGMENT]], limits: &Limits) -> Result<Plan, Refusal> {
    Transfer { write, sector }.plan(segments, limits)
}

#[test]
fn a_transfer_is_read_as_linux_lays_it_out() {
    let mut slot = slot(WRITE, 2, 5);
    slot[24..32].copy_from_slice(&segment(0x1234, 0, 7));
    slot[32..40].copy_from_slice(&segment(9, 2, 2));
    let Body::Transfer(transfer, segments) = body(&slot) else { panic!() };
    let plan = transfer.plan(&segments, &LIMITS).unwrap();
    let pieces = vec![
        Piece { gref: GrantRef(0x1234), offset: 0, len: 4096 },
        Piece { gref: GrantRef(9), offset: 1024, len: 512 },
    ];
    assert_eq!(plan, Plan { write: true, offset: 2560, len: 4608, pieces });
}

#[test]
fn an_indirect_request_answers_with_its_inner_operation() {
    let mut slot = slot(INDIRECT, WRITE, 5);
    slot[2..4].copy_from_slice(&256_u16.to_le_bytes());
    slot[28..32].copy_from_slice(&77_u32.to_le_bytes());
    let transfer = Transfer { write: true, sector: 5 };
    assert_eq!(body(&slot), Body::Indirect { transfer, gref: GrantRef(77), count: 256 });
    assert_eq!(Request::parse(&slot).operation, WRITE);
    for (count, refusal) in [(0, Refusal::Segments), (257, Refusal::Segments), (u16::MAX, Refusal::Segments)]
    {
        slot[2..4].copy_from_slice(&count.to_le_bytes());
        assert_eq!(body(&slot), Body::Wrong(refusal));
    }
    slot[1] = FLUSH;
    assert_eq!(body(&slot), Body::Wrong(Refusal::Operation));
}

/// Offsets as a 32-bit compiler prints them for Xen's blkif.h (`__alignof__(uint64_t)` in a structure is 4).
#[test]
fn a_32_bit_guest_has_its_fields_four_bytes_earlier() {
    let with = |operation, second, fields: &[(usize, &[u8])]| {
        let mut slot = [0; SLOT_32];
        (slot[0], slot[1]) = (operation, second);
        slot[4..12].copy_from_slice(&0x0807_0605_0403_0201_u64.to_le_bytes());
        slot[12..20].copy_from_slice(&5_u64.to_le_bytes());
        for (at, bytes) in fields {
            slot[*at..][..bytes.len()].copy_from_slice(bytes);
        }
        slot
    };
    let segments: Vec<_> = (0..11).map(|gref| segment(gref, 0, 7)).collect();
    let Body::Transfer(transfer, found) = body(&with(READ, 11, &[(20, segments.as_flattened())])) else {
        panic!()
    };
    assert_eq!((transfer, found), (Transfer { write: false, sector: 5 }, segments));
    let indirect = with(INDIRECT, WRITE, &[(2, &[0, 1]), (20, &[7, 7]), (24, &77_u32.to_le_bytes())]);
    let transfer = Transfer { write: true, sector: 5 };
    assert_eq!(body(&indirect), Body::Indirect { transfer, gref: GrantRef(77), count: 256 });
    let discard = with(DISCARD, 0, &[(20, &9_u64.to_le_bytes())]);
    assert_eq!(body(&discard), Body::Discard { sector: 5, count: 9 });
    assert_eq!(body(&with(FLUSH, 0, &[])), Body::Flush);
}

#[test]
fn what_is_malformed_is_refused() {
    for (operation, second, refusal) in [
        (READ, 0, Refusal::Segments),
        (READ, 12, Refusal::Segments),
        (WRITE, 255, Refusal::Segments),
        (2, 0, Refusal::Operation),
        (2, 1, Refusal::Operation),
        (FLUSH, 1, Refusal::Segments),
        (4, 0, Refusal::Operation),
        (7, 1, Refusal::Operation),
        (255, 1, Refusal::Operation),
    ] {
        assert_eq!(body(&slot(operation, second, 0)), Body::Wrong(refusal), "{operation} {second}");
    }
    assert_eq!(body(&slot(FLUSH, 0, u64::MAX)), Body::Flush);
}

#[test]
fn segments_lie_within_their_pages() {
    for (first, last) in [(0, 8), (1, 0), (7, 6), (8, 8), (0, 255), (255, 255)] {
        let wrong = plan(false, 0, &[segment(1, first, last)], &LIMITS);
        assert_eq!(wrong, Err(Refusal::Segment), "{first} {last}");
    }
    assert_eq!(plan(false, 0, &[segment(1, 7, 7)], &LIMITS).unwrap().pieces[0].offset, 3584);
    assert_eq!(plan(false, 0, &[], &LIMITS), Err(Refusal::Segments));
    let all = [segment(1, 0, 7); MAX_SEGMENTS];
    assert_eq!(plan(false, 0, &all, &LIMITS).unwrap().len, 1 << 20);
}

#[test]
fn transfers_and_discards_lie_within_the_disk() {
    let page = [segment(1, 0, 7)];
    let last = LIMITS.sectors - 8;
    assert_eq!(plan(false, last, &page, &LIMITS).unwrap().offset, last * 512);
    for sector in [last + 1, LIMITS.sectors, u64::MAX, u64::MAX - 7, u64::MAX / 512 + 1] {
        assert_eq!(plan(true, sector, &page, &LIMITS), Err(Refusal::Outside), "{sector}");
        assert_eq!(discard(sector, 8, &LIMITS), Err(Refusal::Outside));
    }
    assert_eq!(discard(8, LIMITS.sectors - 8, &LIMITS), Ok((4096, (LIMITS.sectors - 8) * 512)));
    for count in [0, LIMITS.sectors - 7, u64::MAX, u64::MAX - 7] {
        assert_eq!(discard(8, count, &LIMITS), Err(Refusal::Outside), "{count}");
    }
    // A disk whose size in bytes is no number.
    let vast = Limits { sectors: u64::MAX, ..LIMITS };
    assert_eq!(plan(false, u64::MAX / 512, &page, &vast), Err(Refusal::Outside));
    assert_eq!(discard(0, u64::MAX, &vast), Err(Refusal::Outside));
}

#[test]
fn the_disk_says_what_else_goes() {
    let page = [segment(1, 0, 7)];
    let read_only = Limits { writable: false, ..LIMITS };
    assert_eq!(plan(true, 0, &page, &read_only), Err(Refusal::ReadOnly));
    assert!(plan(false, 0, &page, &read_only).is_ok());
    assert_eq!(discard(0, 8, &read_only), Err(Refusal::ReadOnly));
    assert_eq!(discard(0, 8, &Limits { discard: false, ..LIMITS }), Err(Refusal::Operation));
    let large = Limits { block: 4096, ..LIMITS };
    assert!(plan(true, 8, &page, &large).is_ok());
    assert_eq!(plan(true, 1, &page, &large), Err(Refusal::Unaligned));
    assert_eq!(plan(true, 8, &[segment(1, 0, 0)], &large), Err(Refusal::Unaligned));
    assert_eq!(Refusal::Operation.status(), -2);
    assert_eq!(Refusal::Outside.status(), -1);
}

#[test]
fn a_response_is_as_linux_lays_it_out() {
    assert_eq!(response(0x0102, 3, -2), [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0xfe, 0xff, 0, 0, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the bytes, what can be done lies within the disk and within the guest's pages, and is no more than a mebibyte.
    #[test]
    fn any_slot_is_harmless(
        mut bytes in prop::collection::vec(any::<u8>(), SLOT_64),
        is_64_bit in any::<bool>(),
        operation in 0_u8..8,
        count in 0_u8..14,
        near in any::<bool>(),
        segments in prop::collection::vec((any::<u32>(), 0_u8..10, 0_u8..10), 0..300),
        sectors in prop_oneof![0..100_u64, Just(u64::MAX)],
        block in prop_oneof![Just(512_u64), Just(4096), Just(0)],
    ) {
        (bytes[0], bytes[1]) = (operation, count);
        if near {
            bytes[17..24].fill(0);
            bytes[25..32].fill(0);
        }
        let limits = Limits { sectors, block, writable: true, discard: true };
        let request = match bytes.first_chunk() {
            Some(slot) if !is_64_bit => Request::parse::<SLOT_32>(slot),
            _ => Request::parse::<SLOT_64>(bytes.first_chunk().unwrap()),
        };
        let plan = match request.body {
            Body::Transfer(transfer, here) => transfer.plan(&here, &limits),
            Body::Indirect { transfer, count, .. } => {
                prop_assert!((1..=MAX_SEGMENTS).contains(&count));
                let there: Vec<_> = segments.iter().map(|(g, f, l)| segment(*g, *f, *l)).collect();
                transfer.plan(&there, &limits)
            }
            Body::Discard { sector, count } => {
                if let Ok((offset, len)) = discard(sector, count, &limits) {
                    prop_assert!(u128::from(offset) + u128::from(len) <= u128::from(sectors) * 512);
                    prop_assert!(len > 0);
                }
                return Ok(());
            }
            Body::Flush | Body::Wrong(_) => return Ok(()),
        };
        if let Ok(plan) = plan {
            prop_assert!(u128::from(plan.offset) + plan.len as u128 <= u128::from(sectors) * 512);
            prop_assert!(plan.len > 0 && plan.len <= MAX_SEGMENTS * PAGE_SIZE);
            prop_assert_eq!(plan.len, plan.pieces.iter().map(|piece| piece.len).sum::<usize>());
            prop_assert!(plan.pieces.iter().all(|piece| piece.offset + piece.len <= PAGE_SIZE));
        }
    }
}
