//! Stand-ins for what is a guest's: the pages of a ring, of which a backend can be cut off at any store, and granted pages.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ennead_xen::{CopyMemory, CopyOp, GrantRef, PAGE_SIZE, Result, SharedPage};

use crate::memory::GuestMemory;

/// Pages side by side, shared by its clones.
#[derive(Debug, Clone)]
pub struct TestPages {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Stores that still take effect through this clone, each byte of a copy counted as one; `None`: all.
    left: Option<Arc<Mutex<usize>>>,
}

impl TestPages {
    /// `pages` pages, as a frontend makes a ring: zeroes, but req_event and rsp_event, which are 1.
    #[must_use]
    pub fn ring(pages: usize) -> Self {
        let pages = Self { bytes: Arc::new(Mutex::new(vec![0; pages * PAGE_SIZE])), left: None };
        pages.store(4, 1);
        pages.store(12, 1);
        pages
    }

    /// The same memory, seen by a backend that is killed after `stores` more stores.
    #[must_use]
    pub fn cut_after(&self, stores: usize) -> Self {
        Self { bytes: Arc::clone(&self.bytes), left: Some(Arc::new(Mutex::new(stores))) }
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.left.as_ref().is_some_and(|left| *left.lock().unwrap_or_else(PoisonError::into_inner) == 0)
    }

    /// A copy of the memory, to go on from there more than once.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { bytes: Arc::new(Mutex::new(bytes)), left: None }
    }

    fn may_store(&self) -> bool {
        let Some(left) = &self.left else { return true };
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    fn put(&self, offset: usize, data: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(to) = offset.checked_add(data.len()).and_then(|end| bytes.get_mut(offset..end)) {
            to.copy_from_slice(data);
        }
    }
}

impl SharedPage for TestPages {
    fn size(&self) -> usize {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn load(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        self.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn store(&self, offset: usize, value: u32) {
        if self.may_store() {
            self.put(offset, &value.to_le_bytes());
        }
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        out.fill(0);
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(from) = offset.checked_add(out.len()).and_then(|end| bytes.get(offset..end)) {
            out.copy_from_slice(from);
        }
    }

    fn write(&self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if self.may_store() {
                self.put(at, &[*byte]);
            }
        }
    }
}

type Page = (Vec<u8>, bool);

/// A guest's granted pages, shared by its clones.
#[derive(Debug, Clone, Default)]
pub struct TestGuest {
    /// What is in them, and whether they may be written.
    pages: Arc<Mutex<HashMap<u32, Page>>>,
}

impl TestGuest {
    /// A guest that has granted nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Grants a page with these bytes first, writable or not.
    pub fn grant(&self, gref: u32, bytes: &[u8], writable: bool) {
        let mut page = bytes.to_vec();
        page.resize(PAGE_SIZE, 0);
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).insert(gref, (page, writable));
    }

    /// What is in a page.
    #[must_use]
    pub fn page(&self, gref: u32) -> Option<Vec<u8>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).get(&gref).map(|(page, _)| page.clone())
    }

    fn one(&self, op: &mut CopyOp<'_>) -> Option<()> {
        let GrantRef(gref) = op.gref;
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let (page, writable) = pages.get_mut(&gref)?;
        match &mut op.memory {
            CopyMemory::To(to) => {
                let end = op.offset.checked_add(to.len())?;
                to.copy_from_slice(page.get(op.offset..end)?);
            }
            CopyMemory::From(from) => {
                let end = op.offset.checked_add(from.len()).filter(|_| *writable)?;
                page.get_mut(op.offset..end)?.copy_from_slice(from);
            }
        }
        Some(())
    }
}

impl GuestMemory for TestGuest {
    fn copy(&mut self, ops: &mut [CopyOp<'_>]) -> Result<()> {
        for op in ops {
            op.status = if self.one(op).is_some() { CopyOp::DONE } else { CopyOp::FAILED };
        }
        Ok(())
    }
}
