//! The operators' API: HTTP/1.1 over whatever streams come in. What is asked and answered stands in `ennead_api`.
//!
//! Whoever gets here is trusted with this tenant's guests, not with this VM: connections, headers, bodies and the time that they may
//! take are bounded.

mod answer;
mod console;
mod upload;

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ennead_api::{Action, ApiError, CreateGuest, ErrorKind, IDEMPOTENCY_KEY, MAX_JSON, NDJSON, Sha256};
use ennead_guest::Disk;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use crate::manager::Manager;
use crate::metrics;
use crate::problem::{self, Problem};
use answer::{Answer, Body};

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// Longest key of a request.
const MAX_KEY: usize = 64;
/// How long a request's head may take, and each piece of a body.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines that wait for a follower.
const LINES: usize = 16;

/// Serves connections as they come, until no more can. To be run in a `LocalSet`.
pub async fn serve<S>(manager: Rc<Manager>, mut connections: mpsc::Receiver<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(stream) = connections.recv().await {
        // One too many is closed.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let manager = Rc::clone(&manager);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let manager = Rc::clone(&manager);
                async move { Ok::<_, Infallible>(respond(manager, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(e) = connection.await {
                // An operator who went away; nothing for the host's console.
                debug!(cause = %e, "connection-ended");
            }
            drop(place);
        });
    }
}

async fn respond(manager: Rc<Manager>, request: Request<Incoming>) -> hyper::Response<Body> {
    let _open = manager.work.begin().await;
    let answer = answer(&manager, request).await.unwrap_or_else(|problem| Answer::problem(&problem));
    let response = answer.into_response();
    let class = response.status().as_u16() / 100;
    let mut requests = manager.counters.requests.borrow_mut();
    let count = requests.entry(class).or_default();
    *count = count.saturating_add(1);
    response
}

async fn answer(manager: &Rc<Manager>, request: Request<Incoming>) -> Result<Answer, Problem> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let get = method == Method::GET;
    match *segments.as_slice() {
        ["metrics"] if get => {
            let text = Rc::clone(manager).metrics().await?;
            Ok(Answer::bytes(metrics::MEDIA_TYPE, text.into_bytes()))
        }
        ["v1", "guests"] if get => Answer::json(&manager.list().await?),
        ["v1", "guests"] if method == Method::POST => create(manager, request).await,
        ["v1", "host"] if get => Answer::json(&manager.host().await?),
        ["v1", "images"] if get => Answer::json(&manager.show_images()),
        ["v1", "images", id] => image(manager, id, &method, request).await,
        ["v1", "volumes"] if get => Answer::json(&manager.volumes().await?),
        ["v1", "volumes"] if method == Method::POST => {
            let wanted = json(request, "volume to create").await?;
            let task = Rc::clone(manager).create_volume(wanted);
            let volume = done(tokio::task::spawn_local(task)).await?;
            Ok(Answer::json(&volume)?.with(StatusCode::CREATED))
        }
        ["v1", "volumes", name] if method == Method::DELETE => {
            let task = Rc::clone(manager).delete_volume(name.to_owned());
            done(tokio::task::spawn_local(task)).await?;
            Ok(Answer::empty(StatusCode::NO_CONTENT))
        }
        ["v1", "volumes", name, "grow"] if method == Method::POST => {
            let wanted = json(request, "size of a volume").await?;
            let task = Rc::clone(manager).grow_volume(name.to_owned(), wanted);
            Answer::json(&done(tokio::task::spawn_local(task)).await?)
        }
        ["v1", "events"] if get => Ok(events(manager, request.uri().query())),
        ["v1", "guests", name] => guest(manager, known(name)?, &method).await,
        ["v1", "guests", name, "log"] if get => {
            let (console, number) = manager.console(known(name)?)?;
            let log = console.read_all(number).await.map_err(|e| problem::of_console(&e))?;
            Ok(Answer::bytes(ennead_api::BYTES, log))
        }
        ["v1", "guests", name, "console"] if get => console::attach(manager, known(name)?, request),
        ["v1", "guests", name, "disks"] if method == Method::POST => {
            let disk: Disk = json(request, "disk").await?;
            let task = Rc::clone(manager).attach(known(name)?.to_owned(), disk);
            let disk = done(tokio::task::spawn_local(task)).await?;
            Ok(Answer::json(&disk)?.with(StatusCode::CREATED))
        }
        ["v1", "guests", name, "disks", vdev] if method == Method::DELETE => {
            let task = Rc::clone(manager).detach(known(name)?.to_owned(), vdev.to_owned());
            done(tokio::task::spawn_local(task)).await?;
            Ok(Answer::empty(StatusCode::NO_CONTENT))
        }
        ["v1", "guests", _, "disks", _] => Err(not_allowed(&method)),
        ["v1", "guests", name, action] => act(manager, known(name)?, action, &method).await,
        ["metrics"] | ["v1", "guests" | "host" | "images" | "events" | "volumes"] => {
            Err(not_allowed(&method))
        }
        _ => Err(not_found()),
    }
}

fn not_found() -> Problem {
    ApiError::new(ErrorKind::NotFound, "There is no such path")
}

fn not_allowed(method: &Method) -> Problem {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("This path has no method {method}"))
}

/// A name that a guest can have.
fn known(name: &str) -> Result<&str, Problem> {
    // What is no name does not come into messages.
    if ennead_guest::is_name(name) { Ok(name) } else { Err(problem::no_such_guest("?")) }
}

/// What a task has done. It goes on if nobody waits any more.
async fn done<T>(task: JoinHandle<Result<T, Problem>>) -> Result<T, Problem> {
    task.await.unwrap_or_else(|e| Err(ApiError::new(ErrorKind::Failed, e.to_string())))
}

async fn guest(manager: &Rc<Manager>, name: &str, method: &Method) -> Result<Answer, Problem> {
    match *method {
        Method::GET => Answer::json(&manager.info(name).await?),
        Method::DELETE => {
            let task = Rc::clone(manager).destroy(name.to_owned());
            done(tokio::task::spawn_local(task)).await?;
            Ok(Answer::empty(StatusCode::NO_CONTENT))
        }
        _ => Err(not_allowed(method)),
    }
}

async fn act(manager: &Rc<Manager>, name: &str, action: &str, method: &Method) -> Result<Answer, Problem> {
    let Ok(action) = action.parse::<Action>() else {
        return Err(if matches!(action, "log" | "console" | "disks") {
            not_allowed(method)
        } else {
            not_found()
        });
    };
    if *method != Method::POST {
        return Err(not_allowed(method));
    }
    let task = Rc::clone(manager).act(name.to_owned(), action);
    done(tokio::task::spawn_local(task)).await?;
    Answer::json(&manager.show(name).await?)
}

async fn create(manager: &Rc<Manager>, request: Request<Incoming>) -> Result<Answer, Problem> {
    let key = key(request.headers())?;
    let wanted: CreateGuest = json(request, "guest to create").await?;
    let task = Rc::clone(manager).create(wanted, key);
    let name = done(tokio::task::spawn_local(task)).await?;
    Ok(Answer::json(&manager.show(&name).await?)?.with(StatusCode::CREATED))
}

/// A request's body, which is to be such a thing.
async fn json<T: DeserializeOwned>(request: Request<Incoming>, what: &str) -> Result<T, Problem> {
    let body = Limited::new(request.into_body(), MAX_JSON).collect();
    let too_long = |e: Box<dyn std::error::Error + Send + Sync>| {
        let kind =
            if e.is::<http_body_util::LengthLimitError>() { ErrorKind::TooLarge } else { ErrorKind::Invalid };
        ApiError::new(kind, format!("The request's body cannot be read: {e}"))
    };
    let body = timeout(PATIENCE, body).await.map_err(|_| slow())?.map_err(too_long)?.to_bytes();
    let wrong = |e| ApiError::new(ErrorKind::Invalid, format!("The request's body is no {what}: {e}"));
    serde_json::from_slice(&body).map_err(wrong)
}

fn slow() -> Problem {
    ApiError::new(ErrorKind::Busy, "The request's body did not come in time")
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let wrong = || {
        let message = format!("The `Idempotency-Key` is not 1 to {MAX_KEY} visible ASCII characters");
        ApiError::new(ErrorKind::Invalid, message)
    };
    let fits = |key: &&str| (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    key.to_str().ok().filter(fits).map(|key| Some(key.to_owned())).ok_or_else(wrong)
}

async fn image(
    manager: &Rc<Manager>,
    id: &str,
    method: &Method,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let id: Sha256 =
        id.parse().map_err(|_| ApiError::new(ErrorKind::NoSuchImage, "There is no such image"))?;
    match *method {
        Method::HEAD if manager.images.borrow().has(id) => Ok(Answer::empty(StatusCode::OK)),
        Method::HEAD => Err(ApiError::new(ErrorKind::NoSuchImage, "There is no such image")),
        Method::PUT => upload::take(manager, id, request).await,
        _ => Err(not_allowed(method)),
    }
}

/// The last events, a line each; with `follow=true` those to come as well.
fn events(manager: &Rc<Manager>, query: Option<&str>) -> Answer {
    let (kept, mut coming) = manager.follow();
    let line = |event: &ennead_api::Event| {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        line
    };
    let kept: Vec<u8> = kept.iter().flat_map(line).collect();
    let follow = format!("{}=true", ennead_api::path::FOLLOW);
    if !query.unwrap_or_default().split('&').any(|parameter| parameter == follow) {
        return Answer::bytes(NDJSON, kept);
    }
    let (lines, body) = mpsc::channel(LINES);
    tokio::task::spawn_local(async move {
        if lines.send(Bytes::from(kept)).await.is_err() {
            return;
        }
        loop {
            let event = tokio::select! {
                event = coming.recv() => event,
                () = lines.closed() => return,
            };
            match event {
                Ok(event) if lines.send(Bytes::from(line(&event))).await.is_err() => return,
                // Who reads too slowly sees a gap in the numbers.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Answer::stream(NDJSON, body)
}
