//! The serial console by hand, and what Ctrl-C means.

use std::io::BufRead as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::session::Session;

/// How often Ctrl-C was pressed since the console took it over.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// Whether the console answers Ctrl-C; else it ends the program (and QEMU with it).
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The exit code after Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Takes Ctrl-C over; once, when the program starts.
///
/// # Errors
/// When the handler cannot be set.
pub fn handle_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        if TAKEN.load(Ordering::SeqCst) {
            INTERRUPTS.fetch_add(1, Ordering::SeqCst);
        } else {
            std::process::exit(INTERRUPTED);
        }
    })
    .context("Cannot take over Ctrl-C")
}

/// Shows the serial console and types what comes from standard input, until the machine is off.
///
/// # Errors
/// When the machine cannot be reached.
pub fn interact(session: &mut Session) -> Result<()> {
    println!(
        "\nThis is the host's serial console. Commands: list, build NAME, destroy NAME, restart NAME, kill NAME, plan NAME, store PATH, poweroff, reboot."
    );
    println!("Ctrl-C switches the host off, a second Ctrl-C kills it.\n");
    INTERRUPTS.store(0, Ordering::SeqCst);
    TAKEN.store(true, Ordering::SeqCst);
    let (sender, typed) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    session.machine.echo(true);
    let mut asked = false;
    while session.machine.has_ended()?.is_none() {
        match INTERRUPTS.load(Ordering::SeqCst) {
            0 => {}
            1 if !asked => {
                asked = true;
                println!("\nSwitching the host off; Ctrl-C once more kills it.");
                session.machine.type_line("poweroff")?;
            }
            1 => {}
            _ => {
                println!("\nKilled.");
                break;
            }
        }
        match typed.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => session.machine.type_line(&line)?,
            // Nobody types any more; the host goes on.
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(50)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
    TAKEN.store(false, Ordering::SeqCst);
    session.machine.echo(false);
    Ok(())
}
