//! The parts of a kernel, unpacked by a thread of their own: while Builder copies one, those behind it are made.

use std::io;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::thread;

use ennead_channel::guests::Part;
use tokio::sync::mpsc;

use super::{Error, Kernel};

/// Parts that are made before they are asked for.
const AHEAD: usize = 4;

/// Parts as they come, in order.
#[derive(Debug)]
pub struct Ahead {
    parts: mpsc::Receiver<Result<(Part, Vec<u8>), Error>>,
    spare: blocking::Sender<Vec<u8>>,
}

impl Ahead {
    /// Begins to unpack the file that a kernel was read from, in parts of at most `most` bytes.
    ///
    /// # Errors
    /// Linux gives no thread.
    pub fn start(kernel: Arc<Kernel>, file: Arc<Vec<u8>>, most: usize) -> io::Result<Self> {
        let (to, parts) = mpsc::channel(AHEAD);
        let (spare, empty) = blocking::channel();
        for _ in 0..AHEAD {
            // Its other end is below.
            let _ = spare.send(Vec::new());
        }
        let unpack = move || {
            if let Err(error) = unpack(&kernel, &file, most, &empty, &to) {
                // Who asked may have gone.
                let _ = to.blocking_send(Err(error));
            }
        };
        thread::Builder::new().name("unpack".to_owned()).spawn(unpack)?;
        Ok(Self { parts, spare })
    }

    /// The next part and where it belongs; `None` behind the last.
    ///
    /// # Errors
    /// If the file is another one than was analysed.
    pub async fn next(&mut self) -> Result<Option<(Part, Vec<u8>)>, Error> {
        self.parts.recv().await.transpose()
    }

    /// Gives the memory of a part back. Each page of new memory is a fault, which costs a PV domain more than to copy it.
    pub fn reuse(&self, bytes: Vec<u8>) {
        // There may be no more parts.
        let _ = self.spare.send(bytes);
    }
}

/// Makes parts as long as somebody takes them and gives their memory back.
fn unpack(
    kernel: &Kernel,
    file: &[u8],
    most: usize,
    empty: &blocking::Receiver<Vec<u8>>,
    to: &mpsc::Sender<Result<(Part, Vec<u8>), Error>>,
) -> Result<(), Error> {
    let mut parts = kernel.parts(file, most)?;
    while let Ok(mut bytes) = empty.recv() {
        let Some(part) = parts.next(&mut bytes)? else { break };
        if to.blocking_send(Ok((part, bytes))).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::elf;
    use ennead_xen::DomainKind;

    fn start(file: &Arc<Vec<u8>>) -> Ahead {
        let kernel = Kernel::analyse(&elf(&[(0x20_0000, 9000, &[7; 9000])]), DomainKind::Pvh).unwrap();
        Ahead::start(Arc::new(kernel), Arc::clone(file), 1000).unwrap()
    }

    #[tokio::test]
    async fn all_parts_come_in_order_and_then_none() {
        let mut ahead = start(&Arc::new(elf(&[(0x20_0000, 9000, &[7; 9000])])));
        for n in 0..9 {
            let (part, bytes) = ahead.next().await.unwrap().unwrap();
            assert_eq!(part, Part::Kernel { segment: 0, offset: n * 1000 });
            assert_eq!(bytes, [7; 1000]);
            ahead.reuse(bytes);
        }
        assert!(ahead.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn another_file_is_an_error_and_then_the_end() {
        let mut file = elf(&[(0x20_0000, 9000, &[7; 9000])]);
        file.truncate(3000);
        let mut ahead = start(&Arc::new(file));
        let error = loop {
            match ahead.next().await {
                Ok(part) => ahead.reuse(part.expect("the file is too short").1),
                Err(error) => break error,
            }
        };
        assert_eq!(error.to_string(), "The kernel's file is damaged: it ends too early");
        assert!(ahead.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn who_goes_away_ends_the_thread() {
        let file = Arc::new(elf(&[(0x20_0000, 9000, &[7; 9000])]));
        drop(start(&file));
        while Arc::strong_count(&file) > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}
