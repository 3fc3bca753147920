//! Pages shared through Xen as the link's memory.

use ennead_xen::SharedPage;
use ennead_xs_link::Shared;

/// Pages granted to another VM, or another VM's mapped here.
#[derive(Debug)]
pub struct XenMemory<P>(pub P);

impl<P: SharedPage> Shared for XenMemory<P> {
    fn load(&self, offset: usize) -> u32 {
        self.0.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.0.store(offset, value);
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        self.0.read(offset, out);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
