//! A guest's console, with and without a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::fake::GREETING;
use crate::{ennead, with_guest};

/// Waits until it has ended.
fn ended(child: &mut Child) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn without_a_terminal_it_copies() {
    let fake = with_guest();
    let mut child = ennead(&fake, &["console", "web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = child.stdin.take().unwrap();
    let mut shown = child.stdout.take().unwrap();
    let mut greeting = vec![0; GREETING.len()];
    shown.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, GREETING);
    // Also what would leave a terminal.
    typed.write_all(b"ab\x1dc").unwrap();
    let mut answer = [0; 4];
    shown.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"AB\x1dC");
    // The end of the input is none of the console.
    typed.write_all(b"d").unwrap();
    drop(typed);
    shown.read_exact(&mut answer[..1]).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn it_ends_with_the_guest() {
    let fake = with_guest();
    let mut child =
        ennead(&fake, &["console", "web"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.as_ref().unwrap().write_all(b"aq").unwrap();
    assert_eq!(ended(&mut child), 0);
    let mut shown = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut shown).unwrap();
    assert_eq!(shown, [GREETING, b"A"].concat());
}

#[test]
fn create_can_go_on_with_the_console() {
    let fake = with_guest();
    let mut child = ennead(&fake, &["create", "web.toml", "--name", "second", "--console"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_ref().unwrap().write_all(b"aq").unwrap();
    assert_eq!(ended(&mut child), 0);
    let mut shown = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut shown).unwrap();
    assert_eq!(shown, [GREETING, b"A"].concat());
}

/// A terminal, and its other end.
fn terminal() -> (File, File) {
    let outer: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&outer).unwrap();
    unlockpt(&outer).unwrap();
    let name = ptsname(&outer, Vec::new()).unwrap().into_string().unwrap();
    let inner = File::options().read(true).write(true).open(name).unwrap();
    (outer.into(), inner)
}

fn read_until(from: &mut File, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let mut byte = [0];
        from.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
    read
}

#[test]
fn on_a_terminal_each_key_goes_to_the_guest() {
    let fake = with_guest();
    let (mut outer, inner) = terminal();
    let canonical = || {
        tcgetattr(&inner)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    };
    assert!(canonical());
    let end = || Stdio::from(inner.try_clone().unwrap());
    let mut child =
        ennead(&fake, &["console", "web"]).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    let greeting = read_until(&mut outer, b"login: ");
    assert!(String::from_utf8_lossy(&greeting).contains("Ctrl-] leaves"));
    assert!(!canonical());
    // No line's end is needed, and Ctrl-C is the guest's.
    outer.write_all(b"a\x03b").unwrap();
    assert_eq!(read_until(&mut outer, b"B"), b"A\x03B");
    outer.write_all(b"c\x1dd").unwrap();
    assert_eq!(ended(&mut child), 0);
    assert!(canonical());
    // What is told to leave leaves the terminal as it was, too.
    let mut child =
        ennead(&fake, &["console", "web"]).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    read_until(&mut outer, b"login: ");
    assert!(!canonical());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(ended(&mut child), 0);
    assert!(canonical());
}
