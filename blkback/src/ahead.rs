//! Reading ahead, for a frontend that asks for a page after the other, each when it has the one before. Boot loaders do, for all of
//! a kernel, and each time they would wait for the disk.
//!
//! What was read is kept for as long as reads go on in it and nothing else is asked for: nobody but this ring's frontend writes to
//! the disk meanwhile.

use ennead_os::Buffer;
use ennead_xen::PAGE_SIZE;

use crate::protocol::{Plan, SECTOR};

/// Bytes that are read at once.
const AHEAD: u64 = 64 << 10;
/// Reads, each where the one before ended, until more is read than was asked for.
const RUN: u32 = 4;

/// What was asked for last, and what was read ahead.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Where the last read ended.
    next: u64,
    /// How many have begun where the one before ended.
    run: u32,
    /// More is being read from here on.
    begun: Option<u64>,
    /// From this byte of the disk on.
    kept: Option<(u64, Buffer)>,
}

impl Ahead {
    /// A read is asked for.
    pub fn note(&mut self, plan: &Plan) {
        self.run = if plan.offset == self.next { self.run.saturating_add(1) } else { 0 };
        self.next = plan.offset.saturating_add(plan.len as u64);
        // With another request there it is not kept, or it would take memory from that.
        self.begun = None;
        if self.find(plan).is_none() {
            self.kept = None;
        }
    }

    /// Something else is asked for: what is kept, or is being read, may be wrong after it.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// The bytes that are asked for, if they are kept.
    #[must_use]
    pub fn find(&self, plan: &Plan) -> Option<&[u8]> {
        let (start, buffer) = self.kept.as_ref()?;
        let first = usize::try_from(plan.offset.checked_sub(*start)?).ok()?;
        buffer.get(first..first.checked_add(plan.len)?)
    }

    /// How many bytes more are read with this, from a disk of so many sectors of 512 bytes; that has begun then.
    pub fn begin(&mut self, plan: &Plan, sectors: u64) -> usize {
        let left = sectors.saturating_mul(SECTOR).saturating_sub(plan.offset);
        let more = usize::try_from(left.min(AHEAD)).unwrap_or(0).saturating_sub(plan.len);
        if self.run < RUN || plan.len > PAGE_SIZE || more == 0 {
            return 0;
        }
        self.begun = Some(plan.offset);
        more
    }

    /// More was read than was asked for, from `offset` on.
    pub fn keep(&mut self, offset: u64, buffer: Buffer) {
        if self.begun.take() == Some(offset) {
            self.kept = Some((offset, buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(page: u64, len: usize) -> Plan {
        Plan { write: false, offset: page * 4096, len, pieces: Vec::new() }
    }

    fn pages(count: usize, with: u8) -> Buffer {
        let mut buffer = ennead_os::Buffers::new(count).unwrap().take(count * 4096).unwrap();
        buffer.fill(with);
        buffer
    }

    fn asked(ahead: &mut Ahead, page: u64) -> usize {
        ahead.note(&plan(page, 4096));
        ahead.begin(&plan(page, 4096), 8 * 40)
    }

    #[test]
    fn more_is_read_after_some_in_a_row_and_not_behind_the_end() {
        let mut ahead = Ahead::default();
        assert_eq!([1, 2, 3, 4].map(|page| asked(&mut ahead, page)), [0; 4]);
        assert_eq!(asked(&mut ahead, 5), 15 * 4096);
        assert_eq!(asked(&mut ahead, 9), 0, "not in a row");
        assert_eq!([10, 11, 12, 13].map(|page| asked(&mut ahead, page)), [0, 0, 0, 15 * 4096]);
        ahead.note(&plan(14, 8192));
        assert_eq!(ahead.begin(&plan(14, 8192), 320), 0, "large already");
        for page in 34..39 {
            asked(&mut ahead, page);
        }
        assert_eq!(asked(&mut ahead, 39), 0, "the last");
        let mut ahead = Ahead::default();
        assert_eq!([32, 33, 34, 35, 36].map(|page| asked(&mut ahead, page))[4], 3 * 4096);
    }

    #[test]
    fn what_was_read_is_there_until_something_else_is_asked_for() {
        let mut ahead = Ahead::default();
        let begin = |ahead: &mut Ahead| (1..6).for_each(|page| assert_eq!(asked(ahead, page) > 0, page == 5));
        begin(&mut ahead);
        ahead.keep(5 * 4096, pages(16, 7));
        for page in 6..21 {
            asked(&mut ahead, page);
            assert_eq!(ahead.find(&plan(page, 4096)), Some([7; 4096].as_slice()));
        }
        assert!(ahead.find(&plan(20, 8192)).is_none() && ahead.find(&plan(4, 4096)).is_none());
        asked(&mut ahead, 21);
        assert!(ahead.find(&plan(10, 4096)).is_none(), "it has gone on");
        for meanwhile in [Ahead::forget, |ahead: &mut Ahead| ahead.note(&plan(6, 4096))] {
            ahead.forget();
            begin(&mut ahead);
            meanwhile(&mut ahead);
            ahead.keep(5 * 4096, pages(16, 7));
            assert!(ahead.find(&plan(10, 4096)).is_none());
        }
        ahead.forget();
        begin(&mut ahead);
        ahead.keep(5 * 4096, pages(16, 7));
        ahead.forget();
        assert!(ahead.find(&plan(10, 4096)).is_none());
    }
}
