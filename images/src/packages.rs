//! Debian's packages: which are missing, their versions, and where the system gets its sources from.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// The packages that building and running need, one a line. `./run` and `./test` install them.
pub const NEEDED: &str = include_str!("../packages.txt");

/// The installed version of a package, or `None`.
///
/// # Errors
/// When `dpkg-query` cannot be run: this is not a Debian machine.
pub fn installed_version(package: &str) -> Result<Option<String>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Version}", package])
        .output()
        .context("Cannot start `dpkg-query`: the image builder needs Debian 12")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.strip_prefix("installed ").map(|version| version.trim().to_owned()))
}

/// The needed packages that are not installed.
///
/// # Errors
/// When `dpkg-query` cannot be run.
pub fn missing() -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${binary:Package} ${db:Status-Status}\n"])
        .output()
        .context("Cannot start `dpkg-query`: the image builder needs Debian 12")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(|name| name.split_once(':').map_or(name, |(name, _)| name))
        .collect();
    Ok(NEEDED.lines().filter(|name| !name.is_empty() && !installed.contains(name)).collect())
}

/// Fails with one sentence when a needed package is missing.
///
/// # Errors
/// Names the packages and the command that installs them.
pub fn require() -> Result<()> {
    let missing = missing()?;
    anyhow::ensure!(
        missing.is_empty(),
        "Packages are missing; install them with: apt-get install -y --no-install-recommends {}",
        missing.join(" ")
    );
    Ok(())
}

/// The version line of a compiler or linker: part of what decides an artefact's bytes.
///
/// # Errors
/// When the tool cannot be run.
pub fn tool_version(tool: &str) -> Result<String> {
    let output = Command::new(tool)
        .arg("--version")
        .output()
        .with_context(|| format!("Cannot start `{tool}`; `./run` installs what is missing"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// A `deb-src` entry for Debian's main archive, from the system's own entries.
///
/// # Errors
/// When the system names no Debian archive of this suite.
pub fn source_entry(etc_apt: &Path, suite: &str) -> Result<String> {
    let mut files = vec![etc_apt.join("sources.list")];
    let mut parts: Vec<_> = std::fs::read_dir(etc_apt.join("sources.list.d"))
        .map(|dir| dir.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    parts.sort();
    files.extend(parts);
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => from_deb822(&text, suite),
            Some("list") => from_one_line(&text, suite),
            _ => None,
        };
        if let Some((uris, signed_by)) = found {
            let signed = signed_by.map(|value| format!("Signed-By:{value}\n")).unwrap_or_default();
            return Ok(format!("Types: deb-src\nURIs: {uris}\nSuites: {suite}\nComponents: main\n{signed}"));
        }
    }
    anyhow::bail!(
        "No Debian archive of suite `{suite}` (component main) in {}; add one: the source of Xen comes from there",
        etc_apt.display()
    )
}

/// URIs and the raw value of `Signed-By` of the first stanza with this suite and `main`.
fn from_deb822(text: &str, suite: &str) -> Option<(String, Option<String>)> {
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    without_comments.split(|line| line.trim().is_empty()).find_map(|stanza| {
        let words = |name: &str| field(stanza, name).unwrap_or_default();
        let has = |name: &str, word: &str| words(name).split_whitespace().any(|other| other == word);
        let off = words("Enabled").trim().eq_ignore_ascii_case("no");
        let fits = !off && has("Suites", suite) && has("Components", "main");
        fits.then(|| (words("URIs").trim().to_owned(), field(stanza, "Signed-By")))
            .filter(|(uris, _)| !uris.is_empty())
    })
}

/// A field's value with its continuation lines.
fn field(stanza: &[&str], name: &str) -> Option<String> {
    let mut lines = stanza.iter().skip_while(|line| {
        line.split_once(':').is_none_or(|(key, _)| line.starts_with(' ') || !key.eq_ignore_ascii_case(name))
    });
    let (_, first) = lines.next()?.split_once(':')?;
    let more = lines.take_while(|line| line.starts_with([' ', '\t']));
    Some(more.fold(first.to_owned(), |text, line| text + "\n" + line))
}

/// URI and `signed-by` of the first `deb` line with this suite and `main`.
fn from_one_line(text: &str, suite: &str) -> Option<(String, Option<String>)> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb").map(|rest| rest.strip_prefix("-src").unwrap_or(rest))?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        let fits = words.next()? == suite && words.any(|word| word == "main");
        let signed = options.split_whitespace().find_map(|word| word.strip_prefix("signed-by="));
        fits.then(|| (uri.to_owned(), signed.map(|path| format!(" {path}"))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, text: &str) -> Result<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        source_entry(dir.path(), "bookworm")
    }

    const DEB822: &str = "Types: deb\nURIs: http://mirror.example/other\nSuites: x\nComponents: main\n\n\
        Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
        Components: main contrib\nSigned-By: /keys/debian.gpg\n";
    const EXPECTED: &str = "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n\
        Signed-By: /keys/debian.gpg\n";

    #[test]
    fn both_formats_of_apt_give_the_same_entry() {
        assert_eq!(entry("sources.list.d/debian.sources", DEB822).unwrap(), EXPECTED);
        let one_line = "# old\ndeb-src http://mirror.example/sec bookworm-security main\n\
            deb [arch=amd64 signed-by=/keys/debian.gpg] http://mirror.example/debian bookworm contrib main\n";
        assert_eq!(entry("sources.list", one_line).unwrap(), EXPECTED);
    }

    #[test]
    fn a_key_inside_the_entry_stays_whole() {
        let text = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n\
            Signed-By:\n -----BEGIN\n .\n abc\n";
        assert!(
            entry("sources.list.d/a.sources", text).unwrap().ends_with("Signed-By:\n -----BEGIN\n .\n abc\n")
        );
    }

    #[test]
    fn no_archive_of_the_suite_is_an_error() {
        let error = entry("sources.list", "deb http://mirror.example/debian trixie main\n").unwrap_err();
        assert!(error.to_string().contains("No Debian archive of suite `bookworm`"), "{error}");
    }
}
