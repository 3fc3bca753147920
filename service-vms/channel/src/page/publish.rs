//! A page is made ready by the end that owns it.

use ennead_xen::SharedPage;

use super::{
    Header, MAGIC, OFF_FLAGS, OFF_GENERATION, OFF_MAGIC, OFF_PORT, OFF_PROTOCOL, OFF_VERSION, REPLIES,
    REQUESTS, VERSION,
};

impl Header {
    /// Formats the page: indices at 0, the header, and last the magic that says that all is there.
    pub fn publish(&self, page: &impl SharedPage) {
        page.store(OFF_MAGIC, 0);
        for place in [REQUESTS, REPLIES] {
            page.store(place.producer, 0);
            page.store(place.consumer, 0);
        }
        page.store(OFF_VERSION, VERSION);
        page.store(OFF_GENERATION, self.generation);
        page.store(OFF_PORT, self.port.0);
        page.store(OFF_FLAGS, 0);
        page.store(OFF_PROTOCOL, self.protocol);
        page.store(OFF_MAGIC, MAGIC);
    }
}
