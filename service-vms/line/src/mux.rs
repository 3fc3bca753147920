//! Connections over the line: yamux, from reset to reset.

use std::future::poll_fn;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use yamux::{Config, Mode};

use crate::framer::MAX_FRAME;
use crate::stream::Stream;
use crate::wire::{Event, Line};

/// Streams that a server has at most, or it ends the session. Each may have 256 KiB that nobody has read yet.
pub const MAX_STREAMS: usize = 64;

/// Streams that a client opens at most; one more waits. Fewer than the server's, who forgets one later than the client.
const DIALED: usize = 32;

/// Bytes between yamux and the line, either way.
const PIPE: usize = 64 * 1024;

type Connection = yamux::Connection<Compat<DuplexStream>>;

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The other end sent a reset.
    Reset,
    /// The other end does not speak yamux, or no longer.
    Broken,
    /// There is no line any more.
    Closed,
}

/// What follows a reset, so that both ends know which session it begins: the client's number for it, which the server sends back.
type Token = [u8; 8];

/// The token of a server that is new and has no session.
const NEW: Token = [0; 8];

/// Accepts connections: gives the queue that they come out of and what carries them, which is to be spawned. That ends with the line,
/// or when nobody takes them any more.
pub fn serve(line: Line) -> (mpsc::Receiver<Stream>, impl Future<Output = ()> + Send) {
    // Room for all that a session can have; yamux refuses what is beyond.
    let (accepted, streams) = mpsc::channel(MAX_STREAMS);
    (streams, answer(line, accepted))
}

async fn answer(mut line: Line, accepted: mpsc::Sender<Stream>) {
    if !reset(&line, NEW).await {
        return;
    }
    let mut was_reset = false;
    while let Some((token, rest)) = until_reset(&mut line, was_reset).await {
        if !reset(&line, token).await {
            return;
        }
        let end = session(&mut line, rest, Mode::Server, |connection, cx| {
            while let Some(stream) = ready!(connection.poll_next_inbound(cx)).and_then(Result::ok) {
                // It is full only of streams of earlier sessions, and then this one is refused.
                if let Err(TrySendError::Closed(_)) = accepted.try_send(Stream::new(stream, None)) {
                    break;
                }
            }
            Poll::Ready(())
        })
        .await;
        if accepted.is_closed() || end == End::Closed {
            return;
        }
        was_reset = end == End::Reset;
    }
}

/// Opens connections over the line.
#[derive(Debug, Clone)]
pub struct Dialer {
    requests: mpsc::Sender<Request>,
    places: Arc<Semaphore>,
}

/// Somebody waits for a stream.
#[derive(Debug)]
struct Request {
    place: OwnedSemaphorePermit,
    answer: oneshot::Sender<Stream>,
}

impl Dialer {
    /// Opens a connection. Waits as long as the other end has not answered a reset, or too many are open. (The other end hears of a
    /// connection with its first bytes.)
    ///
    /// # Errors
    /// When there is no line any more.
    pub async fn open(&self) -> io::Result<Stream> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "The line to the host has ended");
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| gone())?;
        let (answer, stream) = oneshot::channel();
        self.requests.send(Request { place, answer }).await.map_err(|_| gone())?;
        stream.await.map_err(|_| gone())
    }
}

/// Opens connections: gives the handle that opens them and what carries them, which is to be spawned. That ends with the line, or with
/// the last handle.
pub fn connect(line: Line) -> (Dialer, impl Future<Output = ()> + Send) {
    let (requests, waiting) = mpsc::channel(DIALED);
    (Dialer { requests, places: Arc::new(Semaphore::new(DIALED)) }, carry(line, waiting))
}

async fn carry(mut line: Line, mut waiting: mpsc::Receiver<Request>) {
    let mut next: Option<Request> = None;
    let mut unused = false;
    // Not what an earlier client may have begun with.
    let mut number = RandomState::new().hash_one(());
    while !unused {
        let Some(rest) = begin(&mut line, &mut number).await else { return };
        let end = session(&mut line, rest, Mode::Client, |connection, cx| {
            loop {
                if next.is_none() {
                    match waiting.poll_recv(cx) {
                        Poll::Ready(Some(request)) => next = Some(request),
                        Poll::Ready(None) => {
                            unused = true;
                            return Poll::Ready(());
                        }
                        Poll::Pending => break,
                    }
                }
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        if let Some(Request { place, answer }) = next.take() {
                            // Who no longer waits gets none: it is dropped.
                            let _ = answer.send(Stream::new(stream, Some(place)));
                        }
                    }
                    // `next` waits for the next session.
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            // A server opens none; what it opens all the same is dropped.
            while ready!(connection.poll_next_inbound(cx)).and_then(Result::ok).is_some() {}
            Poll::Ready(())
        })
        .await;
        if end == End::Closed {
            return;
        }
    }
}

/// Begins a session: asks for it until it is answered. Gives what came behind the answer, or `None` if there is no line any more.
async fn begin(line: &mut Line, number: &mut u64) -> Option<Vec<u8>> {
    loop {
        *number = number.wrapping_add(1).max(1);
        let asked = number.to_le_bytes();
        if !reset(line, asked).await {
            return None;
        }
        loop {
            match until_reset(line, false).await? {
                (token, rest) if token == asked => return Some(rest),
                // It is new, and what was asked may have gone with the one before.
                (NEW, _) => break,
                // An answer to what was asked before.
                _ => {}
            }
        }
    }
}

/// Sends a reset. Gives whether there is a line.
async fn reset(line: &Line, token: Token) -> bool {
    let Line { outgoing, .. } = line;
    outgoing.send(Event::Reset).await.is_ok() && outgoing.send(Event::Data(token.to_vec())).await.is_ok()
}

/// Leaves out what comes before the next reset, unless that has come. Gives its token and the bytes that came with it, or `None` if there
/// is no line any more.
async fn until_reset(line: &mut Line, mut was_reset: bool) -> Option<(Token, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        match line.incoming.recv().await? {
            Event::Reset => {
                was_reset = true;
                bytes.clear();
            }
            Event::Data(data) if was_reset => bytes.extend(data),
            Event::Data(_) => {}
        }
        if let Some((token, rest)) = bytes.split_first_chunk() {
            return Some((*token, rest.to_vec()));
        }
    }
}

/// Carries a session until its end. `first` is what has come of it; `drive` is polled to drive yamux, and ready when that has ended.
async fn session(
    line: &mut Line,
    first: Vec<u8>,
    mode: Mode,
    mut drive: impl FnMut(&mut Connection, &mut Context<'_>) -> Poll<()>,
) -> End {
    let (near, far) = tokio::io::duplex(PIPE);
    let mut connection = Connection::new(near.compat(), config(), mode);
    let (mut from_yamux, mut to_yamux) = tokio::io::split(far);
    let Line { incoming, outgoing } = line;
    // Two of them, so that neither direction waits for the other.
    let inbound = async {
        let mut data = first;
        loop {
            if to_yamux.write_all(&data).await.is_err() {
                return End::Broken;
            }
            data = match incoming.recv().await {
                Some(Event::Data(data)) => data,
                Some(Event::Reset) => return End::Reset,
                None => return End::Closed,
            };
        }
    };
    let outbound = async {
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            let count = from_yamux.read(&mut buffer).await.unwrap_or(0);
            let Some(data) = buffer.get(..count).filter(|data| !data.is_empty()) else { return End::Broken };
            if outgoing.send(Event::Data(data.to_vec())).await.is_err() {
                return End::Closed;
            }
        }
    };
    tokio::select! {
        end = inbound => end,
        end = outbound => end,
        () = poll_fn(|cx| drive(&mut connection, cx)) => End::Broken,
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    // No more than each stream is sure of: windows do not grow.
    let window = usize::try_from(yamux::DEFAULT_CREDIT).unwrap_or(usize::MAX);
    config.set_max_connection_receive_window(Some(window.saturating_mul(MAX_STREAMS)));
    config
}
