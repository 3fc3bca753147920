//! The load generator: one thread, many connections, each with some requests on their way.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ennead_xs_wire::{Errno, Raw};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use super::script::{Kind, Script};
use crate::client::show;

/// How long a daemon may be silent.
const STALL: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// After this time; scripts that have begun are finished.
    Elapsed(Duration),
    /// When every connection has gone through its script this many times.
    Times(u64),
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    script: Script,
    /// The line to send next.
    next: usize,
    /// Lines sent and not answered.
    waiting: VecDeque<usize>,
    transaction: Option<u32>,
    begun: u64,
    finished: u64,
    output: Vec<u8>,
    input: Vec<u8>,
}

impl Connection {
    /// Queues requests until `depth` are on their way; `again` tells whether to begin the script once more.
    fn queue(&mut self, depth: usize, again: impl Fn(u64) -> bool) {
        while self.waiting.len() < depth {
            let Some(line) = self.script.0.get(self.next) else { return };
            if self.next == 0 {
                if !again(self.begun) {
                    return;
                }
                self.begun += 1;
            }
            let id = if line.in_transaction { self.transaction } else { Some(0) };
            // The answer to START has yet to come.
            let Some(id) = id else { return };
            let (words, rest) = line.bytes.split_at(8);
            self.output.extend_from_slice(words);
            // The third word is the transaction.
            self.output.extend_from_slice(&id.to_le_bytes());
            self.output.extend_from_slice(rest.get(4..).unwrap_or_default());
            if line.kind == Kind::Start {
                self.transaction = None;
            }
            self.waiting.push_back(self.next);
            self.next = (self.next + 1) % self.script.0.len();
        }
    }

    fn send(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("Cannot write to the daemon"),
            }
        }
        Ok(())
    }

    /// Reads once and goes through the answers.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<()> {
        let count = match self.stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            read => read.context("Cannot read from the daemon")?,
        };
        anyhow::ensure!(count > 0, "The daemon hung up");
        self.input.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let mut used = 0;
        while let Some((raw, length)) = Raw::split(self.input.get(used..).unwrap_or_default())? {
            used += length;
            let at = self.waiting.pop_front().context("A reply without a request")?;
            let line = self.script.0.get(at).context("No such line")?;
            if raw.is_error() && !(line.kind == Kind::End && raw.error() == Some(Errno::Eagain)) {
                anyhow::bail!("{} is answered {}", show(&line.bytes), show(raw.payload));
            }
            if line.kind == Kind::Start {
                let text = raw.payload.strip_suffix(&[0]).unwrap_or(raw.payload);
                let id = std::str::from_utf8(text).context("No transaction")?;
                self.transaction = Some(id.parse().context("No transaction")?);
            }
            if at + 1 == self.script.0.len() {
                self.finished += 1;
            }
        }
        self.input.drain(..used);
        Ok(())
    }
}

/// Several connections, each with its script.
#[derive(Debug)]
pub(super) struct Load {
    connections: Vec<Connection>,
    epoll: OwnedFd,
    buffer: Vec<u8>,
}

impl Load {
    /// Connects once for each script. The time that takes is not measured.
    pub(super) fn new(socket: &Path, scripts: impl IntoIterator<Item = Script>) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("Cannot make an epoll")?;
        let mut connections: Vec<Connection> = Vec::new();
        for script in scripts {
            let stream = connect(socket)?;
            let data = epoll::EventData::new_u64(u64::try_from(connections.len())?);
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN).context("Cannot add to an epoll")?;
            connections.push(Connection {
                stream,
                script,
                next: 0,
                waiting: VecDeque::new(),
                transaction: None,
                begun: 0,
                finished: 0,
                output: Vec::new(),
                input: Vec::new(),
            });
        }
        // One connection that waits for each answer needs no epoll in between.
        let blocking = connections.len() == 1;
        for connection in &connections {
            connection.stream.set_nonblocking(!blocking).context("Cannot change a socket's mode")?;
        }
        Ok(Self { connections, epoll, buffer: vec![0; 64 * 1024] })
    }

    /// Goes through the scripts with up to `depth` requests on their way in each connection; scripts finished a second.
    pub(super) fn run(&mut self, depth: usize, until: Until) -> Result<f64> {
        let began = Instant::now();
        let again = |begun: u64| match until {
            Until::Elapsed(limit) => began.elapsed() < limit,
            Until::Times(times) => begun < times,
        };
        for connection in &mut self.connections {
            (connection.begun, connection.finished) = (0, 0);
            connection.queue(depth, again);
            connection.send()?;
        }
        let busy = |connection: &Connection| !connection.waiting.is_empty();
        let mut active = self.connections.iter().filter(|connection| busy(connection)).count();
        let mut events = Vec::with_capacity(self.connections.len());
        while active > 0 {
            if self.connections.len() == 1 {
                events.clear();
                events.push(0);
            } else {
                wait(&self.epoll, &mut events, self.connections.len())?;
            }
            for at in &events {
                let Some(connection) = self.connections.get_mut(*at) else { continue };
                connection.receive(&mut self.buffer)?;
                connection.queue(depth, again);
                connection.send()?;
                if !busy(connection) {
                    active -= 1;
                }
            }
        }
        let time = began.elapsed().as_secs_f64();
        let finished: u64 = self.connections.iter().map(|connection| connection.finished).sum();
        Ok(f64::from(u32::try_from(finished)?) / time)
    }
}

/// The connections that have something to read.
fn wait(epoll: &OwnedFd, ready: &mut Vec<usize>, most: usize) -> Result<()> {
    let mut events = Vec::with_capacity(most);
    epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&STALL))
        .context("Cannot wait for the daemon")?;
    anyhow::ensure!(!events.is_empty(), "The daemon is silent");
    ready.clear();
    for event in &events {
        ready.push(usize::try_from(event.data.u64())?);
    }
    Ok(())
}

/// A connection to the daemon.
pub(super) fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).with_context(|| format!("Cannot connect to {}", socket.display()))
}
