use ennead_guest::parse_toml;
use expect_test::{Expect, expect};
use serde::de::DeserializeOwned;

use super::*;

fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, expected: &Expect) {
    let text = serde_json::to_string(value).unwrap();
    expected.assert_eq(&text);
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value);
}

use serde::Serialize;

fn guest() -> Guest {
    Guest {
        name: "web".to_owned(),
        uuid: "6a1f2f0e-9b0c-4d53-9c86-0d4f5d1c8f11".to_owned(),
        domid: Some(1024),
        kind: ennead_guest::Kind::Pvh,
        state: State::ShutDown,
        shutdown: Some(Shutdown::SoftReset),
        memory_kib: 524_288,
        vcpus: 2,
        cpu_time_ns: 1_500_000_000,
        started_ms: Some(1_700_000_000_000),
        restarts: 0,
    }
}

#[test]
fn a_guest() {
    check(
        &guest(),
        &expect![[
            r#"{"name":"web","uuid":"6a1f2f0e-9b0c-4d53-9c86-0d4f5d1c8f11","domid":1024,"kind":"pvh","state":"shut-down","shutdown":"soft-reset","memory-kib":524288,"vcpus":2,"cpu-time-ns":1500000000,"started-ms":1700000000000,"restarts":0}"#
        ]],
    );
}

#[test]
fn a_guest_to_create() {
    let config = parse_toml("web.toml", "name = \"web\"\nkind = \"pv\"\nkernel = \"/k\"\nmemory-mib = 64\n")
        .unwrap()
        .config;
    let request = CreateGuest { config, kernel: Some(Sha256([0xab; 32])), ramdisk: None, paused: true };
    check(
        &request,
        &expect![[
            r#"{"config":{"name":"web","kind":"pv","uuid":null,"kernel":"/k","ramdisk":null,"cmdline":"","memory-mib":64,"max-memory-mib":64,"vcpus":1,"max-vcpus":1,"on-poweroff":"destroy","on-reboot":"restart","on-crash":"destroy","disk":[],"vif":[]},"kernel":"abababababababababababababababababababababababababababababababab","ramdisk":null,"paused":true}"#
        ]],
    );
    let text = serde_json::to_string(&request).unwrap();
    for (from, to) in
        [("\"web\"", "\"../web\""), ("abab", "ABAB"), ("abab", ""), ("\"paused\"", "\"puased\"")]
    {
        assert!(serde_json::from_str::<CreateGuest>(&text.replace(from, to)).is_err(), "{to}");
    }
}

#[test]
fn events() {
    let event = |what| Event { seq: 7, at_ms: 8, guest: Some("web".to_owned()), domid: Some(1024), what };
    check(
        &event(What::Created),
        &expect![[r#"{"seq":7,"at-ms":8,"guest":"web","domid":1024,"event":"created"}"#]],
    );
    check(
        &event(What::ShutDown { reason: Shutdown::Crash }),
        &expect![[r#"{"seq":7,"at-ms":8,"guest":"web","domid":1024,"event":"shut-down","reason":"crash"}"#]],
    );
    check(
        &event(What::Restarting { pause_ms: 500 }),
        &expect![[r#"{"seq":7,"at-ms":8,"guest":"web","domid":1024,"event":"restarting","pause-ms":500}"#]],
    );
    let started = Event { guest: None, domid: None, ..event(What::ToolstackStarted { guests: 3 }) };
    check(
        &started,
        &expect![[r#"{"seq":7,"at-ms":8,"guest":null,"domid":null,"event":"toolstack-started","guests":3}"#]],
    );
}

#[test]
fn what_a_newer_host_says_is_understood_as_far_as_it_goes() {
    let event = r#"{"seq":1,"at-ms":2,"guest":"a","domid":null,"event":"migrated","to":"b"}"#;
    assert_eq!(serde_json::from_str::<Event>(event).unwrap().what, What::Unknown);
    let text =
        serde_json::to_string(&guest()).unwrap().replace("shut-down", "frozen").replace('{', "{\"new\":1,");
    assert_eq!(serde_json::from_str::<Guest>(&text).unwrap().state, State::Unknown);
    let error = r#"{"error":{"kind":"strange","message":"m"}}"#;
    let error = serde_json::from_str::<ErrorBody>(error).unwrap().error;
    assert_eq!(error, ApiError::new(ErrorKind::Unknown, "m"));
}

#[test]
fn an_error() {
    let error =
        ApiError { images: vec![Sha256([1; 32])], ..ApiError::new(ErrorKind::ImagesMissing, "m").help("h") };
    check(
        &ErrorBody { error },
        &expect![[
            r#"{"error":{"kind":"images-missing","message":"m","help":"h","images":["0101010101010101010101010101010101010101010101010101010101010101"]}}"#
        ]],
    );
    check(
        &ErrorBody { error: ApiError::new(ErrorKind::NoSuchGuest, "m") },
        &expect![[r#"{"error":{"kind":"no-such-guest","message":"m"}}"#]],
    );
}

#[test]
fn the_host() {
    let service = Service {
        name: "builder".to_owned(),
        domid: 3,
        state: State::Running,
        memory_kib: 65536,
        uptime_s: 12,
        restarts: 1,
    };
    let host = Host {
        toolstack: "toolstack".to_owned(),
        version: "0.1.0".to_owned(),
        uptime_s: 9,
        iommu: true,
        limits: Resources { memory_mib: 512, vcpus: 8, guests: 10 },
        used: Resources::default(),
        services: vec![service],
    };
    check(
        &host,
        &expect![[
            r#"{"toolstack":"toolstack","version":"0.1.0","uptime-s":9,"iommu":true,"limits":{"memory-mib":512,"vcpus":8,"guests":10},"used":{"memory-mib":0,"vcpus":0,"guests":0},"services":[{"name":"builder","domid":3,"state":"running","memory-kib":65536,"uptime-s":12,"restarts":1}]}"#
        ]],
    );
}

#[test]
fn words_are_those_of_json() {
    for action in Action::ALL {
        assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
        assert_eq!(action.as_str().parse(), Ok(action));
    }
    assert_eq!("log".parse::<Action>(), Err(()));
    for state in [
        State::Building,
        State::Running,
        State::Paused,
        State::ShutDown,
        State::Dying,
        State::Restarting,
        State::Gone,
        State::Unknown,
    ] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
    for code in 0..=6 {
        let reason = Shutdown::from_code(code);
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
}

#[test]
fn hashes() {
    let text = "00ff".repeat(16);
    assert_eq!(text.parse::<Sha256>().unwrap().to_string(), text);
    for wrong in
        ["", "0", &"0".repeat(63), &"0".repeat(65), &"0G".repeat(32), &"\u{e4}".repeat(32), &"+1".repeat(32)]
    {
        assert_eq!(wrong.parse::<Sha256>(), Err(NotADigest), "{wrong}");
    }
}

#[test]
fn paths() {
    let sha256 = Sha256([0; 32]);
    for (pattern, made) in [
        (path::GUEST.replace("{name}", "web"), path::guest("web")),
        (path::LOG.replace("{name}", "web"), path::log("web")),
        (path::CONSOLE.replace("{name}", "web"), path::console("web")),
        (
            path::GUEST_ACTION.replace("{name}", "web").replace("{action}", "pause"),
            path::guest_action("web", Action::Pause),
        ),
        (path::DISKS.replace("{name}", "web"), path::disks("web")),
        (path::DISK.replace("{name}", "web").replace("{vdev}", "xvdb"), path::disk("web", "xvdb")),
        (path::IMAGE.replace("{sha256}", &sha256.to_string()), path::image(&sha256)),
        ("/v1/events?follow=true".to_owned(), path::events(true)),
    ] {
        assert_eq!(pattern, made);
    }
}
