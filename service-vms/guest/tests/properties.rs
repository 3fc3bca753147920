//! Whatever stands in a file: no panic, a report that shows, soon; and a guest survives being written as TOML.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use ennead_guest::{
    Access, Action, BootFile, Disk, GuestConfig, Kind, MAX_CONFIG_LENGTH, Rate, Vif, parse_toml, parse_xl,
    to_toml,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const XL: &[&str] = &[
    include_str!("xl/debian-pv.cfg"),
    include_str!("xl/xend.cfg"),
    include_str!("xl/network.cfg"),
    include_str!("xl/quoting.cfg"),
    include_str!("xl/xen-4.9-pvh.cfg"),
    include_str!("errors/disks.cfg"),
    include_str!("errors/nics.cfg"),
    include_str!("errors/refused.cfg"),
];
const TOML: &[&str] = &[
    include_str!("xl/network.toml"),
    include_str!("xl/xend.toml"),
    include_str!("errors/unknown.toml"),
    include_str!("errors/bounds.toml"),
];

/// What means something to one of the readers, to be put where it does not belong.
const PIECES: &[&str] = &[
    "=",
    "+=",
    "[",
    "]",
    ",",
    ";",
    "#",
    "'",
    "\"",
    "\\",
    "\n",
    "\r\n",
    " ",
    "\t",
    ":",
    "@",
    "image:",
    "target=",
    "mac=",
    "rate=",
    "ip=",
    "1MB/s",
    "cdrom",
    "phy:",
    "raw:",
    "tap:aio:",
    "xvda",
    "d0p0",
    "0x",
    "08",
    "name",
    "disk",
    "vif",
    "memory",
    "[[disk]]",
    "[disk]",
    "{",
    "}",
    "true",
    "\u{0}",
    "\u{1b}",
    "\u{202e}",
    "\u{e4}",
    "\u{1f980}",
    "''",
    "[]",
];

/// What holds of every text in either syntax.
fn holds(text: &str) -> Result<(), TestCaseError> {
    for parsed in [parse_xl("guest.cfg", text), parse_toml("guest.toml", text)] {
        let report = match parsed {
            Ok(parsed) => {
                prop_assert_eq!(parsed.config.check(), Ok(()));
                let toml = to_toml(&parsed.config);
                let again = parse_toml("again.toml", &toml);
                prop_assert!(again.is_ok(), "{}\n{:?}", toml, again);
                prop_assert_eq!(again.expect("just looked").config, parsed.config);
                parsed.warnings
            }
            Err(report) => {
                prop_assert!(!report.is_empty());
                report
            }
        };
        for diagnostic in &report.diagnostics {
            prop_assert!(!diagnostic.message.is_empty() && !diagnostic.help.is_empty(), "{:?}", diagnostic);
            prop_assert!(!diagnostic.message.contains(['\n', '\u{1b}', '\u{202e}']), "{:?}", diagnostic);
        }
        let shown = report.to_string();
        prop_assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{:?}", shown);
    }
    Ok(())
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
}

fn boot_file() -> impl Strategy<Value = BootFile> {
    prop_oneof!["[/a-z][ -~]{0,40}".prop_map(BootFile::from), name().prop_map(BootFile::Stored)]
}

fn action() -> impl Strategy<Value = Action> {
    select(vec![Action::Destroy, Action::Restart, Action::Preserve])
}

fn rate() -> impl Strategy<Value = Rate> {
    let units = select(vec!["b", "B", "Kb", "KB", "Mb", "MB", "Gb", "GB"]);
    let interval = prop::option::of((1_u32..5000, select(vec!["us", "ms", "s"])));
    (1_u32..5000, units, interval).prop_filter_map(
        "less than a byte, or too much",
        |(number, unit, interval)| {
            let interval = interval.map(|(number, unit)| format!("@{number}{unit}")).unwrap_or_default();
            Rate::try_from(format!("{number}{unit}/s{interval}")).ok()
        },
    )
}

fn disk(n: usize) -> impl Strategy<Value = Disk> {
    (prop::option::of("[ -~]{1,60}"), any::<bool>(), prop::option::of(name())).prop_map(
        move |(source, writable, backend)| {
            let cdrom = source.is_none();
            let access = if writable && !cdrom { Access::ReadWrite } else { Access::ReadOnly };
            // The name of the backend that there is not.
            let backend = backend.filter(|name| name != "0" && name != "Domain-0");
            Disk { vdev: format!("d{n}p1"), source, access, backend, cdrom }
        },
    )
}

fn vif(n: usize) -> impl Strategy<Value = Vif> {
    let ip = prop::collection::vec(any::<std::net::IpAddr>().prop_map(|ip| ip.to_string()), 0..4);
    let vlan = prop::option::of(1..=4094_u16);
    (any::<bool>(), prop::option::of("[a-z][a-z0-9._-]{0,14}"), ip, prop::option::of(rate()), vlan).prop_map(
        move |(has_mac, bridge, ip, rate, vlan)| Vif {
            mac: has_mac.then(|| format!("00:16:3e:00:00:{n:02x}")),
            bridge,
            backend: None,
            ip,
            rate,
            vlan,
        },
    )
}

fn guest() -> impl Strategy<Value = GuestConfig> {
    let head = (
        name(),
        any::<bool>(),
        prop::option::of("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    );
    let boot = (boot_file(), prop::option::of(boot_file()), "[ -~]{0,200}");
    let size = (4_u32..=1 << 19, 0_u32..=1 << 19, 1_u32..=64, 0_u32..=64);
    let actions = (action(), action(), action());
    let devices = (0_usize..5, 0_usize..5).prop_flat_map(|(disks, vifs)| {
        ((0..disks).map(disk).collect::<Vec<_>>(), (0..vifs).map(vif).collect::<Vec<_>>())
    });
    (head, boot, size, actions, devices).prop_map(|(head, boot, size, actions, devices)| GuestConfig {
        name: head.0,
        kind: if head.1 { Kind::Pv } else { Kind::Pvh },
        uuid: head.2,
        kernel: Some(boot.0),
        ramdisk: boot.1,
        cmdline: boot.2,
        memory_mib: size.0,
        max_memory_mib: size.0 + size.1,
        vcpus: size.2,
        max_vcpus: size.2 + size.3,
        on_poweroff: actions.0,
        on_reboot: actions.1,
        on_crash: actions.2,
        disks: devices.0,
        vifs: devices.1,
    })
}

/// A place between two characters.
fn boundary(text: &str, at: Index) -> usize {
    let mut at = at.index(text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_guest_survives_toml_and_json(config in guest()) {
        prop_assert_eq!(config.check(), Ok(()));
        let toml = to_toml(&config);
        let parsed = parse_toml("guest.toml", &toml);
        prop_assert!(parsed.is_ok(), "{}\n{}", toml, parsed.expect_err("just looked"));
        prop_assert_eq!(&parsed.expect("just looked").config, &config);
        let json = serde_json::to_string(&config).expect("text and numbers");
        prop_assert_eq!(serde_json::from_str::<GuestConfig>(&json).expect("what was written"), config);
    }

    #[test]
    fn mutated_files(
        file in any::<Index>(),
        edits in prop::collection::vec((any::<Index>(), 0_usize..30, select(PIECES)), 1..6),
    ) {
        let all: Vec<&str> = XL.iter().chain(TOML).copied().collect();
        let mut text = (*file.get(&all)).to_owned();
        for (at, delete, piece) in edits {
            let at = boundary(&text, at);
            let rest: String = text[at..].chars().skip(delete).collect();
            text = format!("{}{piece}{rest}", &text[..at]);
        }
        holds(&text)?;
    }

    #[test]
    fn pieces(pieces in prop::collection::vec(select(PIECES), 0..60)) {
        holds(&pieces.concat())?;
    }

    #[test]
    fn bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        holds(&String::from_utf8_lossy(&bytes))?;
    }
}

#[test]
fn the_worst_files_are_read_soon() {
    let unit = |unit: &str| unit.repeat(MAX_CONFIG_LENGTH / unit.len());
    let numbered = |shape: fn(usize) -> String| {
        let mut text = String::new();
        let mut n = 0;
        while text.len() + shape(n).len() <= MAX_CONFIG_LENGTH {
            text.push_str(&shape(n));
            n += 1;
        }
        text
    };
    let list = |key: &str, items: &str| {
        format!("{key} = [ {} ]", items.repeat((MAX_CONFIG_LENGTH - 20) / items.len()))
    };
    let quoted = |key: &str, item: &str| {
        format!("{key} = [ '{}' ]", item.repeat((MAX_CONFIG_LENGTH - 20) / item.len()))
    };
    let files = [
        unit("["),
        unit("a=["),
        unit("a=[\n"),
        unit("'"),
        unit("\"\\"),
        unit("a="),
        unit("a=1;"),
        unit("a+='x';"),
        unit("a+=[1];"),
        unit("\u{1f980}"),
        unit(" "),
        unit("\n"),
        unit("\\"),
        unit("[[disk]]\n"),
        unit("a."),
        numbered(|n| format!("k{n}=1\n")),
        numbered(|n| format!("k{n} = 'x'\nvcpus = 0\n")),
        numbered(|n| format!("memory{n} = 1\nmemory-mi{n} = 1\n")),
        list("disk", "'',"),
        list("disk", "'a,raw,xvda',"),
        list("vif", "'',"),
        list("vif", "'mac=00:16:3e:00:00:01',"),
        list("vif", "['',"),
        quoted("disk", "a,"),
        quoted("disk", "tap:"),
        quoted("disk", "a:"),
        quoted("disk", "discard,"),
        quoted("disk", "no-discard,"),
        quoted("vif", "a=1,"),
        quoted("vif", "trusted,"),
        quoted("vif", "mac"),
        quoted("vif", "ip=1 "),
        format!("name = '{}'", "x".repeat(MAX_CONFIG_LENGTH - 20)),
        format!("{} = 1", "x".repeat(MAX_CONFIG_LENGTH - 20)),
    ];
    for text in files {
        assert!(text.len() <= MAX_CONFIG_LENGTH);
        let start = Instant::now();
        holds(&text).unwrap_or_else(|error| panic!("{error}"));
        let head: String = text.chars().take(30).collect();
        // Without optimization and beside other work; what is quadratic takes minutes.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?} for {head:?}", start.elapsed());
    }
}

#[test]
fn what_is_too_long_is_not_read() {
    for report in
        [parse_xl("a.cfg", &" ".repeat(MAX_CONFIG_LENGTH + 1)), parse_toml("a.toml", &" ".repeat(1 << 24))]
    {
        assert!(report.expect_err("too long").to_string().contains("bytes, more than 65536"));
    }
}
