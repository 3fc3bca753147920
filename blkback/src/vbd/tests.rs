use std::collections::BTreeMap;

use super::*;
use ennead_xen::DomId;

struct Map(BTreeMap<String, String>);

impl Nodes for Map {
    fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, ennead_xs_client::Error> {
        Ok(self.0.get(key).map(|value| value.clone().into_bytes()))
    }
}

fn map(nodes: &[(&str, &str)]) -> Map {
    Map(nodes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

fn refused(nodes: &[(&str, &str)]) -> String {
    match places(&mut map(nodes), 2) {
        Err(Failure::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn place(grefs: &[u32], port: u32) -> Place {
    let grefs = grefs.iter().copied().map(GrantRef).collect();
    Place { abi: Abi::X86_64, grefs, port: Port(port), persistent: false }
}

#[test]
fn rings_are_where_linux_says() {
    let one = [("ring-ref", "8"), ("event-channel", "5"), ("protocol", "x86_64-abi")];
    assert_eq!(places(&mut map(&one), 2).unwrap(), [place(&[8], 5)]);
    let short = [("ring-ref", "8"), ("event-channel", "5"), ("protocol", "x86_32-abi")];
    assert_eq!(places(&mut map(&short), 2).unwrap(), [Place { abi: Abi::X86_32, ..place(&[8], 5) }]);
    for (said, persistent) in [("0", false), ("1", true)] {
        let nodes = [&one[..], &[("feature-persistent", said)]].concat();
        assert_eq!(places(&mut map(&nodes), 2).unwrap(), [Place { persistent, ..place(&[8], 5) }]);
    }
    let pages = [("ring-page-order", "1"), ("ring-ref0", "8"), ("ring-ref1", "9"), ("event-channel", "5")];
    assert_eq!(places(&mut map(&pages), 2).unwrap(), [place(&[8, 9], 5)]);
    let queues = [
        ("multi-queue-num-queues", "2"),
        ("queue-0/ring-ref", "8"),
        ("queue-0/event-channel", "5"),
        ("queue-1/ring-ref", "9"),
        ("queue-1/event-channel", "6"),
    ];
    assert_eq!(places(&mut map(&queues), 2).unwrap(), [place(&[8], 5), place(&[9], 6)]);
}

#[test]
fn what_a_frontend_may_not_say_is_refused() {
    assert_eq!(refused(&[]), "ring-ref is missing");
    assert_eq!(refused(&[("ring-ref", "8")]), "event-channel is missing");
    assert_eq!(refused(&[("ring-ref", "eight")]), "ring-ref is no number up to 4294967295");
    assert_eq!(refused(&[("ring-ref", "4294967296")]), "ring-ref is no number up to 4294967295");
    assert_eq!(refused(&[("ring-page-order", "5")]), "ring-page-order is no number up to 4");
    assert_eq!(refused(&[("ring-page-order", "1"), ("ring-ref0", "1")]), "ring-ref1 is missing");
    assert_eq!(refused(&[("multi-queue-num-queues", "0")]), "multi-queue-num-queues is 0");
    assert_eq!(refused(&[("multi-queue-num-queues", "3")]), "multi-queue-num-queues is no number up to 2");
    assert_eq!(
        refused(&[("protocol", "arm-abi")]),
        "protocol \"arm-abi\" is neither x86_64-abi nor x86_32-abi"
    );
    assert_eq!(refused(&[("protocol", "x86_64-abi\n")]), "protocol is no text");
}

fn vbds() -> Vbds {
    let volume = |name: &str, read_only| Volume {
        name: name.to_owned(),
        device: name.replace("label:", "no-"),
        path: name.into(),
        disk: "nvme0n1".to_owned(),
        sectors: 2048,
        block: 512,
        physical_block: 4096,
        read_only,
        polled: false,
        discard: Some(4096),
    };
    Vbds::new(vec![volume("nvme0n1", false), volume("label:cd", true)], None, 3, Budget::new(8))
}

fn offered(nodes: &[(&str, &str)]) -> Result<BTreeMap<String, String>, Failure> {
    let device = Device { domid: DomId(1), handle: 51712 };
    vbds().offer(device, &mut map(nodes)).map(|nodes| nodes.into_iter().collect())
}

#[test]
fn what_is_offered_depends_on_the_volume_only() {
    let nodes = offered(&[("params", "nvme0n1"), ("mode", "w")]).unwrap();
    let get = |key: &str| nodes.get(key).map(String::as_str);
    assert_eq!(get("feature-flush-cache"), Some("1"));
    assert_eq!(get("feature-max-indirect-segments"), Some("256"));
    assert_eq!(get("max-ring-page-order"), Some("4"));
    assert_eq!(get("multi-queue-max-queues"), Some("3"));
    assert_eq!(get("feature-discard"), Some("1"));
    assert_eq!((get("feature-persistent"), get("feature-barrier")), (Some("1"), None));
    let nodes = offered(&[("params", "label:cd"), ("mode", "r")]).unwrap();
    assert_eq!(nodes.get("feature-discard"), None);
}

#[test]
fn a_volume_is_waited_for_and_its_mode_is_kept() {
    let failure = |nodes: &[(&str, &str)]| offered(nodes).unwrap_err();
    assert!(matches!(failure(&[("params", "sda"), ("mode", "w")]), Failure::NotYet(_)));
    assert!(matches!(failure(&[("params", "../sda"), ("mode", "w")]), Failure::NotYet(_)));
    assert!(matches!(failure(&[("params", "label:cd"), ("mode", "w")]), Failure::Refused(_)));
    assert!(matches!(failure(&[("params", "nvme0n1"), ("mode", "rw")]), Failure::Refused(_)));
    assert!(matches!(failure(&[("mode", "w")]), Failure::Refused(_)));
}

#[test]
fn a_volume_is_lent_to_one_who_writes_or_to_many_who_read() {
    let mut vbds = vbds();
    let volumes = vbds.volumes.clone();
    let [disk, part] = &volumes[..] else { panic!() };
    let mut lend = |domid, volume: &Volume, writable| {
        let device = Device { domid: DomId(domid), handle: 51712 };
        vbds.lend(Loan { device, volume: volume.clone(), writable })
    };
    let readers = [lend(1, part, false).unwrap(), lend(2, disk, false).unwrap()];
    let Err(Failure::NotYet(reason)) = lend(3, disk, true) else { panic!() };
    assert_eq!(reason, "volume \"nvme0n1\" is in use by domain 1");
    drop(readers);
    let writer = lend(3, part, true).unwrap();
    assert!(lend(1, part, false).is_err() && lend(1, disk, false).is_err());
    drop(writer);
    lend(1, disk, false).unwrap();
}
