//! The operator's line: between the channel to pciback, which passes bytes on, and the queues of `ennead_line`.

use std::collections::VecDeque;
use std::time::Duration;

use ennead_channel::line::{Bytes, MAX_DATA};
use ennead_channel::{Client, Error, Line as Protocol, List};
use ennead_line::{Event, Line, QUEUE};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::bell::Bell;

/// Messages after which others get their turn.
const TURN: usize = 32;

/// One end of the channel; a trait so that tests do without Xen.
pub trait Pipe {
    /// The next message, if there is one.
    ///
    /// # Errors
    /// When the channel is broken.
    fn receive(&mut self) -> anyhow::Result<Option<Bytes>>;
    /// Sends a message; `false` if there is no room for it now.
    ///
    /// # Errors
    /// When the channel is broken.
    fn send(&mut self, message: &Bytes) -> anyhow::Result<bool>;
    /// Waits until one of them may do what it could not do before. Safe to drop.
    ///
    /// # Errors
    /// When the channel is broken.
    fn rung(&mut self) -> impl Future<Output = anyhow::Result<()>>;
}

/// The channel.
#[derive(Debug)]
pub struct Channel {
    client: Client<Protocol>,
    bell: Bell,
}

impl Channel {
    /// Over a channel that is open.
    #[must_use]
    pub fn new(client: Client<Protocol>, bell: Bell) -> Self {
        Self { client, bell }
    }
}

impl Pipe for Channel {
    fn receive(&mut self) -> anyhow::Result<Option<Bytes>> {
        Ok(self.client.try_recv(self.bell.events())?.map(|message| message.body))
    }

    fn send(&mut self, message: &Bytes) -> anyhow::Result<bool> {
        match self.client.send(self.bell.events(), message.clone(), Duration::ZERO) {
            Ok(_) => Ok(true),
            Err(Error::Timeout { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    async fn rung(&mut self) -> anyhow::Result<()> {
        self.bell.rung().await
    }
}

/// The line's end for `ennead_line::serve`, and what is to be given to [`carry`].
#[must_use]
pub fn line() -> (Line, Ends) {
    let (to_server, incoming) = mpsc::channel(QUEUE);
    let (outgoing, from_server) = mpsc::channel(QUEUE);
    (Line { incoming, outgoing }, Ends { to_server, from_server })
}

/// The other ends of a [`Line`]'s queues.
#[derive(Debug)]
pub struct Ends {
    to_server: mpsc::Sender<Event>,
    from_server: mpsc::Receiver<Event>,
}

/// Carries bytes both ways, neither direction waiting for the other, until the server ends.
///
/// # Errors
/// When the channel is broken.
pub async fn carry<P: Pipe>(mut pipe: P, mut ends: Ends) -> anyhow::Result<()> {
    let mut inward: Option<Event> = None;
    let mut outward: VecDeque<Bytes> = VecDeque::new();
    let mut turn = 0;
    loop {
        let mut moved = false;
        if inward.is_none() {
            inward = pipe.receive()?.map(event);
        }
        if let Some(event) = inward.take() {
            match ends.to_server.try_send(event) {
                Ok(()) => moved = true,
                Err(TrySendError::Full(event)) => inward = Some(event),
                Err(TrySendError::Closed(_)) => return Ok(()),
            }
        }
        if outward.is_empty()
            && let Ok(event) = ends.from_server.try_recv()
        {
            outward = messages(event);
        }
        if let Some(message) = outward.front()
            && pipe.send(message)?
        {
            outward.pop_front();
            moved = true;
        }
        if moved {
            turn = (turn + 1) % TURN;
            if turn == 0 {
                tokio::task::yield_now().await;
            }
            continue;
        }
        tokio::select! {
            // There is room: it is used above.
            permit = ends.to_server.reserve(), if inward.is_some() => {
                if permit.is_err() {
                    return Ok(());
                }
            }
            event = ends.from_server.recv(), if outward.is_empty() => match event {
                Some(event) => outward = messages(event),
                None => return Ok(()),
            },
            rung = pipe.rung() => rung?,
        }
    }
}

fn event(message: Bytes) -> Event {
    match message {
        Bytes::Reset => Event::Reset,
        Bytes::Data(bytes) => Event::Data(bytes.into_vec()),
    }
}

fn messages(event: Event) -> VecDeque<Bytes> {
    match event {
        Event::Reset => [Bytes::Reset].into(),
        Event::Data(bytes) => {
            bytes.chunks(MAX_DATA).filter_map(|part| List::new(part.to_vec()).map(Bytes::Data)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::sync::Notify;

    use super::*;

    /// A channel of which each direction holds two messages.
    #[derive(Default)]
    struct Fake {
        to_us: RefCell<VecDeque<Bytes>>,
        from_us: RefCell<VecDeque<Bytes>>,
        rung: Notify,
    }

    impl Pipe for Rc<Fake> {
        fn receive(&mut self) -> anyhow::Result<Option<Bytes>> {
            Ok(self.to_us.borrow_mut().pop_front())
        }

        fn send(&mut self, message: &Bytes) -> anyhow::Result<bool> {
            let mut from_us = self.from_us.borrow_mut();
            let room = from_us.len() < 2;
            if room {
                from_us.push_back(message.clone());
            }
            Ok(room)
        }

        async fn rung(&mut self) -> anyhow::Result<()> {
            self.rung.notified().await;
            Ok(())
        }
    }

    fn data(bytes: &[u8]) -> Bytes {
        Bytes::Data(List::new(bytes.to_vec()).unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn neither_direction_waits_for_the_other() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let fake = Rc::new(Fake::default());
                let (mut line, ends) = line();
                let carrying = tokio::task::spawn_local(carry(Rc::clone(&fake), ends));
                // Nobody takes what goes out, more than everything on the way holds.
                let outgoing = line.outgoing.clone();
                let sent: Vec<u8> = (0..=255).cycle().take(MAX_DATA * 4 + 5).collect();
                let all = sent.clone();
                tokio::task::spawn_local(async move {
                    outgoing.send(Event::Reset).await.unwrap();
                    for _ in 0..20 {
                        outgoing.send(Event::Data(all.clone())).await.unwrap();
                    }
                });
                for n in 0..50_u8 {
                    fake.to_us.borrow_mut().push_back(data(&[n]));
                    fake.rung.notify_one();
                    assert_eq!(line.incoming.recv().await, Some(Event::Data(vec![n])));
                }
                assert_eq!(fake.from_us.borrow().len(), 2);
                let mut came = Vec::new();
                let mut resets = 0;
                while came.len() < sent.len() * 20 {
                    let message = fake.from_us.borrow_mut().pop_front();
                    match message {
                        Some(Bytes::Reset) => resets += 1,
                        Some(Bytes::Data(bytes)) => came.extend(bytes.into_vec()),
                        None => {
                            fake.rung.notify_one();
                            tokio::task::yield_now().await;
                        }
                    }
                }
                assert_eq!((came, resets), (sent.repeat(20), 1));
                // Nobody takes what comes in: it waits, and none is lost.
                fake.to_us.borrow_mut().extend((0..40).map(|n| data(&[n])));
                fake.to_us.borrow_mut().push_back(Bytes::Reset);
                fake.rung.notify_one();
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                assert!(!fake.to_us.borrow().is_empty());
                for n in 0..40 {
                    assert_eq!(line.incoming.recv().await, Some(Event::Data(vec![n])));
                }
                assert_eq!(line.incoming.recv().await, Some(Event::Reset));
                drop(line);
                carrying.await.unwrap().unwrap();
            })
            .await;
    }
}
