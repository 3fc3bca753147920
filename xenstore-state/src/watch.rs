//! WATCH and UNWATCH.

use alloc::vec::Vec;

use ennead_xs_wire::{Errno, path};

use crate::{Conn, State, output::Body, request::Cx, watches::WatchId};

impl State {
    pub(crate) fn watch(&mut self, cx: &Cx, name: &[u8], token: &[u8]) -> Result<WatchId, Errno> {
        let mut path = Vec::new();
        let mut skip = 0;
        if path::is_special(name) {
            path::canonical(name, cx.who.domid, &mut path)?;
        } else {
            path = self.node_path(cx, name)?.into();
            skip = path.len() - name.len();
        }
        if self.watches.find(cx.conn, &path, token).is_some() {
            return Err(Errno::Eexist);
        }
        let cost = path.len() + token.len();
        if !cx.who.operator {
            let quotas = *self.quotas(cx.who.domid);
            let domain = self.store.domains.get_mut(cx.who.domid).ok_or(Errno::Einval)?;
            if domain.watches > quotas.watches {
                return Err(Errno::E2big);
            }
            if domain.memory + cost >= quotas.memory {
                return Err(Errno::Enomem);
            }
            domain.watches += 1;
            domain.memory += cost;
        }
        let id = self.watches.add(cx.conn, &path, token, skip);
        if let Some(connection) = self.connections.get_mut(&cx.conn) {
            connection.watches.insert(id);
        }
        Ok(id)
    }

    pub(crate) fn unwatch(&mut self, cx: &Cx, name: &[u8], token: &[u8]) -> Result<Body, Errno> {
        let mut path = Vec::new();
        // What can never be watched is not watched.
        path::canonical(name, cx.who.domid, &mut path).map_err(|_| Errno::Enoent)?;
        let id = self.watches.find(cx.conn, &path, token).ok_or(Errno::Enoent)?;
        self.remove_watch(cx.conn, id);
        Ok(Body::Done)
    }

    fn remove_watch(&mut self, conn: Conn, id: WatchId) {
        let (Some(connection), Some(watch)) = (self.connections.get_mut(&conn), self.watches.remove(id))
        else {
            return;
        };
        connection.watches.remove(&id);
        if watch.overflowed {
            connection.outbox.forget(id);
        }
        if let Some(domain) = connection.payer().and_then(|domid| self.store.domains.get_mut(domid)) {
            domain.watches = domain.watches.saturating_sub(1);
            domain.memory = domain.memory.saturating_sub(watch.path.len() + watch.token.len());
        }
    }

    pub(crate) fn drop_watches(&mut self, conn: Conn) {
        let Some(connection) = self.connections.get(&conn) else { return };
        for id in connection.watches.clone() {
            self.remove_watch(conn, id);
        }
    }
}
