//! How the two halves find each other's memory as ordinary processes: State listens on a socket, and gives whoever connects a
//! region and two doorbells. The connection itself then only says that the other process lives.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::EventfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::SharedMemory;

/// Listens on a socket, whose file a predecessor may have left.
///
/// # Errors
/// The kernel's; anything else than a socket there is not ours to remove.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// One end.
#[derive(Debug)]
pub struct Link {
    /// The other process: at its end, the connection ends.
    pub peer: UnixStream,
    /// Our doorbell.
    bell: OwnedFd,
    /// The other one's.
    theirs: OwnedFd,
}

impl Link {
    /// State's end: gives `memory`, a link already, to `peer`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn offer(peer: UnixStream, memory: &SharedMemory) -> io::Result<Self> {
        let bell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (bell, theirs) = (bell()?, bell()?);
        let fds = [memory.as_fd(), bell.as_fd(), theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        rustix::net::sendmsg(&peer, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(Self { peer, bell, theirs })
    }

    /// Logic's end: connects to State's socket.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` if what listens there is no State.
    pub fn join(socket: &Path) -> io::Result<(Self, SharedMemory)> {
        let peer = UnixStream::connect(socket)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        rustix::net::recvmsg(
            &peer,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut fds = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten();
        let (Some(memory), Some(theirs), Some(bell)) = (fds.next(), fds.next(), fds.next()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no XenStore-State listens there"));
        };
        Ok((Self { peer, bell, theirs }, SharedMemory::from_fd(memory)?))
    }

    /// Rings the other one.
    pub fn wake(&self) {
        // A full counter has rung as well.
        let _ = rustix::io::write(&self.theirs, &1_u64.to_ne_bytes());
    }

    /// Our doorbell, to wait on.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Our doorbell was heard.
    pub fn answer(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }
}
