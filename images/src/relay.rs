//! The operator's way to a toolstack until the host has a network: a unix socket each of whose connections becomes one over the
//! toolstack's line, a serial port of QEMU's.

use std::os::unix::net::{UnixListener as Listener, UnixStream as Stream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ennead_line::{Dialer, connect, over};
use ennead_manifest::{Kind, Plan};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// For QEMU to make its sockets.
const START: Duration = Duration::from_secs(20);

/// Bytes that a connection may send before the toolstack is there.
const EARLY: usize = 64 * 1024;

/// Names of the VMs that have a line: the toolstacks.
#[must_use]
pub fn lines(plan: &Plan) -> Vec<String> {
    plan.vms_of_kind(Kind::Toolstack).map(|vm| vm.name.clone()).collect()
}

/// A socket for operators. It goes when this is dropped; it is dead when the machine is off.
#[derive(Debug)]
pub struct Relay {
    socket: PathBuf,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Relay {
    /// Between QEMU's socket `port`, which it may be about to make, and the new socket `socket`.
    ///
    /// # Errors
    /// When there is no port, or the socket cannot be made.
    pub fn start(port: &Path, socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("Cannot start what passes connections on")?;
        let port = reach(port)?;
        let _ = std::fs::remove_file(socket);
        let listener = Listener::bind(socket)
            .with_context(|| format!("Cannot make the operator's socket {}", socket.display()))?;
        // From here on `drop` takes the socket away.
        let mut relay = Self { socket: socket.to_owned(), thread: None };
        port.set_nonblocking(true)
            .and_then(|()| listener.set_nonblocking(true))
            .context("Cannot poll sockets")?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // Neither fails for a socket that does not block.
                    _ = pass_on(listener, port) => {}
                    _ = stopped => {}
                }
            });
        });
        relay.thread = Some((stop, thread));
        Ok(relay)
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // It ends at once, and cannot be helped if it panicked.
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn reach(port: &Path) -> Result<Stream> {
    let deadline = Instant::now() + START;
    loop {
        match Stream::connect(port) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                return Err(error).with_context(|| format!("Cannot reach the port {}", port.display()));
            }
        }
    }
}

/// Until the line ends.
async fn pass_on(listener: Listener, port: Stream) -> std::io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let (dialer, carrier) = connect(over(UnixStream::from_std(port)?));
    let mut carrier = tokio::spawn(carrier);
    loop {
        tokio::select! {
            _ = &mut carrier => return Ok(()),
            accepted = listener.accept() => {
                let (operator, _) = accepted?;
                tokio::spawn(pass_on_one(operator, dialer.clone()));
            }
        }
    }
}

/// Until either end ends. As long as the toolstack is not there, what is asked is kept, unless who asked goes: nothing is done then
/// that nobody waits for any more.
async fn pass_on_one(mut operator: UnixStream, dialer: Dialer) {
    let mut early = Vec::new();
    let opening = dialer.open();
    tokio::pin!(opening);
    let mut toolstack = loop {
        tokio::select! {
            opened = &mut opening, if !early.is_empty() => match opened {
                Ok(stream) => break stream,
                Err(_) => return,
            },
            count = operator.read_buf(&mut early), if early.len() < EARLY => {
                if count.unwrap_or(0) == 0 {
                    return;
                }
            }
        }
    };
    if toolstack.write_all(&early).await.is_err() {
        return;
    }
    let (mut from_toolstack, mut to_toolstack) = tokio::io::split(toolstack);
    let (mut from_operator, mut to_operator) = operator.split();
    let asked = async {
        // If the toolstack takes no more, its answer may still be on its way.
        let _ = copy(&mut from_operator, &mut to_toolstack).await;
        let _ = to_toolstack.shutdown().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = asked => {}
        // The connection ends with the answer, or when nobody reads it.
        _ = copy(&mut from_toolstack, &mut to_operator) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use ennead_line::serve;

    use super::*;

    /// A toolstack at a port that QEMU would have: sends back what it gets in capital letters, and is killed `kills` times after
    /// its first answer. Between, the port stays, as QEMU's does.
    fn toolstack(port: &Path, kills: u32) -> JoinHandle<()> {
        let listener = Listener::bind(port).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                listener.set_nonblocking(true).unwrap();
                let listener = UnixListener::from_std(listener).unwrap();
                let mut outside = over(listener.accept().await.unwrap().0);
                let mut left = kills;
                loop {
                    let (to_inside, incoming) = tokio::sync::mpsc::channel(4);
                    let (outgoing, mut from_inside) = tokio::sync::mpsc::channel(4);
                    let (mut streams, carrier) = serve(ennead_line::Line { incoming, outgoing });
                    let carrier = tokio::spawn(carrier);
                    let (answered, mut answers) = tokio::sync::mpsc::channel(4);
                    let serving = tokio::spawn(async move {
                        while let Some(stream) = streams.recv().await {
                            tokio::spawn(capitals(stream, answered.clone()));
                        }
                    });
                    loop {
                        tokio::select! {
                            event = outside.incoming.recv() => match event {
                                Some(event) => to_inside.send(event).await.unwrap(),
                                None => return,
                            },
                            event = from_inside.recv() => outside.outgoing.send(event.unwrap()).await.unwrap(),
                            _ = answers.recv(), if left > 0 => {
                                left -= 1;
                                break;
                            }
                        }
                    }
                    carrier.abort();
                    serving.abort();
                }
            });
        })
    }

    async fn capitals(mut stream: ennead_line::Stream, answered: tokio::sync::mpsc::Sender<()>) {
        while let Ok(byte) = stream.read_u8().await {
            if stream.write_u8(byte.to_ascii_uppercase()).await.is_err() {
                return;
            }
        }
        let _ = stream.shutdown().await;
        let _ = answered.send(()).await;
    }

    fn ask(socket: &Path, text: &[u8]) -> Vec<u8> {
        let mut stream = Stream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(text).unwrap();
        let mut answer = vec![0; text.len()];
        match stream.read_exact(&mut answer) {
            Ok(()) => answer,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn each_connection_reaches_the_toolstack() {
        let folder = tempfile::tempdir().unwrap();
        let (port, socket) = (folder.path().join("port"), folder.path().join("socket"));
        let toolstack = toolstack(&port, 0);
        // What is left of an earlier one is no hindrance.
        std::fs::write(&socket, "").unwrap();
        let relay = Relay::start(&port, &socket).unwrap();
        let asking: Vec<_> = (b'a'..=b'j')
            .map(|letter| {
                let socket = socket.clone();
                std::thread::spawn(move || assert_eq!(ask(&socket, &[letter; 9]), [letter - 32; 9]))
            })
            .collect();
        for asked in asking {
            asked.join().unwrap();
        }
        assert_eq!(relay.socket(), socket);
        drop(relay);
        assert!(!socket.exists());
        toolstack.join().unwrap();
    }

    #[test]
    fn a_killed_toolstack_is_followed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (port, socket) = (folder.path().join("port"), folder.path().join("socket"));
        let toolstack = toolstack(&port, 5);
        let relay = Relay::start(&port, &socket).unwrap();
        // A connection that a reset broke is asked for again, as operators do.
        for round in 0..20 {
            let answered = (0..20).any(|_| ask(&socket, b"x") == b"X");
            assert!(answered, "round {round}");
        }
        drop(relay);
        toolstack.join().unwrap();
    }

    #[test]
    fn an_answer_to_what_is_not_read_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let (port, socket) = (folder.path().join("port"), folder.path().join("socket"));
        let listener = Listener::bind(&port).unwrap();
        let relay = Relay::start(&port, &socket).unwrap();
        let (outside, _) = listener.accept().unwrap();
        let toolstack = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                outside.set_nonblocking(true).unwrap();
                let (mut streams, carrier) = serve(over(UnixStream::from_std(outside).unwrap()));
                let carrier = tokio::spawn(carrier);
                while let Some(mut stream) = streams.recv().await {
                    stream.read_u8().await.unwrap();
                    stream.write_all(b"too much").await.unwrap();
                    stream.shutdown().await.unwrap();
                }
                carrier.await.unwrap();
            });
        });
        for _ in 0..20 {
            let mut stream = Stream::connect(&socket).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&vec![0; 2_000_000]).is_err());
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"too much");
            drop(stream);
            assert!(writing.join().unwrap());
        }
        drop(relay);
        toolstack.join().unwrap();
    }

    #[test]
    fn what_nobody_waits_for_is_not_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (port, socket) = (folder.path().join("port"), folder.path().join("socket"));
        // The machine has started, the toolstack has not.
        let listener = Listener::bind(&port).unwrap();
        let relay = Relay::start(&port, &socket).unwrap();
        let (outside, _) = listener.accept().unwrap();
        Stream::connect(&socket).unwrap().write_all(b"given up").unwrap();
        let mut waiting = Stream::connect(&socket).unwrap();
        waiting.write_all(b"waiting").unwrap();
        // Time for the relay to see both.
        std::thread::sleep(Duration::from_millis(300));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let heard = runtime.block_on(async {
            outside.set_nonblocking(true).unwrap();
            let (mut streams, carrier) = serve(over(UnixStream::from_std(outside).unwrap()));
            tokio::spawn(carrier);
            let mut heard = Vec::new();
            while let Ok(Some(mut stream)) =
                tokio::time::timeout(Duration::from_millis(500), streams.recv()).await
            {
                let mut text = vec![0; 7];
                stream.read_exact(&mut text).await.unwrap();
                heard.push(text);
            }
            heard
        });
        assert_eq!(heard, [b"waiting"]);
        drop(relay);
    }

    #[test]
    fn each_toolstack_has_a_line() {
        let manifest = crate::images_dir().join("host.toml");
        let plan = crate::plan::check(&manifest).unwrap().plan;
        let toolstacks = plan.tenants.iter().map(|tenant| tenant.toolstack.clone()).collect::<Vec<_>>();
        assert_eq!(lines(&plan), toolstacks);
    }
}
