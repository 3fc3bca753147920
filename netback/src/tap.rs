//! The side of the bridge: packets, each with a header that says what was left undone in it.

use std::io;

use ennead_os::TapDevice;

use crate::offload::VnetHeader;

/// Longest packet that comes from the bridge: 64 KiB of IP and an Ethernet header with a tag. A buffer for it has more.
pub const MAX_FROM_BRIDGE: usize = 65_535 + 18;

/// A port of the bridge. Nothing here waits.
pub trait Tap: Send {
    /// Takes the next packet for the guest: how long it is, or `None` if there is none. What does not fit is cut off.
    ///
    /// # Errors
    /// The port is of no more use.
    fn receive(&mut self, header: &mut VnetHeader, packet: &mut [u8]) -> io::Result<Option<usize>>;

    /// Sends packets of the guest's. Gives which of them were not dropped.
    fn send(&mut self, packets: &[(VnetHeader, &[u8])]) -> Vec<bool>;
}

impl Tap for TapDevice {
    fn receive(&mut self, header: &mut VnetHeader, packet: &mut [u8]) -> io::Result<Option<usize>> {
        Self::receive(self, header, packet)
    }

    fn send(&mut self, packets: &[(VnetHeader, &[u8])]) -> Vec<bool> {
        self.send_many(packets)
    }
}
