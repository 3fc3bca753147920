//! The client's side of XenStore's control channel.

use std::time::{Duration, Instant};

use ennead_xen::SharedPage;
use ennead_xs_wire::Errno;

use crate::proto::xenstore::{MAX_WHOLE, Path, Reply, Request, XenStoreControl};
use crate::{Client, Error, Events, Violation};

impl<P: SharedPage> Client<XenStoreControl, P> {
    /// Sends a request that is only done or refused. `Err` inside: State's reason.
    ///
    /// # Errors
    /// As `call`; `PeerBroke` for another reply.
    pub fn tell(
        &mut self,
        events: &impl Events,
        request: Request,
        timeout: Duration,
    ) -> Result<Result<(), Errno>, Error> {
        match self.call(events, request, timeout)? {
            Reply::Done => Ok(Ok(())),
            Reply::Refused(errno) => Ok(Err(errno)),
            _ => Err(self.broke("that does not belong to the request")),
        }
    }

    /// How many nodes there are in all.
    ///
    /// # Errors
    /// As `call`; `PeerBroke` for another reply.
    pub fn count(&mut self, events: &impl Events, timeout: Duration) -> Result<u32, Error> {
        match self.call(events, Request::Count, timeout)? {
            Reply::Count(count) => Ok(count),
            _ => Err(self.broke("that does not belong to the request")),
        }
    }

    /// The value of a node. `Err` inside: State's reason, `E2BIG` if it has more than `MAX_WHOLE` bytes.
    ///
    /// # Errors
    /// As `call`; `PeerBroke` for another reply.
    pub fn read(
        &mut self,
        events: &impl Events,
        path: &Path,
        timeout: Duration,
    ) -> Result<Result<Vec<u8>, Errno>, Error> {
        self.whole(events, timeout, |offset| Request::Read { path: path.clone(), offset })
    }

    /// The names of a node's children, in State's order. `Err` inside: as for `read`.
    ///
    /// # Errors
    /// As `call`; `PeerBroke` for another reply, and for a listing that is none.
    pub fn list(
        &mut self,
        events: &impl Events,
        path: &Path,
        timeout: Duration,
    ) -> Result<Result<Vec<Path>, Errno>, Error> {
        let names =
            match self.whole(events, timeout, |offset| Request::List { path: path.clone(), offset })? {
                Ok(names) => names,
                Err(errno) => return Ok(Err(errno)),
            };
        let Some(names) = names.strip_suffix(b"\0") else {
            return if names.is_empty() {
                Ok(Ok(Vec::new()))
            } else {
                Err(self.broke("with a torn listing"))
            };
        };
        Ok(Ok(names.split(|byte| *byte == 0).map(|name| Path::new(&String::from_utf8_lossy(name))).collect()))
    }

    fn whole(
        &mut self,
        events: &impl Events,
        timeout: Duration,
        request: impl Fn(u32) -> Request,
    ) -> Result<Result<Vec<u8>, Errno>, Error> {
        let start = Instant::now();
        let mut whole = Vec::new();
        loop {
            let Ok(offset) = u32::try_from(whole.len()) else { return Ok(Err(Errno::E2big)) };
            match self.call(events, request(offset), timeout.saturating_sub(start.elapsed()))? {
                Reply::Refused(errno) => return Ok(Err(errno)),
                Reply::Part { bytes, last } => {
                    if bytes.is_empty() && !last {
                        return Err(self.broke("with an empty part in the middle"));
                    }
                    whole.extend(bytes.into_vec());
                    if whole.len() > MAX_WHOLE {
                        return Ok(Err(Errno::E2big));
                    }
                    if last {
                        return Ok(Ok(whole));
                    }
                }
                Reply::Done | Reply::Count(_) => {
                    return Err(self.broke("that does not belong to the request"));
                }
            }
        }
    }

    fn broke(&mut self, what: &'static str) -> Error {
        self.link.condemn(Violation::Reply { what })
    }
}
