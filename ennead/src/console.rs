//! A guest's console.

use std::io::IsTerminal as _;

use ennead_api::{Client, Console};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::output::Output;

/// Ctrl-], which leaves.
const LEAVE: u8 = 0x1d;

/// The terminal, so that each key goes to the guest; as it was before when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> rustix::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done if the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Uses a guest's console until it ends or is left.
pub(crate) async fn console(client: &Client, output: Output, name: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::local(format!("Cannot use the terminal: {error}"), "");
    let console = client.console(name).await?;
    let interactive = std::io::stdin().is_terminal();
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (mut from_guest, to_guest) = tokio::io::split(console);
    let raw = if interactive {
        output.note(&format!("The console of {name}; Ctrl-] leaves it."));
        Some(Raw::enter().map_err(|error| failed(error.into()))?)
    } else {
        None
    };
    let shown = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            // An error ends the console as its end does.
            let count = from_guest.read(&mut buffer).await.unwrap_or(0);
            match buffer.get(..count) {
                Some(bytes) if !bytes.is_empty() => output.bytes(bytes)?,
                _ => return Ok(()),
            }
        }
    };
    let ended: Result<bool, Failure> = tokio::select! {
        shown = shown => shown.map(|()| true),
        () = typed(to_guest, interactive) => Ok(false),
        _ = hangup.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
    };
    drop(raw);
    let ended = ended?;
    if interactive {
        output.note(if ended { "\nThe console has ended." } else { "" });
    }
    Ok(())
}

/// Passes on what is typed; ready when the console is left.
async fn typed(mut to_guest: WriteHalf<Console>, interactive: bool) {
    let mut keyboard = tokio::io::stdin();
    let mut buffer = [0; 1024];
    loop {
        let count = keyboard.read(&mut buffer).await.unwrap_or(0);
        let typed = buffer.get(..count).unwrap_or_default();
        let leave = typed.iter().position(|byte| *byte == LEAVE).filter(|_| interactive);
        let passed = typed.get(..leave.unwrap_or(count)).unwrap_or_default();
        let written = to_guest.write_all(passed).await;
        if leave.is_some() || interactive && count == 0 {
            return;
        }
        if count == 0 || written.is_err() {
            // There is nothing more to pass on; what the guest prints is still shown.
            return std::future::pending().await;
        }
    }
}
