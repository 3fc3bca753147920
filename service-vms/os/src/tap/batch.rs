//! Many packets in one system call, through io_uring. (For reads it would not do: io_uring waits for data even where the file does
//! not, and a tap knows no RWF_NOWAIT.)

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use super::VNET_HEADER;

/// Packets of one call.
const DEPTH: usize = 64;

/// A queue that is empty between calls.
pub(super) struct Batch(IoUring);

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

impl Batch {
    pub(super) fn new() -> io::Result<Self> {
        let depth = u32::try_from(DEPTH).map_err(io::Error::other)?;
        IoUring::new(depth).map(Self)
    }

    /// Gives packets to a tap; which of them it took.
    pub(super) fn send(&mut self, tap: BorrowedFd<'_>, packets: &[([u8; VNET_HEADER], &[u8])]) -> Vec<bool> {
        let fd = types::Fd(tap.as_raw_fd());
        let mut sent = Vec::with_capacity(packets.len());
        for packets in packets.chunks(DEPTH) {
            let slices: Vec<[IoSlice<'_>; 2]> =
                packets.iter().map(|(header, packet)| [IoSlice::new(header), IoSlice::new(packet)]).collect();
            // An IoSlice is an iovec.
            let entry = |both: &[IoSlice<'_>; 2]| opcode::Writev::new(fd, both.as_ptr().cast(), 2).build();
            let entries: Vec<squeue::Entry> = slices.iter().map(entry).collect();
            // SAFETY: the entries name `slices` and what these borrow, which all outlive the call.
            let results = unsafe { self.run(&entries) };
            sent.extend(results.iter().map(Result::is_ok));
        }
        sent
    }

    /// Does all of the entries, at most [`DEPTH`], and gives their results in order.
    ///
    /// # Safety
    /// What the entries name is there, and is not used otherwise, until this returns.
    unsafe fn run(&mut self, entries: &[squeue::Entry]) -> Vec<Result<usize, Errno>> {
        let mut results = vec![Err(Errno::CANCELED); entries.len()];
        for (place, entry) in entries.iter().enumerate() {
            let entry = entry.clone().user_data(place as u64);
            // SAFETY: the caller's promise; this returns when all entries have completed.
            if unsafe { self.0.submission().push(&entry) }.is_err() {
                std::process::abort();
            }
        }
        let mut left = entries.len();
        while left > 0 {
            match self.0.submit_and_wait(left) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The kernel may still use what the entries name.
                Err(_) => std::process::abort(),
            }
            for completion in self.0.completion() {
                let result = usize::try_from(completion.result());
                let result =
                    result.map_err(|_| Errno::from_raw_os_error(completion.result().saturating_neg()));
                let place = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                if let Some(to) = results.get_mut(place) {
                    *to = result;
                }
                left = left.saturating_sub(1);
            }
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn packets_keep_their_order_and_their_borders() {
        let Ok(mut batch) = Batch::new() else { return };
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let packets: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 20 + usize::from(n)]).collect();
        let list: Vec<([u8; VNET_HEADER], &[u8])> =
            packets.iter().map(|packet| ([packet[0] + 100; VNET_HEADER], packet.as_slice())).collect();
        assert_eq!(batch.send(ours.as_fd(), &list), [true; 5]);
        for (header, packet) in &list {
            let mut bytes = [0; 64];
            let length = theirs.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..length], [header.as_slice(), packet].concat());
        }
        drop(theirs);
        assert_eq!(batch.send(ours.as_fd(), &list), [false; 5]);
    }
}
