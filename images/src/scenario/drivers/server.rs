//! A web server on this machine, which QEMU's network has at 10.0.2.2.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result};

use crate::cache::sha256;

/// MiB of what it serves.
pub(in crate::scenario) const MIB: usize = 16;

pub(in crate::scenario) struct Server {
    pub(in crate::scenario) port: u16,
    pub(in crate::scenario) sha256: String,
}

impl Server {
    pub(in crate::scenario) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("Cannot serve HTTP")?;
        let port = listener.local_addr()?.port();
        // Bytes that no fault repeats: those of a generator (xorshift).
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let body: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take((MIB << 20) / 8)
        .flatten()
        .collect();
        let sha256 = sha256(&body);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Somebody who goes away early is the guest's affair.
                let _ = answer(stream, &body);
            }
        });
        Ok(Self { port, sha256 })
    }
}

fn answer(mut stream: TcpStream, body: &[u8]) -> std::io::Result<()> {
    let _ = stream.read(&mut [0; 4096])?;
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}
