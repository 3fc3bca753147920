//! A packet's slots on the ring from the guest. A packet is published as a whole, so what is not there never comes.

use ennead_backend::ring::{Ring, Violation};
use ennead_xen::{PAGE_SIZE, SharedPage};

use crate::Few;
use crate::netif::{
    Extra, Gso, MAX_DATA_SLOTS, MAX_EXTRA_SLOTS, TX_CHECKSUM_BLANK, TX_EXTRA_INFO, TX_MORE_DATA, TX_SLOT,
    TxRequest,
};

/// The frontend broke the protocol: it is disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The ring.
    #[error("{0}")]
    Ring(#[from] Violation),
    /// A packet without its end.
    #[error("a packet whose next slot is missing")]
    Unfinished,
    /// A packet with more slots than any has.
    #[error("a packet of more than {MAX_DATA_SLOTS} slots")]
    TooManySlots,
    /// Extra information that was never offered.
    #[error("extra information that was not offered, or too much of it")]
    Extra,
    /// Bytes of another page.
    #[error("{size} bytes at {offset} are not within a page")]
    AcrossPages {
        /// First byte.
        offset: u16,
        /// Bytes.
        size: u16,
    },
    /// The pieces are together longer than the packet.
    #[error("pieces of a packet of {size} bytes are longer than that")]
    TooLong {
        /// The packet's.
        size: u16,
    },
}

/// Part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Page.
    pub gref: u32,
    /// First byte in it.
    pub offset: u16,
    /// Bytes; they lie within the page.
    pub size: u16,
}

/// A packet as the guest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The requests' numbers, in order; none for a slot with extra information.
    pub slots: Few<Option<u16>>,
    /// Where its bytes are, in order.
    pub pieces: Few<Piece>,
    /// Bytes in all.
    pub size: u16,
    /// The checksum is ours to find.
    pub blank: bool,
    /// It is to be cut into segments.
    pub gso: Option<Gso>,
}

/// Takes the next packet from the ring; `None` if there is none.
///
/// # Errors
/// How the frontend broke the protocol.
pub fn next<P: SharedPage>(ring: &mut Ring<P, TX_SLOT>) -> Result<Option<Packet>, Broken> {
    let Some((_, slot)) = ring.take()? else { return Ok(None) };
    let first = TxRequest::read(&slot);
    let mut packet = Packet {
        slots: Few::from_iter([Some(first.id)]),
        pieces: Few::new(),
        size: first.size,
        blank: first.flags & TX_CHECKSUM_BLANK != 0,
        gso: None,
    };
    let mut more = first.flags & TX_EXTRA_INFO != 0;
    for _ in 0..MAX_EXTRA_SLOTS {
        if !more {
            break;
        }
        let extra = Extra::read(&follow(ring)?);
        packet.gso = Some(extra.gso.ok_or(Broken::Extra)?);
        packet.slots.push(None);
        more = extra.more;
    }
    if more {
        return Err(Broken::Extra);
    }
    // The first slot says how long the packet is; how long its own piece is follows from the others.
    let mut left = first.size;
    let mut others = Few::new();
    let mut more = first.flags & TX_MORE_DATA != 0;
    while more {
        if others.len() + 1 == MAX_DATA_SLOTS {
            return Err(Broken::TooManySlots);
        }
        let request = TxRequest::read(&follow(ring)?);
        left = left.checked_sub(request.size).ok_or(Broken::TooLong { size: first.size })?;
        others.push(piece(request, request.size)?);
        packet.slots.push(Some(request.id));
        more = request.flags & TX_MORE_DATA != 0;
    }
    packet.pieces.push(piece(first, left)?);
    packet.pieces.append(&mut others);
    Ok(Some(packet))
}

fn follow<P: SharedPage>(ring: &mut Ring<P, TX_SLOT>) -> Result<[u8; TX_SLOT], Broken> {
    ring.take()?.map(|(_, slot)| slot).ok_or(Broken::Unfinished)
}

fn piece(TxRequest { gref, offset, .. }: TxRequest, size: u16) -> Result<Piece, Broken> {
    if usize::from(offset) + usize::from(size) > PAGE_SIZE {
        return Err(Broken::AcrossPages { offset, size });
    }
    Ok(Piece { gref, offset, size })
}
