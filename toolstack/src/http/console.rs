//! A guest's console: a connection that has been upgraded to bytes both ways.

use std::rc::Rc;
use std::time::Duration;

use ennead_api::{ApiError, CONSOLE_PROTOCOL, ErrorKind};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::UPGRADE;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tracing::debug;

use super::answer::Answer;
use crate::console::client::{Console, Error};
use crate::manager::Manager;
use crate::problem::Problem;

/// Bytes that are read from an operator at once.
const PIECE: usize = 1024;
/// How long a connection that has sent its end is still told what the guest prints.
const LINGER: Duration = Duration::from_secs(60);

/// Answers with the upgrade; the console is then served by a task of its own.
pub(super) fn attach(
    manager: &Rc<Manager>,
    name: &str,
    mut request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (console, number) = manager.console(name)?;
    let asked = request.headers().get(UPGRADE).is_some_and(|protocol| protocol == CONSOLE_PROTOCOL);
    if !asked {
        let message = format!("A console is served as `Upgrade: {CONSOLE_PROTOCOL}`");
        return Err(ApiError::new(ErrorKind::Invalid, message).help("use `ennead console`"));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (manager, name) = (Rc::clone(manager), name.to_owned());
    tokio::task::spawn_local(async move {
        let ended = match upgrade.await {
            Ok(upgraded) => {
                serve(TokioIo::new(upgraded), &console, number, || manager.has_console(&name, number)).await
            }
            Err(e) => Err(e.into()),
        };
        if let Err(e) = ended {
            debug!(cause = %e, "console-left");
        }
    });
    Ok(Answer::upgrade(CONSOLE_PROTOCOL))
}

/// What was printed before, then what comes, until the operator or the guest is gone; and what is typed to the guest.
async fn serve<S: AsyncRead + AsyncWrite>(
    stream: S,
    console: &Console,
    number: u32,
    is_there: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let input = async {
        let mut buffer = [0; PIECE];
        loop {
            let count = reader.read(&mut buffer).await?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            console.write(number, bytes).await?;
        }
    };
    let mut from = 0;
    let mut grown = console.grown();
    let output = async {
        loop {
            grown.mark_unchanged();
            while let Some(end) = pass(&mut writer, console, number, from).await? {
                from = end;
            }
            if !is_there() || grown.changed().await.is_err() {
                // TLS knows the end from a connection that broke.
                writer.shutdown().await?;
                return anyhow::Ok(());
            }
        }
    };
    tokio::pin!(output);
    let typed: anyhow::Result<()> = tokio::select! {
        ended = &mut output => return ended,
        typed = input => typed,
    };
    typed?;
    // The operator has no more to say, and may still want to hear.
    timeout(LINGER, output).await.unwrap_or(Ok(()))
}

/// Passes on what there is from a position on; gives the position behind it, or `None` if there is nothing.
async fn pass(
    writer: &mut (impl AsyncWrite + Unpin),
    console: &Console,
    number: u32,
    from: u64,
) -> anyhow::Result<Option<u64>> {
    let (start, bytes) = console.read(number, from).await.map_err(|e: Error| anyhow::Error::from(e))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    writer.write_all(&bytes).await?;
    writer.flush().await?;
    Ok(Some(start.saturating_add(u64::try_from(bytes.len())?)))
}
