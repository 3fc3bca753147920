//! The program as its users see it: what it shows, and its exit codes.
#![forbid(unsafe_code)]

mod console;
mod fake;
mod guests;
mod trouble;
mod volumes;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use expect_test::Expect;
use fake::Fake;

/// The program, for this host.
fn ennead(fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ennead"));
    command.env("ENNEAD_HOST", format!("unix:{}", fake.socket().display())).current_dir(fake.folder());
    // Not what this machine's user has.
    command.env("HOME", fake.folder()).env_remove("XDG_CONFIG_HOME").env_remove("ENNEAD_PROFILE");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What it shows and says, without this run's folder, and with how it ends.
fn said(fake: &Fake, arguments: &[&str]) -> String {
    let output = ennead(fake, arguments).output().unwrap();
    text(fake.folder(), &output)
}

fn text(folder: &Path, output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).replace('\r', "\\r");
    let errors = String::from_utf8_lossy(&output.stderr);
    for line in errors.lines() {
        text.push_str(format!("stderr: {line}").trim_end());
        text.push('\n');
    }
    if output.status.code() != Some(0) {
        text.push_str(&format!("{}\n", output.status));
    }
    text.replace(&folder.canonicalize().unwrap().display().to_string(), "FOLDER")
        .replace(&folder.display().to_string(), "FOLDER")
}

fn check(fake: &Fake, arguments: &[&str], expected: &Expect) {
    expected.assert_eq(&said(fake, arguments));
}

fn write(fake: &Fake, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(fake.folder().join(name), content).unwrap();
}

/// A host with a guest's files beside its socket.
fn with_files() -> Fake {
    let fake = Fake::new();
    write(&fake, "vmlinuz", vec![1; 3_500_000]);
    write(&fake, "initrd", "the ramdisk");
    write(
        &fake,
        "web.toml",
        "name = \"web\"\nkind = \"pvh\"\nkernel = \"vmlinuz\"\nramdisk = \"initrd\"\ncmdline = \"console=hvc0\"\nmemory-mib = 64\n",
    );
    fake
}

/// A host with a running guest.
fn with_guest() -> Fake {
    let fake = with_files();
    let output = ennead(&fake, &["create", "web.toml"]).output().unwrap();
    assert!(output.status.success(), "{}", text(fake.folder(), &output));
    fake
}
