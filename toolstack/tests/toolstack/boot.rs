//! Guests that start with the host: each once for each power-on.

use std::rc::Rc;
use std::time::Duration;

use ennead_api::{Action, CreateGuest, State, What};
use ennead_channel::guests::Refusal;
use tokio::sync::Notify;

use crate::world::{World, elf, run, sha256};

const BRIEF: Duration = Duration::from_millis(100);

/// From the next start on, these start with the host.
fn configure(world: &mut World, names: &[&str]) {
    let images = vec![elf(3000), b"a ramdisk".to_vec()];
    let [kernel, ramdisk] = [0, 1].map(|n: usize| Some(sha256(&images[n])));
    let guest = |name: &&str| {
        let text = format!("name = \"{name}\"\nkind = \"pvh\"\nkernel = \"/k\"\nmemory-mib = 32\n");
        let config = ennead_guest::parse_toml("a.toml", &text).unwrap_or_else(|e| panic!("{e}")).config;
        CreateGuest { config, kernel, ramdisk, paused: false }
    };
    world.boot = (names.iter().map(guest).collect(), images);
}

/// Waits until a guest runs; gives its domid.
async fn runs(world: &World, name: &str) -> u16 {
    loop {
        if let Ok(info) = world.client.guest(name).await
            && info.guest.state == State::Running
        {
            return info.guest.domid.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn restart(world: &mut World) {
    world.kill().await;
    world.start().await;
}

/// Nothing more is created.
async fn nothing_comes(world: &World) {
    let before = world.host.borrow().asked.iter().filter(|what| *what == "Create").count();
    tokio::time::sleep(BRIEF).await;
    assert_eq!(world.host.borrow().asked.iter().filter(|what| *what == "Create").count(), before);
}

#[test]
fn they_start_in_their_order_and_only_once_whatever_becomes_of_them() {
    run(|mut world| async move {
        configure(&mut world, &["b", "a"]);
        restart(&mut world).await;
        let (a, b) = (runs(&world, "a").await, runs(&world, "b").await);
        assert!(b < a);
        // A new toolstack finds them, and has their images.
        restart(&mut world).await;
        nothing_comes(&world).await;
        assert_eq!((runs(&world, "a").await, runs(&world, "b").await), (a, b));
        let guest = world.client.guest("a").await.unwrap();
        assert!(guest.kernel.is_some_and(|kernel| kernel.present));
        world.host.borrow_mut().shuts_down(a, 1);
        let again = world.next_domid("a", a).await;
        // What has ended, by itself or by its operator, is not started again.
        world.host.borrow_mut().shuts_down(again, 0);
        world.client.destroy("b").await.unwrap();
        world.gone("a").await;
        world.gone("b").await;
        world.nothing_is_left().await;
        restart(&mut world).await;
        nothing_comes(&world).await;
        world.nothing_is_left().await;
    });
}

#[test]
fn one_that_was_half_created_is_created_by_the_next_toolstack() {
    run(|mut world| async move {
        configure(&mut world, &["a"]);
        let slow = Rc::new(Notify::new());
        world.host.borrow_mut().slow = Some(Rc::clone(&slow));
        restart(&mut world).await;
        tokio::time::sleep(BRIEF).await;
        assert!(world.host.borrow().asked.iter().any(|what| what == "Create"), "it is under way");
        world.kill().await;
        world.host.borrow_mut().slow = None;
        world.start().await;
        runs(&world, "a").await;
        assert_eq!(world.host.borrow().domains().len(), 1);
        world.client.destroy("a").await.unwrap();
        world.nothing_is_left().await;
    });
}

#[test]
fn one_that_was_killed_at_any_request_is_there_once() {
    run(|mut world| async move {
        for n in (1..60).step_by(8) {
            let name = format!("g{n}");
            configure(&mut world, &[&name]);
            restart(&mut world).await;
            for _ in 0..n {
                tokio::task::yield_now().await;
                // XenStore, a thread of its own, goes on as well.
                std::thread::sleep(Duration::from_micros(200));
            }
            restart(&mut world).await;
            runs(&world, &name).await;
            assert_eq!(world.host.borrow().domains().len(), 1, "killed after {n} turns");
            world.client.destroy(&name).await.unwrap();
            world.nothing_is_left().await;
        }
    });
}

#[test]
fn one_that_cannot_be_created_is_tried_again_and_keeps_no_other() {
    run(|mut world| async move {
        configure(&mut world, &["a", "b"]);
        world.host.borrow_mut().refuse = Some(("Create", Refusal::Memory, 1));
        restart(&mut world).await;
        let b = runs(&world, "b").await;
        assert!(runs(&world, "a").await > b);
        let mut events = world.client.events(false).await.unwrap();
        let mut told = Vec::new();
        while let Some(event) = events.next().await.unwrap() {
            if let What::NotStarted { message, pause_ms } = event.what {
                told.push((event.guest, message, pause_ms));
            }
        }
        assert_eq!(told, [(Some("a".to_owned()), "Builder says no".to_owned(), Some(1000))]);
    });
}

#[test]
fn an_operators_own_of_that_name_stays() {
    run(|mut world| async move {
        let domid = world.create("a", "cmdline = \"its own\"").await;
        configure(&mut world, &["a"]);
        restart(&mut world).await;
        nothing_comes(&world).await;
        let guest = world.client.guest("a").await.unwrap().guest;
        assert_eq!((guest.domid, guest.state), (Some(domid), State::Running));
        // It is paused, and nobody but its operator changes that.
        world.client.act("a", Action::Pause).await.unwrap();
        restart(&mut world).await;
        nothing_comes(&world).await;
        assert_eq!(world.client.guest("a").await.unwrap().guest.state, State::Paused);
    });
}
