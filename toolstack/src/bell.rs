//! Xen's events for tasks.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use ennead_xen::{EventChannels, Port};
use tokio::io::unix::AsyncFd;

/// Event channels, and a way to wait for them without blocking.
#[derive(Debug)]
pub struct Bell {
    events: EventChannels,
    readable: AsyncFd<OwnedFd>,
}

impl Bell {
    /// To be called in a runtime.
    ///
    /// # Errors
    /// Linux's.
    pub fn new(events: EventChannels) -> io::Result<Self> {
        let fd = events.as_fd().try_clone_to_owned()?;
        #[expect(
            deprecated,
            reason = "what its unsafe successor asks for holds: an OwnedFd is open as long as it lives"
        )]
        let readable = AsyncFd::new(fd)?;
        Ok(Self { events, readable })
    }

    /// The channels.
    pub fn events(&self) -> &EventChannels {
        &self.events
    }

    /// Waits until there was an event, and takes all that there are. (It may also return without any.) What is dropped
    /// before it is ready has taken none.
    ///
    /// # Errors
    /// Linux's.
    pub async fn rung(&self) -> anyhow::Result<()> {
        let mut guard = self.readable.readable().await?;
        let mut ports = [Port(0); 16];
        while self.events.wait_many(&mut ports, Some(Duration::ZERO))? > 0 {}
        guard.clear_ready();
        Ok(())
    }
}
