//! The measurements go through, on every daemon.
#![allow(missing_docs, reason = "a test")]

use ennead_xenstore_check::bench::{Options, bench, table};
use ennead_xenstore_check::daemon::{Daemon, Kind, Ours};
use ennead_xenstore_check::ours::Profile;
use ennead_xenstore_check::peer::Peers;

#[test]
fn every_measurement_gives_a_number() {
    let peers = Peers::get().unwrap();
    let ours = Ours::build(Profile::Debug).unwrap();
    let kinds = vec![Kind::C, Kind::Ocaml, Kind::Ours];
    let options = Options { kinds: kinds.clone(), rounds: 1, quick: true, pin: false, only: None };
    let start = |kind| match kind {
        Kind::C => Daemon::c(&peers),
        Kind::Ocaml => Daemon::ocaml(&peers),
        Kind::Ours => Daemon::ours(&ours),
    };
    let mut steps = 0;
    let lines = bench(&options, &start, &mut |_| steps += 1).unwrap();
    assert!(lines.len() > steps && steps > 40, "{steps} steps, {} lines", lines.len());
    for line in &lines {
        let only_ours = line.name.contains("Logic");
        for kind in kinds.iter().filter(|kind| !only_ours || **kind == Kind::Ours) {
            let number = line.median.get(kind.name()).copied().unwrap_or(f64::NAN);
            // A small store may fit into memory that the daemon has already.
            assert!(number > 0.0 || line.unit == "B", "{}, {}: {number}", line.name, kind.name());
        }
        assert_eq!(line.ratio.is_some(), !only_ours, "{}", line.name);
    }
    assert_eq!(table(&lines).lines().count(), lines.len() + 1);
}
