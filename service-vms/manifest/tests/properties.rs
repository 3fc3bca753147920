//! Whatever is written into a manifest or a boot plan: no panic, a report that shows, plans that survive the way to the host.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use ennead_manifest::{BootPlan, Image, Kind, Plan, check};
use proptest::prelude::*;
use proptest::sample::Index;

const VALID: &str = include_str!("valid.toml");
const TENANTS: &str = include_str!("tenants.toml");

/// Words that mean something to the checker, to be put where they do not belong.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "32751",
    "99999999999999999999",
    "0x10",
    "1.5",
    "true",
    "\"\"",
    "\"all\"",
    "\"network\"",
    "\"pci\"",
    "\"build\"",
    "\"toolstack-acme\"",
    "\"bootstrapper\"",
    "\"builder\"",
    "\"pciback\"",
    "\"netback\"",
    "\"every\"",
    "[]",
    "[\"pci\"]",
    "[\"tool\", \"net\"]",
    "{}",
    "{ none = \"x\" }",
    "{ policy = \"every\" }",
    "\"a\\u0000b\"",
    "1979-05-27",
    "\"\"\"\n\"\"\"",
    "\"flask=disabled $\"",
];

/// One edit of the text.
#[derive(Debug, Clone)]
enum Edit {
    DeleteLine(Index),
    RepeatLine(Index, Index),
    SwapLines(Index, Index),
    Value(Index, Index),
    ValueOf(Index, Index),
    DeleteBytes(Index, usize),
    Insert(Index, String),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        at().prop_map(Edit::DeleteLine),
        (at(), at()).prop_map(|(a, b)| Edit::RepeatLine(a, b)),
        (at(), at()).prop_map(|(a, b)| Edit::SwapLines(a, b)),
        (at(), at()).prop_map(|(a, b)| Edit::Value(a, b)),
        (at(), at()).prop_map(|(a, b)| Edit::ValueOf(a, b)),
        (at(), 0_usize..40).prop_map(|(a, n)| Edit::DeleteBytes(a, n)),
        (at(), ".{0,8}").prop_map(|(a, text)| Edit::Insert(a, text)),
    ]
}

/// A character boundary of `text`.
fn boundary(text: &str, at: &Index) -> usize {
    let ends: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
    *at.get(&ends)
}

fn apply(text: String, edit: &Edit) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return text;
    }
    let count = lines.len();
    match edit {
        Edit::DeleteLine(at) => drop(lines.remove(at.index(count))),
        Edit::RepeatLine(from, to) => lines.insert(to.index(count), lines[from.index(count)].clone()),
        Edit::SwapLines(a, b) => lines.swap(a.index(count), b.index(count)),
        Edit::Value(at, word) => {
            let line = &mut lines[at.index(count)];
            if let Some((key, _)) = line.split_once('=') {
                *line = format!("{key}= {}", word.get(WORDS));
            }
        }
        Edit::ValueOf(at, from) => {
            let value = lines[from.index(count)].split_once('=').map(|(_, value)| value.to_owned());
            let line = &mut lines[at.index(count)];
            if let (Some((key, _)), Some(value)) = (line.clone().split_once('='), value) {
                *line = format!("{key}={value}");
            }
        }
        Edit::DeleteBytes(at, length) => {
            let start = boundary(&text, at);
            let rest: String = text[start..].chars().skip(*length).collect();
            return format!("{}{rest}", &text[..start]);
        }
        Edit::Insert(at, new) => {
            let at = boundary(&text, at);
            return format!("{}{new}{}", &text[..at], &text[at..]);
        }
    }
    lines.join("\n")
}

fn boot_plan(plan: Plan) -> BootPlan {
    let vms = plan.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper);
    let images: BTreeMap<_, _> = vms
        .flat_map(|vm| [vm.kernel_image(), vm.ramdisk_image()])
        .map(|name| (name, Image { sha256: "5".repeat(64), size: 4096 }))
        .collect();
    BootPlan { manifest_sha256: "c".repeat(64), images, plan }
}

/// What holds of every text: a plan that the host accepts and that comes back the same, or a report with words and places.
fn holds(text: &str) -> Result<(), TestCaseError> {
    match check("host.toml", text) {
        Ok(plan) => {
            for (n, vm) in plan.vms.iter().enumerate() {
                for earlier in &vm.after {
                    prop_assert!(plan.vms.iter().take(n).any(|vm| vm.name == *earlier));
                }
            }
            let boot = boot_plan(plan);
            let toml = boot.to_toml().expect("the checker allows no plan that the host refuses");
            prop_assert_eq!(BootPlan::from_toml(&toml).expect("what was written can be read"), boot);
        }
        Err(report) => {
            prop_assert!(!report.errors.is_empty());
            let shown = report.to_string();
            prop_assert!(!shown.contains("has no words for"), "{}", shown);
            for error in &report.errors {
                prop_assert!(!error.message.contains('\n') && !error.help.is_empty(), "{}", shown);
                if let Some(place) = &error.place {
                    prop_assert!(place.line >= 1 && place.column >= 1 && place.width >= 1);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn edited_manifests(edits in prop::collection::vec(edit(), 1..5)) {
        holds(&edits.iter().fold(VALID.to_owned(), apply))?;
        holds(&edits.iter().fold(TENANTS.to_owned(), apply))?;
    }

    #[test]
    fn small_edits(at in any::<Index>(), word in any::<Index>()) {
        let edit = Edit::Value(at, word);
        holds(&apply(VALID.to_owned(), &edit))?;
        holds(&apply(TENANTS.to_owned(), &edit))?;
    }

    #[test]
    fn any_text(text in "(\\[|\\]|vm|\\.|=|\"|\n|host|may|\\{|\\}|[a-z0-9]|\\PC){0,60}") {
        holds(&text)?;
    }

    #[test]
    fn edited_boot_plans(edits in prop::collection::vec(edit(), 1..4)) {
        let boot = boot_plan(check("host.toml", TENANTS).expect("valid"));
        let text = edits.iter().fold(boot.to_toml().expect("valid"), apply);
        if let Ok(read) = BootPlan::from_toml(&text) {
            let again = read.to_toml().expect("what was accepted can be written");
            prop_assert_eq!(BootPlan::from_toml(&again).expect("and read again"), read);
        }
    }

    #[test]
    fn any_boot_plan(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(BootPlan::from_toml(&String::from_utf8_lossy(&bytes)).is_err());
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    for text in [
        format!("a = {}", "[".repeat(50_000)),
        format!("a{} = 1", ".a".repeat(50_000)),
        "[a".to_owned() + &".a".repeat(50_000) + "]",
    ] {
        assert!(check("host.toml", &text).is_err());
        assert!(BootPlan::from_toml(&text).is_err());
    }
}
