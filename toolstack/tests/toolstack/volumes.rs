//! Volumes: what a toolstack asks the VM that keeps them, whose part is played here.

use std::time::Duration;

use ennead_api::{CreateVolume, Error, ErrorKind};

use crate::world::{World, run};

/// The VM that serves disks, and where it finds this toolstack.
const DISKS: u16 = 9;
const ROOT: &str = "/local/domain/9/backend/volumes/8";

/// The VM's next answer, once it is asked; gives what it was asked. `tells` are nodes that it writes first.
async fn answer(world: &World, tells: &[(&str, &'static str)], outcome: &str) -> String {
    let before = world.xenstore.read(&format!("{ROOT}/answer")).unwrap_or_default();
    loop {
        let asked = world.xenstore.read(&format!("{ROOT}/request")).unwrap_or_default();
        match asked.split_once(' ') {
            Some((number, request)) if !before.starts_with(&format!("{number} ")) => {
                for (key, value) in tells {
                    assert!(world.xenstore.backend_writes(DISKS, &format!("{ROOT}/{key}"), value.as_bytes()));
                }
                let answer = String::leak(format!("{number} {outcome}")).as_bytes();
                assert!(world.xenstore.backend_writes(DISKS, &format!("{ROOT}/answer"), answer));
                return request.to_owned();
            }
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorKind {
    match outcome.unwrap_err() {
        Error::Refused(error) => error.kind,
        other => panic!("{other}"),
    }
}

fn wanted(name: &str, bytes: u64) -> CreateVolume {
    CreateVolume { name: name.to_owned(), bytes: Some(bytes), copy_of: None, backend: None }
}

#[test]
fn a_volume_is_created_lent_and_deleted() {
    run(async |world| {
        assert!(world.xenstore.backend_writes(DISKS, "/local/domain/9/backend/volumes", b""));
        assert_eq!(world.client.volumes().await.unwrap().volumes, []);
        let told = [("volume/data", "1048576 making 4096"), ("free", "5242880")];
        let order = wanted("data", 5);
        let (volume, asked) = tokio::join!(world.client.create_volume(&order), answer(&world, &told, "ok"));
        let volume = volume.unwrap();
        assert_eq!(asked, "create data 5");
        assert_eq!(
            (volume.bytes, volume.made_bytes, volume.backend.as_str()),
            (1 << 20, Some(4096), "disks")
        );
        world.xenstore.backend_writes(DISKS, &format!("{ROOT}/volume/data"), b"1048576 ready");

        // A guest that has it: the VM learns whose it is from where only this toolstack writes.
        let domid = world.create("web", "disk = [{ vdev = \"xvda\", source = \"volume:data\" }]").await;
        let params = format!("/local/domain/9/backend/vbd/{domid}/51712/params");
        assert_eq!(world.xenstore.read(&params).as_deref(), Some("volume:8/data"));
        let lend = format!("{ROOT}/lend/{domid}/51712");
        assert_eq!(world.xenstore.read(&lend).as_deref(), Some("data"));
        assert_eq!(world.xenstore.guest_reads(domid, &lend), None);
        let all = world.client.volumes().await.unwrap();
        assert_eq!(
            (all.volumes[0].used_by.as_slice(), all.free_bytes),
            (["web".to_owned()].as_slice(), 5 << 20)
        );
        assert_eq!(kind(world.client.delete_volume("data").await), ErrorKind::State);
        world.client.destroy("web").await.unwrap();
        world.gone("web").await;
        world.nothing_is_left().await;
        assert_eq!(world.xenstore.read(&lend), None);

        let (deleted, asked) = tokio::join!(world.client.delete_volume("data"), answer(&world, &[], "ok"));
        deleted.unwrap();
        assert_eq!(asked, "delete data");
    });
}

#[test]
fn refusals_are_passed_on_and_nonsense_is_not_asked() {
    run(async |world| {
        assert!(world.xenstore.backend_writes(DISKS, "/local/domain/9/backend/volumes", b""));
        let order = wanted("data", 1 << 40);
        let refusal = "too-large There is room for 5 bytes, not for more";
        let (refused, _) = tokio::join!(world.client.create_volume(&order), answer(&world, &[], refusal));
        assert_eq!(kind(refused), ErrorKind::TooLarge);
        for nonsense in [
            wanted("../data", 5),
            CreateVolume { bytes: None, ..wanted("data", 5) },
            CreateVolume { copy_of: Some("other".to_owned()), ..wanted("data", 5) },
            CreateVolume { backend: Some("net".to_owned()), ..wanted("data", 5) },
        ] {
            assert_eq!(kind(world.client.create_volume(&nonsense).await), ErrorKind::Invalid);
        }
        assert_eq!(kind(world.client.delete_volume("data").await), ErrorKind::NoSuchVolume);
        assert_eq!(kind(world.client.grow_volume("data", 5).await), ErrorKind::NoSuchVolume);
    });
}
