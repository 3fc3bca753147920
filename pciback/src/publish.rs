//! Tells XenStore which controllers there are, over this VM's ring: `controller/SSSS-BB-DD-F/{class,vendor,device}` in its own
//! directory (a path there can have neither `:` nor `.`), numbers in hexadecimal.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ennead_channel::pciback::Address;
use ennead_xs_wire::{Errno, PAYLOAD_MAX, Raw, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bus::Function;

/// Linux's way to this VM's ring.
const DEVICE: &str = "/dev/xen/xenbus";
/// How long XenStore may take for all that is asked at once: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(60);

/// The open device.
#[derive(Debug)]
pub(crate) struct Publisher<S = File>(S);

impl Publisher {
    /// Opens the device; to be done before the sandbox closes.
    ///
    /// # Errors
    /// Linux's.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(DEVICE);
        Ok(Self(device.with_context(|| format!("Cannot open {DEVICE}"))?))
    }
}

impl<S: Read + Write + AsFd> Publisher<S> {
    /// Publishes the controllers among `functions`; gives their number.
    ///
    /// # Errors
    /// When XenStore refuses a node, or is silent.
    pub(crate) fn publish(&mut self, functions: &[Function]) -> anyhow::Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        let controllers: Vec<&Function> =
            functions.iter().filter(|function| function.is_controller()).collect();
        for function in &controllers {
            let home = home(function.address);
            for (name, value) in [
                ("class", format!("{:06x}", function.class)),
                ("vendor", format!("{:04x}", function.vendor)),
                ("device", format!("{:04x}", function.device)),
            ] {
                let path = format!("{home}/{name}");
                let request = Request::Write { path: path.as_bytes(), value: value.as_bytes() };
                let written = self.ask(&request, deadline).and_then(done);
                written.with_context(|| format!("Cannot write {path}"))?;
            }
        }
        Ok(controllers.len())
    }

    /// Takes back what is published of a function, if anything is.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub(crate) fn withdraw(&mut self, address: Address) -> anyhow::Result<()> {
        let path = home(address);
        let answer = self.ask(&Request::Rm { path: path.as_bytes() }, Instant::now() + PATIENCE);
        let answer = answer.map(|refused| refused.filter(|errno| *errno != Errno::Enoent));
        answer.and_then(done).with_context(|| format!("Cannot remove {path}"))
    }

    /// What XenStore refuses with, if it does.
    fn ask(&mut self, request: &Request<'_>, deadline: Instant) -> anyhow::Result<Option<Errno>> {
        self.0.write_all(&request.message(0, 0))?;
        let mut answer = Vec::new();
        loop {
            if let Some((raw, _)) = Raw::split(&answer)? {
                match raw.error() {
                    None if raw.header.op != request.op() as u32 => bail!("XenStore answered something else"),
                    refused => return Ok(refused),
                }
            }
            self.read(&mut answer, deadline)?;
        }
    }

    /// Reads what there is; waits for something.
    fn read(&mut self, answer: &mut Vec<u8>, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut buffer = [0; PAYLOAD_MAX];
        let count = self.0.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(())
    }
}

/// A function's directory.
fn home(address: Address) -> String {
    format!("controller/{}", address.to_string().replace([':', '.'], "-"))
}

fn done(refused: Option<Errno>) -> anyhow::Result<()> {
    refused.map_or(Ok(()), |errno| bail!("XenStore refused: {errno}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use ennead_xs_wire::{Errno, Header, Message, Reply};

    use super::*;

    fn function(address: &str, class: u32) -> Function {
        let address = address.parse().expect("an address");
        Function {
            address,
            class,
            vendor: 0x8086,
            device: 0x10d3,
            driver: String::new(),
            has_msi: true,
            has_reset: true,
        }
    }

    /// A XenStore that answers each request with `reply`, and gives what was written, `gone` for what was removed.
    fn xenstore(reply: Reply<'static>) -> (Publisher<UnixStream>, thread::JoinHandle<Vec<(String, String)>>) {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let serving = thread::spawn(move || {
            let (mut written, mut bytes, mut buffer) = (Vec::new(), Vec::new(), [0; 256]);
            loop {
                while let Some((raw, length)) = Raw::split(&bytes).expect("a message") {
                    let (path, value) = match Request::decode(raw.header.op, raw.payload) {
                        Ok(Request::Write { path, value }) => (path, value),
                        Ok(Request::Rm { path }) => (path, b"gone".as_slice()),
                        other => panic!("{other:?}"),
                    };
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    assert!(
                        ennead_xs_wire::path::is_valid(&[b"/local/domain/3/", path].concat()),
                        "{}",
                        text(path)
                    );
                    written.push((text(path), text(value)));
                    let Header { op, request_id, tx_id, .. } = raw.header;
                    let answer = Message::Reply { op, request_id, tx_id, reply: reply.clone() }.encode();
                    // In two pieces, as a ring may give it.
                    let (first, rest) = answer.split_at(5);
                    let _ = theirs.write_all(first).and_then(|()| theirs.write_all(rest));
                    bytes.drain(..length);
                }
                match theirs.read(&mut buffer) {
                    Ok(0) | Err(_) => return written,
                    Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                }
            }
        });
        (Publisher(ours), serving)
    }

    #[test]
    fn controllers_are_published_and_nothing_else() {
        let (mut publisher, serving) = xenstore(Reply::Done);
        let functions = [function("0000:00:00.0", 0x06_0000), function("0000:00:1f.2", 0x01_0601)];
        assert_eq!(publisher.publish(&functions).expect("it answers"), 1);
        let node = |name: &str, value: &str| (format!("controller/0000-00-1f-2/{name}"), value.to_owned());
        publisher.withdraw(functions[1].address).expect("it answers");
        drop(publisher);
        let gone = ("controller/0000-00-1f-2".to_owned(), "gone".to_owned());
        let expected = [node("class", "010601"), node("vendor", "8086"), node("device", "10d3"), gone];
        assert_eq!(serving.join().expect("it serves"), expected);
    }

    #[test]
    fn a_refusal_names_the_node_and_the_reason() {
        let (mut publisher, _serving) = xenstore(Reply::Error(Errno::Eacces));
        let controller = function("0000:00:1f.2", 0x01_0601);
        let e = publisher.publish(std::slice::from_ref(&controller)).expect_err("refused");
        assert_eq!(format!("{e:#}"), "Cannot write controller/0000-00-1f-2/class: XenStore refused: EACCES");
        let e = publisher.withdraw(controller.address).expect_err("refused");
        assert_eq!(format!("{e:#}"), "Cannot remove controller/0000-00-1f-2: XenStore refused: EACCES");
    }

    #[test]
    fn what_was_never_published_can_go() {
        let (mut publisher, _serving) = xenstore(Reply::Error(Errno::Enoent));
        publisher.withdraw(function("0000:00:00.0", 0x06_0000).address).expect("nothing is there");
    }

    #[test]
    fn a_silent_xenstore_is_not_waited_for_for_ever() {
        let (ours, _silent) = UnixStream::pair().expect("a pair of sockets");
        let deadline = Instant::now() + Duration::from_millis(20);
        let request = Request::Rm { path: b"a" };
        assert!(Publisher(ours).ask(&request, deadline).is_err());
        let (ours, _) = UnixStream::pair().expect("a pair of sockets");
        assert!(Publisher(ours).ask(&request, deadline).is_err(), "closed");
    }
}
