//! Guests' lives, from the operator's request to what is left: nothing.

use std::rc::Rc;
use std::time::Duration;

use crate::world::{elf, refused, run};
use ennead_api::{Action, Client, ErrorKind, Shutdown, State, What};
use ennead_channel::guests::{Refusal, State as Does};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

#[test]
fn a_guests_devices_stand_where_their_backends_look_and_go_with_it() {
    run(|world| async move {
        let devices =
            "[[disk]]\nvdev = \"xvda\"\nsource = \"label:web\"\naccess = \"w\"\n[[vif]]\nbridge = \"lan\"\n";
        let domid = world.create("web", devices).await;
        let disk = format!("/local/domain/9/backend/vbd/{domid}/51712");
        let nic = format!("/local/domain/10/backend/vif/{domid}/0");
        for (reader, path, value) in [
            (9, format!("{disk}/params"), "label:web".to_owned()),
            (9, format!("{disk}/frontend"), format!("/local/domain/{domid}/device/vbd/51712")),
            (domid, format!("{disk}/state"), "1".to_owned()),
            (9, format!("/local/domain/{domid}/device/vbd/51712/state"), "1".to_owned()),
            (10, format!("{nic}/bridge"), "lan".to_owned()),
            (domid, "device/vif/0/backend".to_owned(), nic.clone()),
        ] {
            assert_eq!(world.xenstore.guest_reads(reader, &path), Some(value), "{reader} reads {path}");
        }
        assert_eq!(world.xenstore.guest_reads(10, &format!("{disk}/params")), None, "another backend's");
        assert!(world.xenstore.guest_writes(9, &format!("{disk}/sectors")));
        assert!(!world.xenstore.guest_writes(domid, &format!("{disk}/sectors")));
        assert!(world.xenstore.guest_writes(domid, "device/vbd/51712/ring-ref"));
        world.client.destroy("web").await.unwrap();
        world.nothing_is_left().await;
    });
}

#[test]
fn a_guest_is_built_as_asked_and_found_as_xl_leaves_it() {
    run(|world| async move {
        let more = "vcpus = 1\nmax-vcpus = 2\ncmdline = \"console=hvc0\"";
        let domid = world.create("web.1", more).await;
        {
            let host = world.host.borrow();
            let domain = &host.domains[&domid];
            assert_eq!((&*domain.new.name, domain.new.memory_mib, domain.new.vcpus), ("web.1", 32, 2));
            assert_eq!(&*domain.new.cmdline, "console=hvc0");
            assert_eq!(domain.segments, [(0..=250).cycle().take(3000).collect::<Vec<u8>>()]);
            assert_eq!(domain.ramdisk, b"a ramdisk");
        }
        let info = world.client.guest("web.1").await.unwrap();
        assert_eq!(info.guest.domid, Some(domid));
        assert!(info.kernel.is_some_and(|kernel| kernel.present));
        let uuid = info.guest.uuid.as_str();
        let reads = |path: &str| world.xenstore.guest_reads(domid, path);
        assert_eq!(reads("name").as_deref(), Some("web.1"));
        assert_eq!(reads("vm"), Some(format!("/vm/{uuid}")));
        assert_eq!(reads(&format!("/vm/{uuid}/name")).as_deref(), Some("web.1"));
        assert_eq!(reads("console/port"), Some(domid.to_string()));
        assert_eq!(reads("memory/target").as_deref(), Some("32768"));
        assert_eq!(reads(&format!("/local/domain/8/backend/console/{domid}/0/state")).as_deref(), Some("1"));
        assert_eq!(
            reads("/local/domain/8/guests/web@1/0"),
            None,
            "what the toolstack keeps is not a guest's business"
        );
        for (path, may) in [
            ("data/x", true),
            ("control/shutdown", true),
            ("error/device/vbd", true),
            ("device/suspend/event-channel", true),
            ("name", false),
            ("memory/target", false),
            ("x", false),
            ("/vm/x", false),
        ] {
            assert_eq!(world.xenstore.guest_writes(domid, path), may, "{path}");
        }
        world.client.destroy("web.1").await.unwrap();
        world.nothing_is_left().await;
        assert_eq!(refused(world.client.guest("web.1").await.unwrap_err()), ErrorKind::NoSuchGuest);
        assert_eq!(refused(world.client.destroy("web.1").await.unwrap_err()), ErrorKind::NoSuchGuest);
    });
}

#[test]
fn a_guest_is_paused_and_asked_and_does_what_its_configuration_says() {
    run(|world| async move {
        let domid = world.create("a", "").await;
        let state = |guest: ennead_api::Guest| guest.state;
        for (action, expected) in [
            (Action::Pause, State::Paused),
            (Action::Pause, State::Paused),
            (Action::Unpause, State::Running),
            (Action::Unpause, State::Running),
            (Action::Shutdown, State::Running),
        ] {
            assert_eq!(world.client.act("a", action).await.map(state).unwrap(), expected);
        }
        let asked = world.host.borrow().asked.clone();
        // Xen counts pauses.
        assert_eq!(asked.iter().filter(|what| *what == "Pause").count(), 1);
        let request = || world.xenstore.read(&format!("/local/domain/{domid}/control/shutdown"));
        assert_eq!(request().as_deref(), Some("poweroff"));
        world.host.borrow_mut().shuts_down(domid, 0);
        world.gone("a").await;
        world.nothing_is_left().await;

        let domid = world.create("a", "on-poweroff = \"preserve\"").await;
        world.client.act("a", Action::Reboot).await.unwrap();
        let request = world.xenstore.read(&format!("/local/domain/{domid}/control/shutdown"));
        assert_eq!(request.as_deref(), Some("reboot"));
        world.host.borrow_mut().shuts_down(domid, 0);
        let mut guest = world.client.guest("a").await.unwrap().guest;
        while guest.state == State::Running {
            guest = world.client.guest("a").await.unwrap().guest;
        }
        assert_eq!((guest.state, guest.shutdown), (State::ShutDown, Some(Shutdown::Poweroff)));
        assert_eq!(refused(world.client.act("a", Action::Pause).await.unwrap_err()), ErrorKind::State);
        // It is kept as it was until somebody wants it to start anew.
        let guest = world.client.act("a", Action::Reboot).await.unwrap();
        assert_eq!((guest.state, guest.restarts), (State::Running, 1));
        assert_ne!(guest.domid, Some(domid));
    });
}

#[test]
fn a_reboot_keeps_who_it_is_and_its_console() {
    run(|world| async move {
        let first = world.create("a", "").await;
        let before = world.client.guest("a").await.unwrap().guest;
        let mut console = world.client.console("a").await.unwrap();
        world.guests.print(first, b"first life\n");
        world.host.borrow_mut().shuts_down(first, 1);
        let second = world.next_domid("a", first).await;
        world.guests.print(second, b"second life\n");
        let mut text = vec![0; 23];
        console.read_exact(&mut text).await.unwrap();
        assert_eq!(text, b"first life\nsecond life\n");
        let after = world.client.guest("a").await.unwrap().guest;
        assert_eq!((after.uuid, after.restarts), (before.uuid, 1));
        console.write_all(b"hello\r").await.unwrap();
        let mut typed = Vec::new();
        while typed.len() < 6 {
            typed.extend(world.guests.typed(second));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(typed, b"hello\r");
        assert_eq!(&world.client.log("a").await.unwrap()[..], b"first life\nsecond life\n");
        // Its end is the console's.
        world.client.destroy("a").await.unwrap();
        assert_eq!(console.read(&mut [0; 9]).await.unwrap(), 0);
        world.nothing_is_left().await;
    });
}

#[test]
fn a_crash_loop_slows_down_and_can_be_ended() {
    run(|world| async move {
        let mut domid = world.create("a", "on-crash = \"restart\"").await;
        world.host.borrow_mut().shuts_down(domid, 3);
        domid = world.next_domid("a", domid).await;
        world.host.borrow_mut().shuts_down(domid, 3);
        let mut events = world.client.events(true).await.unwrap();
        loop {
            match events.next().await.unwrap().expect("it follows").what {
                What::Restarting { pause_ms: 0 } => {}
                What::Restarting { pause_ms } => {
                    assert_eq!(pause_ms, 1000);
                    break;
                }
                _ => {}
            }
        }
        let guest = world.client.guest("a").await.unwrap().guest;
        assert_eq!((guest.state, guest.domid), (State::Restarting, None));
        world.client.destroy("a").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        world.nothing_is_left().await;
        assert!(world.client.metrics().await.unwrap().contains("ennead_guest_crashes_total 2\n"));
    });
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    run(|world| async move {
        let good = world.request("a", "").await;
        let text = |error: ennead_api::Error| match error {
            ennead_api::Error::Refused(error) => (error.kind, error.message, error.images),
            other => panic!("{other}"),
        };
        let absent = ennead_api::Sha256([7; 32]);
        let (kind, _, images) = text(
            world
                .client
                .create(&ennead_api::CreateGuest { kernel: Some(absent), ..good.clone() })
                .await
                .unwrap_err(),
        );
        assert_eq!((kind, images), (ErrorKind::ImagesMissing, vec![absent]));
        let kernel = Some(world.upload(b"no kernel").await);
        let bad = ennead_api::CreateGuest { kernel, ..good.clone() };
        let (kind, message, _) = text(world.client.create(&bad).await.unwrap_err());
        assert_eq!(kind, ErrorKind::Invalid, "{message}");
        let disk = "[[disk]]\nvdev = \"xvda\"\nsource = \"/x\"\naccess = \"r\"\nbackend = \"net\"\n";
        let with_disk = world.request("a", disk).await;
        assert_eq!(text(world.client.create(&with_disk).await.unwrap_err()).0, ErrorKind::Invalid);
        for (what, refusal, kind) in [
            ("Create", Refusal::Quota, ErrorKind::Quota),
            ("Create", Refusal::Memory, ErrorKind::Memory),
            ("Load", Refusal::Failed, ErrorKind::Failed),
            ("Finish", Refusal::Failed, ErrorKind::Failed),
            ("Unpause", Refusal::Failed, ErrorKind::Failed),
        ] {
            world.host.borrow_mut().refuse = Some((what, refusal, 1));
            let (found, message, _) = text(world.client.create(&good).await.unwrap_err());
            assert_eq!((found, message.as_str()), (kind, "Builder says no"), "{what}");
            world.nothing_is_left().await;
        }
        world.client.create(&good).await.unwrap();
        assert_eq!(text(world.client.create(&good).await.unwrap_err()).0, ErrorKind::Exists);
        let uuid = world.client.guest("a").await.unwrap().guest.uuid;
        let twin = world.request("b", &format!("uuid = \"{uuid}\"")).await;
        assert_eq!(text(world.client.create(&twin).await.unwrap_err()).0, ErrorKind::Exists);
        world.client.destroy("a").await.unwrap();
        world.nothing_is_left().await;
    });
}

#[test]
fn a_guest_without_a_kernel_boots_from_its_disk_once_that_is_served() {
    run(|world| async move {
        let text = |kind: &str| {
            format!(
                "name = \"a\"\nkind = \"{kind}\"\nmemory-mib = 32\n[[disk]]\nvdev = \"xvda\"\nsource = \"x\"\n"
            )
        };
        let request = |kind| {
            let config =
                ennead_guest::parse_toml("a.toml", &text(kind)).unwrap_or_else(|e| panic!("{e}")).config;
            ennead_api::CreateGuest { config, kernel: None, ramdisk: None, paused: false }
        };
        let pvh = request("pvh");
        assert_eq!(refused(world.client.create(&request("pv")).await.unwrap_err()), ErrorKind::Invalid);
        let kernel = Some(world.upload(&elf(3000)).await);
        for (kernel, ramdisk) in [(kernel, None), (None, kernel)] {
            let other = ennead_api::CreateGuest { kernel, ramdisk, ..pvh.clone() };
            assert_eq!(refused(world.client.create(&other).await.unwrap_err()), ErrorKind::Invalid);
        }
        world.nothing_is_left().await;

        let serve = async {
            let mut state = String::new();
            // It may not start before.
            while state.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let found = world.xenstore.nodes_of_guests();
                state = found
                    .into_iter()
                    .find(|path| path.ends_with("51712/state") && path.contains("/9/"))
                    .unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!world.host.borrow().asked.iter().any(|what| what == "Unpause"));
            assert!(world.xenstore.backend_writes(9, &state, b"2"));
        };
        let (created, ()) = tokio::join!(world.client.create(&pvh), serve);
        assert_eq!(created.unwrap().state, State::Running);
        let info = world.client.guest("a").await.unwrap();
        assert_eq!((info.kernel, info.ramdisk), (None, None));
        // Its loader is no image that could make room, or be missing.
        assert_eq!(world.client.images().await.unwrap().images.len(), 1);
        world.client.destroy("a").await.unwrap();
        world.nothing_is_left().await;
    });
}

#[test]
fn an_operator_who_goes_away_does_not_cut_a_creation_short() {
    run(|world| async move {
        let request = world.request("a", "").await;
        let slow = Rc::new(Notify::new());
        world.host.borrow_mut().slow = Some(Rc::clone(&slow));
        let client: Client = world.client.clone();
        let brief = Duration::from_millis(100);
        assert!(tokio::time::timeout(brief, client.create(&request)).await.is_err());
        let images = world.client.images().await.unwrap().images;
        assert!(images.iter().all(|image| image.used_by == ["a"]), "it is under way");
        world.host.borrow_mut().slow = None;
        slow.notify_one();
        world.next_domid("a", 0).await;
        world.client.destroy("a").await.unwrap();
        world.nothing_is_left().await;
    });
}

#[test]
fn a_guest_whose_domain_the_host_ends_waits_for_its_operator() {
    run(|world| async move {
        let first = world.create("a", "").await;
        world.host.borrow_mut().change(first, Does::Gone);
        let mut guest = world.client.guest("a").await.unwrap().guest;
        while guest.domid.is_some() {
            guest = world.client.guest("a").await.unwrap().guest;
        }
        assert_eq!(guest.state, State::Gone);
        assert_eq!(refused(world.client.act("a", Action::Shutdown).await.unwrap_err()), ErrorKind::State);
        let guest = world.client.act("a", Action::Reboot).await.unwrap();
        assert_eq!(guest.state, State::Running);
        // Or it is created anew.
        world.host.borrow_mut().change(guest.domid.unwrap(), Does::Gone);
        while world.client.guest("a").await.unwrap().guest.domid.is_some() {}
        world.create("a", "").await;
        world.client.destroy("a").await.unwrap();
        world.nothing_is_left().await;
    });
}

#[test]
fn a_new_toolstack_finds_the_guests_again() {
    run(|mut world| async move {
        let runs = world.create("runs", "").await;
        let reboots = world.create("reboots", "").await;
        let off = world.create("off", "").await;
        let uuid = world.client.guest("runs").await.unwrap().guest.uuid;
        let half = world.request("half", "").await;
        world.host.borrow_mut().slow = Some(Rc::new(Notify::new()));
        let brief = Duration::from_millis(100);
        assert!(tokio::time::timeout(brief, world.client.create(&half)).await.is_err());
        world.kill().await;
        world.host.borrow_mut().slow = None;
        // While nobody looks.
        world.host.borrow_mut().shuts_down(off, 0);
        world.host.borrow_mut().shuts_down(reboots, 1);
        world.host.borrow_mut().toolstack_died();
        let asked = world.host.borrow().asked.len();

        world.start().await;
        let guest = world.client.guest("runs").await.unwrap();
        assert_eq!(
            (guest.guest.domid, guest.guest.state, guest.guest.uuid),
            (Some(runs), State::Running, uuid)
        );
        assert!(guest.kernel.is_some_and(|kernel| !kernel.present));
        world.gone("off").await;
        world.gone("half").await;
        // A restart needs images, which are gone; the domain is not kept for that.
        while world.client.guest("reboots").await.unwrap().guest.domid.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.host.borrow().domains(), [runs]);
        let touched =
            world.host.borrow().asked[asked..].iter().any(|what| what == "Pause" || what == "Unpause");
        assert!(!touched, "what runs does not notice");
        world.guests.print(runs, b"still here");
        while world.client.log("runs").await.unwrap() != "still here" {}

        let missing = |error| match error {
            ennead_api::Error::Refused(error) => (error.kind, error.images.len()),
            other => panic!("{other}"),
        };
        for name in ["runs", "reboots"] {
            let error = world.client.act(name, Action::Reboot).await.unwrap_err();
            assert_eq!(missing(error), (ErrorKind::ImagesMissing, 2));
        }
        world.upload(&elf(3000)).await;
        world.upload(b"a ramdisk").await;
        let guest = world.client.act("reboots", Action::Reboot).await.unwrap();
        assert_eq!(guest.state, State::Running);
        for name in ["runs", "reboots"] {
            world.client.destroy(name).await.unwrap();
        }
        world.nothing_is_left().await;
    });
}

#[test]
fn an_end_that_was_asked_for_is_finished_by_the_next_toolstack() {
    run(|mut world| async move {
        world.create("a", "").await;
        world.host.borrow_mut().refuse = Some(("Destroy", Refusal::Failed, 1));
        assert_eq!(refused(world.client.destroy("a").await.unwrap_err()), ErrorKind::Failed);
        assert!(world.client.guest("a").await.is_ok(), "it is still there, and can be asked again");
        world.kill().await;
        world.start().await;
        // It was said to be at its end.
        world.gone("a").await;
        world.nothing_is_left().await;
    });
}
