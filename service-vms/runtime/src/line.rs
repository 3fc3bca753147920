//! One log line: `<2>ennead VM: MESSAGE KEY=VALUE ...`, one record of /dev/kmsg.
//!
//! Pure ASCII, no control characters, whatever the values are: nobody can forge a line with a value. A value that is
//! empty or has a space, a quote, a backslash, `=` or anything but printable ASCII is quoted:
//! `"`, `\` and control characters as in Rust's strings.

use std::error::Error;
use std::fmt::Write;

/// Longest line, with `<2>` and the line feed, bytes. (/dev/kmsg takes 1024 less what the kernel puts before.)
pub const MAX_LINE: usize = 900;

/// Level 2 (critical): printed even with `quiet`.
const LEVEL: &str = "<2>";
/// What stands at the end of a line that was cut.
const CUT: &str = "...";

/// A line in the making.
#[derive(Debug, Clone)]
pub(crate) struct Line(String);

impl Line {
    /// `<2>ennead VM: MESSAGE`; control characters in the message are escaped.
    pub(crate) fn new(vm: &str, message: &str) -> Self {
        let mut line = Self(String::with_capacity(128));
        line.0.push_str(LEVEL);
        line.0.push_str("ennead ");
        line.escaped(vm, false);
        line.0.push_str(": ");
        line.escaped(message, false);
        line
    }

    /// ` KEY=VALUE`, quoted if need be.
    pub(crate) fn field(&mut self, key: &str, value: &str) {
        self.0.push(' ');
        self.escaped(key, false);
        self.0.push('=');
        let bare = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=');
        if !value.is_empty() && value.bytes().all(bare) {
            self.escaped(value, false);
        } else {
            self.0.push('"');
            self.escaped(value, true);
            self.0.push('"');
        }
    }

    /// Appends fields that are already formatted.
    pub(crate) fn append(&mut self, fields: &Self) {
        self.0.push_str(&fields.0);
    }

    /// No line yet, to collect fields in.
    pub(crate) fn fields() -> Self {
        Self(String::new())
    }

    /// Text as it is where it is printable ASCII, else escaped. Stops when the line is full anyway.
    fn escaped(&mut self, text: &str, quoted: bool) {
        for c in text.chars() {
            if self.0.len() > MAX_LINE {
                return;
            }
            match c {
                '"' | '\\' if quoted => self.0.extend(['\\', c]),
                ' '..='~' => self.0.push(c),
                // Writing to a String cannot fail.
                _ => drop(write!(self.0, "{}", c.escape_default())),
            }
        }
    }

    /// The record for /dev/kmsg. It ends with a line feed: without, Linux holds it back until the next one.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.0.into_bytes();
        if bytes.len() >= MAX_LINE {
            bytes.truncate(MAX_LINE - CUT.len() - 1);
            bytes.extend_from_slice(CUT.as_bytes());
        }
        bytes.push(b'\n');
        bytes
    }
}

/// An error and its causes, `: ` between.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str, fields: &[(&str, &str)]) -> String {
        let mut line = Line::new("builder", message);
        for (key, value) in fields {
            line.field(key, value);
        }
        String::from_utf8(line.into_bytes()).unwrap()
    }

    #[test]
    fn exact_bytes() {
        assert_eq!(line("healthy", &[]), "<2>ennead builder: healthy\n");
        assert_eq!(
            line("vm built", &[("vm", "pciback"), ("domid", "3"), ("path", "/dev/xen/gntdev")]),
            "<2>ennead builder: vm built vm=pciback domid=3 path=/dev/xen/gntdev\n"
        );
    }

    #[test]
    fn quoting() {
        for (value, written) in [
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("a=b", r#""a=b""#),
            (r#"say "hi""#, r#""say \"hi\"""#),
            (r"a\b", r#""a\\b""#),
            ("a\nennead builder: forged", r#""a\nennead builder: forged""#),
            ("\r\t\0\x1b[2J\x7f", r#""\r\t\u{0}\u{1b}[2J\u{7f}""#),
            ("é", r#""\u{e9}""#),
        ] {
            assert_eq!(line("m", &[("k", value)]), format!("<2>ennead builder: m k={written}\n"));
        }
        assert_eq!(line("two\nlines", &[]), "<2>ennead builder: two\\nlines\n");
    }

    #[test]
    fn long_lines_are_cut() {
        // `<2>ennead builder: m k=` has 23 bytes, the line feed is one.
        let fits = "v".repeat(MAX_LINE - 24);
        assert_eq!(line("m", &[("k", &fits)]), format!("<2>ennead builder: m k={fits}\n"));
        for value in [format!("{fits}v"), "v".repeat(100_000), "\n".repeat(100_000), "é".repeat(880)] {
            let cut = line("m", &[("k", &value), ("more", "x")]);
            assert_eq!(cut.len(), MAX_LINE);
            assert!(cut.ends_with("...\n"), "{cut}");
        }
    }

    #[test]
    fn chains() {
        let error = anyhow::anyhow!("no such domain").context("domain 3").context("restart");
        assert_eq!(chain(error.as_ref()), "restart: domain 3: no such domain");
    }
}
