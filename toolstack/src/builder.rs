//! Builder, as the rest of the program sees it: requests with typed answers, and what guests do by themselves.
//!
//! One task owns the channel and does one request after the other; between two parts of a large kernel there is room for others.

pub mod wire;

use std::fmt::Debug;
use std::rc::Rc;

use ennead_channel::guests::{Guest, NewGuest, Part, Refusal, Reply, Request, Service, State, WINDOW_PAGES};
use ennead_xen::PAGE_SIZE;
use tokio::sync::{mpsc, oneshot};

pub use wire::Wire;

/// Bytes of the window: the most that is loaded at once.
pub const WINDOW: usize = WINDOW_PAGES * PAGE_SIZE;
/// Requests that wait for their turn.
const QUEUE: usize = 16;
/// Guests and service VMs that a host has at most, so that a list ends.
const MOST: usize = 32_752;

/// Why Builder did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It said no.
    #[error("{reason}")]
    Refused {
        /// Why, for a program.
        refusal: Refusal,
        /// Why, for people.
        reason: String,
    },
    /// No answer came in time.
    #[error("Builder does not answer")]
    Silent,
    /// It answered something else.
    #[error("Builder answered {0} with something else")]
    Nonsense(&'static str),
    /// The request does not fit into a message.
    #[error("{0} does not fit into a message to Builder")]
    TooLong(&'static str),
    /// The channel is no more.
    #[error("The channel to Builder is closed")]
    Closed,
}

impl Error {
    /// Builder's reason if it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }
}

/// A guest has changed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Its domid.
    pub domid: u16,
    /// What it does now.
    pub state: State,
}

/// What a tenant may have in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// MiB of memory.
    pub memory_mib: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// Guests.
    pub guests: u32,
    /// Whether the host's devices are kept to their VMs' memory.
    pub iommu: bool,
}

/// Where what is too large for a message stands. Who builds writes to it without a copy in between: one guest is built at a time.
pub trait Window: Debug {
    /// Puts bytes, at most [`WINDOW`], at its start.
    fn put(&self, bytes: &[u8]);
}

/// A channel to Builder; a trait so that tests do without Xen.
pub trait Channel {
    /// The pages that Builder copies from.
    fn window(&self) -> Rc<dyn Window>;
    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// `Silent` if none comes; `Closed` when the channel is broken.
    fn ask(&mut self, request: Request) -> impl Future<Output = Result<Reply, Error>>;
    /// The first request, which tells of the window.
    fn hello(&self) -> Request;
    /// Waits for the next change, also for those that came while a request was answered. Safe to drop.
    ///
    /// # Errors
    /// `Closed` when the channel is broken.
    fn changed(&mut self) -> impl Future<Output = Result<Changed, Error>>;
}

/// One request on its way to the task.
#[derive(Debug)]
struct Order {
    request: What,
    answer: oneshot::Sender<Result<Reply, Error>>,
}

#[derive(Debug)]
enum What {
    Hello,
    This(Request),
}

/// The way to the task.
#[derive(Debug, Clone)]
pub struct Builder {
    orders: mpsc::Sender<Order>,
    window: Rc<dyn Window>,
}

/// Serves what is asked of it until nobody is left who could, and tells of changes.
///
/// # Errors
/// `Closed` when the channel is broken: there will be no answer any more.
#[derive(Debug)]
pub struct Serve<C> {
    channel: C,
    orders: mpsc::Receiver<Order>,
    changes: mpsc::UnboundedSender<Changed>,
}

/// Over a channel: the handle, what is to be run as a task, and where changes come out.
pub fn over<C: Channel>(channel: C) -> (Builder, Serve<C>, mpsc::UnboundedReceiver<Changed>) {
    let (orders, waiting) = mpsc::channel(QUEUE);
    // Builder is trusted, and a guest changes seldom: its domain ends with each.
    let (changes, changed) = mpsc::unbounded_channel();
    let window = channel.window();
    (Builder { orders, window }, Serve { channel, orders: waiting, changes }, changed)
}

impl<C: Channel> Serve<C> {
    /// Runs until the last handle is gone.
    ///
    /// # Errors
    /// `Closed` when the channel is broken.
    pub async fn run(mut self) -> Result<(), Error> {
        loop {
            tokio::select! {
                order = self.orders.recv() => {
                    let Some(Order { request, answer }) = order else { return Ok(()) };
                    let request = match request {
                        What::Hello => self.channel.hello(),
                        What::This(request) => request,
                    };
                    let reply = self.channel.ask(request).await;
                    let closed = matches!(reply, Err(Error::Closed));
                    // Who asked may have gone.
                    let _ = answer.send(reply);
                    if closed {
                        return Err(Error::Closed);
                    }
                }
                change = self.channel.changed() => {
                    if self.changes.send(change?).is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

macro_rules! typed {
    ($reply:expr, $asked:literal, $pattern:pat => $value:expr) => {
        match $reply? {
            $pattern => Ok($value),
            Reply::Refused { refusal, reason } => Err(Error::Refused { refusal, reason: reason.to_string() }),
            _ => Err(Error::Nonsense($asked)),
        }
    };
}

/// All fail as Builder says, or when it does not answer.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Builder {
    async fn order(&self, request: What) -> Result<Reply, Error> {
        let (answer, reply) = oneshot::channel();
        self.orders.send(Order { request, answer }).await.map_err(|_| Error::Closed)?;
        reply.await.map_err(|_| Error::Closed)?
    }

    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        self.order(What::This(request)).await
    }

    /// Tells of the window; ends the building of what is half built.
    pub async fn hello(&self) -> Result<Limits, Error> {
        let reply = self.order(What::Hello).await;
        typed!(reply, "the greeting", Reply::Limits { memory_mib, vcpus, guests, iommu } => Limits { memory_mib, vcpus, guests, iommu })
    }

    /// Begins to build a guest; gives its domid. The same `key` again builds nothing.
    pub async fn create(&self, key: u64, new: &NewGuest) -> Result<u16, Error> {
        let bytes = postcard::to_allocvec(new).map_err(|_| Error::TooLong("The guest"))?;
        if bytes.len() > ennead_channel::guests::MAX_NEW_GUEST {
            return Err(Error::TooLong("The guest"));
        }
        let length = u32::try_from(bytes.len()).map_err(|_| Error::TooLong("The guest"))?;
        self.window.put(&bytes);
        let reply = self.ask(Request::Create { key, length }).await;
        typed!(reply, "a creation", Reply::Created { domid } => domid)
    }

    /// Loads bytes, at most [`WINDOW`], into a guest that is being built.
    /// They are copied at once, before the future is waited for.
    pub fn load<'a>(
        &'a self,
        domid: u16,
        part: Part,
        bytes: &[u8],
    ) -> impl Future<Output = Result<(), Error>> + use<'a> {
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= WINDOW);
        if length.is_some() {
            self.window.put(bytes);
        }
        async move {
            let length = length.ok_or(Error::TooLong("A part of the guest"))?;
            let reply = self.ask(Request::Load { domid, part, length }).await;
            typed!(reply, "a part of a guest", Reply::Done => ())
        }
    }

    /// Ends the building; gives the ports of its console and of XenStore.
    pub async fn finish(&self, domid: u16) -> Result<(u32, u32), Error> {
        let reply = self.ask(Request::Finish { domid }).await;
        typed!(reply, "the end of a building", Reply::Finished { console_port, store_port } => (console_port, store_port))
    }

    /// Lets it run.
    pub async fn unpause(&self, domid: u16) -> Result<(), Error> {
        typed!(self.ask(Request::Unpause { domid }).await, "an unpause", Reply::Done => ())
    }

    /// Stops its vCPUs.
    pub async fn pause(&self, domid: u16) -> Result<(), Error> {
        typed!(self.ask(Request::Pause { domid }).await, "a pause", Reply::Done => ())
    }

    /// Ends it at once.
    pub async fn destroy(&self, domid: u16) -> Result<(), Error> {
        typed!(self.ask(Request::Destroy { domid }).await, "a destruction", Reply::Done => ())
    }

    /// All guests of this tenant, by domid.
    pub async fn guests(&self) -> Result<Vec<Guest>, Error> {
        let mut all: Vec<Guest> = Vec::new();
        loop {
            let after = all.last().map_or(0, |guest| guest.domid);
            let reply = self.ask(Request::List { after }).await;
            let (part, more) =
                typed!(reply, "the list of guests", Reply::Guests { guests, more } => (guests, more))?;
            let ends = part.is_empty() || !more;
            all.extend(part.into_vec());
            if ends || all.len() > MOST {
                return Ok(all);
            }
        }
    }

    /// All service VMs of the host, by domid.
    pub async fn services(&self) -> Result<Vec<Service>, Error> {
        let mut all: Vec<Service> = Vec::new();
        loop {
            let after = all.last().map_or(0, |service| service.domid);
            let reply = self.ask(Request::Services { after }).await;
            let (part, more) = typed!(reply, "the list of service VMs", Reply::Services { services, more } => (services, more))?;
            let ends = part.is_empty() || !more;
            all.extend(part.into_vec());
            if ends || all.len() > MOST {
                return Ok(all);
            }
        }
    }
}
