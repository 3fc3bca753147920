//! The client against hosts that misbehave: each ends in time with an error that says what to do.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use ennead_api::{Address, Client, CreateGuest, Error, ErrorKind, Sha256, Uploaded};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// A host that says these, one a connection, whatever it is asked.
struct Liar {
    folder: tempfile::TempDir,
    task: JoinHandle<Vec<String>>,
}

impl Liar {
    fn new(answers: &[&[u8]]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
        let task = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                asked.push(request(&mut socket).await);
                socket.write_all(&answer).await.unwrap();
            }
            asked
        });
        Self { folder, task }
    }

    fn client(&self) -> Client {
        client(self.folder.path().join("s"))
    }

    async fn asked(self) -> Vec<String> {
        self.task.await.unwrap()
    }
}

/// The head of a request.
async fn request(socket: &mut UnixStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

fn client(path: PathBuf) -> Client {
    Client::new(Address::Unix(path)).patience(Duration::from_millis(300))
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test]
async fn nobody_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let error = client(path.clone()).guests().await.unwrap_err();
    assert!(error.help().unwrap().contains("./run"), "{error:?}");
    drop(UnixListener::bind(&path).unwrap());
    let error = client(path.clone()).guests().await.unwrap_err();
    assert!(error.help().unwrap().contains("left over"), "{error:?}");
    assert!(
        error.chain().contains(&path.display().to_string()) && error.chain().contains("refused"),
        "{error:?}"
    );
}

#[tokio::test]
async fn nobody_answers() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    let client = client(folder.path().join("s"));
    let error = client.guests().await.unwrap_err();
    assert!(matches!(error, Error::NoAnswer { .. }), "{error:?}");
    assert!(error.to_string().ends_with("within 0.3 s"), "{error}");
    // Nor takes what it is sent.
    let image = Bytes::from(vec![0; 8 << 20]);
    let upload = tokio::spawn(async move { client.upload(&Sha256([0; 32]), image, |_| {}).await });
    drop(listener.accept().await.unwrap());
    let (mut socket, _) = listener.accept().await.unwrap();
    request(&mut socket).await;
    socket.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    assert!(request(&mut socket).await.contains("content-length: 8388608"));
    assert!(matches!(upload.await.unwrap(), Err(Error::NoAnswer { .. })));
}

#[tokio::test]
async fn an_answer_that_stops() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    let client = client(folder.path().join("s"));
    let asked = tokio::spawn(async move { client.guests().await });
    let (mut socket, _) = listener.accept().await.unwrap();
    request(&mut socket).await;
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[").await.unwrap();
    assert!(matches!(asked.await.unwrap(), Err(Error::NoAnswer { .. })));
    drop(socket);
}

#[tokio::test]
async fn answers_that_are_none() {
    for (answer, expected) in [
        (&b""[..], "broke"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[", "broke"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broke"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "is wrong"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[{\"a\":1}]", "is wrong"),
        (
            b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 5\r\n\r\n<html",
            "502 Bad Gateway and without a reason",
        ),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", "302 Found"),
    ] {
        let error = Liar::new(&[answer]).client().guests().await.unwrap_err();
        assert!(error.chain().contains(expected), "{expected}: {}", error.chain());
        assert!(error.help().is_some());
    }
    let long = ok(&format!("[{}]", " ".repeat(ennead_api::MAX_JSON)));
    let error = Liar::new(&[&long]).client().guests().await.unwrap_err();
    assert!(error.to_string().ends_with("too long"), "{error}");
    let error = Liar::new(&[&ok("")]).client().console("web").await.unwrap_err();
    assert!(error.to_string().contains("answered the console with 200"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_passed_on() {
    let body = r#"{"error":{"kind":"quota","message":"No room","help":"destroy one"}}"#;
    let answer = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let error = Liar::new(&[answer.as_bytes()]).client().guests().await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.help().as_deref()), ("No room", Some("destroy one")));
    assert!(matches!(error, Error::Refused(error) if error.kind == ErrorKind::Quota));
}

#[tokio::test]
async fn a_guest_is_asked_for_again_under_the_same_key() {
    let config =
        ennead_guest::parse_toml("", "name = \"a\"\nkind = \"pv\"\nkernel = \"/k\"\nmemory-mib = 9\n");
    let guest = CreateGuest {
        config: config.unwrap().config,
        kernel: Some(Sha256([0; 32])),
        ramdisk: None,
        paused: false,
    };
    let liar = Liar::new(&[b"", b""]);
    let error = liar.client().create(&guest).await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    let key = |text: &String| {
        let line = text.lines().find(|line| line.starts_with("idempotency-key: ")).map(str::to_owned);
        line.unwrap()
    };
    let asked = liar.asked().await;
    let keys: Vec<String> = asked.iter().map(key).collect();
    let [first, second] = keys.as_slice() else { panic!("{asked:?}") };
    assert_eq!(first, second);
    assert_eq!(first.len(), "idempotency-key: ".len() + 32);
    let other = Liar::new(&[b"", b""]);
    other.client().create(&guest).await.unwrap_err();
    assert_ne!(other.asked().await.first().map(key).as_ref(), Some(first));
}

#[tokio::test]
async fn what_is_there_is_not_sent() {
    let liar = Liar::new(&[b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]);
    let done = liar.client().upload(&Sha256([0; 32]), Bytes::from_static(b"bytes"), |_| {}).await.unwrap();
    assert_eq!(done, Uploaded::Present);
    assert!(liar.asked().await.concat().starts_with("HEAD /v1/images/0000"));
}

#[tokio::test]
async fn who_refuses_an_image_without_reading_it_is_heard() {
    let body = r#"{"error":{"kind":"too-large","message":"No room"}}"#;
    let refusal = format!(
        "HTTP/1.1 413 Too Large\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let absent = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    for _ in 0..20 {
        let liar = Liar::new(&[absent, refusal.as_bytes()]);
        let image = Bytes::from(vec![0; 8 << 20]);
        let error = liar.client().upload(&Sha256([0; 32]), image, |_| {}).await.unwrap_err();
        assert_eq!(error.chain(), "No room");
    }
}

#[tokio::test]
async fn events_come_in_any_pieces() {
    let event = r#"{"seq":1,"at-ms":2,"guest":null,"domid":null,"event":"toolstack-started","guests":0}"#;
    let text = format!("{event}\n{event}\n");
    let chunks: String = text
        .as_bytes()
        .chunks(7)
        .map(|part| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)))
        .collect();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (end, fails) in
        [("0\r\n\r\n", false), ("", true), ("1\r\n{\r\n0\r\n\r\n", true), ("2\r\n{\n\r\n", true)]
    {
        let liar = Liar::new(&[format!("{head}{chunks}{end}").as_bytes()]);
        let mut events = liar.client().events(false).await.unwrap();
        for _ in 0..2 {
            assert_eq!(events.next().await.unwrap().map(|event| event.seq), Some(1));
        }
        let last = events.next().await;
        assert_eq!(last.is_err(), fails, "{end:?}");
        assert!(fails || last.unwrap().is_none());
    }
}
