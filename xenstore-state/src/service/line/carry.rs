//! What of a ring goes into State's stream.

use alloc::vec;

use ennead_xs_link::{MAX_BODY, decode_message, encode_message};

use super::{Line, Ring, Transport, Written};
use crate::{
    Item,
    stream::{Carried, Piece, Positions},
};
use alloc::vec::Vec;

impl Line {
    pub(in crate::service) fn carry(&self) -> Carried {
        let Transport::Ring(ring) = &self.transport else { return Carried::default() };
        let Ring { req_cons, rsp_prod, rsp_cons, .. } = *ring;
        Carried {
            unread: self.stash.bytes.clone(),
            sent: ring.skip,
            positions: ring.known.then_some(Positions { req_cons, rsp_prod, rsp_cons }),
            last: ring.last.iter().filter_map(Written::carry).collect(),
            fresh: ring.fresh,
            held: self.held.clone(),
        }
    }

    /// `Err` if what was read are no messages.
    pub(in crate::service) fn restore(&mut self, carried: Carried) -> Result<(), ()> {
        let Transport::Ring(ring) = &mut self.transport else { return Ok(()) };
        ring.known = carried.positions.is_some();
        if let Some(Positions { req_cons, rsp_prod, rsp_cons }) = carried.positions {
            (ring.req_cons, ring.rsp_prod, ring.rsp_cons) = (req_cons, rsp_prod, rsp_cons);
        }
        ring.skip = carried.sent;
        ring.last = carried.last.iter().filter_map(Written::restore).collect();
        // What is given next must not push out what has to be repeated.
        ring.fresh = carried.fresh || ring.last.is_empty();
        self.held = carried.held;
        self.stash.add(&carried.unread)
    }
}

impl Written {
    fn carry(&self) -> Option<Piece> {
        let message = decode_message(&self.data)?.encode();
        Some(Piece { at: self.at, skip: self.skip, take: self.take, message })
    }

    fn restore(piece: &Piece) -> Option<Self> {
        let (item, _) = Item::decode(&piece.message)?;
        let mut data = vec![0; MAX_BODY];
        let used = encode_message(&item.message(), &mut data)?;
        let data = Vec::from(data.get(..used)?);
        Some(Self { at: piece.at, skip: piece.skip, take: piece.take, data })
    }
}
