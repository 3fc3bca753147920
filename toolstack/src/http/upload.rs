//! Taking an image.

use std::rc::Rc;

use ennead_api::{ApiError, ErrorKind, Sha256};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::CONTENT_LENGTH;
use hyper::{Request, StatusCode};
use tokio::time::timeout;

use super::answer::Answer;
use super::{PATIENCE, slow};
use crate::manager::Manager;
use crate::problem::{self, Problem};

/// Takes the image into memory; its length must be known, so that there is room for it, once.
pub(super) async fn take(
    manager: &Rc<Manager>,
    id: Sha256,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length: usize = length.ok_or_else(|| {
        ApiError::new(ErrorKind::Invalid, "The image's length is not known").help("send a `Content-Length`")
    })?;
    let mut body = request.into_body();
    if manager.images.borrow().has(id) {
        skip(&mut body).await?;
        return Ok(Answer::empty(StatusCode::OK));
    }
    let needed = manager.needed_images();
    let expected = manager.images.borrow_mut().expect(id, length, &needed);
    let mut image = match expected {
        Ok(image) => image,
        Err(e) => {
            skip(&mut body).await?;
            return Err(problem::of_images(&e));
        }
    };
    while let Some(bytes) = next(&mut body).await? {
        if !image.push(&bytes) {
            return Err(ApiError::new(ErrorKind::Invalid, "The image is longer than its `Content-Length`"));
        }
    }
    manager.images.borrow_mut().keep(image).map_err(|e| problem::of_images(&e))?;
    Ok(Answer::empty(StatusCode::CREATED))
}

/// Reads a body that nobody wants: who sends it may not listen before it has sent all.
async fn skip(body: &mut Incoming) -> Result<(), Problem> {
    while next(body).await?.is_some() {}
    Ok(())
}

/// The next bytes of a body.
async fn next(body: &mut Incoming) -> Result<Option<hyper::body::Bytes>, Problem> {
    loop {
        let Some(frame) = timeout(PATIENCE, body.frame()).await.map_err(|_| slow())? else { return Ok(None) };
        let broken = |e| ApiError::new(ErrorKind::Invalid, format!("The image did not come whole: {e}"));
        // What is no data are trailers, of which nothing is wanted.
        if let Ok(bytes) = frame.map_err(broken)?.into_data() {
            return Ok(Some(bytes));
        }
    }
}
