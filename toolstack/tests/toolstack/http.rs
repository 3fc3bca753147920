//! What the API answers to whatever is asked.

use std::time::Duration;

use crate::world::{IMAGES, World, elf, refused, run};
use ennead_api::{ErrorBody, ErrorKind, IDEMPOTENCY_KEY};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Sends bytes as they are; gives status and body of the answer.
async fn raw(world: &World, request: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    // It may have had enough before all is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

async fn ask(world: &World, method: &str, path: &str, more: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n{body}"
    );
    raw(world, text.as_bytes()).await
}

fn kind(body: &str) -> ErrorKind {
    serde_json::from_str::<ErrorBody>(body).unwrap_or_else(|e| panic!("{e}: {body}")).error.kind
}

#[test]
fn every_path_and_method_has_its_answer() {
    run(|world| async move {
        world.create("a", "").await;
        let id = "0".repeat(64);
        for (method, path, status) in [
            ("GET", "/v1/guests", 200),
            ("PUT", "/v1/guests", 405),
            ("GET", "/v1/guests/a", 200),
            ("POST", "/v1/guests/a", 405),
            ("GET", "/v1/guests/b", 404),
            ("DELETE", "/v1/guests/b", 404),
            ("GET", "/v1/guests/%2e%2e", 404),
            ("GET", "/v1/guests/a/log", 200),
            ("POST", "/v1/guests/a/log", 405),
            ("GET", "/v1/guests/b/log", 404),
            ("GET", "/v1/guests/a/console", 400),
            ("GET", "/v1/guests/b/console", 404),
            ("POST", "/v1/guests/a/console", 405),
            ("POST", "/v1/guests/a/pause", 200),
            ("GET", "/v1/guests/a/pause", 405),
            ("POST", "/v1/guests/b/pause", 404),
            ("POST", "/v1/guests/a/dance", 404),
            ("GET", "/v1/images", 200),
            ("POST", "/v1/images", 405),
            ("HEAD", &format!("/v1/images/{id}"), 404),
            ("GET", &format!("/v1/images/{id}"), 405),
            ("PUT", "/v1/images/short", 404),
            ("GET", "/v1/events", 200),
            ("GET", "/v1/host", 200),
            ("DELETE", "/v1/host", 405),
            ("GET", "/metrics", 200),
            ("PUT", "/metrics", 405),
            ("GET", "/", 404),
            ("GET", "/v1", 404),
            ("GET", "/v1/guests/a/log/more", 404),
            ("GET", "/v2/guests", 404),
        ] {
            let (found, body) = ask(&world, method, path, "", "").await;
            assert_eq!(found, status, "{method} {path}: {body}");
            if status >= 400 && method != "HEAD" {
                assert_eq!(kind(&body).status(), status);
            }
        }
        let metrics = world.client.metrics().await.unwrap();
        assert!(
            metrics.contains("ennead_requests_total{class=\"4xx\"}") && metrics.ends_with("# EOF\n"),
            "{metrics}"
        );
        let host = world.client.host().await.unwrap();
        assert_eq!((host.limits.guests, host.used.guests, host.services.len()), (4, 1, 1));
    });
}

#[test]
fn the_same_key_creates_no_second_guest() {
    run(|world| async move {
        let request = world.request("a", "").await;
        let body = serde_json::to_string(&request).unwrap();
        let key = |key: &str| format!("{IDEMPOTENCY_KEY}: {key}\r\n");
        let (status, first) = ask(&world, "POST", "/v1/guests", &key("k1"), &body).await;
        assert_eq!(status, 201, "{first}");
        let (status, second) = ask(&world, "POST", "/v1/guests", &key("k1"), &body).await;
        assert_eq!((status, second), (201, first));
        assert_eq!(world.host.borrow().domains().len(), 1);
        let (status, answer) = ask(&world, "POST", "/v1/guests", &key("k2"), &body).await;
        assert_eq!((status, kind(&answer)), (409, ErrorKind::Exists));
        let other = body.replace("\"memory-mib\":32", "\"memory-mib\":16");
        assert_ne!(other, body);
        let (status, answer) = ask(&world, "POST", "/v1/guests", &key("k1"), &other).await;
        assert_eq!((status, kind(&answer)), (422, ErrorKind::KeyReused));
        for wrong in ["a b", &"x".repeat(65), ""] {
            assert_eq!(ask(&world, "POST", "/v1/guests", &key(wrong), &body).await.0, 400, "{wrong:?}");
        }
    });
}

#[test]
fn bodies_that_are_none_are_refused() {
    run(|world| async move {
        for body in ["", "{", "[]", "{\"config\":{}}", "{\"a\":1}"] {
            let (status, answer) = ask(&world, "POST", "/v1/guests", "", body).await;
            assert_eq!((status, kind(&answer)), (400, ErrorKind::Invalid), "{body}");
        }
        let long = " ".repeat((1 << 20) + 1);
        let (status, answer) = ask(&world, "POST", "/v1/guests", "", &long).await;
        assert_eq!((status, kind(&answer)), (413, ErrorKind::TooLarge));
        let head = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(40_000));
        assert!((400..500).contains(&raw(&world, head.as_bytes()).await.0));
        assert_eq!(raw(&world, b"hello\r\n\r\n").await.0, 400);
        assert!(world.client.guests().await.unwrap().is_empty());
    });
}

#[test]
fn images_are_what_they_are_called_and_bounded() {
    run(|world| async move {
        let kernel = elf(3000);
        let id = world.upload(&kernel).await;
        let (status, answer) = ask(&world, "PUT", &format!("/v1/images/{}", "0".repeat(64)), "", "x").await;
        assert_eq!((status, kind(&answer)), (400, ErrorKind::Invalid));
        assert_eq!(ask(&world, "PUT", &format!("/v1/images/{id}"), "", "anything: it is there").await.0, 200);
        let text = format!(
            "PUT /v1/images/{} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            "1".repeat(64)
        );
        assert_eq!(raw(&world, text.as_bytes()).await.0, 400, "a length is needed");
        let images = world.client.images().await.unwrap();
        assert_eq!((images.images.len(), images.max_bytes), (1, u64::try_from(IMAGES).unwrap()));
        // One that stops half-way leaves no room taken.
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        let head = format!(
            "PUT /v1/images/{} HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\nxx",
            "2".repeat(64)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        while world.client.images().await.unwrap().bytes < 2_000_000 {}
        drop(stream);
        while world.client.images().await.unwrap().bytes > 1_000_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let too_large = vec![0; IMAGES + 1];
        let sha = ennead_api::Sha256([9; 32]);
        let refusal = world.client.upload(&sha, too_large.into(), |_| {}).await;
        assert_eq!(refused(refusal.unwrap_err()), ErrorKind::TooLarge);
        // What guests need stays, however much comes.
        world.create("a", "").await;
        let large = vec![1; IMAGES - 1000];
        let refusal = world.client.upload(&sha, large.into(), |_| {}).await;
        assert_eq!(refused(refusal.unwrap_err()), ErrorKind::TooLarge);
        let images = world.client.images().await.unwrap();
        assert_eq!(images.images.iter().filter(|image| image.used_by == ["a"]).count(), 2);
    });
}

#[test]
fn events_are_told_to_who_follows() {
    run(|world| async move {
        let mut follower = world.client.events(true).await.unwrap();
        world.create("a", "").await;
        world.client.destroy("a").await.unwrap();
        let mut told = Vec::new();
        while told.len() < 4 {
            told.push(follower.next().await.unwrap().expect("it goes on"));
        }
        let kinds: Vec<String> = told.iter().map(|event| format!("{:?}", event.what)).collect();
        assert_eq!(kinds, ["ToolstackStarted { guests: 0 }", "Created", "Unpaused", "Destroyed"]);
        assert_eq!(told.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let mut kept = world.client.events(false).await.unwrap();
        for event in told {
            assert_eq!(kept.next().await.unwrap(), Some(event));
        }
        assert_eq!(kept.next().await.unwrap(), None);
    });
}
