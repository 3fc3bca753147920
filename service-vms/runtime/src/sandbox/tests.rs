//! Each step in a thread of its own: Linux applies it to that thread only, which then ends.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;

use super::*;

fn in_a_thread<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(test).join().expect("the test's own assertions"))
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ennead-sandbox-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(path.join("xen")).unwrap();
    path
}

#[test]
fn no_other_program_starts() {
    let start = || Command::new("/bin/true").status();
    assert!(start().is_ok(), "before");
    let after = in_a_thread(|| {
        Sandbox::new().seccomp().unwrap();
        start().map_err(|error| error.kind())
    });
    assert_eq!(after.unwrap_err(), io::ErrorKind::PermissionDenied);
    let kept = in_a_thread(|| {
        Sandbox::new().keep_call(libc::SYS_execve).keep_call(libc::SYS_vfork).seccomp().unwrap();
        start()
    });
    assert!(kept.is_ok(), "only what is not kept is denied: {kept:?}");
}

#[test]
fn every_denied_call_has_one_entry() {
    let numbers: BTreeSet<_> = DENIED.iter().map(|(number, _)| number).collect();
    assert_eq!(numbers.len(), DENIED.len());
}

#[test]
fn only_named_paths_open() {
    let top = directory("landlock");
    for file in ["read", "write", "other", "xen/below"] {
        fs::write(top.join(file), file).unwrap();
    }
    fs::create_dir_all(top.join("tree/branch")).unwrap();
    let change = |name: &str| {
        let (old, new) = (top.join(name).join("old"), top.join(name).join("new"));
        fs::write(&old, "").and_then(|()| fs::rename(&old, &new)).and_then(|()| fs::remove_file(&new)).is_ok()
    };
    let sandbox = Sandbox::new()
        .keep_read(top.join("read"))
        .keep_write(top.join("write"))
        .keep_read(top.join("xen"))
        .keep_tree(top.join("tree"))
        .keep_device("/dev/null");
    let result = in_a_thread(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        if let Err(error) = sandbox.landlock() {
            // A kernel without Landlock must be told, not ignored.
            assert!(matches!(error, Error::Landlock(_) | Error::LandlockPart(_)), "{error}");
            return None;
        }
        let read = |name: &str| fs::read(top.join(name)).is_ok();
        let write = |name: &str| fs::File::options().write(true).open(top.join(name)).is_ok();
        Some([
            read("read"),
            read("write"),
            write("write"),
            read("xen/below"),
            fs::File::options().read(true).write(true).open("/dev/null").is_ok(),
            change("tree/branch"),
            // From here on: denied.
            change("xen"),
            read("other"),
            write("read"),
            write("xen/below"),
            fs::write(top.join("xen/new"), "").is_ok(),
            fs::remove_file(top.join("write")).is_ok(),
            fs::read("/proc/self/status").is_ok(),
        ])
    });
    fs::remove_dir_all(&top).unwrap();
    if let Some(got) = result {
        assert_eq!(
            got,
            [true, true, true, true, true, true, false, false, false, false, false, false, false]
        );
    }
}

#[test]
fn a_path_that_does_not_exist_is_named() {
    let error = in_a_thread(|| Sandbox::new().keep_read("/no/such/path").landlock()).unwrap_err();
    match error {
        Error::Path { path, .. } => assert_eq!(path, Path::new("/no/such/path")),
        Error::Landlock(_) => {}
        other => panic!("{other}"),
    }
}

#[test]
fn capabilities_are_dropped_but_for_the_kept() {
    let (before, after, bounding) = in_a_thread(|| {
        let before = rustix::thread::capabilities(None).unwrap().permitted;
        let dropped = Sandbox::new().keep_capabilities(CapabilitySet::SYS_BOOT).drop_capabilities();
        if !before.contains(CapabilitySet::SETPCAP) {
            assert!(matches!(dropped, Err(Error::Privileges { .. })), "cannot be done, must be told");
            return (before, before & CapabilitySet::SYS_BOOT, false);
        }
        dropped.unwrap();
        let after = rustix::thread::capabilities(None).unwrap();
        assert_eq!(after.effective, after.permitted);
        let bounding = rustix::thread::capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN).unwrap();
        (before, after.permitted, bounding)
    });
    assert_eq!(after, before & CapabilitySet::SYS_BOOT);
    assert!(!bounding);
}

#[test]
fn only_devices_that_are_not_kept_are_removed() {
    let top = directory("dev");
    fs::write(top.join("file"), "").unwrap();
    std::os::unix::fs::symlink("/dev/null", top.join("link")).unwrap();
    // Needs CAP_MKNOD; without, the files and links are still checked.
    let made = ["null", "xen/evtchn", "xen/gntdev"].map(|name| {
        let made = Command::new("mknod").arg(top.join(name)).args(["c", "1", "3"]).status();
        made.is_ok_and(|status| status.success())
    });
    remove_devices(&top, &[top.join("xen/evtchn")]).unwrap();
    let left = |name: &str| top.join(name).symlink_metadata().is_ok();
    let got = (left("file"), left("link"), left("null"), left("xen/evtchn"), left("xen/gntdev"));
    fs::remove_dir_all(&top).unwrap();
    assert_eq!(got, (true, true, false, made[1], false));
    assert!(Path::new("/dev/null").exists());
}

#[test]
fn threads_would_stay_outside() {
    // The test harness itself has more than one.
    let refused = in_a_thread(|| Sandbox::new().enter());
    assert!(matches!(refused, Err(Error::Threads { threads }) if threads > 1), "{refused:?}");
}
