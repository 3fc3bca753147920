use super::*;

/// A folder on a file system that takes O_DIRECT, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> (Self, Files) {
        // Not in a file system in memory: those of this kernel take no O_DIRECT.
        let path = std::env::current_exe().unwrap();
        let path = path.parent().unwrap().to_owned();
        let path = path.join(format!("ennead-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        (Self(path.clone()), Files::new(path, 512, false))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn create(text: &str, mib: u64) -> Request {
    Request::Create { name: name(text), bytes: mib * UNIT }
}

fn kind(outcome: Result<(), Refusal>) -> Kind {
    outcome.unwrap_err().kind
}

/// Makes all that is to be made.
fn make(files: &Files) {
    while let Some(mut making) = files.next().unwrap() {
        while making.turn().unwrap() {}
    }
}

fn states(files: &Files, tenant: u16) -> Vec<(String, u64, Option<u64>)> {
    let list = files.list(tenant).unwrap().into_iter();
    list.map(|(name, State { bytes, making })| (name.to_string(), bytes / UNIT, making)).collect()
}

#[test]
fn a_volume_is_there_once_its_last_byte_is_written() {
    let (_folder, files) = Folder::new("made");
    assert!(files.volume(7, &name("web")).unwrap().is_none() && files.next().unwrap().is_none());
    files.obey(7, &create("web", 3), &[], false).unwrap();
    assert_eq!(states(&files, 7), [("web".to_owned(), 3, Some(0))]);
    assert!(files.volume(7, &name("web")).unwrap().is_none());
    // Killed after the first piece, and again after the second: the third goes on where the second stopped.
    for done in 1..=2 {
        let mut making = files.next().unwrap().unwrap();
        assert!(making.turn().unwrap());
        drop(making);
        assert_eq!(states(&files, 7), [("web".to_owned(), 3, Some(done * UNIT))]);
    }
    make(&files);
    assert_eq!(states(&files, 7), [("web".to_owned(), 3, None)]);
    let volume = files.volume(7, &name("web")).unwrap().unwrap();
    assert_eq!((volume.sectors, volume.name.as_str(), volume.discard), (6144, "volume:7/web", None));
    assert_eq!(fs::read(&volume.path).unwrap(), vec![0; 3 << 20]);
    use std::os::unix::fs::MetadataExt as _;
    assert!(fs::metadata(&volume.path).unwrap().blocks() * 512 >= 3 << 20, "no hole is left");
    assert!(files.volume(8, &name("web")).unwrap().is_none(), "another tenant's");
}

#[test]
fn a_copy_has_the_content_and_growth_adds_zeroes() {
    let (_folder, files) = Folder::new("copy");
    files.obey(7, &create("a", 2), &[], false).unwrap();
    make(&files);
    let path = files.volume(7, &name("a")).unwrap().unwrap().path;
    let content: Vec<u8> = (0..2_u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
    fs::write(&path, &content).unwrap();
    let copy = Request::Copy { name: name("b"), from: name("a") };
    assert_eq!(kind(files.obey(7, &copy, &[name("a")], false)), Kind::State);
    files.obey(7, &copy, &[], false).unwrap();
    assert_eq!(kind(files.obey(7, &Request::Delete { name: name("a") }, &[], false)), Kind::State);
    make(&files);
    let copied = files.volume(7, &name("b")).unwrap().unwrap();
    assert_eq!(fs::read(&copied.path).unwrap(), content);
    let grow = |mib| Request::Grow { name: name("b"), bytes: mib * UNIT };
    assert_eq!(kind(files.obey(7, &grow(2), &[], false)), Kind::Invalid);
    files.obey(7, &grow(3), &[name("b")], false).unwrap();
    files.obey(7, &grow(3), &[], true).unwrap();
    // A guest that has it goes on with what there was of it, and writes there.
    let growing = files.volume(7, &name("b")).unwrap().unwrap();
    assert_eq!((growing.sectors, states(&files, 7)[1].2), (4096, Some(2 << 20)));
    let content: Vec<u8> = content.iter().map(|byte| !byte).collect();
    File::options().write(true).open(&growing.path).unwrap().write_all_at(&content, 0).unwrap();
    assert_eq!(kind(files.obey(7, &grow(4), &[], false)), Kind::State);
    let delete = Request::Delete { name: name("b") };
    for used in [&[name("b")][..], &[]] {
        assert_eq!(kind(files.obey(7, &delete, used, false)), Kind::State);
    }
    make(&files);
    assert_eq!(files.volume(7, &name("b")).unwrap().unwrap().sectors, 6144);
    let grown = fs::read(files.volume(7, &name("b")).unwrap().unwrap().path).unwrap();
    assert!(grown.len() == 3 << 20 && grown.starts_with(&content) && grown.ends_with(&[0; 1 << 20]));
}

#[test]
fn what_cannot_be_done_is_refused_and_what_a_predecessor_did_is_not_done_again() {
    let (_folder, files) = Folder::new("refused");
    let delete = |text: &str| Request::Delete { name: name(text) };
    assert_eq!(kind(files.obey(7, &delete("web"), &[], false)), Kind::NoSuchVolume);
    files.obey(7, &delete("web"), &[], true).unwrap();
    assert_eq!(kind(files.obey(7, &create("web", 0), &[], false)), Kind::Invalid);
    assert_eq!(kind(files.obey(7, &create("web", 1 << 40), &[], false)), Kind::TooLarge);
    let vast = Request::Create { name: name("web"), bytes: u64::MAX };
    assert_eq!(kind(files.obey(7, &vast, &[], false)), Kind::TooLarge);
    files.obey(7, &create("web", 1), &[], false).unwrap();
    assert_eq!(kind(files.obey(7, &create("web", 1), &[], false)), Kind::Exists);
    files.obey(7, &create("web", 1), &[], true).unwrap();
    assert_eq!(kind(files.obey(7, &create("web", 2), &[], true)), Kind::Exists);
    // One that is being made may go.
    let mut making = files.next().unwrap().unwrap();
    files.obey(7, &delete("web"), &[], false).unwrap();
    assert!(!making.turn().unwrap());
    assert_eq!(states(&files, 7), []);
    files.obey(7, &create("web", 1), &[], false).unwrap();
    make(&files);
    assert_eq!(kind(files.obey(7, &delete("web"), &[name("web")], false)), Kind::State);
    files.obey(7, &delete("web"), &[], false).unwrap();
    assert_eq!(states(&files, 7), []);
}

#[test]
fn what_is_being_made_has_its_room_already() {
    let (_folder, files) = Folder::new("room");
    let free = files.free().unwrap();
    files.obey(7, &create("web", 64), &[], false).unwrap();
    let now = files.free().unwrap();
    assert!(now <= free - 63 * UNIT, "{free} {now}");
}

#[test]
fn foreign_files_are_not_looked_at() {
    let (folder, files) = Folder::new("foreign");
    for file in ["7/web.img.old", "7/.img", "7/Web.img", "7/a.of.B", "7/x", "lost+found/a.img", "07/b.img"] {
        let path = folder.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    assert_eq!(states(&files, 7), []);
    assert!(files.next().unwrap().is_none());
}
