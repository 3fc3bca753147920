//! Whether a finished `.config` really has the options that were asked for. Kconfig drops an option silently when
//! something that it depends on is missing.

use std::collections::BTreeMap;

use anyhow::Result;

/// Every `CONFIG_X=value` of a configuration, last one wins; `# CONFIG_X is not set` is `n`.
fn values(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| match line.trim().strip_prefix("# ") {
            Some(comment) => comment.strip_suffix(" is not set").map(|name| (name, "n")),
            None => line.trim().split_once('='),
        })
        .filter(|(name, _)| name.starts_with("CONFIG_"))
        .collect()
}

/// Checks that each option asked for (`=n` means absent) is in the result.
///
/// # Errors
/// Names the file, each option that was not taken over, and what the result has instead.
pub fn check(file: &str, asked: &str, result: &str) -> Result<()> {
    let result = values(result);
    let wrong: Vec<String> = values(asked)
        .into_iter()
        .filter_map(|(name, value)| {
            let got = result.get(name).copied().unwrap_or("n");
            (got != value).then(|| format!("{name} is {got}, asked for {value}"))
        })
        .collect();
    anyhow::ensure!(
        wrong.is_empty(),
        "{file}: options were not taken over (does one that they depend on miss?): {}",
        wrong.join("; ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_S=\"x\"\nCONFIG_N=8\n";

    #[test]
    fn options_that_are_there_pass() {
        check("x.config", "# a comment\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_GONE=n\nCONFIG_S=\"x\"\n", RESULT)
            .unwrap();
    }

    #[test]
    fn a_later_line_wins() {
        check("x.config", "CONFIG_A=n\nCONFIG_A=y\n", RESULT).unwrap();
    }

    #[test]
    fn a_dropped_option_is_named() {
        let error =
            check("x.config", "CONFIG_B=y\nCONFIG_N=4\nCONFIG_A=y\n", RESULT).unwrap_err().to_string();
        assert!(error.starts_with("x.config: "), "{error}");
        assert!(error.ends_with("CONFIG_B is n, asked for y; CONFIG_N is 8, asked for 4"), "{error}");
    }
}
