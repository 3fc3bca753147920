//! Events: who hears of what.

use alloc::{collections::BTreeSet, rc::Rc, vec::Vec};

use ennead_xs_wire::path;

use crate::{Conn, State, perms::Rights, rights::Who, store::Seen, transaction::Reach, watches::WatchId};

impl State {
    /// Tells of a change of `path` all who watch it and may read one of `lists`.
    pub(crate) fn fire(&mut self, path: &[u8], reach: Reach, lists: impl FnOnce(&Self) -> Vec<Seen>) {
        let reached = self.watches.reached(path, reach);
        if !reached.is_empty() {
            let lists = lists(self);
            self.tell(path, &reached, |state, who| state.may_hear(who, path, &lists));
        }
    }

    /// Tells of a domain that came or went.
    pub(crate) fn fire_special(&mut self, name: &[u8]) {
        let reached = self.watches.reached(name, Reach::Exact);
        self.tell(name, &reached, |state, who| {
            state.special_rights(who, name).is_some_and(|rights| rights.has(Rights::READ))
        });
    }

    fn tell(&mut self, path: &[u8], reached: &[(Conn, WatchId)], may_hear: impl Fn(&Self, Who) -> bool) {
        let shared: Rc<[u8]> = path.into();
        for watches in reached.chunk_by(|(a, _), (b, _)| a == b) {
            let Some(&(conn, _)) = watches.first() else { continue };
            if self.who(conn).is_some_and(|who| may_hear(self, who)) {
                self.tell_one(conn, watches, &shared);
            }
        }
    }

    fn tell_one(&mut self, conn: Conn, watches: &[(Conn, WatchId)], path: &Rc<[u8]>) {
        // Two watches that would tell exactly the same tell it once, but for special paths: so C xenstored.
        let mut told = BTreeSet::new();
        let merge = watches.len() > 1 && !path::is_special(path);
        for &(_, id) in watches {
            let Some(watch) = self.watches.get(id) else { continue };
            if !merge || told.insert((Rc::clone(&watch.token), watch.skip)) {
                self.send_event(conn, id, path);
            }
        }
    }

    fn send_event(&mut self, conn: Conn, id: WatchId, path: &Rc<[u8]>) {
        let Some(identity) = self.connections.get(&conn).map(|connection| connection.identity) else {
            return;
        };
        let limit = self.event_limit(identity);
        let (Some(connection), Some(watch)) = (self.connections.get_mut(&conn), self.watches.get_mut(id))
        else {
            return;
        };
        if connection.outbox.event(id, watch, path, limit) {
            self.has_output(conn);
        }
    }

    /// A new watch fires once, so that its owner learns what is there already.
    pub(crate) fn first_event(&mut self, id: WatchId) {
        let Some(watch) = self.watches.get(id) else { return };
        let (conn, path) = (watch.conn, Rc::clone(&watch.path));
        self.send_event(conn, id, &path);
    }
}
