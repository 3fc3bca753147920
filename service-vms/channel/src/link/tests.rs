//! Client and server in two threads, with a test double in place of Xen's event channels.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;

use ennead_xen::LocalPage;

use super::*;
use crate::pciback::{Address, CONTROLLERS_PER_REPLY, controllers_in_parts};
use crate::{List, Text};

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
    let page = LocalPage::new();
    let (a, b) = channel();
    let (c, d) = channel();
    assert!(Client::<Pciback, _>::over(page.clone(), Ok).unwrap().is_none(), "no server yet");
    let server = Server::over(page.clone(), GrantRef(8), DomId(1), Port(5));
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
fn events_of_other_ports_are_kept_for_the_caller() {
    let (mut server, wire, client, client_wire) = ends();
    for port in [7, 9, 7] {
        client_wire.notify(Port(port)).unwrap();
    }
    assert!(server.recv(&wire, SHORT).unwrap().is_none());
    assert_eq!(server.take_others(), [Port(7), Port(9)]);
    assert!(server.take_others().is_empty());
    drop(client);
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
    let _server = Server::<Other, _>::over(page.clone(), GrantRef(8), DomId(1), Port(5));
    let refused = Client::<Pciback, _>::over(page, Ok).err();
    assert!(
        matches!(refused, Some(Error::PeerBroke { violation: Violation::Protocol { found: 1, .. } })),
        "{refused:?}"
    );
}
