//! Against a XenStore that says what it is told to.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ennead_xs_wire::{Errno, Header, Message, Op, Raw, Reply};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);

/// Operation, transaction, payload.
type Asked = (u32, u32, String);

/// A XenStore that answers each request as `answers` says, in order; gives what it was asked.
fn xenstore(answers: Vec<Vec<Message<'static>>>) -> (XenStore<UnixStream>, JoinHandle<Vec<Asked>>) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let serving = thread::spawn(move || {
        let (mut asked, mut bytes, mut buffer) = (Vec::new(), Vec::new(), [0; 512]);
        let mut answers = answers.into_iter();
        loop {
            while let Some((raw, length)) = Raw::split(&bytes).expect("a message") {
                let Header { op, request_id, tx_id, .. } = raw.header;
                asked.push((op, tx_id, String::from_utf8_lossy(raw.payload).replace('\0', "|")));
                for mut message in answers.next().expect("an answer for each request") {
                    if let Message::Reply { op: o, request_id: r, tx_id: t, .. } = &mut message
                        && *r == 0
                    {
                        (*o, *r, *t) = (op, request_id, tx_id);
                    }
                    // In pieces, as a ring may give it.
                    for piece in message.encode().chunks(7) {
                        theirs.write_all(piece).expect("the client is there");
                    }
                }
                bytes.drain(..length);
            }
            match theirs.read(&mut buffer) {
                Ok(0) | Err(_) => return asked,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    });
    (XenStore::new(ours, LONG), serving)
}

fn says(reply: Reply<'static>) -> Message<'static> {
    Message::Reply { op: 0, request_id: 0, tx_id: 0, reply }
}

fn event(path: &'static str) -> Message<'static> {
    Message::Event { path: path.as_bytes(), token: b"t" }
}

#[test]
fn events_between_answers_wait_and_none_is_told_twice() {
    let (mut store, _serving) = xenstore(vec![
        vec![event("a"), says(Reply::Done), event("a"), event("b")],
        vec![event("b"), says(Reply::Bytes(b"x"))],
    ]);
    store.watch("a", "t").unwrap();
    assert_eq!(store.read("a").unwrap(), b"x");
    let paths: Vec<_> = (0..2).map(|_| store.event(LONG).unwrap().unwrap().path).collect();
    assert_eq!(paths, [b"a", b"b"]);
    assert_eq!(store.event(SHORT).unwrap(), None);
}

#[test]
fn a_late_answer_is_not_taken_for_the_next() {
    let late = Message::Reply { op: Op::Read as u32, request_id: 77, tx_id: 0, reply: Reply::Bytes(b"old") };
    let (mut store, _serving) = xenstore(vec![vec![late, says(Reply::Bytes(b"new"))]]);
    assert_eq!(store.read("a").unwrap(), b"new");
}

#[test]
fn refusals_name_the_request_and_the_reason() {
    let (mut store, serving) = xenstore(vec![
        vec![says(Reply::Error(Errno::Eacces))],
        vec![says(Reply::Error(Errno::Enoent))],
        vec![says(Reply::Error(Errno::Enoent))],
        vec![says(Reply::Done)],
    ]);
    assert_eq!(store.write("a", b"1").unwrap_err().to_string(), "XenStore refused Write a: EACCES");
    assert_eq!(store.find("a").unwrap(), None);
    store.rm("a").unwrap();
    store.set_perms("a", &[Perm { access: Right::None, domid: 3 }]).unwrap();
    drop(store);
    assert_eq!(serving.join().unwrap().last().unwrap().2, "a|n3|");
}

#[test]
fn a_transaction_starts_anew_when_others_were_in_its_way() {
    let round = |end: Reply<'static>, id| {
        vec![vec![says(Reply::Transaction(id))], vec![says(Reply::Done)], vec![says(end)]]
    };
    let answers = [round(Reply::Error(Errno::Eagain), 5), round(Reply::Done, 6)].concat();
    let (mut store, serving) = xenstore(answers);
    store.transaction(|t| t.write("a", b"1")).unwrap();
    drop(store);
    let asked: Vec<_> = serving.join().unwrap().into_iter().map(|(_, tx, text)| (tx, text)).collect();
    let one = |tx| vec![(0, "|".to_owned()), (tx, "a|1".to_owned()), (tx, "T|".to_owned())];
    assert_eq!(asked, [one(5), one(6)].concat());
}

#[test]
fn a_transaction_that_fails_changes_nothing() {
    let (mut store, serving) = xenstore(vec![
        vec![says(Reply::Transaction(5))],
        vec![says(Reply::Error(Errno::Enospc))],
        vec![says(Reply::Done)],
    ]);
    let failed = store.transaction(|t| t.write("a", b"1")).unwrap_err();
    assert_eq!(failed.errno(), Some(Errno::Enospc));
    drop(store);
    assert_eq!(serving.join().unwrap().last().unwrap(), &(Op::TransactionEnd as u32, 5, "F|".to_owned()));
}

#[test]
fn a_long_list_comes_in_parts() {
    let part = |generation, names: &'static [u8], last| says(Reply::Part { generation, names, last });
    let (mut store, serving) = xenstore(vec![
        vec![says(Reply::Names(b"a\0b\0"))],
        vec![says(Reply::Error(Errno::E2big))],
        vec![part(1, b"a\0b\0", false)],
        vec![part(2, b"c\0", false)],
        vec![part(2, b"a\0", false)],
        vec![part(2, b"c\0", true)],
    ]);
    assert_eq!(store.list("x").unwrap(), ["a", "b"]);
    assert_eq!(store.list("x").unwrap(), ["a", "c"]);
    drop(store);
    let offsets: Vec<_> = serving.join().unwrap().into_iter().skip(2).map(|(.., text)| text).collect();
    assert_eq!(offsets, ["x|0|", "x|4|", "x|0|", "x|2|"]);
}

#[test]
fn silence_ends_and_so_does_a_closed_connection() {
    let (ours, silent) = UnixStream::pair().unwrap();
    let mut store = XenStore::new(ours, SHORT);
    assert!(matches!(store.read("a").unwrap_err(), Error::Silent { .. }));
    drop(silent);
    assert!(matches!(store.read("a").unwrap_err(), Error::Broken(_)));
}

#[test]
fn a_flood_of_events_is_bounded_and_told() {
    let paths: Vec<String> = (0..MAX_EVENTS + 10).map(|n| format!("p{n}")).collect();
    let paths: &'static [String] = paths.leak();
    let mut all: Vec<_> = paths.iter().map(|path| event(path)).collect();
    all.push(says(Reply::Done));
    let (mut store, _serving) = xenstore(vec![all]);
    store.watch("p", "t").unwrap();
    assert!(matches!(store.event(LONG), Err(Error::EventsLost)));
    let kept = std::iter::from_fn(|| store.event(SHORT).unwrap()).count();
    assert_eq!(kept, MAX_EVENTS);
}
