//! Client and server in two threads, with a test double in place of Xen's event channels.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;

use ennead_xen::LocalPage;

use super::*;
use crate::pciback::{Address, CONTROLLERS_PER_REPLY, controllers_in_parts};
use crate::proto::xenstore::{self, MAX_PART, MAX_WHOLE, Path, XenStoreControl};
use crate::{List, Text, Unfit};
use ennead_xs_wire::Errno;

const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(20);

/// One VM's event channels, all wired to the other VM's.
struct Wire {
    to_peer: Sender<Port>,
    from_peer: Receiver<Port>,
}

impl Events for Wire {
    fn notify(&self, port: Port) -> Result<(), ennead_xen::Error> {
        let _ = self.to_peer.send(port);
        Ok(())
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Option<Port>, ennead_xen::Error> {
        match self.from_peer.recv_timeout(timeout.unwrap_or(LONG)) {
            Ok(port) => Ok(Some(port)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(timeout.unwrap_or(LONG));
                Ok(None)
            }
        }
    }
}

type Ends = (Server<Pciback, LocalPage>, Wire, Client<Pciback, LocalPage>, Wire);

fn ends() -> Ends {
    ends_of()
}

fn ends_of<R: Protocol>() -> (Server<R, LocalPage>, Wire, Client<R, LocalPage>, Wire) {
    let page = LocalPage::new();
    let (a, b) = channel();
    let (c, d) = channel();
    assert!(Client::<R, _>::over(page.clone(), Ok).unwrap().is_none(), "no server yet");
    let server = Server::over(page.clone(), DomId(1), Port(5));
    let client = Client::over(page, Ok).unwrap().expect("the server is there");
    (server, Wire { to_peer: a, from_peer: d }, client, Wire { to_peer: c, from_peer: b })
}

fn controllers(count: u32) -> Vec<Controller> {
    (0..count)
        .map(|n| Controller {
            address: Address::from_sbdf(n),
            class: 0x02_0000,
            vendor: 0x8086,
            device: 0x100e,
            driver: Text::new("a driver with quite a long name"),
            has_msi: true,
            has_reset: false,
        })
        .collect()
}

#[test]
fn requests_are_answered_with_back_pressure() {
    let (mut server, wire, mut client, client_wire) = ends();
    let answering = thread::spawn(move || {
        while let Some(Tagged { id, body }) = server.recv(&wire, LONG).unwrap() {
            let replies = match body {
                Request::Controllers => controllers_in_parts(&controllers(200)),
                Request::Ping => vec![Reply::Pong],
                _ => vec![Reply::PoweringOff],
            };
            let last = replies.last() == Some(&Reply::PoweringOff);
            for body in replies {
                server.send(&wire, &Tagged { id, body }, LONG).unwrap();
            }
            if last {
                return;
            }
        }
        panic!("nobody asked");
    });
    for _ in 0..20 {
        // 13 parts of 700 bytes each: far more than the ring holds.
        assert_eq!(client.controllers(&client_wire, LONG).unwrap().unwrap(), controllers(200));
        assert_eq!(client.call(&client_wire, Request::Ping, LONG).unwrap(), Reply::Pong);
    }
    assert_eq!(client.call(&client_wire, Request::PowerOff, LONG).unwrap(), Reply::PoweringOff);
    answering.join().unwrap();
}

#[test]
fn a_silent_peer_is_a_timeout() {
    let (mut server, wire, mut client, client_wire) = ends();
    assert!(matches!(
        client.call(&client_wire, Request::Ping, SHORT),
        Err(Error::Timeout { action: "receive", .. })
    ));
    assert_eq!(server.recv(&wire, SHORT).unwrap().map(|request| request.body), Some(Request::Ping));
    assert!(server.recv(&wire, SHORT).unwrap().is_none());
    let full = Tagged {
        id: 0,
        body: Reply::Controllers { index: 0, more: false, controllers: List::new(controllers(16)).unwrap() },
    };
    assert_eq!(CONTROLLERS_PER_REPLY, 16);
    let late = (0..9).find_map(|_| server.send(&wire, &full, SHORT).err());
    assert!(matches!(late, Some(Error::Timeout { action: "send", .. })));
}

#[test]
fn late_replies_are_thrown_away() {
    let (mut server, wire, mut client, client_wire) = ends();
    let first = client.send(&client_wire, Request::Seal, LONG).unwrap();
    for (id, body) in [(first, Reply::Sealed), (first.wrapping_add(1), Reply::Pong)] {
        server.send(&wire, &Tagged { id, body }, LONG).unwrap();
    }
    assert_eq!(client.call(&client_wire, Request::Ping, LONG).unwrap(), Reply::Pong);
}

#[test]
fn a_reply_that_does_not_belong_ends_the_channel() {
    let (mut server, wire, mut client, client_wire) = ends();
    let id = client.next_id;
    server.send(&wire, &Tagged { id, body: Reply::Pong }, LONG).unwrap();
    for _ in 0..2 {
        let broke = client.controllers(&client_wire, LONG);
        assert!(matches!(broke, Err(Error::PeerBroke { violation: Violation::Reply { .. } })), "{broke:?}");
    }
}

#[test]
fn bytes_that_are_no_message_end_the_channel() {
    let (mut server, wire, mut client, client_wire) = ends();
    client.link.endpoint.try_send(b"\xff\xff\xff").unwrap();
    for _ in 0..2 {
        let broke = server.try_recv(&wire);
        assert!(
            matches!(broke, Err(Error::PeerBroke { violation: Violation::Message { len: 3 } })),
            "{broke:?}"
        );
    }
    drop(client_wire);
}

#[test]
fn another_protocol_is_refused() {
    enum Other {}
    impl Protocol for Other {
        const ID: u32 = 1;
        type Request = ();
        type Reply = ();
    }
    let page = LocalPage::new();
    let _server = Server::<Other, _>::over(page.clone(), DomId(1), Port(5));
    let refused = Client::<Pciback, _>::over(page, Ok).err();
    assert!(
        matches!(refused, Some(Error::PeerBroke { violation: Violation::Protocol { found: 1, .. } })),
        "{refused:?}"
    );
}

/// XenStore-State as far as a client of its sees it: one node `/v` with this value and these children.
fn state(
    mut server: Server<XenStoreControl, LocalPage>,
    wire: Wire,
    whole: Vec<u8>,
) -> thread::JoinHandle<Vec<xenstore::Request>> {
    thread::spawn(move || {
        let mut told = Vec::new();
        while let Some(Tagged { id, body }) = server.recv(&wire, LONG).unwrap() {
            let reply = match &body {
                xenstore::Request::Read { path, offset } | xenstore::Request::List { path, offset }
                    if **path == *"/v" =>
                {
                    xenstore::part(&whole, *offset)
                }
                xenstore::Request::Read { .. } | xenstore::Request::List { .. } => {
                    xenstore::Reply::Refused(Errno::Enoent)
                }
                _ => xenstore::Reply::Done,
            };
            let end = matches!(body, xenstore::Request::Release { .. });
            told.push(body);
            server.send(&wire, &Tagged { id, body: reply }, LONG).unwrap();
            if end {
                return told;
            }
        }
        panic!("nobody asked");
    })
}

#[test]
fn values_and_listings_come_whole_whatever_their_length() {
    let path = |text: &str| text.parse::<Path>().unwrap();
    let names: Vec<String> = (0..300).map(|n| format!("name-{n}")).collect();
    let listing: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
    for value in [vec![], vec![0xff; 1], vec![7; MAX_PART], vec![8; MAX_PART + 1], listing.clone()] {
        let (server, wire, mut client, client_wire) = ends_of();
        let state = state(server, wire, value.clone());
        assert_eq!(client.read(&client_wire, &path("/v"), LONG).unwrap(), Ok(value.clone()));
        assert_eq!(client.read(&client_wire, &path("/w"), LONG).unwrap(), Err(Errno::Enoent));
        if value == listing {
            let got = client.list(&client_wire, &path("/v"), LONG).unwrap().unwrap();
            assert_eq!(got.iter().map(|name| name.to_string()).collect::<Vec<_>>(), names);
        }
        let died = xenstore::Request::Died { domid: 3 };
        assert_eq!(client.tell(&client_wire, died.clone(), LONG).unwrap(), Ok(()));
        client.tell(&client_wire, xenstore::Request::Release { domid: 3 }, LONG).unwrap().unwrap();
        assert!(state.join().unwrap().contains(&died));
    }
}

#[test]
fn what_is_longer_than_any_node_is_not_put_together() {
    let (server, wire, mut client, client_wire) = ends_of();
    let state = state(server, wire, vec![1; MAX_WHOLE + 1]);
    let path: Path = "/v".parse().unwrap();
    assert_eq!(client.read(&client_wire, &path, LONG).unwrap(), Err(Errno::E2big));
    client.tell(&client_wire, xenstore::Request::Release { domid: 3 }, LONG).unwrap().unwrap();
    state.join().unwrap();
}

#[test]
fn a_listing_without_end_and_parts_without_bytes_end_the_channel() {
    let bytes = |bytes: &[u8]| List::new(bytes.to_vec()).unwrap();
    for reply in [
        xenstore::Reply::Part { bytes: bytes(b"torn"), last: true },
        xenstore::Reply::Part { bytes: bytes(b""), last: false },
        xenstore::Reply::Done,
    ] {
        let (mut server, wire, mut client, client_wire) = ends_of::<XenStoreControl>();
        server.send(&wire, &Tagged { id: client.next_id, body: reply }, LONG).unwrap();
        let broke = client.list(&client_wire, &"/".parse().unwrap(), LONG);
        assert!(matches!(broke, Err(Error::PeerBroke { violation: Violation::Reply { .. } })), "{broke:?}");
    }
}

#[test]
fn the_server_outlives_its_client() {
    let page = LocalPage::new();
    let (to_client, _client_gone) = channel();
    let (events, from_client) = channel();
    let mut server = Server::<XenStoreControl, _>::over(page.clone(), DomId(0), Port(5));
    let wire = Wire { to_peer: to_client, from_peer: from_client };
    for domid in 0..3 {
        // A client that asks, and vanishes with its reply unread.
        let (_unused, nothing) = channel();
        let client_wire = Wire { to_peer: events.clone(), from_peer: nothing };
        let mut client = Client::<XenStoreControl, _>::over(page.clone(), Ok).unwrap().unwrap();
        client.send(&client_wire, xenstore::Request::Died { domid }, SHORT).unwrap();
        drop(client);
        let Tagged { id, body } = server.recv(&wire, LONG).unwrap().unwrap();
        assert_eq!(body, xenstore::Request::Died { domid });
        server.send(&wire, &Tagged { id, body: xenstore::Reply::Done }, SHORT).unwrap();
    }
}

#[test]
fn a_path_is_taken_exactly_or_not_at_all() {
    assert!("/local/domain/3".parse::<Path>().is_ok());
    assert!("/a\n".parse::<Path>().is_err());
    let longest = format!("/{}", "x".repeat(xenstore::MAX_PATH - 1));
    assert!(longest.parse::<Path>().is_ok());
    let unfit: Unfit = format!("{longest}x").parse::<Path>().unwrap_err();
    assert!(unfit.to_string().contains("256"), "{unfit}");
}

#[test]
fn a_server_attaches_to_a_clients_page_and_finds_what_it_sent_before() {
    let page = LocalPage::new();
    let attach =
        |page: &LocalPage| Server::<Pciback, _>::on(page.clone(), DomId(7), |port| Ok(Port(port.0 + 1)));
    assert!(matches!(attach(&page), Err(Error::PeerBroke { violation: Violation::NotReady, .. })));
    let (to_server, from_client) = channel();
    let (to_client, from_server) = channel();
    let mut client = Client::<Pciback, _>::on(page.clone(), Port(5)).unwrap();
    let client_wire = Wire { to_peer: to_server, from_peer: from_server };
    let id = client.send(&client_wire, Request::Ping, SHORT).unwrap();

    let mut server = attach(&page).unwrap();
    let wire = Wire { to_peer: to_client, from_peer: from_client };
    assert_eq!((server.port(), server.peer()), (Port(6), DomId(7)));
    let request = server.try_recv(&wire).unwrap().expect("sent before");
    assert_eq!(request.body, Request::Ping);
    server.send(&wire, &Tagged { id: request.id, body: Reply::Pong }, SHORT).unwrap();
    let reply = client.try_recv(&client_wire).unwrap().expect("an answer");
    assert_eq!((reply.id, reply.body), (id, Reply::Pong));
    // Another protocol's page is none.
    let other = Server::<XenStoreControl, _>::on(page, DomId(7), Ok);
    assert!(matches!(other, Err(Error::PeerBroke { violation: Violation::Protocol { .. }, .. })));
}
