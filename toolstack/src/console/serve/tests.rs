use std::cell::RefCell;
use std::rc::Rc;

use ennead_xen::{DomId, LocalPage};

use super::*;

#[derive(Default)]
struct Fake {
    pages: RefCell<BTreeMap<u16, LocalPage>>,
    notified: RefCell<Vec<u32>>,
    closed: RefCell<Vec<u32>>,
}

impl Xen for Rc<Fake> {
    type Page = LocalPage;

    fn open(&mut self, domid: u16, port: u32) -> Result<(LocalPage, Port), ennead_xen::Error> {
        let page = self.pages.borrow().get(&domid).cloned();
        let refused =
            || ennead_xen::Error::refused("map", Some(DomId(domid)), std::io::ErrorKind::Other.into());
        Ok((page.ok_or_else(refused)?, Port(port + 100)))
    }

    fn notify(&mut self, port: Port) {
        self.notified.borrow_mut().push(port.0);
    }

    fn close(&mut self, port: Port) {
        self.closed.borrow_mut().push(port.0);
    }
}

/// The consoles, with guests 10 and 11 whose ports are 1 and 2, both open.
fn world() -> (Rc<Fake>, Consoles<Rc<Fake>>) {
    let fake = Rc::new(Fake::default());
    fake.pages.borrow_mut().extend([(10, LocalPage::new()), (11, LocalPage::new())]);
    let mut consoles = Consoles::new(Rc::clone(&fake));
    for (console, domid) in [(1, 10), (2, 11)] {
        let open = Request::Open { console, domid, port: console };
        assert_eq!(consoles.answer(open), Some(Reply::Done));
    }
    assert!(!consoles.work());
    (fake, consoles)
}

/// The guest writes to its ring, as much as there is room for.
fn prints(fake: &Fake, domid: u16, text: &[u8]) {
    let page = fake.pages.borrow()[&domid].clone();
    let mut prod = page.load(3084);
    for byte in text {
        page.write(1024 + usize::try_from(prod % 2048).unwrap(), &[*byte]);
        prod = prod.wrapping_add(1);
    }
    page.store(3084, prod);
}

fn read(consoles: &mut Consoles<Rc<Fake>>, console: u32, from: u64) -> (u64, Vec<u8>) {
    match consoles.answer(Request::Read { console, from }) {
        Some(Reply::Printed { from, bytes }) => (from, bytes.into_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_guests_print_is_kept_and_who_waits_is_told_once() {
    let (fake, mut consoles) = world();
    prints(&fake, 10, b"hello");
    consoles.event(Port(101));
    assert!(!consoles.work());
    assert_eq!(read(&mut consoles, 1, 0), (0, b"hello".to_vec()));
    assert_eq!(*fake.notified.borrow(), [101]);
    assert_eq!(consoles.answer(Request::Wait), None);
    // Nobody has read to the end yet: no news.
    prints(&fake, 10, b"!");
    consoles.event(Port(101));
    consoles.work();
    assert!(!consoles.news());
    assert_eq!(read(&mut consoles, 1, 6), (6, Vec::new()));
    prints(&fake, 11, b"other");
    consoles.event(Port(102));
    consoles.work();
    assert!(!consoles.news(), "of the other console nobody wants to know");
    prints(&fake, 10, b"more");
    consoles.event(Port(101));
    consoles.work();
    assert!(consoles.news());
    assert!(!consoles.news());
    assert_eq!(read(&mut consoles, 1, 6), (6, b"more".to_vec()));
    assert_eq!(read(&mut consoles, 2, 0), (0, b"other".to_vec()));
}

#[test]
fn input_waits_for_the_guest_and_is_bounded() {
    let (fake, mut consoles) = world();
    let bytes = List::new(vec![b'x'; MAX_DATA]).unwrap();
    let mut taken = 0;
    for _ in 0..10 {
        match consoles.answer(Request::Input { console: 1, bytes: bytes.clone() }) {
            Some(Reply::Taken(count)) => taken += usize::from(count),
            other => panic!("{other:?}"),
        }
        consoles.work();
    }
    assert_eq!(taken, 1024 + MAX_INPUT);
    let page = fake.pages.borrow()[&10].clone();
    assert_eq!(page.load(3076), 1024);
    page.store(3072, 1000);
    consoles.event(Port(101));
    consoles.work();
    assert_eq!(page.load(3076), 2024);
    // Where there is nobody, nobody has to wait.
    assert_eq!(consoles.answer(Request::Input { console: 9, bytes }), Some(Reply::Taken(960)));
}

#[test]
fn a_restarted_guest_keeps_its_scrollback_and_the_last_words_are_read() {
    let (fake, mut consoles) = world();
    prints(&fake, 10, b"last words");
    assert_eq!(consoles.answer(Request::Close { console: 1 }), Some(Reply::Done));
    assert_eq!(*fake.closed.borrow(), [101]);
    prints(&fake, 10, b"unread");
    consoles.event(Port(101));
    consoles.work();
    fake.pages.borrow_mut().insert(12, LocalPage::new());
    prints(&fake, 12, b", and first");
    consoles.answer(Request::Open { console: 1, domid: 12, port: 7 });
    consoles.work();
    assert_eq!(read(&mut consoles, 1, 0).1, b"last words, and first");
    consoles.answer(Request::Forget { console: 1 });
    assert_eq!(read(&mut consoles, 1, 0).1, b"");
}

#[test]
fn a_guest_that_always_prints_does_not_keep_others_waiting() {
    struct Endless(LocalPage);
    impl SharedPage for Endless {
        fn load(&self, offset: usize) -> u32 {
            // Always a full ring ahead.
            if offset == 3084 { self.0.load(3080).wrapping_add(2048) } else { self.0.load(offset) }
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
    }
    struct Host;
    impl Xen for Host {
        type Page = Endless;
        fn open(&mut self, _: u16, port: u32) -> Result<(Endless, Port), ennead_xen::Error> {
            Ok((Endless(LocalPage::new()), Port(port)))
        }
        fn notify(&mut self, _: Port) {}
        fn close(&mut self, _: Port) {}
    }
    let mut consoles = Consoles::new(Host);
    consoles.answer(Request::Open { console: 1, domid: 10, port: 1 });
    consoles.answer(Request::Open { console: 2, domid: 11, port: 2 });
    assert!(consoles.work(), "there is more, but it returns");
    let printed = u64::try_from(2 * READS * 2048).unwrap();
    assert_eq!(consoles.answer(Request::Count), Some(Reply::Counted { printed, given: 0, impossible: 0 }));
}

#[test]
fn what_cannot_be_is_counted_and_the_console_goes_on() {
    let (fake, mut consoles) = world();
    fake.pages.borrow()[&10].store(3084, 5000);
    consoles.event(Port(101));
    consoles.work();
    prints(&fake, 10, b"on");
    consoles.event(Port(101));
    consoles.work();
    assert_eq!(read(&mut consoles, 1, 0).1, b"on");
    let Some(Reply::Counted { impossible, .. }) = consoles.answer(Request::Count) else { panic!() };
    assert_eq!(impossible, 1);
    let Some(Reply::Failed(why)) = consoles.answer(Request::Open { console: 3, domid: 99, port: 1 }) else {
        panic!("there is no such guest")
    };
    assert!(why.contains("d99"), "{why}");
}
