//! The bounds and the rules that hold in both syntaxes.

use crate::{
    Access, Action, BootFile, GuestConfig, Level, MAX_CMDLINE, MAX_CONFIG_LENGTH, Rate, is_mac, is_name,
    is_uuid, parse, parse_toml, parse_xl,
};

const TOML: &str = "name = 'web'\nkind = 'pvh'\nkernel = '/k'\nmemory-mib = 64\n";
const XL: &str = "name = 'web'\ntype = 'pvh'\nkernel = '/k'\nmemory = 64\n";

fn toml(more: &str) -> Result<GuestConfig, String> {
    parse_toml("web.toml", &format!("{TOML}{more}")).map(|p| p.config).map_err(|report| report.to_string())
}

fn xl(more: &str) -> Result<GuestConfig, String> {
    parse_xl("web.cfg", &format!("{XL}{more}")).map(|p| p.config).map_err(|report| report.to_string())
}

#[test]
fn defaults_are_the_same_in_both_syntaxes() {
    let config = toml("").expect("valid");
    assert_eq!(xl("").expect("valid"), config);
    assert_eq!((config.max_memory_mib, config.vcpus, config.max_vcpus), (64, 1, 1));
    let actions = (config.on_poweroff, config.on_reboot, config.on_crash);
    assert_eq!(actions, (Action::Destroy, Action::Restart, Action::Destroy));
    assert_eq!(config.kernel, Some(BootFile::Path("/k".to_owned())));
    assert!(
        config.uuid.is_none()
            && config.cmdline.is_empty()
            && config.disks.is_empty()
            && config.vifs.is_empty()
    );
}

#[test]
fn the_name_of_the_file_decides() {
    assert!(parse("web.TOML", TOML).is_ok() && parse("web.toml", XL).is_err());
    for name in ["web.cfg", "web", "toml", "web.hvm"] {
        assert!(parse(name, XL).is_ok() && parse(name, TOML).is_err(), "{name}");
    }
}

#[test]
fn what_is_at_the_bound_is_accepted_and_one_more_is_not() {
    type Case = (fn(usize) -> String, usize);
    let cases: [Case; 4] = [
        (|n| format!("cmdline = '{}'", "x".repeat(n)), MAX_CMDLINE),
        (|n| format!("ramdisk = '{}'", "x".repeat(n)), 1024),
        (|n| format!("vcpus = {n}"), 128),
        (|n| format!("#{}", "x".repeat(n)), MAX_CONFIG_LENGTH - TOML.len() - 1),
    ];
    for (text, bound) in cases {
        assert!(toml(&text(bound)).is_ok());
        assert!(toml(&text(bound + 1)).is_err());
    }
    // XL is as much shorter than TOML as `memory` is than `memory-mib`.
    assert!(xl(&format!("#{}", "x".repeat(MAX_CONFIG_LENGTH - XL.len()))).is_err());
    let memory = |mib: u32| parse_toml("", &TOML.replace("64", &mib.to_string())).is_ok();
    assert!(memory(4) && memory(1 << 20) && !memory(3) && !memory((1 << 20) + 1));
    let disks = |n: u32| (0..n).map(|i| format!("'v,raw,d{i}p0',")).collect::<String>();
    assert_eq!(xl(&format!("disk = [{}]", disks(32))).expect("32 disks").disks.len(), 32);
    assert!(xl(&format!("disk = [{}]", disks(33))).expect_err("33 disks").contains("at most 32"));
    assert!(xl(&format!("vif = [{}]", "'',".repeat(33))).expect_err("33 NICs").contains("at most 32"));
}

#[test]
fn numbers_of_xl_are_those_of_strtoul() {
    for (text, expected) in
        [("16", 16), ("0x10", 16), ("'0X10'", 16), ("020", 16), ("' 16'", 16), ("\"16\"", 16)]
    {
        let text = XL.replace("64", text);
        assert_eq!(parse_xl("", &text).expect("a number").config.memory_mib, expected, "{text}");
    }
    for text in
        ["08", "0x", "''", "'-16'", "'+16'", "'16 '", "0x-10", "16a", "99999999999999999999", "1e3", "[16]"]
    {
        assert!(parse_xl("", &XL.replace("64", text)).is_err(), "{text}");
    }
}

#[test]
fn a_disk_of_xl_is_as_its_manual_says() {
    // The examples of xl-disk-configuration(5), and those of its deprecated forms.
    let disk = |spec: &str| {
        let config = xl(&format!("disk = [ \"{spec}\" ]")).unwrap_or_else(|report| panic!("{report}"));
        let disk = config.disks.into_iter().next().expect("a disk");
        (disk.source.unwrap_or_default(), disk.vdev, disk.access, disk.cdrom)
    };
    for spec in [
        "/dev/vg/guest-volume,,hda",
        "/dev/vg/guest-volume,raw,hda,rw",
        "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
        "raw:/dev/vg/guest-volume,hda,w",
        "vdev=hda,/dev/vg/guest-volume,raw,w",
    ] {
        let expected = ("/dev/vg/guest-volume".to_owned(), "hda".to_owned(), Access::ReadWrite, false);
        assert_eq!(disk(spec), expected, "{spec}");
    }
    for spec in [
        "/root/image.iso,,hdc,cdrom",
        "/root/image.iso,,hdc,,cdrom",
        "/root/image.iso,raw,hdc,devtype=cdrom",
        "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",
        "raw:/root/image.iso,hdc:cdrom,ro",
    ] {
        let expected = ("/root/image.iso".to_owned(), "hdc".to_owned(), Access::ReadOnly, true);
        assert_eq!(disk(spec), expected, "{spec}");
    }
    for spec in [
        "devtype=cdrom,,,hdc",
        ",,hdc:cdrom,r",
        ",hdc:cdrom,r",
        "vdev=hdc,access=r,devtype=cdrom,target=",
        ",empty,hdc:cdrom,r",
        "vdev=hdc,access=r,devtype=cdrom,format=empty",
    ] {
        assert_eq!(disk(spec), (String::new(), "hdc".to_owned(), Access::ReadOnly, true), "{spec}");
    }
    assert_eq!(disk("vdev=xvda,target=nfs:a,b=c ").0, "nfs:a,b=c ");
}

#[test]
fn rates_are_those_of_libxlu() {
    let rate = |text: &str| {
        Rate::try_from(text.to_owned()).map(|rate| (rate.bytes_per_interval(), rate.interval_us()))
    };
    for (text, expected) in [
        ("16000000b/s", (100_000, 50_000)),
        ("2000000B/s@50ms", (100_000, 50_000)),
        ("16Kb/s", (100, 50_000)),
        ("2KB/s@50ms", (100, 50_000)),
        ("16Mb/s", (100_000, 50_000)),
        ("8Gb/s@50ms", (50_000_000, 50_000)),
        ("80Mb/s@1s", (10_000_000, 1_000_000)),
        ("1MB/s@20ms", (20_000, 20_000)),
        ("1000000B/s@1us", (1, 1)),
    ] {
        assert_eq!(rate(text), Ok(expected), "{text}");
        let again = Rate::try_from(text.to_owned()).map(|rate| rate.to_string()).expect("a rate");
        assert_eq!(rate(&again), Ok(expected), "{text} is {again}");
    }
    for text in [
        "",
        "@",
        "foo",
        "10MB",
        "10MB/m",
        "10ZB/s",
        "0B/s",
        "10Mb/s@foo",
        "10Mb/s@10h",
        "10MB/s@",
        "10MB/s@10",
        "1B/s@0us",
        "1B/s@4294968ms",
        "1B/s@4295s",
        "-1MB/s",
        "+1MB/s",
        "1MB/s@+1s",
        "1.5MB/s",
        "1 MB/s",
        "999999999999999999999GB/s",
        "1001GB/s",
        "MB/s",
    ] {
        assert!(rate(text).is_err(), "{text}");
    }
}

#[test]
fn names_addresses_and_uuids() {
    for good in ["a", "web-1.example.org", "_x", "0", &"x".repeat(64)] {
        assert!(is_name(good), "{good}");
    }
    for bad in ["", "-rf", ".", "..", "a b", "a/b", "\u{e4}", "a\n", &"x".repeat(65)] {
        assert!(!is_name(bad), "{bad}");
    }
    assert!(is_mac("00:16:3e:12:34:5f"));
    for bad in [
        "",
        "00:16:3E:12:34:5f",
        "00:00:00:00:00:00",
        "01:00:5e:00:00:01",
        "0:16:3e:12:34:5f",
        "00:16:3e:12:34",
    ] {
        assert!(!is_mac(bad), "{bad}");
    }
    assert!(is_uuid("5c2b6c2e-64c2-4a71-a5f7-8b1e5bd0a6f1"));
    for bad in ["", "5C2b6c2e-64c2-4a71-a5f7-8b1e5bd0a6f1", "5c2b6c2e64c24a71a5f78b1e5bd0a6f1", "\u{e4}"] {
        assert!(!is_uuid(bad), "{bad}");
    }
    let config = xl("uuid = '5C2B6C2E64C24A71A5F78B1E5BD0A6F1'").expect("a UUID without `-`");
    assert!(config.uuid.as_deref().is_some_and(is_uuid));
}

#[test]
fn what_is_deserialized_is_checked() {
    let config = xl("disk = [ 'vg/a,raw,xvda' ]; vif = [ 'bridge=lan,rate=1MB/s' ]").expect("valid");
    let json = serde_json::to_string(&config).expect("text and numbers");
    assert_eq!(serde_json::from_str::<GuestConfig>(&json).expect("what was written"), config);
    for (old, new, reason) in [
        ("\"memory-mib\":64", "\"memory-mib\":0", "memory-mib: `memory-mib` is 0"),
        ("\"name\":\"web\"", "\"name\":\"../web\"", "name: `../web` is no name for a guest"),
        ("\"vdev\":\"xvda\"", "\"vdev\":\"\"", "disk[0].vdev: `\"\"` is no virtual disk"),
        ("\"bridge\":\"lan\"", "\"bridge\":\"a b\"", "vif[0].bridge: `a b` is no name for a network"),
        ("\"bridge\":\"lan\"", "\"vlan\":0", "vif[0].vlan: `vlan` is 0"),
        ("1MB/s", "1MB", "is not one in bytes or bits per second"),
        ("\"cmdline\":", "\"comandline\":", "unknown field `comandline`"),
    ] {
        assert!(json.contains(old), "{old} is not in {json}");
        let error = serde_json::from_str::<GuestConfig>(&json.replace(old, new)).expect_err(new).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn no_stand_in_gets_into_a_guest() {
    let without_kernel = XL.replace("kernel = '/k'\n", "");
    for more in ["", "bootloader = ''", "firmware = 'default'"] {
        let report =
            parse_xl("web.cfg", &format!("{without_kernel}{more}")).expect_err("no kernel").to_string();
        assert!(report.contains("There is no `kernel`"), "{report}");
    }
    for more in ["kernel = []", "bootloader = 'pygrub'", "disk = ['a,qcow2,xvda']", "disk = 'a'", "vcpus ="] {
        let report =
            parse_xl("web.cfg", &format!("{without_kernel}{more}")).expect_err("no kernel").to_string();
        assert!(report.ends_with("1 error in web.cfg") && !report.contains("no `kernel`"), "{report}");
    }
}

#[test]
fn terminals_see_no_control_characters() {
    for text in ["na\u{1b}me = '\u{202e}'\n\u{1b}[2J = 1\nkernel = '\u{1b}[2J\n", "\"\u{1b}\" = 1"] {
        let report = parse("a\u{1b}[2J.cfg", text).expect_err("nonsense").to_string();
        assert!(!report.contains('\u{1b}') && !report.contains('\u{202e}'), "{report:?}");
    }
    let report =
        parse("a.toml", "\"\\u001b[2J\" = 1\nname = \"\\u001b\"\n").expect_err("nonsense").to_string();
    assert!(!report.contains('\u{1b}'), "{report:?}");
}

#[test]
fn of_very_many_mistakes_the_first_are_shown_and_errors_before_warnings() {
    let text =
        format!("{}vcpus = 0\n{XL}", (0..200).map(|n| format!("unknown{n} = 1\n")).collect::<String>());
    let report = parse_xl("web.cfg", &text).expect_err("no virtual CPUs");
    assert_eq!((report.diagnostics.len(), report.omitted), (64, 137));
    assert_eq!(report.diagnostics.iter().filter(|d| d.level == Level::Error).count(), 1);
    assert!(report.to_string().ends_with("1 error, 63 warnings, 137 more in web.cfg"), "{report}");
}

#[test]
fn of_a_very_long_line_what_matters_is_shown() {
    let text = format!("{XL}vif = [ {} 'mac=1', 'bridge=lan' ]", "'bridge=lan',".repeat(20));
    let report = parse_xl("web.cfg", &text).expect_err("no MAC address").to_string();
    let lines: Vec<&str> = report.lines().collect();
    let at = lines.iter().position(|line| line.contains("^")).expect("carets");
    let (text, carets) = (lines[at - 1], lines[at]);
    assert!(text.chars().count() < 140 && text.contains(" | ..."), "{report}");
    assert_eq!(text.find("1', 'bridge"), carets.find('^'), "{report}");
}
