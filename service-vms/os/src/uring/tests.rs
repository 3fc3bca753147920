use super::*;
use crate::Buffers;
use rustix::event::EventfdFlags;
use std::os::unix::fs::FileExt as _;

/// A file of this many bytes that has no name any more.
fn file(len: u64) -> Arc<File> {
    let fd = rustix::fs::memfd_create("uring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(len).unwrap();
    Arc::new(file)
}

fn next(uring: &mut Uring) -> Completion {
    loop {
        if let Some(completion) = uring.completed() {
            return completion;
        }
        uring.submit(1).unwrap();
    }
}

#[test]
fn bytes_go_to_the_file_and_come_back() {
    let (mut uring, buffers, file) = (Uring::new(8).unwrap(), Buffers::new(4).unwrap(), file(1 << 20));
    let mut buffer = buffers.take(5000).unwrap();
    buffer.fill(0x5a);
    uring.start(&file, Operation::Write(8192, buffer), 1).unwrap();
    let done = next(&mut uring);
    assert_eq!((done.token, done.result.unwrap(), done.buffer.is_some()), (1, 5000, true));
    let mut there = [0; 5002];
    file.read_exact_at(&mut there, 8191).unwrap();
    assert_eq!((there[0], there[1], there[5000], there[5001]), (0, 0x5a, 0x5a, 0));
    uring.start(&file, Operation::Discard { offset: 8192, len: 4096 }, 2).unwrap();
    assert_eq!((next(&mut uring).token, uring.in_flight()), (2, 0));
    let mut buffer = buffers.take(8192).unwrap();
    buffer.fill(1);
    uring.start(&file, Operation::Read(8192, buffer), 3).unwrap();
    let done = next(&mut uring);
    let buffer = done.buffer.unwrap();
    assert_eq!((done.result.unwrap(), buffer[0], buffer[4096], buffer[5000]), (8192, 0, 0x5a, 0));
    uring.start(&file, Operation::Sync, 4).unwrap();
    let done = next(&mut uring);
    assert_eq!((done.token, done.result.unwrap()), (4, 0));
}

#[test]
fn errors_are_those_of_the_operation() {
    let (mut uring, buffers) = (Uring::new(2).unwrap(), Buffers::new(1).unwrap());
    let file = Arc::new(File::open("/").unwrap());
    uring.start(&file, Operation::Read(0, buffers.take(1).unwrap()), 9).unwrap();
    let done = next(&mut uring);
    assert!(done.result.is_err() && done.buffer.is_some());
}

#[test]
fn no_more_is_under_way_than_the_queue_takes() {
    let (mut uring, file) = (Uring::new(3).unwrap(), file(0));
    for token in 0..3 {
        uring.start(&file, Operation::Sync, token).unwrap();
    }
    assert!(uring.start(&file, Operation::Sync, 3).is_err());
    let mut tokens: Vec<_> = (0..3).map(|_| next(&mut uring).token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2]);
    assert!(uring.start(&file, Operation::Sync, 3).is_ok());
}

#[test]
fn what_can_be_read_ends_the_wait() {
    let bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    let mut uring = Uring::new(2).unwrap();
    uring.watch(&bell, 7).unwrap();
    uring.submit(0).unwrap();
    assert!(uring.completed().is_none());
    let theirs = bell.try_clone().unwrap();
    let ringer = std::thread::spawn(move || rustix::io::write(theirs, &1_u64.to_ne_bytes()));
    assert_eq!(next(&mut uring).token, 7);
    ringer.join().unwrap().unwrap();
}

#[test]
fn a_queue_that_is_dropped_waits_for_its_buffers() {
    let (mut uring, buffers, file) = (Uring::new(4).unwrap(), Buffers::new(1).unwrap(), file(4096));
    let mut buffer = buffers.take(4096).unwrap();
    buffer.fill(3);
    uring.start(&file, Operation::Write(0, buffer), 1).unwrap();
    drop(uring);
    let mut there = [0; 4096];
    file.read_exact_at(&mut there, 0).unwrap();
    assert!(there.iter().all(|byte| *byte == 3));
    assert!(buffers.take(4096).is_some());
}

#[test]
fn what_waits_for_good_can_be_cancelled() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let (device, buffers) = (Arc::new(File::from(OwnedFd::from(ours))), Buffers::new(1).unwrap());
    let mut uring = Uring::new(2).unwrap();
    uring.start(&device, Operation::Read(0, buffers.take(4).unwrap()), 1).unwrap();
    uring.submit(0).unwrap();
    assert!(uring.completed().is_none());
    uring.cancel(&device);
    assert!(next(&mut uring).result.is_err());
    assert_eq!(uring.in_flight(), 0);
}

#[test]
fn a_polled_queue_takes_only_what_can_be_polled() {
    let (mut uring, buffers) = (Uring::polled(2).unwrap(), Buffers::new(1).unwrap());
    uring.start(&file(4096), Operation::Read(0, buffers.take(512).unwrap()), 3).unwrap();
    let done = next(&mut uring);
    assert_eq!((done.token, done.buffer.is_some()), (3, true));
    assert_eq!(done.result.unwrap_err().raw_os_error(), Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()));
    assert_eq!(uring.in_flight(), 0);
}
