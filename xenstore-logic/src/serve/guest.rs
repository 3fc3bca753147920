//! Lines on guests' rings. A ring moves only after State has committed: it then says how far.

use ennead_xs_link::{Call, CallKind, Connect, Shared};
use ennead_xs_wire::Raw;

use super::lines::{Guest, Line};
use super::{Serve, Stop, World, handler};
use crate::handler::Forgetful;
use crate::ring::{self, Fault};

impl<M: Shared, W: World, F: Forgetful> Serve<M, W, F> {
    /// Serves a ring that State knows, from where State says it is.
    pub(super) fn connect(&mut self, line: u32, connect: Connect) -> Result<(), Stop> {
        self.disconnect(line);
        let Some((page, port)) = self.world.map(connect.domid, connect.port) else {
            return self.call(CallKind::Broken, line, &[]);
        };
        let (req_cons, rsp_prod) =
            if connect.known { (connect.req_cons, connect.rsp_prod) } else { ring::positions(&page) };
        ring::greet(&page);
        ring::consume(&page, req_cons);
        let guest = Guest { req_cons, rsp_prod, stashed: connect.stashed, ..Guest::new(page, port) };
        self.lines.put(line, Line::Guest(guest));
        self.make_room()?;
        let call = Call { kind: CallKind::Mapped, line, req_cons, rsp_cons: rsp_prod };
        self.submit(&call, 0)
    }

    /// Lets go of a ring.
    pub(super) fn disconnect(&mut self, line: u32) {
        if self.lines.guest(line).is_some() {
            if let Line::Guest(Guest { page, port, .. }) = self.lines.put(line, Line::Free) {
                drop(page);
                self.world.unbind(port);
            }
        }
    }

    /// Makes a call of what waits in a ring, unless a call about it is under way already. `event`: the guest rang, so that it may
    /// have made room.
    pub(super) fn look_at_ring(&mut self, line: u32, event: bool) -> Result<(), Stop> {
        self.make_room()?;
        let Some(guest) = self.lines.guest(line) else { return Ok(()) };
        guest.rang |= event;
        if guest.busy {
            return Ok(());
        }
        if ring::wants_reset(&guest.page) {
            ring::reset(&guest.page);
            (guest.req_cons, guest.rsp_prod) = (0, 0);
            (guest.busy, guest.rang, guest.stashed, guest.more) = (true, false, false, false);
            if core::mem::take(&mut guest.broken) {
                self.world.hush(guest.port, false);
            }
            return self.call(CallKind::Reset, line, &[]);
        }
        if guest.broken || guest.is_full() {
            return Ok(());
        }
        if core::mem::take(&mut guest.more) {
            guest.busy = true;
            return self.call(CallKind::Stash, line, &[]);
        }
        match self.next_call(line) {
            Ok(Some((kind, req_cons, len))) => {
                let Some(guest) = self.lines.guest(line) else { return Ok(()) };
                guest.busy = true;
                guest.rang &= kind != CallKind::Request;
                let call = Call { kind, line, req_cons, rsp_cons: ring::rsp_cons(&guest.page) };
                self.submit(&call, len)
            }
            Ok(None) => match self.lines.guest(line).filter(|guest| guest.rang || guest.may_be_owed()) {
                Some(guest) => {
                    (guest.busy, guest.rang) = (true, false);
                    self.call(CallKind::Progress, line, &[])
                }
                None => Ok(()),
            },
            Err(fault) => {
                if let Some(guest) = self.lines.guest(line) {
                    ring::report(&guest.page, fault);
                    guest.broken = true;
                    self.world.hush(guest.port, true);
                }
                self.call(CallKind::Broken, line, &[])
            }
        }
    }

    /// What to ask State for the bytes that wait: kind of call, where the ring is read to then, bytes of body in `scratch`.
    fn next_call(&mut self, line: u32) -> Result<Option<(CallKind, u32, usize)>, Fault> {
        let Some(guest) = self.lines.guest(line) else { return Ok(None) };
        let waiting = ring::requests(&guest.page, guest.req_cons)?;
        let Ok(len) = usize::try_from(waiting.waiting) else { return Ok(None) };
        let Some(bytes) = self.ring.get_mut(..len).filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        // One copy; everything else looks at the copy.
        ring::read_requests(&guest.page, waiting.cons, bytes);
        let after = |n: usize| waiting.cons.wrapping_add(u32::try_from(n).unwrap_or(0));
        if !guest.stashed {
            let whole = Raw::split(bytes).map_err(|_| Fault::Protocol)?;
            if let Some(message) = whole.and_then(|(_, len)| bytes.get(..len)) {
                let used = self.memory.run(handler::parse, message, &mut self.scratch);
                return Ok(Some((CallKind::Request, after(message.len()), used)));
            }
            // Taken although it is not complete: a guest rings only if it finds all that it wrote before read, so nobody would
            // tell of the rest.
            guest.stashed = true;
        }
        if let Some(to) = self.scratch.get_mut(..len) {
            to.copy_from_slice(bytes);
        }
        Ok(Some((CallKind::Stash, after(len), len)))
    }

    /// Writes a part of a message's wire form (in `scratch`) into a ring and lets the guest see it.
    pub(super) fn respond(&mut self, line: u32, at: u32, skip: usize, take: usize) {
        let Some(guest) = self.lines.guest(line) else { return };
        let Some(bytes) = self.scratch.get(skip..skip + take) else { return };
        ring::write_responses(&guest.page, at, bytes);
        guest.rsp_prod = at.wrapping_add(u32::try_from(take).unwrap_or(0));
        ring::publish(&guest.page, guest.rsp_prod);
        if guest.may_be_owed() {
            self.lines.queue(line);
        }
    }
}
