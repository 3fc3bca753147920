use std::path::PathBuf;

use ennead_volumes::UNIT;
use ennead_xs_wire::Request as Asked;

use super::*;

/// XenStore with one client.
#[derive(Default)]
struct Store(BTreeMap<String, Vec<u8>>);

impl Access for Store {
    fn ask(&mut self, request: &Asked<'_>) -> Result<Vec<u8>, Error> {
        let path = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
        let missing = || Error::Refused { asked: String::new(), errno: ennead_xs_wire::Errno::Enoent };
        match request {
            Asked::Read { path: at } => self.0.get(&path(at)).cloned().ok_or_else(missing),
            Asked::Write { path: at, value } => {
                self.0.insert(path(at), value.to_vec());
                Ok(Vec::new())
            }
            Asked::Rm { path: at } => self.0.remove(&path(at)).map(|_| Vec::new()).ok_or_else(missing),
            Asked::Directory { path: at } => {
                let below = format!("{}/", path(at));
                let names = self.0.keys().filter_map(|key| key.strip_prefix(&below)?.split('/').next());
                let names: BTreeSet<&str> = names.collect();
                Ok(names.into_iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Store {
    fn set(&mut self, key: &str, value: &str) {
        self.0.insert(format!("backend/volumes/7/{key}"), value.as_bytes().to_vec());
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&format!("backend/volumes/7/{key}")).map(|value| std::str::from_utf8(value).unwrap())
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> (Self, Files) {
        let path = std::env::current_exe().unwrap();
        let path = path.parent().unwrap().join(format!("ennead-keeper-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        (Self(path.clone()), Files::new(path, 512, false))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_asked_is_done_told_and_answered_once() {
    let (_folder, files) = Folder::new("life");
    let mut keeper = Keeper::new(Some(files), None);
    let mut store = Store::default();
    store.set("request", &format!("5 create web {}", 2 * UNIT));
    keeper.turn(&mut store).unwrap();
    assert_eq!(store.get("answer"), Some("5 ok"));
    assert_eq!(store.get("volume/web"), Some("2097152 making 0"));
    keeper.turn(&mut store).unwrap();
    assert_eq!(store.get("answer"), Some("5 ok"), "it is not done again");
    while keeper.make() {}
    keeper.turn(&mut store).unwrap();
    assert_eq!(store.get("volume/web"), Some("2097152 ready"));
    assert!(store.get("free").unwrap().parse::<u64>().is_ok());
    store.set("lend/1024/51712", "web");
    store.set("request", "6 delete web");
    keeper.turn(&mut store).unwrap();
    assert_eq!(store.get("answer"), Some("6 state The volume `web` is a disk of a guest"));
    store.0.remove("backend/volumes/7/lend/1024/51712");
    store.set("request", "7 delete web");
    keeper.turn(&mut store).unwrap();
    assert_eq!((store.get("answer"), store.get("volume/web")), (Some("7 ok"), None));
}

#[test]
fn a_successor_finds_what_was_asked_and_perhaps_done() {
    let (_folder, files) = Folder::new("successor");
    let mut store = Store::default();
    store.set("request", &format!("5 create web {UNIT}"));
    Keeper::new(Some(files.clone()), None).turn(&mut store).unwrap();
    // Killed before it answered, or after.
    for answer in [None, Some("4 ok"), Some("5 ok")] {
        store.0.remove("backend/volumes/7/answer");
        if let Some(answer) = answer {
            store.set("answer", answer);
        }
        let mut keeper = Keeper::new(Some(files.clone()), None);
        keeper.turn(&mut store).unwrap();
        assert_eq!(store.get("answer"), Some("5 ok"));
        while keeper.make() {}
        keeper.turn(&mut store).unwrap();
        assert_eq!(store.get("volume/web"), Some("1048576 ready"));
    }
    // What nobody has begun is something else.
    store.set("request", &format!("6 create web {UNIT}"));
    Keeper::new(Some(files), None).turn(&mut store).unwrap();
    assert_eq!(store.get("answer"), Some("6 exists There is a volume `web` already"));
}

#[test]
fn nonsense_and_a_host_without_volumes_are_answered() {
    let mut store = Store::default();
    let mut keeper = Keeper::new(None, None);
    for nonsense in ["", "x", "5", "x create web 5"] {
        store.set("request", nonsense);
        keeper.turn(&mut store).unwrap();
        assert_eq!(store.get("answer"), None, "{nonsense}");
    }
    store.set("request", "5 create ../web 5");
    keeper.turn(&mut store).unwrap();
    assert!(store.get("answer").unwrap().starts_with("5 invalid "), "{:?}", store.get("answer"));
    store.set("request", "6 create web 5");
    keeper.turn(&mut store).unwrap();
    assert_eq!(store.get("answer"), Some("6 failed This host has no partition for volumes"));
}
