//! Daemons answer alike, byte for byte; and the comparison can fail.
#![allow(missing_docs, reason = "a test")]

use ennead_xenstore_check::daemon::{Daemon, Ours};
use ennead_xenstore_check::differential::{self, Answers, Show, compare};
use ennead_xenstore_check::generate::sequence;
use ennead_xenstore_check::ours::Profile;
use ennead_xenstore_check::peer::Peers;

/// Actions in each sequence, after the preparations.
const STEPS: usize = 250;
const SHOW: Show = Show { shrink: true, lines: 20 };

#[test]
fn a_seed_gives_one_sequence() {
    assert_eq!(sequence(7, 100), sequence(7, 100));
    assert_ne!(sequence(7, 100), sequence(8, 100));
}

/// Nothing in the comparison depends on time or on chance; and the sequences reach what they should.
#[test]
fn c_equals_c() {
    let peers = Peers::get().unwrap();
    let c = || Daemon::c(&peers);
    let compared = differential::run(&c, &c, 40..46, STEPS, SHOW).unwrap();
    let answers = [
        ("Read", "OK"),
        ("Read", "EACCES"),
        ("Read", "ENOENT"),
        ("Read", "EINVAL"),
        ("Write", "OK"),
        ("Write", "ENOSPC"),
        ("Rm", "OK"),
        ("SetPerms", "OK"),
        ("SetPerms", "ENOENT"),
        ("Watch", "OK"),
        ("Watch", "EEXIST"),
        ("Unwatch", "OK"),
        ("TransactionEnd", "OK"),
        ("TransactionEnd", "EAGAIN"),
        ("DirectoryPart", "OK"),
        ("Introduce", "OK"),
        ("IsDomainIntroduced", "OK"),
        ("unknown", "ENOSYS"),
    ];
    for (request, answer) in answers {
        let count = compared.answers.get(&(request.to_owned(), answer.to_owned()));
        assert!(count.is_some(), "no {request} was answered {answer}: {:#?}", compared.answers);
    }
}

/// oxenstored lets permissions name domains that do not exist, sorts children, and more: that is found.
#[test]
fn oxenstored_differs() {
    let peers = Peers::get().unwrap();
    let (c, ocaml) = (|| Daemon::c(&peers), || Daemon::ocaml(&peers));
    let difference = compare(&c, &ocaml, &sequence(2, STEPS), &mut Answers::new()).unwrap();
    let difference = difference.expect("no difference between C xenstored and oxenstored");
    assert!(difference.story(1).starts_with(&format!("#{} ", difference.step)), "{}", difference.story(1));
    assert_eq!(difference.actions.len(), difference.step + 1);
}

#[test]
fn ours_equals_c() {
    let peers = Peers::get().unwrap();
    let ours = Ours::build(Profile::Debug).unwrap();
    let (c, ours) = (|| Daemon::c(&peers), || Daemon::ours(&ours));
    differential::run(&c, &ours, 40..46, STEPS, SHOW).unwrap();
}

/// In these sequences the operator's transactions starve and guests are slowed: they must be answered all the same.
#[test]
fn guests_that_are_slowed_are_answered() {
    let peers = Peers::get().unwrap();
    let ours = Ours::build(Profile::Debug).unwrap();
    let (c, ours) = (|| Daemon::c(&peers), || Daemon::ours(&ours));
    for seed in [458, 587, 689] {
        differential::run(&c, &ours, seed..seed + 1, 400, SHOW).unwrap();
    }
}
