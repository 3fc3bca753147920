//! The allocator of a program with an arena: while the arena's handler runs, memory comes from the arena; before there is an
//! arena, from the system; after that from nowhere. The system's allocator keeps its books in statics, which are put back to
//! what they were when the arena was made: so nothing may be taken from it or given back to it any more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The bounds of the arena's heap; 0 while no handler runs. The first word of the heap is the number of bytes in use, so that
/// it is put back with everything else.
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
/// The arena is made.
static SEALED: AtomicBool = AtomicBool::new(false);

/// Put it into a program with `#[global_allocator]`. The program may have one thread that uses an arena.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArenaHeap;

/// Bytes of a heap that are not for use.
pub(crate) const OVERHEAD: usize = size_of::<usize>();

/// Closes the system's allocator for good.
pub(crate) fn seal() {
    SEALED.store(true, Ordering::Relaxed);
}

/// Opens the heap for the handler (or, with 0, closes it).
pub(crate) fn enter(start: usize, end: usize) {
    END.store(end, Ordering::Relaxed);
    START.store(start, Ordering::Relaxed);
}

fn bump(layout: Layout) -> *mut u8 {
    let (start, end) = (START.load(Ordering::Relaxed), END.load(Ordering::Relaxed));
    let used = std::ptr::with_exposed_provenance_mut::<usize>(start);
    // SAFETY: a handler runs, so `start` is the first word of the arena's heap: mapped, aligned, used by this thread only.
    let next = unsafe { used.read() };
    let from = start.saturating_add(OVERHEAD).saturating_add(next);
    let Some(at) = from.checked_next_multiple_of(layout.align()) else { return null_mut() };
    let Some(behind) = at.checked_add(layout.size()).filter(|behind| *behind <= end) else {
        return null_mut();
    };
    // SAFETY: as above.
    unsafe { used.write(behind.saturating_sub(start + OVERHEAD)) };
    std::ptr::with_exposed_provenance_mut(at)
}

// SAFETY: `bump` gives each byte of the arena away once until the arena is put back, when nothing of the handler's lives any
// more; everything else is the system allocator's.
unsafe impl GlobalAlloc for ArenaHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if START.load(Ordering::Relaxed) != 0 {
            bump(layout)
        } else if SEALED.load(Ordering::Relaxed) {
            null_mut()
        } else {
            // SAFETY: the caller's promise is the system allocator's.
            unsafe { System.alloc(layout) }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // What a handler gives back is free when the arena is put back.
        if !SEALED.load(Ordering::Relaxed) {
            // SAFETY: before the arena everything comes from the system allocator, with this layout.
            unsafe { System.dealloc(pointer, layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_of_a_handler_is_bounded_and_aligned() {
        let mut memory = vec![0_usize; 64];
        let start = memory.as_mut_ptr().expose_provenance();
        enter(start, start + 64 * size_of::<usize>());
        let layout = |size, align| Layout::from_size_align(size, align).unwrap_or(Layout::new::<u8>());
        let (one, two) = (bump(layout(3, 1)), bump(layout(16, 16)));
        let much = bump(layout(600, 8));
        enter(0, 0);
        assert!(much.is_null());
        assert_eq!(one.addr(), start + OVERHEAD);
        assert!(two.addr() % 16 == 0 && two.addr() >= one.addr() + 3);
    }
}
