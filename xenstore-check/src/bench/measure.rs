//! Measurements that are more than a load: latency, watch events, connections, memory.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ennead_xs_wire::{Op, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::load::{Load, Until, connect};
use super::script::Script;
use crate::client::{Client, SocketClient, message, take_packet};
use crate::daemon::Daemon;
use crate::ring::RingClient;

fn request(request: &Request<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    request.encode(&mut payload);
    message(request.op() as u32, 0, 0, &payload)
}

/// The middle one, in microseconds.
fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// Microseconds from a READ to its answer, on one connection, the median.
pub(super) fn latency(socket: &Path, path: &[u8], slice: Duration) -> Result<f64> {
    let mut stream = connect(socket)?;
    let question = request(&Request::Read { path });
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < slice {
        let start = Instant::now();
        stream.write_all(&question).context("Cannot write to the daemon")?;
        receive(&mut stream, 1)?;
        times.push(start.elapsed());
    }
    Ok(median_us(times))
}

/// Connections a second that are made, used for one READ and closed.
pub(super) fn connections(socket: &Path, path: &[u8], slice: Duration) -> Result<f64> {
    let question = request(&Request::Read { path });
    let mut count = 0_u32;
    let began = Instant::now();
    while began.elapsed() < slice {
        let mut stream = connect(socket)?;
        stream.write_all(&question).context("Cannot write to the daemon")?;
        receive(&mut stream, 1)?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// Registers watches with paths of their own on one connection, which must be kept.
pub(super) fn watches(socket: &Path, count: u32) -> Result<SocketClient> {
    let mut client = SocketClient::connect(socket)?;
    let mut packets = 0;
    for number in 0..count {
        let path = format!("/elsewhere/{}/{number}", number % 100);
        client.send(&request(&Request::Watch { path: path.as_bytes(), token: b"elsewhere" }))?;
        // The answer and the first event.
        packets += 2;
        while packets > 0 {
            // Sending may have received already.
            if client.take()?.is_some() {
                packets -= 1;
            } else {
                ready(&client)?;
                client.pump()?;
            }
        }
    }
    Ok(client)
}

fn ready(client: &dyn Client) -> Result<()> {
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    let mut files = [PollFd::from_borrowed_fd(client.events(), PollFlags::IN)];
    let count = poll(&mut files, Some(&limit)).context("Cannot wait for the daemon")?;
    anyhow::ensure!(count > 0, "The daemon is silent");
    Ok(())
}

/// Microseconds from a WRITE until each of `count` connections that watch the node has its event, the median.
pub(super) fn fan_out(socket: &Path, count: usize, slice: Duration) -> Result<f64> {
    let path = b"/bench/watched".as_slice();
    let mut watchers = Vec::new();
    for _ in 0..count {
        let mut watcher = connect(socket)?;
        watcher.write_all(&request(&Request::Watch { path, token: b"t" })).context("Cannot watch")?;
        receive(&mut watcher, 2)?;
        watchers.push(watcher);
    }
    let mut writer = connect(socket)?;
    let write = request(&Request::Write { path, value: b"0123456789abcdef" });
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < slice || times.len() < 3 {
        let start = Instant::now();
        writer.write_all(&write).context("Cannot write to the daemon")?;
        // In any order: each reads what has come, or waits for it.
        for watcher in &mut watchers {
            receive(watcher, 1)?;
        }
        times.push(start.elapsed());
        receive(&mut writer, 1)?;
    }
    Ok(median_us(times))
}

/// Reads until so many whole messages have come.
fn receive(stream: &mut UnixStream, count: usize) -> Result<()> {
    let mut buffer = [0; 4096 + 16];
    let mut input = Vec::new();
    let mut packets = 0;
    while packets < count {
        let length = stream.read(&mut buffer).context("Cannot read from the daemon")?;
        anyhow::ensure!(length > 0, "The daemon hung up");
        input.extend_from_slice(buffer.get(..length).unwrap_or_default());
        while let Some(packet) = take_packet(&mut input)? {
            anyhow::ensure!(packet.op != Op::Error as u32, "The daemon answers with an error: {packet}");
            packets += 1;
        }
    }
    Ok(())
}

/// Milliseconds from the moment when XenStore-Logic is killed until a guest has an answer of the next one, the median.
pub(super) fn restarts(daemon: &mut Daemon, guest: &mut RingClient, count: usize) -> Result<f64> {
    const LOGIC: &str = "xenstore-logic";
    let question = request(&Request::GetDomainPath { domid: 0 });
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        daemon.kill(LOGIC)?;
        daemon.start_again(LOGIC)?;
        guest.send(&question)?;
        let answer = loop {
            if let Some(packet) = guest.take()? {
                break packet;
            }
            ready(guest)?;
            guest.pump()?;
        };
        anyhow::ensure!(answer.payload == b"/local/domain/0\0", "A guest's answer is {answer}");
        times.push(start.elapsed());
    }
    Ok(median_us(times) / 1000.0)
}

/// What a store with many nodes costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Insert {
    /// Nodes a second.
    pub(super) rate: f64,
    /// Bytes of resident memory for each node.
    pub(super) bytes: f64,
}

/// Inserts nodes with values of 32 bytes, 100 in each of many directories, on one connection 16 deep.
pub(super) fn insert(daemon: &Daemon, count: u32) -> Result<Insert> {
    let before = resident(daemon)?;
    let mut script = Script::default();
    for number in 0..count {
        let path = format!("/d/{}/n{}", number / 100, number % 100);
        script = script.then(&Request::Write { path: path.as_bytes(), value: &[b'v'; 32] });
    }
    let mut load = Load::new(&daemon.socket(), [script])?;
    let scripts = load.run(16, Until::Times(1))?;
    drop(load);
    let bytes = resident(daemon)?.saturating_sub(before);
    Ok(Insert {
        rate: scripts * f64::from(count),
        bytes: f64::from(u32::try_from(bytes)?) / f64::from(count),
    })
}

/// Bytes of memory that all processes of a daemon have resident (VmRSS).
pub(super) fn resident(daemon: &Daemon) -> Result<u64> {
    let mut sum = 0;
    for (name, pid) in daemon.pids() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("Cannot read the status of {name}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("No VmRSS")?;
        sum += kib.parse::<u64>().context("VmRSS is no number")? * 1024;
    }
    Ok(sum)
}
