//! The handlers' memory: an arena that is put back after each run.

use std::io;

use ennead_os::Arena;
use ennead_xenstore_logic::handler::Forgetful;

/// See `ennead_os::Arena`.
#[derive(Debug)]
pub(crate) struct Memory(Arena);

impl Memory {
    /// Takes the pristine image.
    pub(crate) fn new() -> io::Result<Self> {
        Arena::new().map(Self)
    }
}

impl Forgetful for Memory {
    fn run(&mut self, handler: fn(&[u8], &mut [u8]) -> usize, input: &[u8], output: &mut [u8]) -> usize {
        let left = self.0.run(handler, input).unwrap_or_default();
        let len = match output.get_mut(..left.len()) {
            Some(to) => {
                to.copy_from_slice(left);
                left.len()
            }
            None => 0,
        };
        self.0.reset();
        len
    }
}
