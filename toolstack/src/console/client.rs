//! The main process's end: one task has the socket, anybody may ask.

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::time::Duration;

use anyhow::Context as _;
use ennead_channel::proto::{decode, encode};
use ennead_channel::{List, MAX_MESSAGE};
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, oneshot, watch};

use super::protocol::{MAX_DATA, Reply, Request};

/// Requests that wait for their turn.
const QUEUE: usize = 32;
/// How often input is offered again to a guest that does not read, and how many times before it is dropped: who typed it may
/// have gone, and a guest must not hold operators' connections.
const AGAIN: Duration = Duration::from_millis(50);
const TRIES: u32 = 200;

/// Why a console does not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The console process said no.
    #[error("The console cannot be opened: {0}")]
    Failed(String),
    /// It is gone, and this VM ends soon.
    #[error("The console process is gone")]
    Gone,
}

type Order = (Request, oneshot::Sender<Reply>);

/// The way to the console process.
#[derive(Debug, Clone)]
pub struct Console {
    orders: mpsc::Sender<Order>,
    grown: watch::Receiver<u64>,
}

/// Bytes that were printed, and counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that guests have printed.
    pub printed: u64,
    /// Bytes that guests were given.
    pub given: u64,
    /// Rings with indices that could not be.
    pub impossible: u64,
}

/// Over the socket to the process: the handle, and what is to be run as a task. To be called in a runtime.
///
/// # Errors
/// Linux's.
pub fn over(socket: StdDatagram) -> io::Result<(Console, impl Future<Output = anyhow::Result<()>>)> {
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    let (orders, waiting) = mpsc::channel(QUEUE);
    let (more, grown) = watch::channel(0);
    Ok((Console { orders, grown }, carry(socket, waiting, more)))
}

async fn carry(
    socket: UnixDatagram,
    mut orders: mpsc::Receiver<Order>,
    more: watch::Sender<u64>,
) -> anyhow::Result<()> {
    const GONE: &str = "The console process is gone";
    let mut buffer = [0; MAX_MESSAGE];
    let mut asked: Option<oneshot::Sender<Reply>> = None;
    socket.send(&encode(&Request::Wait)?).await.context(GONE)?;
    loop {
        tokio::select! {
            order = orders.recv(), if asked.is_none() => {
                let Some((request, answer)) = order else { return Ok(()) };
                socket.send(&encode(&request)?).await.context(GONE)?;
                asked = Some(answer);
            }
            length = socket.recv(&mut buffer) => {
                let length = length.context(GONE)?;
                match decode(buffer.get(..length).unwrap_or_default())? {
                    Reply::Grown => {
                        more.send_modify(|n| *n = n.wrapping_add(1));
                        socket.send(&encode(&Request::Wait)?).await.context(GONE)?;
                    }
                    // Who asked may have gone.
                    reply => drop(asked.take().map(|answer| answer.send(reply))),
                }
            }
        }
    }
}

/// All fail when the console process is gone.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Console {
    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        let (answer, reply) = oneshot::channel();
        self.orders.send((request, answer)).await.map_err(|_| Error::Gone)?;
        match reply.await.map_err(|_| Error::Gone)? {
            Reply::Failed(why) => Err(Error::Failed(why.to_string())),
            reply => Ok(reply),
        }
    }

    /// Serves a guest's console under a number, which may have been that of its former self.
    pub async fn open(&self, console: u32, domid: u16, port: u32) -> Result<(), Error> {
        self.ask(Request::Open { console, domid, port }).await.map(drop)
    }

    /// Reads it once more and lets it go: as long as it is mapped, a dead guest's domid stays taken.
    pub async fn close(&self, console: u32) -> Result<(), Error> {
        self.ask(Request::Close { console }).await.map(drop)
    }

    /// The same, and forgets what was printed.
    pub async fn forget(&self, console: u32) -> Result<(), Error> {
        self.ask(Request::Forget { console }).await.map(drop)
    }

    /// What was printed from a position on, at most some 1000 bytes; and where that begins.
    pub async fn read(&self, console: u32, from: u64) -> Result<(u64, Vec<u8>), Error> {
        match self.ask(Request::Read { console, from }).await? {
            Reply::Printed { from, bytes } => Ok((from, bytes.into_vec())),
            _ => Ok((from, Vec::new())),
        }
    }

    /// All that is kept of what was printed.
    pub async fn read_all(&self, console: u32) -> Result<Vec<u8>, Error> {
        let (mut all, mut from) = (Vec::new(), 0);
        // A guest may print faster than this reads.
        while all.len() <= super::scrollback::KEPT {
            let (start, bytes) = self.read(console, from).await?;
            if bytes.is_empty() {
                break;
            }
            from = start.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            all.extend(bytes);
        }
        Ok(all)
    }

    /// Gives the guest bytes; waits while it does not read, up to some 10 s.
    pub async fn write(&self, console: u32, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(MAX_DATA) {
            let (mut rest, mut tries) = (piece, 0);
            while !rest.is_empty() {
                let bytes = List::new(rest.to_vec()).unwrap_or_default();
                let Reply::Taken(taken) = self.ask(Request::Input { console, bytes }).await? else {
                    return Ok(());
                };
                rest = rest.get(usize::from(taken)..).unwrap_or_default();
                tries = if taken > 0 { 0 } else { tries + 1 };
                if tries >= TRIES {
                    return Ok(());
                }
                if !rest.is_empty() {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        Ok(())
    }

    /// What changes when there is more on a console of which a [`read`](Self::read) has found nothing, or it is forgotten.
    #[must_use]
    pub fn grown(&self) -> watch::Receiver<u64> {
        self.grown.clone()
    }

    /// Counters.
    pub async fn counts(&self) -> Result<Counts, Error> {
        match self.ask(Request::Count).await? {
            Reply::Counted { printed, given, impossible } => Ok(Counts { printed, given, impossible }),
            _ => Ok(Counts::default()),
        }
    }
}
