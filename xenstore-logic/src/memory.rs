//! The handlers' memory: an arena that is put back after each run.

use std::io;

use ennead_os::{Arena, Size};
use ennead_xenstore_logic::handler::Forgetful;

/// See `ennead_os::Arena`.
#[derive(Debug)]
pub(crate) struct Memory {
    arena: Arena,
    /// In the build that proves the reset: whether it is done at all.
    #[cfg(feature = "corrupt")]
    reset: bool,
}

impl Memory {
    /// Takes the pristine image.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            #[cfg(feature = "corrupt")]
            reset: std::env::var_os("XENSTORE_LOGIC_WITHOUT_RESET").is_none(),
            arena: Arena::new()?,
        })
    }

    /// What a reset puts back.
    pub(crate) fn size(&self) -> Size {
        self.arena.size()
    }

    /// Puts the memory back `n` times, to measure what one costs.
    pub(crate) fn reset(&mut self, n: u32) {
        for _ in 0..n {
            self.arena.reset();
        }
    }
}

impl Forgetful for Memory {
    fn run(&mut self, handler: fn(&[u8], &mut [u8]) -> usize, input: &[u8], output: &mut [u8]) -> usize {
        let left = self.arena.run(handler, input).unwrap_or_default();
        let len = match output.get_mut(..left.len()) {
            Some(to) => {
                to.copy_from_slice(left);
                left.len()
            }
            None => 0,
        };
        #[cfg(feature = "corrupt")]
        if !self.reset {
            return len;
        }
        self.arena.reset();
        #[cfg(feature = "corrupt")]
        assert!(self.arena.is_pristine(), "the arena is not as it was");
        len
    }
}
