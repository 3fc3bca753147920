use proptest::prelude::*;

use super::*;

/// Neighbouring data as one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whole {
    Data(Vec<u8>),
    Reset,
}

fn read(framer: &mut Framer, mut input: &[u8], into: &mut Vec<Whole>) {
    while let Some(piece) = framer.next(&mut input) {
        match (piece, into.last_mut()) {
            (Piece::Reset, _) => into.push(Whole::Reset),
            (Piece::Data(data), Some(Whole::Data(before))) => before.extend(data),
            (Piece::Data(data), _) => into.push(Whole::Data(data.to_vec())),
        }
    }
    assert!(input.is_empty());
}

fn read_all(input: &[u8]) -> Vec<Whole> {
    let mut found = Vec::new();
    read(&mut Framer::new(), input, &mut found);
    found
}

fn written(parts: &[Whole]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        match part {
            Whole::Data(data) => Framer::data(data, &mut out),
            Whole::Reset => Framer::reset(&mut out),
        }
    }
    out
}

fn data(bytes: &[u8]) -> Whole {
    Whole::Data(bytes.to_vec())
}

#[test]
fn a_frame_is_a_length_and_bytes() {
    assert_eq!(written(&[data(b"abc")]), b"\x03\0abc");
    assert_eq!(read_all(b"\x03\0abc\x01\0d\0\0\x01\0e"), [data(b"abcd"), Whole::Reset, data(b"e")]);
    assert_eq!(written(&[data(b"")]), b"");
    let long = vec![7; MAX_FRAME + 1];
    let frames = written(&[data(&long)]);
    assert_eq!(frames.len(), long.len() + 4);
    assert_eq!(read_all(&frames), [data(&long)]);
}

#[test]
fn it_may_come_split_at_every_byte() {
    let parts = [data(b"ab"), Whole::Reset, data(b"c"), Whole::Reset, Whole::Reset, data(&[0; 300])];
    let bytes = written(&parts);
    for at in 0..=bytes.len() {
        let (mut framer, mut found) = (Framer::new(), Vec::new());
        let (before, after) = bytes.split_at(at);
        read(&mut framer, before, &mut found);
        read(&mut framer, after, &mut found);
        assert_eq!(found, parts, "split at {at}");
    }
}

#[test]
fn a_reset_is_found_after_a_frame_that_broke_off() {
    for length in [1, 2, 255, 256, MAX_FRAME] {
        let frame = written(&[data(&vec![0; length])]);
        for at in 0..frame.len() {
            let mut bytes = frame.get(..at).unwrap().to_vec();
            Framer::reset(&mut bytes);
            Framer::data(b"new", &mut bytes);
            let found = read_all(&bytes);
            let (before, end) = found.split_at(found.len() - 2);
            assert_eq!(end, [Whole::Reset, data(b"new")], "broken off at {at} of {length}");
            assert!(!before.contains(&Whole::Reset), "broken off at {at} of {length}");
        }
    }
}

#[test]
fn what_is_no_frame_is_left_out() {
    // 0x1001 is one more than a frame may have.
    assert_eq!(read_all(b"\x01\0a\x01\x10zz\x02\0zz\0\0\x01\0z"), [data(b"a")]);
    assert_eq!(read_all(b"\x01\x10\xff\0\0\x01\0a"), [Whole::Reset, data(b"a")]);
    assert_eq!(read_all(b"\x01\x10\xff\0\x01\0\0\0\0"), []);
    assert_eq!(read_all(b"\0\xff\0\0\x01\0a"), [Whole::Reset, data(b"a")]);
}

fn part() -> impl Strategy<Value = Whole> {
    let byte = prop_oneof![Just(0), Just(FILL), any::<u8>()];
    prop_oneof![
        3 => proptest::collection::vec(byte, 1..600).prop_map(Whole::Data),
        1 => Just(Whole::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read(parts in proptest::collection::vec(part(), 0..8), sizes in proptest::collection::vec(1usize..900, 1..6)) {
        let bytes = written(&parts);
        let (mut framer, mut found, mut rest) = (Framer::new(), Vec::new(), bytes.as_slice());
        for size in sizes.iter().cycle() {
            let (now, later) = rest.split_at_checked(*size).unwrap_or((rest, &[]));
            read(&mut framer, now, &mut found);
            rest = later;
            if rest.is_empty() { break; }
        }
        let mut expected = Vec::new();
        for part in parts {
            match (part, expected.last_mut()) {
                (Whole::Data(data), Some(Whole::Data(before))) => before.extend(data),
                (part, _) => expected.push(part),
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn after_any_bytes_a_reset_is_found(noise in proptest::collection::vec(any::<u8>(), 0..9000)) {
        let mut bytes = noise;
        Framer::reset(&mut bytes);
        Framer::data(b"new", &mut bytes);
        prop_assert!(read_all(&bytes).ends_with(&[Whole::Reset, data(b"new")]));
    }
}
