//! What XenStore-Logic has to do with rings.

use alloc::collections::VecDeque;

use crate::Conn;

/// Told in the order in which it has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Map the ring of this domain, bind this port of its, and start with an empty ring. If the connection has a ring
    /// already: the same afresh, with the new port.
    Connect {
        /// The connection that the ring is.
        conn: Conn,
        /// Whose.
        domid: u16,
        /// The domain's end of the event channel.
        port: u32,
    },
    /// Let go of the ring (or of the socket) at once; the connection is closed.
    Disconnect {
        /// The connection that was.
        conn: Conn,
        /// Whose.
        domid: u16,
    },
}

/// Notices not yet fetched: at most one for each connection.
#[derive(Debug, Default)]
pub(crate) struct Notices(VecDeque<Waiting>);

#[derive(Debug)]
struct Waiting {
    conn: Conn,
    notice: Notice,
    /// Logic has not heard of the connection yet.
    fresh: bool,
}

impl Notices {
    /// `fresh`: the connection is new.
    pub(crate) fn connect(&mut self, conn: Conn, domid: u16, port: u32, fresh: bool) {
        let fresh = self.take(conn).unwrap_or(fresh);
        self.0.push_back(Waiting { conn, notice: Notice::Connect { conn, domid, port }, fresh });
    }

    pub(crate) fn disconnect(&mut self, conn: Conn, domid: u16) {
        if self.take(conn) != Some(true) {
            self.0.push_back(Waiting { conn, notice: Notice::Disconnect { conn, domid }, fresh: false });
        }
    }

    /// Takes back what waits for this connection; whether it was fresh.
    fn take(&mut self, conn: Conn) -> Option<bool> {
        let at = self.0.iter().position(|waiting| waiting.conn == conn)?;
        self.0.remove(at).map(|waiting| waiting.fresh)
    }

    pub(crate) fn pop(&mut self) -> Option<Notice> {
        self.0.pop_front().map(|waiting| waiting.notice)
    }
}
