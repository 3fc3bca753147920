//! Disks that a guest is given while it runs; the VM that serves them and the guest are played here.

use std::time::Duration;

use ennead_api::{Action, Error, ErrorKind, What};
use ennead_guest::{Access, Disk};

use crate::world::{World, run};

/// The VM that serves disks, and where it finds volumes of this toolstack.
const DISKS: u16 = 9;
const VOLUMES: &str = "/local/domain/9/backend/volumes/8";

fn disk(vdev: &str, source: &str) -> Disk {
    let source = Some(source.to_owned());
    Disk { vdev: vdev.to_owned(), source, access: Access::ReadWrite, backend: None, cdrom: false }
}

fn back(domid: u16, handle: u32) -> String {
    format!("/local/domain/{DISKS}/backend/vbd/{domid}/{handle}")
}

/// Waits until a node has this value.
async fn until(world: &World, path: &str, value: Option<&str>) {
    while world.xenstore.read(path).as_deref() != value {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The VM's half: once the device is there, it writes these nodes.
async fn serves(world: &World, device: &str, from: &str, nodes: &[(&str, &'static str)]) {
    until(world, &format!("{device}/state"), Some(from)).await;
    for (key, value) in nodes {
        assert!(world.xenstore.backend_writes(DISKS, &format!("{device}/{key}"), value.as_bytes()));
    }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (ErrorKind, String) {
    match outcome.unwrap_err() {
        Error::Refused(error) => (error.kind, error.message),
        other => panic!("{other}"),
    }
}

const ROOT: &str = "disk = [{ vdev = \"xvda\", source = \"label:web\" }]";

#[test]
fn a_disk_is_given_kept_over_a_reboot_and_taken() {
    run(async |world| {
        assert!(world.xenstore.backend_writes(DISKS, "/local/domain/9/backend/volumes", b""));
        assert!(world.xenstore.backend_writes(DISKS, &format!("{VOLUMES}/volume/data"), b"1048576 ready"));
        let domid = world.create("web", "").await;
        let (device, data) = (back(domid, 51728), disk("xvdb", "volume:data"));
        let attach = world.client.attach_disk("web", &data);
        let (attached, ()) = tokio::join!(attach, serves(&world, &device, "1", &[("state", "4")]));
        assert_eq!(attached.unwrap(), data);
        assert_eq!(world.xenstore.read(&format!("{device}/params")).as_deref(), Some("volume:8/data"));
        let lend = format!("{VOLUMES}/lend/{domid}/51728");
        assert_eq!(world.xenstore.read(&lend).as_deref(), Some("data"));
        let front = format!("/local/domain/{domid}/device/vbd/51728/backend");
        assert_eq!(world.xenstore.guest_reads(domid, &front).as_deref(), Some(device.as_str()));
        assert_eq!(world.client.volumes().await.unwrap().volumes[0].used_by, ["web"]);

        // The same place twice, and the same volume for another.
        assert_eq!(refused(world.client.attach_disk("web", &data).await).0, ErrorKind::Exists);
        let other = world.create("other", ROOT).await;
        let (kind, message) = refused(world.client.attach_disk("other", &data).await);
        assert_eq!(
            (kind, message.as_str()),
            (ErrorKind::State, "`volume:data` is a disk of the guest `web`")
        );
        assert_eq!(world.xenstore.read(&back(other, 51728)), None);

        world.host.borrow_mut().shuts_down(domid, 1);
        let domid = world.next_domid("web", domid).await;
        let device = back(domid, 51728);
        assert_eq!(world.xenstore.read(&format!("{device}/params")).as_deref(), Some("volume:8/data"));
        assert!(world.xenstore.backend_writes(DISKS, &format!("{device}/state"), b"4"));

        let detach = world.client.detach_disk("web", "xvdb");
        let (detached, ()) = tokio::join!(detach, serves(&world, &device, "5", &[("state", "6")]));
        detached.unwrap();
        for path in [
            back(domid, 51728),
            format!("/local/domain/{DISKS}/backend/vbd/{domid}"),
            format!("{VOLUMES}/lend/{domid}"),
            format!("/local/domain/{domid}/device/vbd/51728"),
        ] {
            assert_eq!(world.xenstore.read(&path), None, "{path}");
        }
        assert_eq!(world.client.guest("web").await.unwrap().config.disks, []);
        assert_eq!(refused(world.client.detach_disk("web", "xvdb").await).0, ErrorKind::NoSuchDisk);
        let mut events = world.client.events(false).await.unwrap();
        let mut seen = Vec::new();
        while let Some(event) = events.next().await.unwrap() {
            if let What::DiskAttached { vdev } | What::DiskDetached { vdev } = event.what {
                seen.push(vdev);
            }
        }
        assert_eq!(seen, ["xvdb", "xvdb"]);
        for name in ["web", "other"] {
            world.client.destroy(name).await.unwrap();
            world.gone(name).await;
        }
        world.nothing_is_left().await;
    });
}

#[test]
fn a_disk_that_cannot_be_had_leaves_all_as_it_was() {
    run(async |world| {
        assert!(world.xenstore.backend_writes(DISKS, "/local/domain/9/backend/volumes", b""));
        let domid = world.create("web", ROOT).await;
        let before = world.client.guest("web").await.unwrap().config;
        let device = back(domid, 51728);
        let missing = disk("xvdb", "label:no");
        let waits = serves(&world, &device, "1", &[("error", "there is no volume \"label:no\"")]);
        let (outcome, ()) = tokio::join!(world.client.attach_disk("web", &missing), waits);
        let (kind, message) = refused(outcome);
        assert_eq!(kind, ErrorKind::State);
        assert_eq!(message, "The guest cannot have `xvdb`: there is no volume \"label:no\"");
        assert_eq!(world.xenstore.read(&device), None);
        assert!(world.xenstore.read(&back(domid, 51712)).is_some());

        let attach = async |disk: Disk| refused(world.client.attach_disk("web", &disk).await).0;
        assert_eq!(attach(disk("xvdb", "volume:no")).await, ErrorKind::NoSuchVolume);
        assert_eq!(attach(disk("nonsense", "label:no")).await, ErrorKind::Invalid);
        assert_eq!(attach(Disk { source: None, ..disk("xvdb", "") }).await, ErrorKind::Invalid);
        assert_eq!(attach(disk("xvdb", "label:web")).await, ErrorKind::State);
        let of = Disk { backend: Some("net".to_owned()), ..disk("xvdb", "d") };
        assert_eq!(attach(of).await, ErrorKind::Invalid);
        assert_eq!(refused(world.client.attach_disk("no", &missing).await).0, ErrorKind::NoSuchGuest);
        world.client.act("web", Action::Pause).await.unwrap();
        assert_eq!(attach(missing).await, ErrorKind::State);
        assert_eq!(world.client.guest("web").await.unwrap().config, before);
    });
}

#[test]
fn a_guest_that_does_not_let_go_keeps_its_disk() {
    run(async |world| {
        let domid = world.create("web", ROOT).await;
        let device = back(domid, 51712);
        assert!(world.xenstore.backend_writes(DISKS, &format!("{device}/state"), b"4"));
        let (kind, message) = refused(world.client.detach_disk("web", "xvda").await);
        assert_eq!(kind, ErrorKind::State);
        assert_eq!(message, "The guest `web` does not let go of the disk `xvda`, and keeps it");
        assert_eq!(world.xenstore.read(&format!("{device}/state")).as_deref(), Some("4"));
        assert_eq!(world.xenstore.read(&format!("{device}/online")).as_deref(), Some("1"));
        assert_eq!(world.client.guest("web").await.unwrap().config.disks.len(), 1);
    });
}
