//! A handler's whole world, put back byte by byte after each use.
//!
//! A handler is a pure function from bytes to bytes. It runs on a stack in the arena, allocates from a heap in the arena, and
//! finds its input and leaves its output there. `reset` copies the pristine image over all of it, and over the statics of the
//! program, so that nothing that a handler did, by design or by accident, is there when the next one starts. The image is
//! read-only. What is not put back: the stack and the tables of the loop that runs the handlers.
//!
//! The cost is that of one copy of `Size::bytes`, whatever the handler did.

use std::fmt;
use std::io;
use std::ptr::{NonNull, addr_of};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use crate::heap;

/// Bytes of input that a handler can get.
pub const INPUT_LEN: usize = 4608;
/// Bytes of output that a handler can leave.
pub const OUTPUT_LEN: usize = 4608;
/// One page without access lies below the stack: a handler that needs more ends the program.
const GUARD: usize = 4096;
/// Code without optimisation needs more.
const STACK: usize = if cfg!(debug_assertions) { 32 << 10 } else { 8 << 10 };
/// The longest list that fits into a message takes 5.5 KiB.
const HEAP: usize = 8 << 10;
const AT_HEAP: usize = STACK;
const AT_INPUT: usize = AT_HEAP + HEAP;
const AT_OUTPUT: usize = AT_INPUT + INPUT_LEN;
const LEN: usize = AT_OUTPUT + OUTPUT_LEN;

unsafe extern "C" {
    /// First byte of the program's initialised statics (the C start-up code's symbol).
    static __data_start: u8;
    /// First byte behind its statics (the linker's symbol).
    static end: u8;
}

/// What a reset puts back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of stack, heap, input and output.
    pub arena: usize,
    /// Bytes of statics.
    pub statics: usize,
}

impl Size {
    /// Both together.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.arena + self.statics
    }
}

/// See the module. A program has one, made when everything else is ready.
pub struct Arena {
    base: NonNull<u8>,
    pristine: NonNull<u8>,
    statics: Statics,
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("size", &self.size()).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
struct Statics {
    start: *mut u8,
    len: usize,
}

impl Statics {
    fn find() -> Self {
        let (start, behind) = (addr_of!(__data_start), addr_of!(end));
        Self { start: start.cast_mut(), len: behind.addr().saturating_sub(start.addr()) }
    }
}

impl Arena {
    /// Makes an arena and takes the image: of its own zeroes, and of the statics as they are now. From here on the program
    /// must not allocate outside a handler (`ArenaHeap` sees to it), nor change statics that it wants to keep.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        let statics = Statics::find();
        let whole = anonymous(GUARD + LEN)?;
        // SAFETY: the first page of the mapping just made; nothing uses it.
        unsafe { rustix::mm::mprotect(whole.as_ptr().cast(), GUARD, MprotectFlags::empty()) }?;
        // SAFETY: inside the mapping.
        let base = unsafe { whole.add(GUARD) };
        base.as_ptr().expose_provenance();
        let pristine = anonymous(LEN + statics.len)?;
        heap::seal();
        let arena = Self { base, pristine, statics };
        // SAFETY: `pristine` has room for them behind the arena's image, and they are `len` readable bytes.
        unsafe { std::ptr::copy_nonoverlapping(statics.start, arena.pristine_statics(), statics.len) };
        let len = LEN + statics.len;
        // SAFETY: the mapping just made, which nothing writes from here on.
        unsafe { rustix::mm::mprotect(pristine.as_ptr().cast(), len, MprotectFlags::READ) }?;
        Ok(arena)
    }

    /// What a reset puts back.
    #[must_use]
    pub fn size(&self) -> Size {
        Size { arena: LEN, statics: self.statics.len }
    }

    fn pristine_statics(&self) -> *mut u8 {
        // SAFETY: inside the mapping, which is `LEN + statics.len` bytes.
        unsafe { self.pristine.add(LEN) }.as_ptr()
    }

    /// Runs `handler` on a copy of `input`; gives what it left in its output. `None` if `input` is too long.
    ///
    /// What it gives must be copied before `reset`, which is why that borrows the arena mutably.
    pub fn run(&mut self, handler: fn(&[u8], &mut [u8]) -> usize, input: &[u8]) -> Option<&[u8]> {
        if input.len() > INPUT_LEN {
            return None;
        }
        // SAFETY: inside the arena.
        let to = unsafe { self.base.add(AT_INPUT) };
        // SAFETY: checked to fit; `input` is not part of the arena, which is borrowed mutably.
        unsafe { std::ptr::copy_nonoverlapping(input.as_ptr(), to.as_ptr(), input.len()) };
        // SAFETY: the bytes just written, which only the handler uses until it is back.
        let input = unsafe { std::slice::from_raw_parts(to.as_ptr(), input.len()) };
        // SAFETY: inside the arena.
        let output = unsafe { self.base.add(AT_OUTPUT) };
        // SAFETY: initialised (zeroes or older bytes), and nothing else refers to them.
        let output: &mut [u8] = unsafe { std::slice::from_raw_parts_mut(output.as_ptr(), OUTPUT_LEN) };
        let at_heap = self.base.addr().get() + AT_HEAP;
        heap::enter(at_heap, at_heap + HEAP);
        // SAFETY: the stack is `STACK` mapped bytes, 16-byte aligned at both ends, with a guard page below, and nothing else
        // uses it. A panic ends the program (profile `panic = "abort"`) or, in tests, is none of the handlers'.
        let len = unsafe { psm::on_stack(self.base.as_ptr(), STACK, || handler(input, &mut *output)) };
        heap::enter(0, 0);
        output.get(..len)
    }

    /// Puts everything back. No handler runs, and nothing that `run` gave is in use.
    pub fn reset(&mut self) {
        // SAFETY: both are `LEN` bytes, apart from each other; nothing refers into the arena.
        unsafe { std::ptr::copy_nonoverlapping(self.pristine.as_ptr(), self.base.as_ptr(), LEN) };
        let Statics { start, len } = self.statics;
        // SAFETY: the image is of exactly these bytes. The loop holds no reference into the statics and no lock that lies in
        // them, and has changed none since the image was taken: what is put back is what was there.
        unsafe { std::ptr::copy_nonoverlapping(self.pristine_statics(), start, len) };
    }

    /// Whether every byte is as in the image; for tests.
    #[must_use]
    pub fn is_pristine(&self) -> bool {
        // SAFETY: `LEN` mapped bytes; no handler runs.
        let arena = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), LEN) };
        // SAFETY: the image, which nothing writes.
        let image = unsafe { std::slice::from_raw_parts(self.pristine.as_ptr(), LEN) };
        arena == image
    }
}

fn anonymous(len: usize) -> io::Result<NonNull<u8>> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
    // SAFETY: with no address given the kernel takes unused addresses, so no existing mapping changes.
    let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags) }?;
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests;
