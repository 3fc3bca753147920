//! Both ends over sockets, with resets and noise between them.
#![forbid(unsafe_code)]

use std::time::Duration;

use ennead_line::{Dialer, Event, Framer, Line, Stream, connect, over, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// For what must come; a hang is a failure.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("no {what}"))
}

fn client(socket: UnixStream) -> Dialer {
    let (dialer, carrier) = connect(over(socket));
    tokio::spawn(carrier);
    dialer
}

/// Sends back what comes, with its end.
fn echo(line: Line) -> JoinHandle<()> {
    let (mut streams, carrier) = serve(line);
    tokio::spawn(async move {
        while let Some(stream) = streams.recv().await {
            tokio::spawn(echo_one(stream));
        }
    });
    tokio::spawn(carrier)
}

async fn echo_one(stream: Stream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    // A reset ends it.
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

async fn ask(dialer: &Dialer, text: &[u8]) -> Vec<u8> {
    let stream = soon("stream", dialer.open()).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let write = async {
        // What is not sent is missing in the answer.
        let _ = writer.write_all(text).await;
        let _ = writer.shutdown().await;
    };
    let (read, ()) = soon("answer", async { tokio::join!(reader.read_to_end(&mut answer), write) }).await;
    read.unwrap();
    answer
}

fn pair() -> (Line, Line) {
    let (a, b) = UnixStream::pair().unwrap();
    (over(a), over(b))
}

/// Between the ends, as pciback is: what comes for a toolstack waits for the next while there is none.
async fn pciback(mut outside: Line, mut toolstacks: mpsc::Receiver<Line>) {
    let mut inside: Option<Line> = None;
    loop {
        let to_inside = inside.as_ref().map(|line| line.outgoing.clone());
        let from_inside = async {
            match &mut inside {
                Some(line) => line.incoming.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            new = toolstacks.recv() => match new {
                Some(new) => inside = Some(new),
                None => return,
            },
            event = from_inside => match event {
                Some(event) => outside.outgoing.send(event).await.unwrap(),
                None => inside = None,
            },
            event = outside.incoming.recv(), if to_inside.is_some() => match (event, to_inside) {
                // That it is gone is seen on the other queue.
                (Some(event), Some(inside)) => drop(inside.send(event).await),
                _ => return,
            },
        }
    }
}

#[tokio::test]
async fn connections_are_apart() {
    let (a, b) = UnixStream::pair().unwrap();
    echo(over(b));
    let dialer = client(a);
    let (big, small) = (vec![0xff; 3_000_000], vec![0; 1000]);
    let (first, second) = tokio::join!(ask(&dialer, &big), ask(&dialer, &small));
    assert!(first == big && second == small);
    // More than may be open at once, one after the other and in tens.
    for round in 0..10_u8 {
        let asked: Vec<_> = (0..10_u8)
            .map(|n| (dialer.clone(), vec![round, n]))
            .map(|(d, text)| tokio::spawn(async move { ask(&d, &text).await == text }))
            .collect();
        for answer in asked {
            assert!(answer.await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_client_that_comes_first_waits() {
    let (a, b) = UnixStream::pair().unwrap();
    let dialer = client(a);
    let asked = tokio::spawn(async move { ask(&dialer, b"early").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    echo(over(b));
    assert_eq!(asked.await.unwrap(), b"early");
}

#[tokio::test]
async fn a_new_server_takes_over() {
    let (a, outside) = UnixStream::pair().unwrap();
    let dialer = client(a);
    let (toolstacks, new) = mpsc::channel(1);
    tokio::spawn(pciback(over(outside), new));
    // What is asked before there is any waits, and is not lost.
    let early = tokio::spawn({
        let dialer = dialer.clone();
        async move { ask(&dialer, b"early").await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut server = None;
    for round in 0..10_u8 {
        let (end, line) = pair();
        server = Some(echo(line)).or(server);
        toolstacks.send(end).await.unwrap();
        // As long as the client has not heard of the new one, what it opens ends with the session.
        let mut answered = false;
        for _ in 0..10 {
            answered = answered || ask(&dialer, &[round]).await == [round];
        }
        assert!(answered, "round {round}");
        let mut open = soon("stream", dialer.open()).await.unwrap();
        open.write_all(b"x").await.unwrap();
        assert_eq!(soon("echo", open.read_u8()).await.unwrap(), b'x', "round {round}");
        if let Some(server) = &server {
            server.abort();
        }
        let (end, line) = pair();
        server = Some(echo(line));
        toolstacks.send(end).await.unwrap();
        assert!(soon("end", open.read_u8()).await.is_err(), "round {round}");
        // It has heard: nothing is lost now.
        assert_eq!(ask(&dialer, &[round]).await, [round]);
    }
    assert_eq!(early.await.unwrap(), b"early");
}

#[tokio::test]
async fn what_earlier_ends_left_does_no_harm() {
    let mut half = Vec::new();
    Framer::data(&[0x55; 3000], &mut half);
    let mut session = Vec::new();
    Framer::reset(&mut session);
    // A yamux header (version, type data, flag SYN) that lacks its end.
    Framer::data(&[0, 0, 0, 1, 0, 0], &mut session);
    for noise in
        [half.get(..1000).unwrap(), &half, &session, b"\x01", b"\xff", b"\0\0\0\0", b"no frames at all"]
    {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(noise).await.unwrap();
        b.write_all(noise).await.unwrap();
        echo(over(b));
        let dialer = client(a);
        assert_eq!(ask(&dialer, b"through").await, b"through", "after {} bytes", noise.len());
    }
}

#[tokio::test]
async fn a_session_that_is_no_yamux_ends_and_the_next_works() {
    let (end, line) = pair();
    let (mut streams, carrier) = serve(line);
    tokio::spawn(carrier);
    end.outgoing.send(Event::Reset).await.unwrap();
    end.outgoing.send(Event::Data(b"GET / HTTP/1.1\r\n\r\n".to_vec())).await.unwrap();
    let (dialer, carrier) = connect(end);
    tokio::spawn(carrier);
    let mut stream = soon("stream", dialer.open()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut text = [0; 5];
    soon("text", soon("connection", streams.recv()).await.unwrap().read_exact(&mut text)).await.unwrap();
    assert_eq!(&text, b"hello");
}

#[tokio::test]
async fn a_reset_is_answered_with_its_number() {
    let (end, line) = pair();
    let (_streams, carrier) = serve(line);
    tokio::spawn(carrier);
    let Line { mut incoming, outgoing } = end;
    assert_eq!(incoming.recv().await, Some(Event::Reset));
    assert_eq!(incoming.recv().await, Some(Event::Data(vec![0; 8])));
    // The last of them counts, however it comes.
    let numbers: [&[u8]; 5] = [b"", b"1234567", b"abcdefgh", b"abcd", b"efgi"];
    for number in numbers {
        if number != b"efgi" {
            outgoing.send(Event::Reset).await.unwrap();
        }
        outgoing.send(Event::Data(number.to_vec())).await.unwrap();
    }
    let mut came = Vec::new();
    while !came.ends_with(b"abcdefgi") {
        match soon("answer", incoming.recv()).await.unwrap() {
            Event::Reset => came.clear(),
            Event::Data(data) => came.extend(data),
        }
    }
    assert_eq!(came, b"abcdefgi");
}

#[tokio::test]
async fn without_a_line_there_is_an_error() {
    let (a, b) = UnixStream::pair().unwrap();
    let (dialer, carrier) = connect(over(a));
    drop(b);
    soon("end of the line", carrier).await;
    let error = soon("error", dialer.open()).await.unwrap_err();
    assert_eq!(error.to_string(), "The line to the host has ended");
}
