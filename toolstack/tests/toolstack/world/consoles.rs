//! Guests' console rings, and a console process that is a thread.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ennead_channel::proto::{decode, encode};
use ennead_toolstack::console::protocol::Reply;
use ennead_toolstack::console::serve::{Consoles, Xen};
use ennead_xen::{LocalPage, Port, SharedPage};

#[derive(Default)]
struct Rings {
    pages: BTreeMap<u16, LocalPage>,
    open: Vec<u16>,
}

/// The guests as far as their consoles go.
#[derive(Clone, Default)]
pub(crate) struct Guests(Arc<Mutex<Rings>>);

impl Guests {
    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap()
    }

    pub(crate) fn born(&self, domid: u16) {
        self.rings().pages.insert(domid, LocalPage::new());
    }

    pub(crate) fn dies(&self, domid: u16) {
        self.rings().pages.remove(&domid);
    }

    /// The console process ended with its VM.
    pub(crate) fn forget_all(&self) {
        self.rings().open.clear();
    }

    /// Domids whose consoles are mapped.
    pub(crate) fn open(&self) -> Vec<u16> {
        self.rings().open.clone()
    }

    /// A guest prints.
    pub(crate) fn print(&self, domid: u16, text: &[u8]) {
        let page = self.rings().pages[&domid].clone();
        let mut producer = page.load(3084);
        for byte in text {
            page.write(1024 + usize::try_from(producer % 2048).unwrap(), &[*byte]);
            producer = producer.wrapping_add(1);
        }
        page.store(3084, producer);
    }

    /// A guest reads what was typed.
    pub(crate) fn typed(&self, domid: u16) -> Vec<u8> {
        let page = self.rings().pages[&domid].clone();
        let (mut consumer, producer) = (page.load(3072), page.load(3076));
        let mut bytes = Vec::new();
        while consumer != producer {
            let mut byte = [0];
            page.read(usize::try_from(consumer % 1024).unwrap(), &mut byte);
            bytes.extend(byte);
            consumer = consumer.wrapping_add(1);
        }
        page.store(3072, consumer);
        bytes
    }

    /// Starts a console process.
    pub(crate) fn serve(&self) -> UnixDatagram {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let rings = self.clone();
        std::thread::spawn(move || rings.run(&theirs));
        ours
    }

    fn run(self, socket: &UnixDatagram) {
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let mut consoles = Consoles::new(self.clone());
        let mut buffer = [0; 1024];
        loop {
            // Instead of events: every console is looked at.
            let domids: Vec<u16> = self.rings().open.clone();
            domids.into_iter().for_each(|domid| consoles.event(Port(u32::from(domid))));
            consoles.work();
            let mut replies = Vec::new();
            if consoles.news() {
                replies.push(Reply::Grown);
            }
            match socket.recv(&mut buffer) {
                Ok(length) => replies.extend(consoles.answer(decode(&buffer[..length]).unwrap())),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
            for reply in replies {
                if socket.send(&encode(&reply).unwrap()).is_err() {
                    return;
                }
            }
        }
    }
}

impl Xen for Guests {
    type Page = LocalPage;

    fn open(&mut self, domid: u16, port: u32) -> Result<(LocalPage, Port), ennead_xen::Error> {
        assert_eq!(port, u32::from(domid));
        let mut rings = self.rings();
        let page = rings.pages.get(&domid).expect("the guest is there").clone();
        rings.open.push(domid);
        Ok((page, Port(port)))
    }

    fn notify(&mut self, _: Port) {}

    fn close(&mut self, port: Port) {
        self.rings().open.retain(|domid| u32::from(*domid) != port.0);
    }
}
