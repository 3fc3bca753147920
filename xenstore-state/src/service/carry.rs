//! State's stream with what belongs to its rings.

use alloc::vec::Vec;

use super::{Line, Mode, Service};
use crate::{
    Settings,
    stream::{Loader, StreamError},
};

impl Service {
    /// All that outlives this State (see `State::save`), with the rings: how far they are read and written, messages that
    /// are not complete or not delivered. Between two calls.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut all = Vec::new();
        self.save_to(&mut |piece| {
            all.extend_from_slice(piece);
            true
        });
        all
    }

    /// The same in pieces of some KiB, so that it never lies in memory as a whole. `sink` says whether to go on; the result is
    /// whether all was taken.
    pub fn save_to(&self, sink: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let carried = |conn: crate::Conn| {
            let number = self.by_conn.get(&conn.0).and_then(|number| usize::try_from(*number).ok());
            let line = number.and_then(|number| self.lines.get(number)?.as_ref());
            line.map(Line::carry).unwrap_or_default()
        };
        self.state.save_with(carried, sink)
    }

    /// As it was saved; Logic's `Attach` gets all rings.
    ///
    /// # Errors
    /// As for `State::load`, or if what a ring's client has sent are no messages.
    pub fn load(settings: Settings, mode: Mode, bytes: &[u8]) -> Result<Self, StreamError> {
        let mut loading = Loading::new(settings, mode);
        loading.push(bytes)?;
        loading.finish()
    }
}

/// A Service of which not all is known yet.
#[derive(Debug)]
pub struct Loading {
    loader: Loader,
    mode: Mode,
}

impl Loading {
    /// Nothing is known.
    #[must_use]
    pub fn new(settings: Settings, mode: Mode) -> Self {
        Self { loader: Loader::new(settings), mode }
    }

    /// The next piece of what was saved, however it is cut.
    ///
    /// # Errors
    /// As for `State::load`.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), StreamError> {
        self.loader.push(piece)
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// As for `Service::load`.
    pub fn finish(self) -> Result<Service, StreamError> {
        let (state, carried) = self.loader.finish()?;
        let mut service = Service::new(state, self.mode);
        if self.mode == Mode::Process {
            // A new Logic tells of all domains that are there: they are not new ones.
            service.state.store.domains.iter_mut().for_each(|domain| domain.announced = false);
        }
        service.gather();
        for (conn, carried) in carried {
            let Some(number) = service.by_conn.get(&conn.0).copied() else { continue };
            let Some(line) = service.line(number) else { continue };
            line.restore(carried).map_err(|()| StreamError::Unread(conn))?;
            if line.held.is_some() {
                service.held.push(number);
            }
        }
        Ok(service)
    }
}
