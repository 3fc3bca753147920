//! Answers and their bodies.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use ennead_api::{ApiError, ErrorBody, ErrorKind, JSON};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::problem::Problem;

/// A body: all at once, or as it comes.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::Stream(lines) => lines.poll_recv(cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                let len = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(len).unwrap_or(u64::MAX))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    media_type: Option<&'static str>,
    upgrade: Option<&'static str>,
    body: Body,
}

impl Answer {
    /// Nothing but a status.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, media_type: None, upgrade: None, body: Body::Whole(None) }
    }

    /// Bytes.
    pub(super) fn bytes(media_type: &'static str, bytes: Vec<u8>) -> Self {
        let body = Body::Whole(Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()));
        Self { media_type: Some(media_type), body, ..Self::empty(StatusCode::OK) }
    }

    /// Bytes as they come.
    pub(super) fn stream(media_type: &'static str, bytes: mpsc::Receiver<Bytes>) -> Self {
        Self { media_type: Some(media_type), body: Body::Stream(bytes), ..Self::empty(StatusCode::OK) }
    }

    /// A value.
    pub(super) fn json(value: &impl Serialize) -> Result<Self, Problem> {
        let json = serde_json::to_vec(value);
        let json =
            json.map_err(|e| ApiError::new(ErrorKind::Failed, format!("Cannot write the answer: {e}")))?;
        Ok(Self::bytes(JSON, json))
    }

    /// Why it was not done.
    pub(super) fn problem(problem: &Problem) -> Self {
        let status = StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&ErrorBody { error: problem.clone() }).unwrap_or_default();
        Self::bytes(JSON, body).with(status)
    }

    /// From here on this protocol is spoken.
    pub(super) fn upgrade(protocol: &'static str) -> Self {
        Self { upgrade: Some(protocol), ..Self::empty(StatusCode::SWITCHING_PROTOCOLS) }
    }

    /// With another status.
    pub(super) fn with(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(media_type) = self.media_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        if let Some(protocol) = self.upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(protocol));
        }
        response
    }
}
