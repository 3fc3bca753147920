use alloc::format;

use ennead_xs_wire::{Errno, Op, Request};

use super::world::World;
use crate::Head;

#[test]
fn a_new_store_is_that_of_c_xenstored() {
    let mut w = World::new();
    w.expect("ls /", "tool|");
    w.expect("ls /tool", "xenstored|");
    w.expect("perms /", "n0|");
    w.expect("read /tool/xenstored", "");
    assert_eq!(w.nodes_of(0), 3);
    w.check();
}

#[test]
fn nodes_are_written_read_and_removed() {
    let mut w = World::new();
    w.expect("write /a/b/c value", "OK|");
    w.expect("read /a/b/c", "value");
    w.expect("read /a/b", "");
    w.expect("write /a/b/c other", "OK|");
    w.expect("read /a/b/c", "other");
    w.expect("mkdir /a/b/c", "OK|");
    w.expect("read /a/b/c", "other");
    w.expect("mkdir /a/d", "OK|");
    w.expect("ls /a", "b|d|");
    w.expect("rm /a/b", "OK|");
    w.expect("ls /a", "d|");
    w.expect("read /a/b/c", "ENOENT|");
    // Its parent is there: it is gone, as wanted.
    w.expect("rm /a/b", "OK|");
    w.expect("rm /a/b/c", "ENOENT|");
    w.expect("rm /", "EINVAL|");
    w.check();
}

#[test]
fn children_are_listed_as_they_were_created() {
    let mut w = World::new();
    for name in ["z", "a", "m", "b"] {
        w.op(&format!("mkdir /d/{name}"));
    }
    w.expect("ls /d", "z|a|m|b|");
    w.expect("rm /d/a", "OK|");
    w.expect("mkdir /d/a", "OK|");
    w.expect("ls /d", "z|m|b|a|");
}

#[test]
fn relative_paths_start_at_the_domains_directory() {
    let mut w = World::new();
    let guest = w.guest(5);
    assert_eq!(w.by(guest, "write data/x 1"), "OK|");
    w.expect("read /local/domain/5/data/x", "1");
    w.expect("write own 2", "OK|");
    w.expect("read /local/domain/0/own", "2");
    assert_eq!(w.by(guest, "path 5"), "/local/domain/5|");
}

#[test]
fn impossible_paths_are_einval() {
    let mut w = World::new();
    for path in ["", "/a/", "//", "/a//b", "/a%b", "/ä", "@releaseDomain", "/local/domain/"] {
        for op in ["read", "ls", "write", "mkdir", "rm", "perms"] {
            assert_eq!(w.op(&format!("{op} {path}")), "EINVAL|", "{op} {path}");
        }
    }
}

#[test]
fn the_length_of_a_path_does_not_count_the_domains_directory() {
    let mut w = World::new();
    let guest = w.guest(5);
    let (fits, longer) = ("x".repeat(2048), "x".repeat(2049));
    assert_eq!(w.by(guest, &format!("write /local/domain/5/{fits} v")), "ENOSPC|");
    assert_eq!(w.by(guest, &format!("read /local/domain/5/{fits}")), "ENOENT|");
    assert_eq!(w.by(guest, &format!("read /local/domain/5/{longer}")), "EINVAL|");
    assert_eq!(w.op(&format!("read /{longer}")), "EINVAL|");
}

#[test]
fn long_listings_come_in_parts() {
    let mut w = World::new();
    for number in 0..1000 {
        w.op(&format!("mkdir /d/entry-{number:04}"));
    }
    w.expect("ls /d", "E2BIG|");
    let (mut names, mut offset) = (alloc::string::String::new(), 0);
    loop {
        let part = w.op(&format!("part /d {offset}"));
        assert!(part.len() <= 4096);
        let (_, piece) = part.split_once('|').expect("a generation");
        match piece.strip_suffix("||") {
            Some(last) => {
                names.push_str(last);
                names.push('|');
                break;
            }
            None => names.push_str(piece),
        }
        offset = names.len();
    }
    assert_eq!(names.matches('|').count(), 1000);
    assert!(names.starts_with("entry-0000|entry-0001|") && names.ends_with("entry-0999|"));
    // Behind the end, and inside of a name.
    let behind = w.op("part /d 100000");
    assert!(behind.ends_with("||") && behind.matches('|').count() == 2);
    assert!(w.op("part /d 6").contains("|0000|entry-0001|"));
    let empty = w.op("part /tool/xenstored 0");
    assert!(empty.ends_with("||"), "{empty}");
}

#[test]
fn the_generation_of_a_listing_changes_with_it() {
    let mut w = World::new();
    w.op("mkdir /d/a");
    let generation = |w: &mut World| w.op("part /d 0").split('|').next().map(alloc::string::String::from);
    let before = generation(&mut w);
    w.op("write /d/a 1");
    assert_eq!(generation(&mut w), before);
    w.op("mkdir /d/b");
    assert_ne!(generation(&mut w), before);
}

#[test]
fn errors_come_in_the_order_of_c_xenstored() {
    let mut w = World::new();
    let guest = w.guest(5);
    let mut ask = |conn, op: u32, tx_id, errno| {
        w.state.request(conn, Head { op, request_id: 1, tx_id }, Err(errno));
        w.drain(conn).join(" ")
    };
    // Unknown, not allowed, no such transaction, malformed.
    assert_eq!(ask(guest, 99, 9, Errno::Enosys), "ENOSYS|");
    assert_eq!(ask(guest, Op::WatchEvent as u32, 9, Errno::Enosys), "ENOSYS|");
    assert_eq!(ask(guest, Op::Introduce as u32, 9, Errno::Einval), "EACCES|");
    assert_eq!(ask(guest, Op::Read as u32, 9, Errno::Einval), "ENOENT|");
    assert_eq!(ask(guest, Op::Read as u32, 0, Errno::Einval), "EINVAL|");
    assert_eq!(ask(guest, Op::Watch as u32, 9, Errno::Einval), "EINVAL|");
}

#[test]
fn replies_echo_the_request() {
    let mut w = World::new();
    let head = Head { op: Op::Read as u32, request_id: 0xdead_beef, tx_id: 4 };
    w.state.request(w.operator, head, Ok(&Request::Read { path: b"/" }));
    let item = w.state.pop(w.operator).expect("an answer");
    assert_eq!(
        item.message(),
        ennead_xs_wire::Message::Reply {
            op: Op::Read as u32,
            request_id: 0xdead_beef,
            tx_id: 4,
            reply: ennead_xs_wire::Reply::Error(Errno::Enoent),
        }
    );
}

#[test]
fn control_is_small_and_the_operators() {
    let mut w = World::new();
    let guest = w.guest(5);
    let mut control =
        |conn, command: &str| w.ask(conn, 0, &Request::Control(command.replace('|', "\0").as_bytes()));
    let operator = crate::Conn(1);
    assert_eq!(control(guest, "check|"), "EACCES|");
    assert_eq!(control(operator, "check|"), "OK|");
    assert_eq!(control(operator, "check|x|"), "EINVAL|");
    assert_eq!(control(operator, "live-update|"), "EINVAL|");
    assert_eq!(control(operator, ""), "EINVAL|");
    assert!(control(operator, "help|").starts_with("check\t\nquota"));
    assert!(control(operator, "quota|").contains("nodes            :     1000"));
    assert!(control(operator, "quota|5|").contains("nodes           :        1\n"));
    assert_eq!(control(operator, "quota|77|"), "ENOENT|");
    assert_eq!(control(operator, "quota|x|"), "EINVAL|");
    // In a transaction as well: what it holds is counted.
    let id = w.start(operator);
    w.within(operator, id, "write /x 1");
    assert_eq!(w.ask(operator, id, &Request::Control(b"check\0")), "OK|");
}
