//! What goes wrong.

use expect_test::expect;

use crate::{check, ennead, said, with_files, with_guest, write};

#[test]
fn the_host_refuses() {
    let fake = with_guest();
    check(
        &fake,
        &["create", "web.toml"],
        &expect![[r#"
        stderr: error: There is a guest `web`
        exit status: 1
    "#]],
    );
    write(&fake, "big.toml", "name = \"big\"\nkind = \"pv\"\nkernel = \"vmlinuz\"\nmemory-mib = 1024\n");
    check(
        &fake,
        &["create", "big.toml"],
        &expect![[r#"
        stderr: error: The tenant may use 512 MiB of memory, and 0 MiB are in use
        stderr: help: give the guest less memory
        exit status: 1
    "#]],
    );
    check(
        &fake,
        &["--json", "create", "big.toml"],
        &expect![[r#"
        stderr: {"error":{"help":"give the guest less memory","kind":"quota","message":"The tenant may use 512 MiB of memory, and 0 MiB are in use"}}
        exit status: 1
    "#]],
    );
}

#[test]
fn there_is_no_such_guest() {
    let fake = with_guest();
    for command in ["info", "console", "pause", "unpause", "shutdown", "reboot", "destroy", "logs"] {
        let said = said(&fake, &[command, "wep"]);
        assert!(said.ends_with("exit status: 4\n"), "{command}: {said}");
    }
    check(
        &fake,
        &["info", "wep"],
        &expect![[r#"
        stderr: error: There is no guest `wep`
        stderr: help: `ennead list` shows all
        exit status: 4
    "#]],
    );
}

#[test]
fn the_host_is_not_there() {
    let fake = with_files();
    check(
        &fake,
        &["--host", "unix:nothing.sock", "list"],
        &expect![[r#"
        stderr: error: Cannot reach the host at unix:nothing.sock: No such file or directory (os error 2)
        stderr: help: is this its address, and is it running? `./run --keep` starts a host whose socket is `out/toolstack.sock`
        exit status: 3
    "#]],
    );
    check(
        &fake,
        &["--host", "unix:nothing.sock", "--json", "list"],
        &expect![[r#"
        stderr: {"error":{"help":"is this its address, and is it running? `./run --keep` starts a host whose socket is `out/toolstack.sock`","kind":"unreachable","message":"Cannot reach the host at unix:nothing.sock: No such file or directory (os error 2)"}}
        exit status: 3
    "#]],
    );
    let output = ennead(&fake, &["list"]).env_remove("ENNEAD_HOST").output().unwrap();
    expect![[r#"
        stderr: error: Cannot reach the host at unix:out/toolstack.sock: No such file or directory (os error 2)
        stderr: help: is this its address, and is it running? `./run --keep` starts a host whose socket is `out/toolstack.sock`
        exit status: 3
    "#]].assert_eq(&crate::text(fake.folder(), &output));
    // A socket that nobody answers at.
    let silent = std::os::unix::net::UnixListener::bind(fake.folder().join("silent.sock")).unwrap();
    check(
        &fake,
        &["--host", "unix:silent.sock", "--timeout", "1", "host"],
        &expect![[r#"
        stderr: error: The host at unix:silent.sock did not answer within 1 s
        stderr: help: its toolstack VM may still be starting: look at the host's console, and try again
        exit status: 3
    "#]],
    );
    drop(silent);
}

#[test]
fn a_profile_that_is_not_right() {
    let fake = with_files();
    check(
        &fake,
        &["--profile", "nothing.toml", "list"],
        &expect![[r#"
        stderr: error: Cannot read the profile nothing.toml: No such file or directory (os error 2)
        exit status: 2
    "#]],
    );
    write(&fake, "half.toml", "url = \"https://127.0.0.1:8443\"\nkey = \"secret\"\n");
    check(
        &fake,
        &["--profile", "half.toml", "list"],
        &expect![[r#"
        stderr: error: Cannot use half.toml: missing field `ca`
        stderr: help: `./run` writes `out/profile.toml` anew
        exit status: 2
    "#]],
    );
    write(
        &fake,
        "bad.toml",
        "url = \"https://127.0.0.1:8443\"\nca = \"\"\ncertificate = \"\"\nkey = \"secret\"\n",
    );
    check(
        &fake,
        &["--profile", "bad.toml", "list"],
        &expect![[r#"
        stderr: error: Cannot use bad.toml: The profile is not usable: its `key`: no items found
        stderr: help: `./run` writes `out/profile.toml` anew
        exit status: 2
    "#]],
    );
}

#[test]
fn files_that_are_not_right() {
    let fake = with_files();
    write(&fake, "bad.toml", "name = \"web\"\nkind = \"hvm\"\nkernel = \"vmlinuz\"\nmemroy-mib = 64\n");
    check(
        &fake,
        &["create", "bad.toml"],
        &expect![[r#"
        stderr: error: Guests of kind `hvm` are not supported yet
        stderr:   --> bad.toml:2:8
        stderr:   |
        stderr: 2 | kind = "hvm"
        stderr:   |        ^^^^^
        stderr: help: they need a device model, the service VM `qemu-stub`, which comes later; a kernel that knows Xen runs as `pvh`
        stderr:
        stderr: error: Unknown key `memroy-mib` of the guest
        stderr:   --> bad.toml:4:1
        stderr:   |
        stderr: 4 | memroy-mib = 64
        stderr:   | ^^^^^^^^^^
        stderr: help: did you mean `memory-mib`?
        stderr:
        stderr: error: There is no `memory-mib`
        stderr:   --> bad.toml
        stderr: help: add it, for example `memory-mib = 512`
        stderr:
        stderr: 3 errors in bad.toml
        exit status: 2
    "#]],
    );
    check(
        &fake,
        &["--json", "convert", "bad.toml"],
        &expect![[r#"
        stderr: {"error":{"help":"","kind":"configuration","message":"error: Guests of kind `hvm` are not supported yet\n  --> bad.toml:2:8\n  |\n2 | kind = \"hvm\"\n  |        ^^^^^\nhelp: they need a device model, the service VM `qemu-stub`, which comes later; a kernel that knows Xen runs as `pvh`\n\nerror: Unknown key `memroy-mib` of the guest\n  --> bad.toml:4:1\n  |\n4 | memroy-mib = 64\n  | ^^^^^^^^^^\nhelp: did you mean `memory-mib`?\n\nerror: There is no `memory-mib`\n  --> bad.toml\nhelp: add it, for example `memory-mib = 512`\n\n3 errors in bad.toml"}}
        exit status: 2
    "#]],
    );
    check(
        &fake,
        &["create", "nothing.toml"],
        &expect![[r#"
        stderr: error: Cannot read the configuration nothing.toml: No such file or directory (os error 2)
        exit status: 2
    "#]],
    );
    write(&fake, "gone.toml", "name = \"web\"\nkind = \"pv\"\nkernel = \"nothing\"\nmemory-mib = 64\n");
    check(
        &fake,
        &["create", "gone.toml"],
        &expect![[r#"
        stderr: error: Cannot read the kernel nothing: No such file or directory (os error 2)
        exit status: 2
    "#]],
    );
    write(&fake, "large.toml", " ".repeat(100_000));
    check(
        &fake,
        &["create", "large.toml"],
        &expect![[r#"
        stderr: error: large.toml has 100000 bytes, more than 65536
        stderr: help: is this a guest's configuration?
        exit status: 2
    "#]],
    );
    assert!(fake.memory().asked.is_empty());
}

#[test]
fn wrong_usage() {
    let fake = with_files();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["info"],
        &["info", "a/b"],
        &["--host", "http://a", "list"],
        &["list", "--timeout", "0"],
    ] {
        let said = said(&fake, arguments);
        assert!(said.ends_with("exit status: 2\n"), "{arguments:?}: {said}");
    }
    check(
        &fake,
        &["info", "../web"],
        &expect![[r#"
        stderr: error: invalid value '../web' for '<NAME>': a guest's name is 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first not `.` or `-`
        stderr:
        stderr: For more information, try '--help'.
        exit status: 2
    "#]],
    );
}

#[test]
fn help_lists_the_exit_codes() {
    let fake = with_files();
    check(
        &fake,
        &["--help"],
        &expect![[r#"
            Operates guests on an Ennead host

            Usage: ennead [OPTIONS] <COMMAND>

            Commands:
              create       Create a guest from a file, and let it run
              list         List the guests
              info         Show a guest and its configuration
              console      Use a guest's console; Ctrl-] leaves it
              pause        Stop a guest's virtual CPUs
              unpause      Let a paused guest go on
              shutdown     Ask a guest to switch itself off
              reboot       Ask a guest to reboot
              destroy      End a guest at once
              logs         Show what a guest last printed on its console
              events       Show what has happened to guests
              disk         Give a guest that runs a disk, or take one from it
              volume       List, create, copy, enlarge and delete volumes, which guests have as disks (`source =
                           "volume:NAME"`)
              host         Show the host: what guests may use, and its service VMs
              convert      Show a guest's configuration in xl's syntax as TOML
              completions  Print completions for a shell
              help         Print this message or the help of the given subcommand(s)

            Options:
                  --host <URL>         The host: `unix:` and the path of its toolstack's socket
                  --profile <FILE>     A file that says where the host is on the network, and who asks
                  --json               Show JSON, for programs
                  --timeout <SECONDS>  Give up when nothing has come from the host for so long [default: 60]
              -h, --help               Print help
              -V, --version            Print version

            Exit codes:
              0  it has been done
              1  the host refused, or what was waited for did not come
              2  wrong usage, or a file that cannot be read or is not right
              3  the host cannot be reached, or does not answer
              4  there is no such guest, volume or disk

            Without --host and --profile the host is that of $ENNEAD_HOST or of the profile $ENNEAD_PROFILE;
            else of the
            first profile that is there: ./out/profile.toml, ~/.config/ennead/profile.toml; else
            unix:out/toolstack.sock.

            With --json the standard output gets JSON, for events an object a line, and the standard error an
            object `error` with its `kind`, `message` and `help`.
        "#]],
    );
}

#[test]
fn completions() {
    let fake = with_files();
    for shell in ["bash", "zsh", "fish"] {
        let said = said(&fake, &["completions", shell]);
        assert!(said.contains("unpause") && !said.contains("exit status"), "{shell}: {said}");
    }
}

#[test]
fn who_stops_reading_is_no_failure() {
    let fake = with_guest();
    let mut child =
        ennead(&fake, &["completions", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
