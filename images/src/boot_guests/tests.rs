use expect_test::{Expect, expect};
use tempfile::TempDir;

use super::*;
use crate::plan::check_text;

const SMALL: &str =
    "name = \"x\"\nkind = \"pv\"\nkernel = \"k\"\nramdisk = \"r\"\nmemory-mib = 32\nvif = [{}]\n";
const DISK: &str =
    "name = 'd'\ntype = 'pv'\nmemory = 64\nvcpus = 1\ndisk = ['vdev=xvda,format=raw,target=/dev/x']\n";

/// Guests of the shipped host: sections of its manifest, in whose folder are a kernel, a ramdisk and two configurations.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("guests")).unwrap();
    for (name, text) in [("k", "a kernel"), ("r", "a ramdisk"), ("small.toml", SMALL), ("disk.cfg", DISK)] {
        fs::write(folder.path().join("guests").join(name), text).unwrap();
    }
    folder
}

fn read(folder: &TempDir, sections: &str, edit: (&str, &str)) -> Result<crate::plan::Checked> {
    let text = crate::xen::read(&crate::images_dir().join("host.toml"))?;
    assert!(text.contains(edit.0), "{edit:?}");
    check_text(&folder.path().join("host.toml"), format!("{}{sections}", text.replacen(edit.0, edit.1, 1)))
}

fn section(name: &str, config: &str) -> String {
    format!("\n[guest.{name}]\ntenant = \"main\"\nconfig = \"guests/{config}\"\n")
}

#[expect(clippy::needless_pass_by_value, reason = "`expect!` makes a value for one use")]
fn refused(sections: &str, edit: (&str, &str), report: Expect) {
    let folder = folder();
    let error = read(&folder, sections, edit).map(drop).expect_err("nothing was found");
    let said = crate::cli::said(&error).replace(&folder.path().display().to_string(), "FOLDER");
    report.assert_eq(&said);
}

const AS_IT_IS: (&str, &str) = ("", "");

#[test]
fn their_files_are_in_their_order_and_do_not_depend_on_the_place() {
    let sections = section("b", "small.toml") + &section("a", "small.toml") + &section("c", "disk.cfg");
    let [files, again] = [(); 2].map(|()| {
        let folder = folder();
        read(&folder, &sections, AS_IT_IS).unwrap().guests.files("main").unwrap()
    });
    assert_eq!(files, again);
    let guests: Vec<CreateGuest> = serde_json::from_slice(&files[0].1).unwrap();
    let names: Vec<&str> = guests.iter().map(|guest| guest.config.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "c"]);
    let [kernel, ramdisk] = ["a kernel", "a ramdisk"].map(|text| sha256(text.as_bytes()).parse().unwrap());
    assert_eq!((guests[1].kernel, guests[1].ramdisk), (Some(kernel), Some(ramdisk)));
    assert_eq!((guests[2].kernel, guests[2].config.memory_mib), (None, 64));
    // Each image once.
    assert_eq!(files.len(), 3);
    for (id, text) in [(kernel, "a kernel"), (ramdisk, "a ramdisk")] {
        assert!(files.contains(&(boot_image(id), text.as_bytes().to_vec())));
    }
}

#[test]
fn a_host_without_any_has_no_files() {
    assert_eq!(BootGuests::default().files("main").unwrap(), []);
    let folder = folder();
    assert_eq!(read(&folder, "", AS_IT_IS).unwrap().guests.files("main").unwrap(), []);
}

#[test]
fn configurations_that_are_not_there() {
    refused(
        &(section("a", "none.toml") + &section("b", "b.cfg")),
        AS_IT_IS,
        expect![[r#"
            error: Cannot read the configuration of guest `a`, FOLDER/guests/none.toml: No such file or directory (os error 2)
                --> FOLDER/host.toml:159:1
                |
            159 | [guest.a]
                | ^^^^^^^^^
            help: correct `config`: it is a path relative to this file

            error: Cannot read the configuration of guest `b`, FOLDER/guests/b.cfg: No such file or directory (os error 2)
                --> FOLDER/host.toml:163:1
                |
            163 | [guest.b]
                | ^^^^^^^^^
            help: correct `config`: it is a path relative to this file

            2 errors in FOLDER/host.toml"#]],
    );
}

#[test]
fn a_mistake_in_a_configuration() {
    refused(
        &section("a", "k"),
        AS_IT_IS,
        expect![[r#"
        error: `a` is no setting
          --> FOLDER/guests/k:1:1
          |
        1 | a kernel
          | ^
        help: write `key = value`, or begin a comment with `#`

        1 error in FOLDER/guests/k"#]],
    );
}

#[test]
fn more_memory_than_the_tenant_may_have() {
    let sections = section("a", "small.toml") + &section("b", "disk.cfg");
    refused(
        &sections,
        ("memory-mib = 4096", "memory-mib = 95"),
        expect![[r#"
            error: With guest `b` those that start with the host have 96 MiB of memory, and tenant `main` may have 95
                --> FOLDER/host.toml:163:1
                |
            163 | [guest.b]
                | ^^^^^^^^^
            help: raise `memory-mib` of the tenant, or start this guest later

            1 error in FOLDER/host.toml"#]],
    );
}

#[test]
fn more_memory_than_the_host_has() {
    let sections: String = ["a", "b", "c"].map(|name| section(name, "disk.cfg")).concat();
    refused(
        &sections,
        ("memory-mib = 1024", "memory-mib = 640"),
        expect![[r#"
            error: With guest `c` Xen, the VMs and the guests that start with the host need 672 MiB, and the host has 640
                --> FOLDER/host.toml:167:1
                |
            167 | [guest.c]
                | ^^^^^^^^^
            help: write `memory-mib = 672` or more in `[host]` if the machine has it

            1 error in FOLDER/host.toml"#]],
    );
}

#[test]
fn a_device_that_nobody_serves() {
    let without = ("blkback = \"disks of its guests\"\n", "");
    refused(
        &section("a", "disk.cfg"),
        without,
        expect![[r#"
            error: Guest `a` has a disk, which tenant `main` has no backend for
                --> FOLDER/host.toml:158:1
                |
            158 | [guest.a]
                | ^^^^^^^^^
            help: add one to `[tenant.main.backends]`

            1 error in FOLDER/host.toml"#]],
    );
}
