//! A guest's life.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use expect_test::expect;

use crate::{check, ennead, said, with_files, with_guest, write};

#[test]
fn create_uploads_what_is_missing() {
    let fake = with_files();
    check(
        &fake,
        &["create", "web.toml"],
        &expect![[r#"
        web: domid 1024, running
        stderr: Uploaded vmlinuz (3.3 MiB)
        stderr: Uploaded initrd (11 B)
    "#]],
    );
    // The second needs no upload; the path is relative to the file, not to where the program runs.
    let elsewhere = tempfile::tempdir().unwrap();
    let file = fake.folder().join("web.toml");
    let output = ennead(&fake, &["create", file.to_str().unwrap(), "--name", "second", "--paused"])
        .current_dir(elsewhere.path())
        .output()
        .unwrap();
    expect![[r#"
        second: domid 1025, paused
    "#]]
    .assert_eq(&crate::text(fake.folder(), &output));
    let memory = fake.memory();
    assert_eq!(memory.images.len(), 2);
    assert_eq!(memory.asked.iter().filter(|asked| asked.starts_with("PUT")).count(), 2);
    assert_eq!(memory.asked.iter().filter(|asked| asked.starts_with("HEAD")).count(), 2);
}

#[test]
fn a_guest_without_a_kernel_boots_from_its_disk() {
    let fake = with_files();
    let text = "name = \"own\"\nkind = \"pvh\"\nmemory-mib = 64\n[[disk]]\nvdev = \"xvda\"\nsource = \"d\"\n";
    write(&fake, "own.toml", text);
    check(
        &fake,
        &["create", "own.toml"],
        &expect![[r#"
        own: domid 1024, running
    "#]],
    );
    let output = ennead(&fake, &["info", "own"]).output().unwrap();
    let shown = crate::text(fake.folder(), &output);
    assert!(shown.contains("the one on its disk") && !shown.contains("ramdisk"), "{shown}");
    assert!(fake.memory().images.is_empty());
}

#[test]
fn create_reads_xl_and_warns() {
    let fake = with_files();
    write(&fake, "old.cfg", "name = 'old'\ntype = 'pv'\nkernel = 'vmlinuz'\nmemory = 32\nvnc = 1\n");
    check(
        &fake,
        &["create", "old.cfg"],
        &expect![[r#"
        old: domid 1024, running
        stderr: warning: `vnc` is ignored
        stderr:   --> old.cfg:5:1
        stderr:   |
        stderr: 5 | vnc = 1
        stderr:   | ^^^
        stderr: help: a guest has a console of text, see `ennead console`; there are no screens and serial ports
        stderr:
        stderr: 1 warning in old.cfg
        stderr: Uploaded vmlinuz (3.3 MiB)
    "#]],
    );
    check(
        &fake,
        &["--json", "create", "old.cfg", "--name", "new"],
        &expect![[r#"
        {"name":"new","uuid":"6a1f2f0e-9b0c-4d53-9c86-0d4f5d1c8f11","domid":1025,"kind":"pv","state":"running","shutdown":null,"memory-kib":32768,"vcpus":1,"cpu-time-ns":1250000000,"started-ms":1700000000000,"restarts":0}
        stderr: {"warning":{"help":"a guest has a console of text, see `ennead console`; there are no screens and serial ports","line":5,"message":"`vnc` is ignored"}}
    "#]],
    );
}

#[test]
fn images_that_make_room_meanwhile_are_sent_again() {
    let fake = with_files();
    fake.memory().forgets = 1;
    check(
        &fake,
        &["create", "web.toml"],
        &expect![[r#"
        web: domid 1024, running
        stderr: Uploaded vmlinuz (3.3 MiB)
        stderr: Uploaded initrd (11 B)
        stderr: Uploaded vmlinuz (3.3 MiB)
    "#]],
    );
}

#[test]
fn an_image_of_the_host_is_named_by_its_hash() {
    let fake = with_guest();
    let hashes: Vec<String> = fake.memory().images.keys().map(ToString::to_string).collect();
    let file =
        |image: &str| format!("name = \"b\"\nkind = \"pv\"\nkernel = \"image:{image}\"\nmemory-mib = 9\n");
    write(&fake, "b.toml", file(hashes.first().unwrap()));
    check(
        &fake,
        &["create", "b.toml"],
        &expect![[r#"
        b: domid 1025, running
    "#]],
    );
    write(&fake, "b.toml", file("linux"));
    check(
        &fake,
        &["create", "b.toml"],
        &expect![[r#"
        stderr: error: There is no image `image:linux`
        stderr: help: the host's images are called by their SHA-256, as `sha256sum` prints it
        exit status: 2
    "#]],
    );
    write(&fake, "b.toml", file(&"0".repeat(64)).replace("\"b\"", "\"c\""));
    check(
        &fake,
        &["create", "b.toml"],
        &expect![[r#"
        stderr: error: The host does not have the guest's images
        exit status: 1
    "#]],
    );
}

#[test]
fn tables() {
    let fake = with_guest();
    said(&fake, &["create", "web.toml", "--name", "a-guest-with-a-longer-name", "--paused"]);
    check(
        &fake,
        &["list"],
        &expect![[r#"
        NAME                        DOMID  STATE    KIND    MEMORY  VCPUS    CPU  RESTARTS
        a-guest-with-a-longer-name   1025  paused   pvh   64.0 MiB      1  1.2 s         0
        web                          1024  running  pvh   64.0 MiB      1  1.2 s         0
    "#]],
    );
    check(
        &fake,
        &["info", "web"],
        &expect![[r#"
        name      web
        state     running
        domid     1024
        uuid      6a1f2f0e-9b0c-4d53-9c86-0d4f5d1c8f11
        memory    64.0 MiB
        vcpus     1
        cpu time  1.2 s
        started   2023-11-14T22:13:20Z
        restarts  0
        kernel    FOLDER/vmlinuz (fcd82ef12c43a66ab9a94edde492f35b03c565f94929cfc974220a91b7159481)
        ramdisk   FOLDER/initrd (e9caf64ac18660ec838c6aa314ee584bc846f1b9b43667974cd104d6643dcfa1)

        Its configuration:

        name = "web"
        kind = "pvh"
        kernel = "FOLDER/vmlinuz"
        ramdisk = "FOLDER/initrd"
        cmdline = "console=hvc0"
        memory-mib = 64
        vcpus = 1
        on-poweroff = "destroy"
        on-reboot = "restart"
        on-crash = "destroy"
    "#]],
    );
    check(
        &fake,
        &["host"],
        &expect![[r#"
        toolstack  toolstack 0.1.0, up 1m 1s
        guests     1 of 10
        memory     64 of 512 MiB
        vcpus      1 of 8

        SERVICE VM      DOMID  STATE         MEMORY     UP  RESTARTS
        pciback             1  running     64.0 MiB  1h 1m         0
        xenstore-logic     12  restarting  64.0 MiB  1h 1m         3
    "#]],
    );
    check(
        &fake,
        &["events"],
        &expect![[r#"
        2023-11-14T22:13:21Z  web (1024): created
        2023-11-14T22:13:22Z  a-guest-with-a-longer-name (1025): created
    "#]],
    );
    check(
        &fake,
        &["logs", "web"],
        &expect![[r#"
            Booting Linux\r
            web login: "#]],
    );
}

#[test]
fn events_are_followed() {
    let fake = with_guest();
    let mut child = ennead(&fake, &["events", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().ends_with("web (1024): created"));
    said(&fake, &["shutdown", "web"]);
    assert!(lines.next().unwrap().ends_with("web (1024): has shut down: poweroff"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn json() {
    let fake = with_guest();
    check(
        &fake,
        &["--json", "list"],
        &expect![[r#"
        [{"name":"web","uuid":"6a1f2f0e-9b0c-4d53-9c86-0d4f5d1c8f11","domid":1024,"kind":"pvh","state":"running","shutdown":null,"memory-kib":65536,"vcpus":1,"cpu-time-ns":1250000000,"started-ms":1700000000000,"restarts":0}]
    "#]],
    );
    check(
        &fake,
        &["info", "web", "--json"],
        &expect![[r#"
        {"guest":{"name":"web","uuid":"6a1f2f0e-9b0c-4d53-9c86-0d4f5d1c8f11","domid":1024,"kind":"pvh","state":"running","shutdown":null,"memory-kib":65536,"vcpus":1,"cpu-time-ns":1250000000,"started-ms":1700000000000,"restarts":0},"config":{"name":"web","kind":"pvh","uuid":null,"kernel":"FOLDER/vmlinuz","ramdisk":"FOLDER/initrd","cmdline":"console=hvc0","memory-mib":64,"max-memory-mib":64,"vcpus":1,"max-vcpus":1,"on-poweroff":"destroy","on-reboot":"restart","on-crash":"destroy","disk":[],"vif":[]},"kernel":{"sha256":"fcd82ef12c43a66ab9a94edde492f35b03c565f94929cfc974220a91b7159481","present":true},"ramdisk":{"sha256":"e9caf64ac18660ec838c6aa314ee584bc846f1b9b43667974cd104d6643dcfa1","present":true}}
    "#]],
    );
    check(
        &fake,
        &["--json", "host"],
        &expect![[r#"
            {"toolstack":"toolstack","version":"0.1.0","uptime-s":61,"iommu":true,"limits":{"memory-mib":512,"vcpus":8,"guests":10},"used":{"memory-mib":64,"vcpus":1,"guests":1},"services":[{"name":"pciback","domid":1,"state":"running","memory-kib":65536,"uptime-s":3700,"restarts":0},{"name":"xenstore-logic","domid":12,"state":"restarting","memory-kib":65536,"uptime-s":3700,"restarts":3}]}
        "#]],
    );
    check(
        &fake,
        &["--json", "events"],
        &expect![[r#"
        {"seq":1,"at-ms":1700000001000,"guest":"web","domid":1024,"event":"created"}
    "#]],
    );
    check(
        &fake,
        &["--json", "logs", "web"],
        &expect![[r#"
        {"log":"Booting Linux\r\nweb login: ","name":"web"}
    "#]],
    );
    check(
        &fake,
        &["--json", "pause", "web"],
        &expect![[r#"
        {"name":"web","uuid":"6a1f2f0e-9b0c-4d53-9c86-0d4f5d1c8f11","domid":1024,"kind":"pvh","state":"paused","shutdown":null,"memory-kib":65536,"vcpus":1,"cpu-time-ns":1250000000,"started-ms":1700000000000,"restarts":0}
    "#]],
    );
    check(
        &fake,
        &["--json", "destroy", "web"],
        &expect![[r#"
        {"name":"web"}
    "#]],
    );
    check(
        &fake,
        &["--json", "info", "web"],
        &expect![[r#"
        stderr: {"error":{"help":"`ennead list` shows all","kind":"no-such-guest","message":"There is no guest `web`"}}
        exit status: 4
    "#]],
    );
}

#[test]
fn a_life() {
    let fake = with_guest();
    check(
        &fake,
        &["pause", "web"],
        &expect![[r#"
        web: domid 1024, paused
    "#]],
    );
    check(
        &fake,
        &["shutdown", "web"],
        &expect![[r#"
        stderr: error: `web` is paused
        stderr: help: unpause it first
        exit status: 1
    "#]],
    );
    check(
        &fake,
        &["unpause", "web"],
        &expect![[r#"
        web: domid 1024, running
    "#]],
    );
    check(
        &fake,
        &["reboot", "web"],
        &expect![[r#"
        web: domid 1024, running
    "#]],
    );
    check(
        &fake,
        &["shutdown", "web"],
        &expect![[r#"
        web: domid 1024, dying
    "#]],
    );
    fake.memory().shuts_down_after = 1;
    check(
        &fake,
        &["shutdown", "--wait", "web"],
        &expect![[r#"
        web: has shut down
    "#]],
    );
    check(
        &fake,
        &["list"],
        &expect![[r#"
        NAME  DOMID  STATE  KIND  MEMORY  VCPUS  CPU  RESTARTS
    "#]],
    );
    check(
        &fake,
        &["destroy", "web"],
        &expect![[r#"
        stderr: error: There is no guest `web`
        stderr: help: `ennead list` shows all
        exit status: 4
    "#]],
    );
    said(&fake, &["create", "web.toml"]);
    check(
        &fake,
        &["destroy", "web"],
        &expect![[r#"
        web: destroyed
    "#]],
    );
    said(&fake, &["create", "web.toml"]);
    fake.memory().shuts_down_after = 100;
    check(
        &fake,
        &["shutdown", "--wait=1", "web"],
        &expect![[r#"
        stderr: error: web has not shut down within 1 s
        stderr: help: `ennead destroy web` ends it at once
        exit status: 1
    "#]],
    );
}

#[test]
fn disks_come_and_go() {
    let fake = with_guest();
    check(
        &fake,
        &["disk", "attach", "web", "xvdc", "volume:data"],
        &expect![[r#"
        web: has the disk xvdc
    "#]],
    );
    check(
        &fake,
        &["disk", "attach", "web", "xvdd", "label:x", "--read-only", "--json"],
        &expect![[r#"
        {"vdev":"xvdd","source":"label:x","access":"r","backend":null,"cdrom":false}
    "#]],
    );
    check(
        &fake,
        &["disk", "attach", "web", "nonsense", "label:x"],
        &expect![[r#"
        stderr: error: invalid value 'nonsense' for '<VDEV>': a disk is `xvda`, `xvdb`, ...
        stderr:
        stderr: For more information, try '--help'.
        exit status: 2
    "#]],
    );
    check(
        &fake,
        &["disk", "detach", "web", "xvdc", "--json"],
        &expect![[r#"
        {"name":"web","vdev":"xvdc"}
    "#]],
    );
    check(
        &fake,
        &["disk", "detach", "web", "xvdc"],
        &expect![[r#"
        stderr: error: The guest `web` has no disk `xvdc`
        exit status: 4
    "#]],
    );
}

#[test]
fn a_reboot_uploads_images_that_are_gone() {
    let fake = with_guest();
    fake.memory().images.clear();
    check(
        &fake,
        &["reboot", "web"],
        &expect![[r#"
        web: domid 1024, running
        stderr: Uploaded vmlinuz (3.3 MiB)
        stderr: Uploaded initrd (11 B)
    "#]],
    );
    fake.memory().images.clear();
    write(&fake, "initrd", "another ramdisk");
    check(
        &fake,
        &["reboot", "web"],
        &expect![[r#"
        stderr: error: The host no longer has the ramdisk of web, and FOLDER/initrd is another one now
        stderr: help: restore it, or create web anew
        exit status: 2
    "#]],
    );
    std::fs::remove_file(fake.folder().join("vmlinuz")).unwrap();
    check(
        &fake,
        &["reboot", "web"],
        &expect![[r#"
        stderr: error: Cannot read the kernel FOLDER/vmlinuz: No such file or directory (os error 2)
        exit status: 2
    "#]],
    );
}

#[test]
fn convert_shows_toml() {
    let fake = with_files();
    write(
        &fake,
        "old.cfg",
        "name = 'old'\ntype = 'pv'\nkernel = 'vmlinuz'\nmemory = 32\nvif = ['bridge=lan']\nvnc = 1\n",
    );
    check(
        &fake,
        &["convert", "old.cfg"],
        &expect![[r#"
        name = "old"
        kind = "pv"
        kernel = "vmlinuz"
        memory-mib = 32
        vcpus = 1
        on-poweroff = "destroy"
        on-reboot = "restart"
        on-crash = "destroy"

        [[vif]]
        bridge = "lan"
        stderr: warning: `vnc` is ignored
        stderr:   --> old.cfg:6:1
        stderr:   |
        stderr: 6 | vnc = 1
        stderr:   | ^^^
        stderr: help: a guest has a console of text, see `ennead console`; there are no screens and serial ports
        stderr:
        stderr: 1 warning in old.cfg
    "#]],
    );
    check(
        &fake,
        &["convert", "old.cfg", "--json"],
        &expect![[r#"
        {"name":"old","kind":"pv","uuid":null,"kernel":"vmlinuz","ramdisk":null,"cmdline":"","memory-mib":32,"max-memory-mib":32,"vcpus":1,"max-vcpus":1,"on-poweroff":"destroy","on-reboot":"restart","on-crash":"destroy","disk":[],"vif":[{"mac":null,"bridge":"lan","backend":null,"ip":[],"rate":null}]}
        stderr: {"warning":{"help":"a guest has a console of text, see `ennead console`; there are no screens and serial ports","line":6,"message":"`vnc` is ignored"}}
    "#]],
    );
}
