//! Rings against a model, hostile pages, encodings.

use std::collections::VecDeque;

use ennead_xen::{LocalPage, Port, SharedPage};
use ennead_xs_wire::{Access, Perm};
use proptest::prelude::*;

use crate::pciback::{Address, Assembly, CONTROLLERS_PER_REPLY, Controller, MAX_CONTROLLERS, Reply, Request};
use crate::proto::{decode, encode};
use crate::{
    Endpoint, Error, Header, INDEX_LIMIT, List, MAX_MESSAGE, RING_SIZE, Tagged, Text, Violation, guests,
    pciback, xenstore,
};

const HEADER: Header = Header { generation: 7, port: Port(3), protocol: 9 };

fn pair(start: u32) -> (Endpoint<LocalPage>, Endpoint<LocalPage>, LocalPage) {
    let page = LocalPage::new();
    HEADER.publish(&page);
    let mut server = Endpoint::server(page.clone());
    server.start_at(start);
    let client = Endpoint::client(page.clone()).expect("a fresh page is in order");
    (server, client, page)
}

#[derive(Debug, Clone)]
enum Step {
    Send { by_client: bool, message: Vec<u8> },
    Receive { by_client: bool },
    ClientRestarts,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (any::<bool>(), prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(any::<u8>(), 0..=MAX_MESSAGE),
            prop::collection::vec(any::<u8>(), MAX_MESSAGE..=MAX_MESSAGE),
        ]).prop_map(|(by_client, message)| Step::Send { by_client, message }),
        10 => any::<bool>().prop_map(|by_client| Step::Receive { by_client }),
        1 => Just(Step::ClientRestarts),
    ]
}

fn used(queue: &VecDeque<Vec<u8>>) -> usize {
    queue.iter().map(|message| message.len() + 2).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_endpoints_are_two_queues(
        start in prop_oneof![Just(0), INDEX_LIMIT - 3000..INDEX_LIMIT],
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let (mut server, mut client, page) = pair(start);
        let (mut requests, mut replies) = (VecDeque::new(), VecDeque::new());
        for step in steps {
            match step {
                Step::Send { by_client, message } => {
                    let (end, queue) = if by_client { (&mut client, &mut requests) } else { (&mut server, &mut replies) };
                    let fits = used(queue) + message.len() + 2 <= usize::try_from(RING_SIZE).unwrap();
                    prop_assert_eq!(end.try_send(&message).unwrap(), fits);
                    if fits {
                        queue.push_back(message);
                    }
                }
                Step::Receive { by_client } => {
                    let (end, queue) = if by_client { (&mut client, &mut replies) } else { (&mut server, &mut requests) };
                    prop_assert_eq!(end.try_recv().unwrap(), queue.pop_front());
                }
                Step::ClientRestarts => {
                    client = Endpoint::client(page.clone()).unwrap();
                    replies.clear();
                }
            }
        }
    }

    #[test]
    fn a_hostile_page_ends_the_channel_and_nothing_else(
        page_bytes in prop::collection::vec(any::<u8>(), 4096),
        indices in prop::collection::vec(prop_oneof![any::<u32>(), 0..2 * RING_SIZE, INDEX_LIMIT - 10..=INDEX_LIMIT + 10], 4),
        keep in any::<[bool; 5]>(),
    ) {
        // Server and client of a good page, on which the peer then writes what it likes: all of it, or only some indices.
        let (mut server, mut client, page) = pair(0);
        if keep[4] {
            page.write(512, &page_bytes[512..]);
        } else {
            page.write(0, &page_bytes);
        }
        for (n, index) in indices.iter().enumerate() {
            if keep[n] {
                page.store(64 * (n + 1), *index);
            }
        }
        let _ = Header::read(&page);
        if let Ok(mut late) = Endpoint::client(page.clone()) {
            drain(&mut late)?;
        }
        drain(&mut server)?;
        drain(&mut client)?;
    }

    #[test]
    fn indices_that_cannot_be_are_refused(producer in any::<u32>()) {
        let (mut server, _client, page) = pair(0);
        page.store(64, producer);
        let received = server.try_recv();
        if producer == 0 {
            prop_assert!(matches!(received, Ok(None)));
        } else if producer > RING_SIZE {
            let wrong = Violation::Indices { producer, consumer: 0 };
            let Err(Error::PeerBroke { violation }) = received else { panic!("accepted: {received:?}") };
            prop_assert_eq!(violation, wrong);
            page.store(64, 0);
            prop_assert!(server.try_recv().is_err(), "dead for good");
            prop_assert!(server.try_send(b"x").is_err(), "in both directions");
        }
    }

    #[test]
    fn random_bytes_decode_or_not(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        if let Ok(request) = decode::<Tagged<Request>>(&bytes) {
            prop_assert!(encode(&request).is_ok());
        }
        if let Ok(Tagged { body: Reply::Controllers { controllers, .. }, .. }) = decode::<Tagged<Reply>>(&bytes) {
            prop_assert!(controllers.len() <= CONTROLLERS_PER_REPLY);
        }
        if let Ok(Tagged { body: xenstore::Request::Write { path, value, .. }, .. }) = decode(&bytes) {
            prop_assert!(path.len() <= xenstore::MAX_PATH && value.len() <= xenstore::MAX_VALUE);
        }
    }

    #[test]
    fn replies_survive_the_wire(reply in reply(), id in any::<u32>()) {
        let reply = Tagged { id, body: reply };
        let bytes = encode(&reply).unwrap();
        prop_assert_eq!(decode::<Tagged<Reply>>(&bytes), Ok(reply.clone()));
        for cut in 0..bytes.len() {
            prop_assert!(decode::<Tagged<Reply>>(&bytes[..cut]).is_err());
        }
        let mut longer = bytes;
        longer.push(0);
        prop_assert!(decode::<Tagged<Reply>>(&longer).is_err(), "trailing byte");
    }

    #[test]
    fn addresses_are_their_text(sbdf in any::<u32>(), text in "[0-9a-f:.]{0,14}") {
        let address = Address::from_sbdf(sbdf);
        prop_assert_eq!(address.to_string().parse(), Ok(address));
        if let Ok(parsed) = text.parse::<Address>() {
            prop_assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn lists_of_controllers_are_split_and_joined(
        controllers in prop::collection::vec(controller(), 0..2 * MAX_CONTROLLERS),
    ) {
        let mut list = Assembly::default();
        let mut done = false;
        for part in pciback::controllers_in_parts(&controllers) {
            prop_assert!(!done);
            let bytes = encode(&Tagged { id: u32::MAX, body: part }).unwrap();
            let Ok(Tagged { body: Reply::Controllers { index, more, controllers }, .. }) = decode(&bytes) else {
                panic!("another message");
            };
            done = list.add(index, more, controllers).unwrap();
        }
        prop_assert!(done);
        let told: Vec<_> = controllers.into_iter().take(MAX_CONTROLLERS).collect();
        prop_assert_eq!(list.into_controllers(), told);
    }
}

/// Receives and sends until nothing moves; a page of 4 KiB cannot hold more than a ring's worth of frames.
fn drain(end: &mut Endpoint<LocalPage>) -> Result<(), TestCaseError> {
    let mut frames = 0;
    while let Ok(Some(message)) = end.try_recv() {
        frames += 1;
        prop_assert!(message.len() <= MAX_MESSAGE);
        prop_assert!(frames <= RING_SIZE / 2, "endless");
    }
    frames = 0;
    while let Ok(true) = end.try_send(b"message") {
        frames += 1;
        prop_assert!(frames <= RING_SIZE / 9, "endless");
    }
    Ok(())
}

fn controller() -> impl Strategy<Value = Controller> {
    (any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>(), ".{0,40}").prop_map(
        |(sbdf, class, vendor, device, driver)| Controller {
            address: Address::from_sbdf(sbdf),
            class,
            vendor,
            device,
            driver: Text::new(&driver),
            has_msi: class % 2 == 0,
            has_reset: vendor % 2 == 0,
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        (any::<u16>(), any::<bool>(), prop::collection::vec(controller(), 0..=CONTROLLERS_PER_REPLY))
            .prop_map(|(index, more, list)| Reply::Controllers {
                index,
                more,
                controllers: List::new(list).expect("short enough"),
            }),
        Just(Reply::Seized),
        Just(Reply::Lent),
        Just(Reply::Sealed),
        Just(Reply::PoweringOff),
        Just(Reply::Rebooting),
        Just(Reply::Pong),
        ".{0,600}".prop_map(|text| Reply::Error(Text::new(&text))),
    ]
}

#[test]
fn the_longest_reply_fits() {
    let longest = Controller {
        address: Address::from_sbdf(u32::MAX),
        class: u32::MAX,
        vendor: u16::MAX,
        device: u16::MAX,
        driver: Text::new(&"d".repeat(99)),
        has_msi: true,
        has_reset: true,
    };
    let reply = Reply::Controllers {
        index: u16::MAX,
        more: true,
        controllers: List::new(vec![longest; CONTROLLERS_PER_REPLY]).unwrap(),
    };
    assert!(encode(&Tagged { id: u32::MAX, body: reply }).unwrap().len() <= MAX_MESSAGE);
}

#[test]
fn the_longest_window_can_be_told() {
    // A VM's grant references are below this: 32 pages of a table have them.
    let last = 32 * 512;
    let window = (last - u32::try_from(guests::WINDOW_PAGES).unwrap()..last).collect();
    let hello = guests::Request::Hello { window: List::new(window).unwrap() };
    assert!(encode(&Tagged { id: u32::MAX, body: hello }).unwrap().len() <= MAX_MESSAGE);
}

#[test]
fn the_longest_messages_of_xenstores_control_fit() {
    let bytes = |n: usize| vec![0xff; n];
    let path = xenstore::Path::new(&"x".repeat(xenstore::MAX_PATH));
    let perm = Perm { access: Access::Both, domid: u16::MAX };
    let write = xenstore::Request::Write {
        path,
        value: List::new(bytes(xenstore::MAX_VALUE)).unwrap(),
        perms: List::new(vec![perm; xenstore::MAX_PERMS]).unwrap(),
    };
    let part = xenstore::part(&bytes(2 * xenstore::MAX_PART), 0);
    let encoded = encode(&Tagged { id: u32::MAX, body: write.clone() }).unwrap();
    assert_eq!(decode::<Tagged<xenstore::Request>>(&encoded).unwrap().body, write);
    let encoded = encode(&Tagged { id: u32::MAX, body: part.clone() }).unwrap();
    assert_eq!(decode::<Tagged<xenstore::Reply>>(&encoded).unwrap().body, part);
}

#[test]
fn a_list_that_announces_too_much_is_refused() {
    // id 1, Controllers, index 0, more false, then the announced length, and plenty of bytes.
    for (announced, fine) in [(CONTROLLERS_PER_REPLY, true), (CONTROLLERS_PER_REPLY + 1, false)] {
        let mut bytes = vec![1, 0, 0, 0, u8::try_from(announced).unwrap()];
        bytes.extend(vec![0; 7 * announced]);
        assert_eq!(decode::<Tagged<Reply>>(&bytes).is_ok(), fine, "{announced}");
    }
    // The same with a length of 2^32 - 1.
    assert!(decode::<Tagged<Reply>>(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
}

#[test]
fn texts_are_bounded_and_printable() {
    assert_eq!(&*Text::<5>::new("a\u{e9}\nbcd"), "a??bc");
    assert!(postcard::from_bytes::<Text<3>>(b"\x03abc").is_ok());
    assert!(postcard::from_bytes::<Text<3>>(b"\x04abcd").is_err(), "too long");
    assert!(postcard::from_bytes::<Text<3>>(b"\x03a\x1bc").is_err(), "escape character");
}

#[test]
fn a_message_that_is_too_long_is_the_callers_mistake() {
    let (mut server, mut client, _page) = pair(0);
    assert!(matches!(client.try_send(&[0; MAX_MESSAGE + 1]), Err(Error::TooLong { len: 1025 })));
    assert!(client.try_send(&[1; MAX_MESSAGE]).unwrap(), "the channel lives");
    assert_eq!(server.try_recv().unwrap(), Some(vec![1; MAX_MESSAGE]));
}

#[test]
fn a_frame_longer_than_what_is_there_is_refused() {
    for (len, available) in [(9u16, 10u32), (1025, 1100), (u16::MAX, 1792), (0, 1)] {
        let (mut server, _client, page) = pair(0);
        page.write(512, &len.to_le_bytes());
        page.store(64, available);
        let Err(Error::PeerBroke { violation }) = server.try_recv() else {
            panic!("{len} {available} accepted")
        };
        assert_eq!(violation, Violation::Frame { len, available });
    }
}

#[test]
fn indices_start_again_at_zero_when_they_hit_the_limit() {
    for over in 0..10 {
        let (mut server, mut client, page) = pair(INDEX_LIMIT - 10 + over);
        for n in 0..3 {
            assert!(client.try_send(&[n; 8]).unwrap());
            assert!(page.load(64) < INDEX_LIMIT, "{over}");
            assert_eq!(server.try_recv().unwrap(), Some(vec![n; 8]), "{over}");
        }
    }
}

#[test]
fn only_a_whole_header_of_this_version_counts() {
    let page = LocalPage::new();
    assert!(matches!(Header::read(&page), Ok(None)));
    HEADER.publish(&page);
    assert_eq!(Header::read(&page).unwrap(), Some(HEADER));
    for (offset, value) in [(4, 2), (8, 0), (12, 0), (16, 1)] {
        HEADER.publish(&page);
        page.store(offset, value);
        assert!(matches!(Header::read(&page), Err(Error::PeerBroke { .. })), "offset {offset}");
    }
}
