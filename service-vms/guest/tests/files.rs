//! Files as people write them: what becomes of them, and what is said about them, to the letter. `UPDATE_EXPECT=1 cargo
//! test -p ennead-guest` writes the texts anew: read the difference.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ennead_guest::{Level, Report, parse, parse_toml, to_toml};
use expect_test::expect_file;

/// The files of a folder that end in one of `ends`, in order; at least so many.
fn files(folder: &str, ends: &[&str], count: usize) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let entries = folder.read_dir().expect("the folder of this test");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().and_then(OsStr::to_str).is_some_and(|end| ends.contains(&end)));
    files.sort();
    assert!(files.len() >= count, "{files:?}");
    files
}

fn read(path: &Path) -> (String, String) {
    let name = path.file_name().and_then(OsStr::to_str).expect("a name in ASCII").to_owned();
    (name, std::fs::read_to_string(path).expect("a file of this test"))
}

/// Compares with the file beside `path` that ends in `end`; a text that is empty has no file.
fn expect(path: &Path, end: &str, text: &str) {
    let expected = path.with_extension(end);
    if text.is_empty() {
        assert!(!expected.exists(), "there is nothing for {}", expected.display());
    } else {
        expect_file![expected].assert_eq(text);
    }
}

fn shown(report: &Report) -> String {
    if report.is_empty() { String::new() } else { format!("{report}\n") }
}

#[test]
fn files_of_xl_become_toml() {
    for path in files("xl", &["cfg"], 8) {
        let (name, text) = read(&path);
        let parsed = parse(&name, &text).unwrap_or_else(|report| panic!("{report}"));
        assert!(parsed.warnings.diagnostics.iter().all(|d| d.level == Level::Warning));
        expect(&path, "warnings", &shown(&parsed.warnings));
        let toml = to_toml(&parsed.config);
        expect(&path, "toml", &toml);
        let again = parse_toml("guest.toml", &toml).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(again.config, parsed.config, "{name}");
        assert!(again.warnings.is_empty(), "{}", again.warnings);
    }
}

#[test]
fn mistakes_are_all_reported() {
    for path in files("errors", &["cfg", "toml"], 14) {
        let (name, text) = read(&path);
        let report = parse(&name, &text).err().unwrap_or_else(|| panic!("{name}: no error was found"));
        assert!(report.diagnostics.iter().any(|d| d.level == Level::Error), "{name}");
        expect(&path, if name.ends_with(".toml") { "toml.txt" } else { "txt" }, &shown(&report));
    }
}
