//! How much source of ours is in a program: what an auditor of it reads.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::program;
use crate::progress::Progress;

/// Lines of a program's source and of the crates of this workspace in it, as cargo has just compiled them. Blank lines, comments
/// and tests do not count.
///
/// # Errors
/// When it does not build.
pub fn of_program(cache: &Cache, progress: Progress, name: &str) -> Result<usize> {
    let root = crate::source_root();
    let files = program::sources(cache, progress, name)?;
    let ours = files.iter().filter(|file| file.starts_with(&root));
    ours.map(|file| Ok(count(&read(file)?))).sum()
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("Cannot read {}", file.display()))
}

/// Counts on rustfmt's layout: an item ends with the first `}` that is indented as the item is.
fn count(source: &str) -> usize {
    let mut lines = source.lines();
    let mut counted = 0;
    while let Some(line) = lines.next() {
        let text = line.trim();
        if text.starts_with("#[cfg(") && text.contains("test") {
            skip_item(&mut lines);
        } else if !text.is_empty() && !text.starts_with("//") {
            counted += 1;
        }
    }
    counted
}

fn skip_item<'l>(lines: &mut impl Iterator<Item = &'l str>) {
    let Some(item) = lines.find(|line| !line.trim_start().starts_with("#[")) else { return };
    if item.ends_with(';') || item.ends_with('}') {
        return;
    }
    let indent = item.len() - item.trim_start().len();
    lines.find(|line| line.trim_start().starts_with('}') && line.len() - line.trim_start().len() == indent);
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn what_counts() {
        let source = "//! Doc.\n\nuse a;\n\n/// Doc.\nfn f() {\n    // Why.\n    g();\n}\n\n#[cfg(test)]\nmod tests;\n\
                      #[cfg(test)]\n#[allow(x)]\nmod more {\n    fn t() {\n    }\n}\n#[cfg(feature = \"x\")]\nfn h() {}\n";
        assert_eq!(count(source), 6);
        assert_eq!(count(""), 0);
    }
}
