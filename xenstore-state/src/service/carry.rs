//! State's stream with what belongs to its rings.

use alloc::vec::Vec;

use super::{Line, Mode, Service};
use crate::{
    Settings,
    stream::{self, StreamError},
};

impl Service {
    /// All that outlives this State (see `State::save`), with the rings: how far they are read and written, messages that
    /// are not complete or not delivered. Between two calls, when Logic has every answer.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        self.state.save_with(|conn| {
            let number = self.by_conn.get(&conn.0).and_then(|number| usize::try_from(*number).ok());
            let line = number.and_then(|number| self.lines.get(number)?.as_ref());
            line.map(Line::carry).unwrap_or_default()
        })
    }

    /// As it was saved; Logic's `Attach` gets all rings.
    ///
    /// # Errors
    /// As for `State::load`, or if what a ring's client has sent are no messages.
    pub fn load(settings: Settings, mode: Mode, bytes: &[u8]) -> Result<Self, StreamError> {
        let (state, carried) = stream::load(settings, bytes)?;
        let mut service = Self::new(state, mode);
        if mode == Mode::Process {
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
