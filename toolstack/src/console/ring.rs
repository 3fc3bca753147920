//! A guest's console ring as its backend sees it (`struct xencons_interface` of Xen's io/console.h), without I/O: a page in, bytes out,
//! and bytes in.
//!
//! The guest writes anywhere in the page at any time. So this end keeps its own indices, copies each of the guest's once, and believes
//! only differences that can be. One that cannot is told, and the ring goes on from where the guest says it is: a guest whose
//! kernel started anew has begun from 0 again.

use ennead_xen::SharedPage;

/// Bytes of the ring to the guest.
const IN_SIZE: u32 = 1024;
/// Bytes of the ring from the guest.
const OUT_SIZE: u32 = 2048;
const IN: usize = 0;
const OUT: usize = 1024;
const IN_CONS: usize = 3072;
const IN_PROD: usize = 3076;
const OUT_CONS: usize = 3080;
const OUT_PROD: usize = 3084;

/// Indices that cannot belong together: what lies between them is more than the ring holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("console indices {producer} and {consumer} cannot belong together")]
pub struct Impossible {
    /// The producer's.
    pub producer: u32,
    /// The consumer's.
    pub consumer: u32,
}

/// The backend's end.
#[derive(Debug)]
pub struct Ring<P> {
    page: P,
    /// How far this end has read; the page has a copy for the guest.
    read: u32,
    /// How far this end has written.
    written: u32,
}

impl<P: SharedPage> Ring<P> {
    /// Goes on where a predecessor left off.
    pub fn new(page: P) -> Self {
        let (read, written) = (page.load(OUT_CONS), page.load(IN_PROD));
        Self { page, read, written }
    }

    /// Takes all that the guest has written, at most the 2048 bytes of the ring; gives it to `take` in at most two pieces. After more than 0 bytes
    /// the guest wants an event.
    ///
    /// # Errors
    /// `Impossible`; what was there is lost.
    pub fn take(&mut self, mut take: impl FnMut(&[u8])) -> Result<usize, Impossible> {
        let producer = self.page.load(OUT_PROD);
        let count = producer.wrapping_sub(self.read);
        let before = std::mem::replace(&mut self.read, producer);
        if count <= OUT_SIZE {
            let mut buffer = [0; 2048];
            let [(at, len), (_, rest)] = pieces(before, count, OUT_SIZE);
            for (at, len) in [(OUT + at, len), (OUT, rest)] {
                let Some(piece) = buffer.get_mut(..len).filter(|piece| !piece.is_empty()) else { continue };
                self.page.read(at, piece);
                take(piece);
            }
        }
        self.page.store(OUT_CONS, producer);
        if count > OUT_SIZE {
            return Err(Impossible { producer, consumer: before });
        }
        Ok(index(count))
    }

    /// Gives the guest as much of `bytes` as there is room for, and says how much. After more than 0 bytes the guest wants an event.
    ///
    /// # Errors
    /// `Impossible`; the ring counts as empty then.
    pub fn give(&mut self, bytes: &[u8]) -> Result<usize, Impossible> {
        let consumer = self.page.load(IN_CONS);
        let used = self.written.wrapping_sub(consumer);
        if used > IN_SIZE {
            let producer = std::mem::replace(&mut self.written, consumer);
            self.page.store(IN_PROD, consumer);
            return Err(Impossible { producer, consumer });
        }
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(IN_SIZE - used);
        let [(at, len), _] = pieces(self.written, count, IN_SIZE);
        let given = bytes.get(..index(count)).unwrap_or_default();
        let (head, tail) = given.split_at_checked(len).unwrap_or((given, &[]));
        self.page.write(IN + at, head);
        if !tail.is_empty() {
            self.page.write(IN, tail);
        }
        self.written = self.written.wrapping_add(count);
        self.page.store(IN_PROD, self.written);
        Ok(given.len())
    }
}

/// Where `count` bytes from index `at` on lie in a ring: offset and length up to its end, and from its start.
fn pieces(at: u32, count: u32, size: u32) -> [(usize, usize); 2] {
    let start = at % size;
    let first = count.min(size - start);
    [(index(start), index(first)), (0, index(count.saturating_sub(first)))]
}

/// A number below a page's size.
fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
