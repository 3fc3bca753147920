//! A ring served from a real file by the kernel.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;

use ennead_backend::testing::{TestGuest, TestPages};
use ennead_os::Buffers;
use ennead_xen::{PAGE_SIZE, SharedPage as _};
use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::engine::{BUFFER_PAGES, Engine};
use crate::polled::SMALL;
use crate::protocol::{Limits, RESPONSE, SLOT_64 as SLOT, response};

const SECTORS: u64 = 64;
const LIMITS: Limits = Limits { sectors: SECTORS, block: 512, writable: true, discard: true };

/// A file in memory, which takes the same operations as a disk.
fn medium() -> Medium {
    let fd = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(&[7; 64 * 512]).unwrap();
    Medium { file: Arc::new(file), polled: false }
}

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

/// `/dev/xen/evtchn`, and its other end.
fn events() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

fn request(operation: u8, id: u8, sector: u8, gref: u8) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    (slot[0], slot[8], slot[16]) = (operation, id, sector);
    if operation < 2 {
        // One page.
        (slot[1], slot[24], slot[29]) = (1, gref, 7);
    } else {
        slot[24] = gref;
    }
    slot
}

#[test]
fn the_kernel_does_what_the_guest_asks() {
    let (page, guest, medium) = (TestPages::ring(1), TestGuest::new(), medium());
    guest.grant(8, &[1; PAGE_SIZE], false);
    guest.grant(9, &[2; PAGE_SIZE], true);
    // Write page 8, read page 9, discard 8 sectors, flush.
    let requests = [request(1, 1, 8, 8), request(0, 2, 24, 9), request(5, 3, 40, 8), request(3, 4, 0, 0)];
    for (n, slot) in requests.iter().enumerate() {
        page.write(64 + n * SLOT, slot);
    }
    page.store(0, 4);
    let (stop, (events, _kernel)) = (bell(), events());
    let disk = Disk::open(medium.clone(), 32, &events, &stop).unwrap();
    let buffers = Buffers::new(BUFFER_PAGES).unwrap();
    let mut engine: Engine<_, _, _, SLOT> =
        Engine::attach(page.clone(), guest.clone(), disk, buffers, LIMITS).unwrap();
    while page.load(8) < 4 {
        engine.turn().unwrap();
        let wait = page.load(8) < 4;
        engine.storage().submit(wait).unwrap();
    }
    for (n, operation) in [(0, 1), (1, 0), (2, 5), (3, 3)] {
        let mut answer = [0; RESPONSE];
        page.read(64 + n * SLOT, &mut answer);
        assert_eq!(answer, response(n as u64 + 1, operation, 0));
    }
    let sector = |n: u64| {
        let mut byte = [0];
        medium.file.read_exact_at(&mut byte, n * 512).unwrap();
        byte[0]
    };
    assert_eq!([7, 8, 15, 16, 39, 40, 47, 48].map(sector), [7, 1, 1, 7, 7, 0, 0, 7]);
    assert_eq!(guest.page(9).unwrap(), [7; PAGE_SIZE]);
}

#[test]
fn an_event_and_the_end_are_heard_while_it_waits() {
    let (stop, (events, mut kernel)) = (bell(), events());
    let mut disk = Disk::open(medium(), 1, &events, &stop).unwrap();
    disk.submit(false).unwrap();
    assert!(disk.completed().is_none() && !disk.take_event() && !disk.is_stopped());
    for _ in 0..2 {
        disk.listen().unwrap();
        disk.listen().unwrap();
        kernel.write_all(&7_u32.to_ne_bytes()).unwrap();
        disk.submit(true).unwrap();
        assert!(disk.completed().is_none());
        assert!(disk.take_event() && !disk.take_event() && !disk.is_stopped());
        // Until it listens again, the port is masked.
        kernel.set_nonblocking(true).unwrap();
        assert!(kernel.read(&mut [0; 8]).is_err());
        disk.listen().unwrap();
        disk.submit(false).unwrap();
        let mut port = [0; 8];
        assert_eq!((kernel.read(&mut port).unwrap(), &port[..4]), (4, &7_u32.to_ne_bytes()[..]));
    }
    rustix::io::write(&stop, &1_u64.to_ne_bytes()).unwrap();
    disk.submit(true).unwrap();
    assert!(disk.completed().is_none() && disk.is_stopped() && !disk.take_event());
}

#[test]
fn unmasking_is_nothing_to_wake_up_for() {
    let (stop, (events, mut kernel)) = (bell(), events());
    let mut disk = Disk::open(medium(), 1, &events, &stop).unwrap();
    disk.listen().unwrap();
    kernel.write_all(&7_u32.to_ne_bytes()).unwrap();
    disk.submit(true).unwrap();
    assert!(disk.completed().is_none() && disk.take_event());
    let ringer = std::thread::spawn(move || {
        let mut port = [0; 4];
        kernel.read_exact(&mut port).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        kernel.write_all(&port).unwrap();
    });
    disk.listen().unwrap();
    disk.submit(true).unwrap();
    assert!(disk.completed().is_none() && disk.take_event());
    ringer.join().unwrap();
}

#[test]
fn an_event_device_that_fails_is_an_error() {
    let (stop, (events, kernel)) = (bell(), events());
    let mut disk = Disk::open(medium(), 1, &events, &stop).unwrap();
    disk.listen().unwrap();
    drop(kernel);
    disk.submit(true).unwrap();
    assert!(disk.completed().is_none());
    assert_eq!(disk.submit(true).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn only_what_is_small_is_polled_for() {
    let (stop, (events, _kernel)) = (bell(), events());
    let mut disk = Disk::open(Medium { polled: true, ..medium() }, 4, &events, &stop).unwrap();
    let buffers = Buffers::new(16).unwrap();
    disk.start(Operation::Read(0, buffers.take(SMALL + 512).unwrap()), 1).unwrap();
    disk.start(Operation::Sync, 2).unwrap();
    assert!(!disk.is_polled());
    disk.start(Operation::Read(0, buffers.take(SMALL).unwrap()), 3).unwrap();
    assert!(disk.is_polled());
    let mut ended = Vec::new();
    while ended.len() < 3 {
        disk.wait().unwrap();
        ended.extend(std::iter::from_fn(|| disk.completed()).map(|c| (c.token, c.result.is_ok())));
    }
    ended.sort_unstable();
    // A file in memory cannot be asked.
    assert_eq!(ended, [(1, true), (2, true), (3, false)]);
    assert!(!disk.is_polled());
}
