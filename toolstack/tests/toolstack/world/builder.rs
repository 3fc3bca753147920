//! Builder and Xen, made up: domains with what was loaded into them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ennead_channel::guests::{Guest, NewGuest, Part, Refusal, Reply, Request, Service, State};
use ennead_channel::{List, Text};
use ennead_toolstack::builder::{Changed, Channel, Error, WINDOW, Window};
use tokio::sync::Notify;

use super::consoles::Guests;
use super::xenstore::XenStore;

/// A domain.
pub(crate) struct Domain {
    pub(crate) new: NewGuest,
    pub(crate) state: State,
    /// What was loaded: the kernel's segments, and the ramdisk.
    pub(crate) segments: Vec<Vec<u8>>,
    pub(crate) ramdisk: Vec<u8>,
    pub(crate) finished: bool,
}

/// The host.
pub(crate) struct Host {
    pub(crate) domains: BTreeMap<u16, Domain>,
    next: u16,
    keys: BTreeMap<u64, u16>,
    window: Vec<u8>,
    changes: VecDeque<Changed>,
    /// The request whose debug text begins so is refused, as often as this says.
    pub(crate) refuse: Option<(&'static str, Refusal, u32)>,
    /// Requests that were made, by the first word of their debug text.
    pub(crate) asked: Vec<String>,
    /// While set, loading waits.
    pub(crate) slow: Option<Rc<Notify>>,
    xenstore: XenStore,
    guests: Guests,
    rung: Rc<Notify>,
}

impl Host {
    pub(crate) fn new(xenstore: XenStore, guests: Guests) -> Self {
        Self {
            domains: BTreeMap::new(),
            next: 1024,
            keys: BTreeMap::new(),
            window: Vec::new(),
            changes: VecDeque::new(),
            refuse: None,
            asked: Vec::new(),
            slow: None,
            xenstore,
            guests,
            rung: Rc::default(),
        }
    }

    /// All domids.
    pub(crate) fn domains(&self) -> Vec<u16> {
        self.domains.keys().copied().collect()
    }

    /// A guest shuts down with this code.
    pub(crate) fn shuts_down(&mut self, domid: u16, code: u8) {
        self.change(domid, State::ShutDown(code));
    }

    /// A guest changes by itself.
    pub(crate) fn change(&mut self, domid: u16, state: State) {
        if state == State::Gone {
            self.remove(domid);
        } else {
            self.domains.get_mut(&domid).unwrap().state = state;
        }
        self.changes.push_back(Changed { domid, state });
        self.rung.notify_one();
    }

    /// What is half built goes; nobody hears of changes any more.
    pub(crate) fn toolstack_died(&mut self) {
        self.end_building();
        self.changes.clear();
    }

    fn end_building(&mut self) {
        let half: Vec<u16> =
            self.domains.iter().filter(|(_, d)| !d.finished).map(|(domid, _)| *domid).collect();
        half.into_iter().for_each(|domid| self.remove(domid));
    }

    fn remove(&mut self, domid: u16) {
        self.domains.remove(&domid);
        self.guests.dies(domid);
        self.xenstore.died(domid);
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let text = format!("{request:?}");
        self.asked.push(text.split([' ', '{']).next().unwrap_or_default().to_owned());
        let refused = |refusal| Reply::Refused { refusal, reason: Text::new("Builder says no") };
        if let Some((begin, refusal, times)) = self.refuse
            && text.starts_with(begin)
        {
            self.refuse = Some((begin, refusal, times - 1)).filter(|_| times > 1);
            return refused(refusal);
        }
        match request {
            Request::Hello { .. } => {
                self.end_building();
                Reply::Limits { memory_mib: 512, vcpus: 8, guests: 4, iommu: true }
            }
            Request::Create { key, length } => {
                if let Some(domid) = self.keys.get(key) {
                    return Reply::Created { domid: *domid };
                }
                let bytes = &self.window[..usize::try_from(*length).unwrap()];
                let new: NewGuest = postcard::from_bytes(bytes).unwrap();
                new.kernel.check().unwrap();
                if self.domains.values().any(|domain| domain.new.name == new.name) {
                    return refused(Refusal::Exists);
                }
                if self.domains.len() >= 4 {
                    return refused(Refusal::Quota);
                }
                assert!(self.domains.values().all(|domain| domain.finished), "one at a time");
                let domid = self.next;
                self.next += 1;
                self.keys.insert(*key, domid);
                let size = |n: u64| vec![0; usize::try_from(n).unwrap()];
                let segments = new.kernel.segments.iter().map(|segment| size(segment.file_bytes)).collect();
                let ramdisk = size(new.ramdisk_bytes);
                let domain = Domain { new, state: State::Building, segments, ramdisk, finished: false };
                self.domains.insert(domid, domain);
                self.xenstore.created(domid);
                Reply::Created { domid }
            }
            Request::Load { domid, part, length } => {
                let domain = self.domains.get_mut(domid).unwrap();
                let (to, offset) = match part {
                    Part::Kernel { segment, offset } => (&mut domain.segments[usize::from(*segment)], offset),
                    Part::Ramdisk { offset } => (&mut domain.ramdisk, offset),
                };
                let (at, length) = (usize::try_from(*offset).unwrap(), usize::try_from(*length).unwrap());
                to[at..at + length].copy_from_slice(&self.window[..length]);
                Reply::Done
            }
            Request::Finish { domid } => {
                let domain = self.domains.get_mut(domid).unwrap();
                (domain.finished, domain.state) = (true, State::Paused);
                self.guests.born(*domid);
                Reply::Finished { console_port: u32::from(*domid), store_port: 2 }
            }
            Request::Unpause { domid } => self.set(*domid, State::Running),
            Request::Pause { domid } => self.set(*domid, State::Paused),
            Request::Destroy { domid } => {
                if !self.domains.contains_key(domid) {
                    return refused(Refusal::Unknown);
                }
                // What is mapped would keep the domid.
                assert!(!self.guests.open().contains(domid), "its console is let go first");
                self.remove(*domid);
                Reply::Done
            }
            Request::List { after } => {
                let mut guests: Vec<Guest> = self
                    .domains
                    .range(after + 1..)
                    .map(|(domid, domain)| Guest {
                        domid: *domid,
                        name: domain.new.name.clone(),
                        state: domain.state,
                        memory_kib: u64::from(domain.new.memory_mib) * 1024,
                        vcpus: domain.new.vcpus,
                        cpu_time_ns: 5,
                    })
                    .collect();
                // Short parts, so that there are several.
                let more = guests.len() > 2;
                guests.truncate(2);
                Reply::Guests { guests: List::new(guests).unwrap(), more }
            }
            Request::Services { after } => {
                let service = Service {
                    domid: 1,
                    name: Text::new("builder"),
                    state: State::Running,
                    memory_kib: 49_152,
                    uptime_s: 9,
                    restarts: 0,
                };
                let services = if *after == 0 { vec![service] } else { Vec::new() };
                Reply::Services { services: List::new(services).unwrap(), more: false }
            }
        }
    }

    fn set(&mut self, domid: u16, state: State) -> Reply {
        self.domains.get_mut(&domid).unwrap().state = state;
        Reply::Done
    }
}

/// A toolstack's channel to it.
pub(crate) struct Line {
    host: Rc<RefCell<Host>>,
    rung: Rc<Notify>,
}

impl Line {
    pub(crate) fn new(host: &Rc<RefCell<Host>>) -> Self {
        Self { host: Rc::clone(host), rung: Rc::clone(&host.borrow().rung) }
    }
}

struct Pages(Rc<RefCell<Host>>);

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

impl Window for Pages {
    fn put(&self, bytes: &[u8]) {
        assert!(bytes.len() <= WINDOW);
        self.0.borrow_mut().window = bytes.to_vec();
    }
}

impl Channel for Line {
    fn window(&self) -> Rc<dyn Window> {
        Rc::new(Pages(Rc::clone(&self.host)))
    }

    async fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        let slow = self.host.borrow().slow.clone().filter(|_| matches!(request, Request::Load { .. }));
        match slow {
            Some(slow) => slow.notified().await,
            None => tokio::task::yield_now().await,
        }
        Ok(self.host.borrow_mut().answer(&request))
    }

    fn hello(&self) -> Request {
        Request::Hello { window: List::default() }
    }

    async fn changed(&mut self) -> Result<Changed, Error> {
        loop {
            if let Some(change) = self.host.borrow_mut().changes.pop_front() {
                return Ok(change);
            }
            self.rung.notified().await;
        }
    }
}
