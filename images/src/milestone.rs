//! Milestones: single lines on the serial console, `ennead <vm>: <milestone> key=value ...`. README.md lists them.

use std::fmt;

/// A milestone that a VM announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milestone {
    /// Name of the VM.
    pub vm: String,
    /// What happened: lower-case letters, digits and hyphens.
    pub name: String,
    /// Details, in the line's order, but for the time.
    pub values: Vec<(String, String)>,
    /// `t=`: the VM's own clock, seconds.
    pub clock: Option<String>,
}

impl Milestone {
    /// Finds a milestone in a line of the serial console, behind whatever Xen or the kernel put before it. A line that is
    /// not exactly of this form (somebody's free text, a garbled line) is none.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let start = line.match_indices("ennead ").find(|(at, _)| {
            let before = line.get(..*at).and_then(|before| before.chars().next_back());
            before.is_none_or(char::is_whitespace)
        })?;
        let rest = line.get(start.0 + "ennead ".len()..)?.trim_end();
        let (vm, rest) = rest.split_once(": ")?;
        let (name, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if !is_word(vm) || !is_word(name) {
            return None;
        }
        let mut values = Vec::new();
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                return Some(Self::normal(vm, name, values));
            }
            let (key, after) = rest.split_once('=')?;
            if !is_word(key) {
                return None;
            }
            let (value, after) = value(after)?;
            values.push((key.replace('_', "-"), value));
            rest = after;
        }
    }

    /// Errors come as `error what=NAME ...`: what went wrong is the milestone. The time is kept apart.
    fn normal(vm: &str, name: &str, mut values: Vec<(String, String)>) -> Self {
        let mut name = name.to_owned();
        let what = values.iter().position(|(key, value)| key == "what" && is_word(value));
        if let Some(at) = what.filter(|_| name == "error") {
            name = values.remove(at).1;
        }
        let clock = values.iter().position(|(key, _)| key == "t").map(|at| values.remove(at).1);
        Self { vm: vm.to_owned(), name, values, clock }
    }

    /// Whether it is this milestone of this VM.
    #[must_use]
    pub fn is(&self, vm: &str, name: &str) -> bool {
        self.vm == vm && self.name == name
    }

    /// A detail.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A detail that is a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.parse().ok()
    }
}

fn is_word(text: &str) -> bool {
    let good =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(good)
}

/// A bare word, or text in quotes with backslash escapes; and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let rest = quoted.get(at + 1..).filter(|rest| rest.is_empty() || rest.starts_with(' '));
                return rest.map(|rest| (value, rest));
            }
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            _ => value.push(character),
        }
    }
    None
}

impl fmt::Display for Milestone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.vm, self.name)?;
        self.values.iter().try_for_each(|(key, value)| {
            if value.contains([' ', '"']) || value.is_empty() {
                write!(f, " {key}={value:?}")
            } else {
                write!(f, " {key}={value}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> String {
        Milestone::parse(line).map_or_else(|| "none".to_owned(), |milestone| milestone.to_string())
    }

    #[test]
    fn prefixes_and_line_ends_do_not_matter() {
        for line in [
            "ennead builder: host-ready",
            "(d1) ennead builder: host-ready\r",
            "(XEN) [2026-01-01 00:00:00.123] (d1) ennead builder: host-ready ",
            "[    1.2] ennead builder: host-ready",
        ] {
            assert_eq!(parsed(line), "builder: host-ready", "{line}");
        }
    }

    #[test]
    fn values_are_words_or_quoted() {
        let line =
            r#"ennead bootstrapper: refused image=driver.kernel reason="its hash is \"ab\", not x=1" n=3"#;
        let milestone = Milestone::parse(line).unwrap();
        assert!(milestone.is("bootstrapper", "refused"));
        assert_eq!(milestone.value("image"), Some("driver.kernel"));
        assert_eq!(milestone.value("reason"), Some("its hash is \"ab\", not x=1"));
        assert_eq!(milestone.number("n"), Some(3));
        assert_eq!(milestone.number("image"), None);
        assert_eq!(format!("ennead {milestone}"), line);
    }

    #[test]
    fn free_text_and_broken_lines_are_none() {
        for line in [
            "",
            "ennead",
            "ennead builder",
            "ennead builder:",
            "ennead builder: something went wrong",
            "ennead builder: Host ready",
            "ennead builder: built vm=\"x",
            "ennead builder: built vm=\"x\"y",
            "ennead builder: built =x",
            "(XEN) Command line: ennead.vm=bootstrapper",
            "zennead builder: host-ready",
        ] {
            assert_eq!(parsed(line), "none", "{line}");
        }
    }

    #[test]
    fn an_error_is_named_by_what_it_is() {
        assert_eq!(parsed("ennead builder: error what=failed vm=x"), "builder: failed vm=x");
        assert_eq!(parsed("ennead builder: error cause=\"no memory\""), "builder: error cause=\"no memory\"");
        assert_eq!(parsed("ennead builder: vm memory_kib=7"), "builder: vm memory-kib=7");
    }

    #[test]
    fn the_clock_is_no_detail() {
        let milestone = Milestone::parse("ennead builder: sealed domid=3 t=17.25").unwrap();
        assert_eq!(milestone.to_string(), "builder: sealed domid=3");
        assert_eq!(milestone.clock.as_deref(), Some("17.25"));
    }

    #[test]
    fn an_empty_value_is_a_value() {
        assert_eq!(Milestone::parse("ennead builder: vm name= type=\"\"").unwrap().values.len(), 2);
    }
}
