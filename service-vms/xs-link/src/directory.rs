//! How Logic's VM finds the region that State's VM granted: a page that says which grants it is made of, and State's port.

use alloc::vec::Vec;

use crate::memory::Shared;

const MAGIC: u32 = u32::from_le_bytes(*b"XsDr");
const VERSION: u32 = 1;
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 4;
const AT_PORT: usize = 8;
const AT_COUNT: usize = 12;
const AT_GRANTS: usize = 16;
/// Most grants that a directory names; they fit into its page.
pub const MAX_GRANTS: usize = 512;

/// What a directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// State's end of the event channel.
    pub port: u32,
    /// The region's pages, in order.
    pub grants: Vec<u32>,
}

impl Directory {
    /// Writes it into a page of zeroes. `false`, and nothing is written, if there are too many grants.
    pub fn publish(&self, page: &impl Shared) -> bool {
        let Some(count) = u32::try_from(self.grants.len()).ok().filter(|_| self.grants.len() <= MAX_GRANTS)
        else {
            return false;
        };
        for (i, gref) in self.grants.iter().enumerate() {
            page.store(AT_GRANTS + 4 * i, *gref);
        }
        page.store(AT_COUNT, count);
        page.store(AT_PORT, self.port);
        page.store(AT_VERSION, VERSION);
        page.store(AT_MAGIC, MAGIC);
        true
    }

    /// Reads it; `None` if there is none (yet).
    pub fn read(page: &impl Shared) -> Option<Self> {
        let mut grants = [0; MAX_GRANTS];
        let (port, count) = Self::read_into(page, &mut grants)?;
        Some(Self { port, grants: Vec::from(grants.get(..count)?) })
    }

    /// The same for who may not allocate: the port, and how many grants are in `grants` now; `None` also if there are more.
    pub fn read_into(page: &impl Shared, grants: &mut [u32]) -> Option<(u32, usize)> {
        if page.load(AT_MAGIC) != MAGIC || page.load(AT_VERSION) != VERSION {
            return None;
        }
        let count = usize::try_from(page.load(AT_COUNT)).ok().filter(|count| *count <= MAX_GRANTS)?;
        for (i, gref) in grants.get_mut(..count)?.iter_mut().enumerate() {
            *gref = page.load(AT_GRANTS + 4 * i);
        }
        Some((page.load(AT_PORT), count))
    }
}
