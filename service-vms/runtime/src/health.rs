//! Telling the VM that built this one that it works.

use ennead_xen::EventChannels;

use crate::boot::HealthPort;

/// Where this VM reports that it is healthy. Opened before the sandbox closes, used after.
#[derive(Debug)]
pub struct Health(Option<(HealthPort, EventChannels)>);

/// The report failed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot report health to domain {} on its port {}: is it the VM that built this one, and still there?", .at.domid.0, .at.port.0)]
pub struct Error {
    /// Where to.
    pub at: HealthPort,
    /// What Xen said.
    pub source: ennead_xen::Error,
}

impl Health {
    /// Opens /dev/xen/evtchn, if there is anybody to report to.
    pub(crate) fn open(at: Option<HealthPort>) -> Result<Self, Error> {
        let open = |at| Ok((at, EventChannels::open().map_err(|source| Error { at, source })?));
        at.map(open).transpose().map(Self)
    }

    /// Sends the one event for which the VM that built this one waits; nothing if nobody waits.
    ///
    /// # Errors
    /// Xen's, when it refuses the port.
    pub fn report(self) -> Result<(), Error> {
        let Some((at, events)) = self.0 else { return Ok(()) };
        let port = events.bind_interdomain(at.domid, at.port).map_err(|source| Error { at, source })?;
        // The event stays with the receiver when this end closes.
        events.notify(port).map_err(|source| Error { at, source })
    }
}
