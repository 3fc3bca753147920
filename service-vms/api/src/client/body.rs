//! Bodies: what is sent, in pieces that are counted, and what comes, up to a limit.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Bytes of a piece: small against what a slow line passes on within a second.
const PIECE: usize = 64 * 1024;

/// Bytes to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: Bytes,
    sent: Arc<AtomicU64>,
}

impl Outgoing {
    /// And the count of those that are on their way.
    pub(super) fn new(bytes: Bytes) -> (Self, Arc<AtomicU64>) {
        let sent = Arc::new(AtomicU64::new(0));
        (Self { bytes, sent: Arc::clone(&sent) }, sent)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let count = self.bytes.len().min(PIECE);
        let piece = self.bytes.split_to(count);
        self.sent.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX))
    }
}
