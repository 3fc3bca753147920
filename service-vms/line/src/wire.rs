//! The line as queues, and over a socket.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::framer::{Framer, MAX_FRAME, Piece};

/// Events that a queue of [`over`] holds before whoever fills it waits.
pub const QUEUE: usize = 16;

/// What goes along the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next bytes.
    Data(Vec<u8>),
    /// The sender is new: what it was sent before is lost, and what it sends starts here.
    Reset,
}

/// An end of the line. Whoever carries the events closes a queue when there is no line any more. Bounded queues hold back
/// whoever sends faster than the other end reads.
#[derive(Debug)]
pub struct Line {
    /// What comes from the other end.
    pub incoming: mpsc::Receiver<Event>,
    /// What goes there.
    pub outgoing: mpsc::Sender<Event>,
}

/// The line over a socket with frames. It ends when the socket does. To be called in a runtime: two tasks carry the bytes.
pub fn over<S>(socket: S) -> Line
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(socket);
    let (from_socket, incoming) = mpsc::channel(QUEUE);
    let (outgoing, to_socket) = mpsc::channel(QUEUE);
    tokio::spawn(read(reader, from_socket));
    tokio::spawn(write(writer, to_socket));
    Line { incoming, outgoing }
}

/// Ends with the socket, or when nobody reads the events.
async fn read<S: AsyncRead>(mut socket: ReadHalf<S>, events: mpsc::Sender<Event>) {
    let mut framer = Framer::new();
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        let count = tokio::select! {
            // An error ends the stream as its end does: the line is gone, and nobody can do anything about it here.
            count = socket.read(&mut buffer) => count.unwrap_or(0),
            () = events.closed() => return,
        };
        let Some(mut bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return };
        while let Some(piece) = framer.next(&mut bytes) {
            let event = match piece {
                Piece::Data(data) => Event::Data(data.to_vec()),
                Piece::Reset => Event::Reset,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Ends with the socket, or when there are no more events.
async fn write<S: AsyncWrite>(mut socket: WriteHalf<S>, mut events: mpsc::Receiver<Event>) {
    let mut frames = Vec::new();
    while let Some(event) = events.recv().await {
        frames.clear();
        match event {
            Event::Data(data) => Framer::data(&data, &mut frames),
            Event::Reset => Framer::reset(&mut frames),
        }
        if socket.write_all(&frames).await.is_err() {
            return;
        }
    }
}
