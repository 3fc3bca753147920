//! The thread that serves queues: those of all vifs in turns, so that a packet from one guest to another needs no other thread to
//! be woken. There are as many as this VM has virtual processors.
//!
//! Before it sleeps it looks for a while whether a guest has more, if that mostly paid: meanwhile guests need not send events. Who
//! sends a stream of packets asks for no answer to each: they are taken many at a time, as NICs put off their interrupts.

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use ennead_backend::device::{Device, Reporter};
use ennead_backend::memory::GuestMemory;
use ennead_backend::worth::{Worth, look};
use ennead_xen::{Port, SharedPage};
use rustix::event::{Timespec, epoll};
use tracing::warn;

use crate::Few;
use crate::bell::Bell;
use crate::queue::Queue;
use crate::rx::Error;
use crate::tap::Tap;
use crate::tx::Counts;

/// So many events in a row without anything to do are as many as an honest frontend may send.
const VAIN: u32 = 16;
/// How long a frontend that sends more is not heard.
const DEAF: Duration = Duration::from_millis(1);
/// So often it takes packets from a guest that sends all the time, before others have their turn.
const ROUNDS: u32 = 4;
/// While there is something to do all the time, the bridge is asked for packets after so many turns, and streams are taken from.
const TURNS: u32 = 8;
/// So many queues it looks at in memory before it sleeps. The bridge is not asked meanwhile.
const LOOKS: u32 = 12_000;

/// A guest that has sent so many packets since its queue last rested sends a stream. More of it is waited for
const STREAM: u64 = 4;
/// so many times as long as the last round took, so at most a seventh of a processor goes into it.
const GATHER: u32 = 6;
/// But no longer than that,
const MOST_GATHER: Duration = Duration::from_millis(6);
/// and only until so many slots are filled.
const GATHERED: u32 = 64;

/// The bell's number; queues' are far below.
const BELL: u64 = u64::MAX;
/// So many files are heard of at once; the others are the next time.
const FILES: usize = 32;

/// What has become of packets: the guest's, and those to it.
type Both = (Counts, Counts);

/// The event channels of a queue.
pub trait Events: AsFd + Send {
    /// Sends events: for the ring from the guest, for that to it.
    ///
    /// # Errors
    /// Xen's.
    fn notify(&self, tx: bool, rx: bool) -> ennead_xen::Result<()>;

    /// Takes the events that have come. Their ports cannot fire until they are let.
    ///
    /// # Errors
    /// Linux's.
    fn take(&self) -> ennead_xen::Result<Few<Port>>;

    /// Lets a port fire again.
    ///
    /// # Errors
    /// Linux's.
    fn unmask(&self, port: Port) -> ennead_xen::Result<()>;
}

/// Why a queue is not served any more.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Queue(#[from] Error),
    #[error("{0}")]
    Events(#[from] ennead_xen::Error),
}

/// A queue, and what is to be known to serve it.
#[derive(Debug)]
pub struct Line<P, M, T, E> {
    queue: Queue<P, M, T>,
    events: E,
    reporter: Reporter,
    /// That the guest sends what it may not has been said, for any of the vif's queues.
    told: Arc<AtomicBool>,
    /// No other has it.
    number: u64,
    /// No round yet.
    is_new: bool,
    /// The guest wants an event for what was taken.
    owed: bool,
    /// Rounds are due.
    called: bool,
    /// The guest was asked for events.
    rests: bool,
    /// Packets that the guest had sent then.
    rested: u64,
    /// It sent a stream until then.
    streams: bool,
    /// More of the stream is waited for.
    gathers: bool,
    /// An event came, and nothing was done since.
    rang: bool,
    /// Events have come that are not taken yet. That has time until the queue rests: their ports cannot fire before.
    untaken: bool,
    /// Events in a row that brought nothing.
    vain: u32,
    /// Ports that have fired and cannot again yet.
    muted: Few<Port>,
    /// Until when they stay so, whatever comes.
    deaf: Option<Instant>,
    /// Until when the guest has no credit.
    until: Option<Instant>,
    /// Since it was last looked for more.
    did: Option<Did>,
    /// Whether more mostly comes soon, after the guest has sent packets,
    after_taken: Worth,
    /// and after it was given some.
    after_given: Worth,
}

/// What was done for a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Did {
    Take,
    Give,
}

impl<P: SharedPage, M: GuestMemory, T: Tap + AsFd, E: Events> Line<P, M, T, E> {
    /// Of a queue that has just been attached.
    pub fn new(queue: Queue<P, M, T>, events: E, reporter: Reporter, told: Arc<AtomicBool>) -> Self {
        Self {
            queue,
            events,
            reporter,
            told,
            number: 0,
            is_new: true,
            owed: false,
            called: true,
            rests: false,
            rested: 0,
            streams: false,
            gathers: false,
            rang: false,
            untaken: false,
            vain: 0,
            muted: Few::new(),
            deaf: None,
            until: None,
            did: None,
            after_taken: Worth::default(),
            after_given: Worth::default(),
        }
    }

    fn is_called(&self) -> bool {
        self.called || self.has_to_take() || self.queue.has_to_give()
    }

    fn sent(&self) -> u64 {
        self.queue.counts().0.packets
    }

    fn has_to_take(&self) -> bool {
        !self.gathers && self.queue.has_to_take()
    }

    const fn worth(&mut self) -> &mut Worth {
        match self.did {
            Some(Did::Give) => &mut self.after_given,
            Some(Did::Take) | None => &mut self.after_taken,
        }
    }

    /// Takes packets from the guest, as long as more come, but if they come all the time.
    fn take(&mut self) -> Result<(), Ended> {
        if !self.called && !self.has_to_take() {
            return Ok(());
        }
        let (mut busy, mut notify) = (false, false);
        // Of a stream the second would find the few that came during the first, and so on.
        let rounds = if self.streams { 1 } else { ROUNDS };
        for _ in 0..rounds {
            let round = self.queue.take(Instant::now)?;
            busy |= round.busy;
            notify |= round.notify;
            self.until = round.until;
            if !round.more {
                break;
            }
        }
        self.gathers = self.streams;
        // After a predecessor's death the frontend may be waiting for what was published long ago.
        let first = std::mem::take(&mut self.is_new);
        self.events.notify(first, first)?;
        self.owed |= notify && !first;
        if busy && self.did.is_none() {
            self.did = Some(Did::Take);
        }
        // Once: the guest decides how often it happens.
        if let Some(why) = self.queue.forbidden()
            && !self.told.swap(true, Ordering::Relaxed)
        {
            let Device { domid, handle } = self.reporter.device();
            warn!(domid = domid.0, handle, ?why, "vif-forbidden");
        }
        self.done(busy);
        Ok(())
    }

    /// Gives packets to the guest.
    fn give(&mut self) -> Result<(), Ended> {
        if !std::mem::take(&mut self.called) && !self.queue.has_to_give() {
            return Ok(());
        }
        let given = self.queue.counts().1.packets;
        let round = self.queue.give()?;
        self.events.notify(round.notify && std::mem::take(&mut self.owed), round.notify)?;
        if self.queue.counts().1.packets > given {
            self.did = Some(Did::Give);
        }
        self.done(round.busy);
        Ok(())
    }

    /// Tells the guest that its packets were taken. After others have got them: they are waited for, this is not.
    fn thank(&mut self) -> Result<(), Ended> {
        Ok(self.events.notify(std::mem::take(&mut self.owed), false)?)
    }

    /// A round has been done.
    const fn done(&mut self, busy: bool) {
        self.rests = false;
        if busy {
            (self.rang, self.vain) = (false, 0);
        }
    }

    /// Asks for events, unless they come for nothing all the time.
    fn rest(&mut self) -> Result<(), Ended> {
        if self.rests || self.called {
            return Ok(());
        }
        let sent = self.sent();
        self.streams = sent - std::mem::replace(&mut self.rested, sent) >= STREAM;
        self.gathers = self.streams;
        self.called = self.queue.rest(if self.gathers { GATHERED } else { 1 })?;
        if self.called {
            return Ok(());
        }
        self.rests = true;
        if std::mem::take(&mut self.rang) {
            self.vain = self.vain.saturating_add(1);
        }
        if std::mem::take(&mut self.untaken) {
            self.muted.extend(self.events.take()?);
        }
        if self.muted.is_empty() {
            return Ok(());
        }
        if self.vain < VAIN || self.deaf.is_some_and(|until| until <= Instant::now()) {
            self.deaf = None;
            self.muted.drain(..).try_for_each(|port| self.events.unmask(port))?;
        } else if self.deaf.is_none() {
            self.deaf = Instant::now().checked_add(DEAF);
        }
        Ok(())
    }

    /// More of a stream is not waited for any longer.
    const fn gathered(&mut self) {
        if std::mem::replace(&mut self.gathers, false) {
            self.rests = false;
        }
    }

    /// When something is to be done, whatever comes before.
    fn deadline(&self) -> Option<Instant> {
        self.deaf.into_iter().chain(self.until).min()
    }

    /// Its events are heard under this number's double, its tap under the next.
    fn listen(&mut self, files: &OwnedFd, number: u64) -> io::Result<()> {
        self.number = number;
        let add = |file: BorrowedFd<'_>, number| {
            let once = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(files, file, epoll::EventData::new_u64(number), once)
        };
        add(self.events.as_fd(), 2 * number)?;
        add(self.queue.tap().as_fd(), 2 * number + 1)?;
        Ok(())
    }

    /// Events have come, or the bridge has packets.
    const fn hear(&mut self, events: bool) {
        if !events {
            self.queue.tap_is_ready();
        } else if !self.untaken {
            (self.called, self.rang, self.untaken) = (true, true, true);
        }
    }
}

/// What a worker is asked for.
enum Order<L> {
    Serve(Box<L>),
    End(Device, Sender<Both>),
}

/// A thread that serves queues as long as the program runs.
#[derive(Debug)]
pub struct Worker<L> {
    orders: Sender<Order<L>>,
    bell: Arc<Bell>,
}

impl<L> Clone for Worker<L> {
    fn clone(&self) -> Self {
        Self { orders: self.orders.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<P, M, T, E> Worker<Line<P, M, T, E>>
where
    P: SharedPage + Send + 'static,
    M: GuestMemory + Send + 'static,
    T: Tap + AsFd + 'static,
    E: Events + 'static,
{
    /// Starts it.
    ///
    /// # Errors
    /// Linux's.
    pub fn start() -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let (orders, receiver) = mpsc::channel();
        let files = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&files, &*bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        let (lines, ended) = (Vec::new(), Vec::new());
        let mut shift =
            Shift { orders: receiver, bell: Arc::clone(&bell), files, next: 0, lines, woke: None, ended };
        std::thread::Builder::new().name("queues".to_owned()).spawn(move || {
            let Err(e) = shift.run();
            ennead_runtime::fail(anyhow::Error::from(e).context("Cannot wait for guests and bridges"))
        })?;
        Ok(Self { orders, bell })
    }

    /// What wakes it.
    #[must_use]
    pub const fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Serves a queue from now on.
    pub fn serve(&self, line: Line<P, M, T, E>) {
        self.order(Order::Serve(Box::new(line)));
    }

    /// Lets go of all queues of a device; after this nothing of them is left. What has become of their packets.
    #[must_use]
    pub fn end(&self, device: Device) -> Both {
        let (sender, counts) = mpsc::channel();
        self.order(Order::End(device, sender));
        counts.recv().unwrap_or_default()
    }

    fn order(&self, order: Order<Line<P, M, T, E>>) {
        // A worker that has ended has ended the program.
        let _ = self.orders.send(order);
        self.bell.ring();
    }
}

/// What the thread has.
struct Shift<P, M, T, E> {
    orders: Receiver<Order<Line<P, M, T, E>>>,
    bell: Arc<Bell>,
    /// What is waited for.
    files: OwnedFd,
    /// The next queue's number.
    next: u64,
    lines: Vec<Line<P, M, T, E>>,
    /// When it last woke, if guests send streams.
    woke: Option<Instant>,
    /// Of queues that ended by themselves, until they are asked for.
    ended: Vec<(Device, Both)>,
}

impl<P: SharedPage, M: GuestMemory, T: Tap + AsFd, E: Events> Shift<P, M, T, E> {
    fn run(&mut self) -> io::Result<Infallible> {
        let mut turns = 0;
        loop {
            self.each(Line::take);
            self.each(Line::give);
            self.each(Line::thank);
            if self.is_called() || self.look() {
                turns += 1;
                if turns == TURNS {
                    turns = 0;
                    self.hear(Some(Duration::ZERO))?;
                    self.lines.iter_mut().for_each(Line::gathered);
                }
            } else {
                turns = 0;
                self.sleep()?;
            }
        }
    }

    fn is_called(&self) -> bool {
        self.lines.iter().any(Line::is_called)
    }

    /// Does something with each queue, and ends those with which it cannot be done.
    fn each(&mut self, mut with: impl FnMut(&mut Line<P, M, T, E>) -> Result<(), Ended>) {
        let mut n = 0;
        while let Some(line) = self.lines.get_mut(n) {
            match with(line) {
                Ok(()) => n += 1,
                Err(why) => {
                    let line = self.lines.swap_remove(n);
                    self.end(line, why);
                }
            }
        }
    }

    fn end(&mut self, line: Line<P, M, T, E>, why: impl ToString) {
        let Line { queue, events, reporter, .. } = line;
        self.ended.push((reporter.device(), queue.counts()));
        // All of the queue is let go before anybody hears of it.
        drop((queue, events));
        reporter.broken(why);
    }

    /// Looks for a while whether there is something to do, if after what was done last there mostly is.
    fn look(&mut self) -> bool {
        let by = |did| self.lines.iter().position(|line| line.did == Some(did));
        let Some(last) = by(Did::Give).or_else(|| by(Did::Take)) else { return false };
        let pays = self.lines.get_mut(last).is_some_and(|line| line.worth().is_it());
        let turns = LOOKS / u32::try_from(self.lines.len()).unwrap_or(LOOKS);
        let found = pays && look(turns, || self.is_called());
        if pays && let Some(line) = self.lines.get_mut(last) {
            // Not who sends without waiting for anything: nobody would gain by it.
            let answered = line.is_called();
            line.worth().note(answered);
        }
        self.lines.iter_mut().for_each(|line| line.did = None);
        found
    }

    /// Waits until there is something to do.
    fn sleep(&mut self) -> io::Result<()> {
        self.bell.lie_down();
        self.each(Line::rest);
        // Also what a neighbour's thread has left since, for a queue that was at rest.
        if self.is_called() {
            self.bell.get_up();
            return Ok(());
        }
        let until = self.lines.iter().filter_map(Line::deadline).min();
        let until = until.map(|until| until.saturating_duration_since(Instant::now()));
        let gathers = self.lines.iter().any(|line| line.gathers);
        let gather = gathers.then(|| {
            let took = self.woke.map(|woke| woke.elapsed()).unwrap_or_default();
            took.saturating_mul(GATHER).min(MOST_GATHER)
        });
        self.hear(until.into_iter().chain(gather).min())?;
        self.bell.get_up();
        self.woke = gathers.then(Instant::now);
        self.lines.iter_mut().for_each(Line::gathered);
        Ok(())
    }

    /// Waits at most so long for guests, bridges, orders, neighbours, and the end of pauses.
    fn hear(&mut self, most: Option<Duration>) -> io::Result<()> {
        let timeout = most.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut room = [const { MaybeUninit::uninit() }; FILES];
        let ready = match epoll::wait(&self.files, &mut room, timeout.as_ref()) {
            Ok((ready, _)) => &*ready,
            Err(rustix::io::Errno::INTR) => &[],
            Err(errno) => return Err(errno.into()),
        };
        let mut ordered = false;
        for event in ready {
            let number = event.data.u64();
            ordered |= number == BELL;
            if let Some(line) = self.lines.iter_mut().find(|line| line.number == number / 2) {
                line.hear(number % 2 == 0);
            }
        }
        self.call_the_late();
        if ordered {
            self.bell.hush();
            self.obey();
        }
        Ok(())
    }

    fn call_the_late(&mut self) {
        // To ask for the time mostly is a system call.
        if self.lines.iter().any(|line| line.deadline().is_some()) {
            let now = Instant::now();
            let late = |line: &&mut Line<P, M, T, E>| line.deadline().is_some_and(|until| until <= now);
            self.lines.iter_mut().filter(late).for_each(|line| line.called = true);
        }
    }

    fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Serve(mut line) => match line.listen(&self.files, self.next) {
                    Ok(()) => {
                        self.next += 1;
                        self.lines.push(*line);
                    }
                    Err(why) => self.end(*line, why),
                },
                Order::End(device, answer) => {
                    let mut sum = Both::default();
                    let mut is_anothers = |of: Device, (from, to): Both| {
                        if of == device {
                            sum = (sum.0 + from, sum.1 + to);
                        }
                        of != device
                    };
                    self.lines.retain(|line| is_anothers(line.reporter.device(), line.queue.counts()));
                    self.ended.retain(|(of, counts)| is_anothers(*of, *counts));
                    // Who does not wait for the answer any more has ended the program.
                    let _ = answer.send(sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
