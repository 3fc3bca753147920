//! Every package that is compiled in has a licence from this list.
#![forbid(unsafe_code)]

use std::process::Command;

use serde::Deserialize;

/// Licences that can be part of a GPL-3.0-only program. GPL-2.0-only is not among them.
const ALLOWED: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    // Also stands for "GPL-2.0-or-later" and the like, but not for "GPL-2.0-only".
    "GPL-3.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// Why a licence expression is not allowed.
fn objection(expression: Option<&str>) -> Option<String> {
    let Some(text) = expression else { return Some("it names no licence".to_owned()) };
    let parsed = match spdx::Expression::parse_mode(text, spdx::ParseMode::LAX) {
        Ok(parsed) => parsed,
        Err(error) => return Some(format!("its licence cannot be read: {}", error.reason)),
    };
    let allowed = |requirement: &spdx::LicenseReq| {
        ALLOWED.iter().any(|name| spdx::Licensee::parse(name).unwrap().satisfies(requirement))
    };
    (!parsed.evaluate(allowed)).then(|| format!("its licence is `{text}`"))
}

#[test]
fn every_package_has_an_allowed_licence() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked", "--all-features"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path"])
        .arg(ennead_images::source_root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).unwrap();
    assert!(metadata.packages.len() > 20, "only {} packages", metadata.packages.len());
    let objections: Vec<String> = metadata
        .packages
        .iter()
        .filter_map(|p| Some(format!("{} {}: {}", p.name, p.version, objection(p.license.as_deref())?)))
        .collect();
    assert!(objections.is_empty(), "not on the list of licences:\n{}", objections.join("\n"));
}

#[test]
fn the_list_is_a_list() {
    for good in [
        "GPL-3.0-only",
        "GPL-2.0-or-later",
        "MIT",
        "MIT OR GPL-2.0-only",
        "MIT/Apache-2.0",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert_eq!(objection(Some(good)), None);
    }
    for bad in [None, Some("GPL-2.0-only"), Some("MIT AND GPL-2.0-only"), Some("nonsense")] {
        assert!(objection(bad).is_some(), "{bad:?}");
    }
}
