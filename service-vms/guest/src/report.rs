//! What is wrong with a configuration, for people: every mistake with its place in the file and its remedy. Shown as the
//! manifest's reports are.

use std::fmt;

use crate::text::{is_unprintable, printable};

/// Characters of a line that are shown at most, and how many of them stand before the place.
const SHOWN: (usize, usize) = (120, 60);

/// A place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters, at least 1, within the line.
    pub width: usize,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// No guest can be made of the file.
    Error,
    /// It does nothing.
    Warning,
}

/// One mistake, or one thing that does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub level: Level,
    /// What is wrong.
    pub message: String,
    /// Where; `None` if something is missing that could stand anywhere.
    pub place: Option<Place>,
    /// A second place that belongs to it, and what is there.
    pub other: Option<(Place, String)>,
    /// The remedy.
    pub help: String,
}

/// What there is to say about a file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the file.
    pub file: String,
    /// Errors and warnings, at most 64.
    pub diagnostics: Vec<Diagnostic>,
    /// How many more there were.
    pub omitted: usize,
    pub(crate) source: String,
}

impl std::error::Error for Report {}

impl Report {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.source.lines().collect();
        let file = printable(&self.file);
        for diagnostic in &self.diagnostics {
            let level = if diagnostic.level == Level::Error { "error" } else { "warning" };
            writeln!(f, "{level}: {}", diagnostic.message)?;
            match &diagnostic.place {
                Some(place) => snippet(f, &lines, place, &format!("--> {file}"), "")?,
                None => writeln!(f, "  --> {file}")?,
            }
            if let Some((place, label)) = &diagnostic.other {
                snippet(f, &lines, place, &format!("::: {file}"), label)?;
            }
            writeln!(f, "help: {}\n", diagnostic.help)?;
        }
        let count = |level| self.diagnostics.iter().filter(|d| d.level == level).count();
        let (errors, warnings) = (count(Level::Error), count(Level::Warning));
        let words = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let parts = [
            (errors > 0).then(|| words(errors, "error")),
            (warnings > 0).then(|| words(warnings, "warning")),
            (self.omitted > 0).then(|| format!("{} more", self.omitted)),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let summary = if parts.is_empty() { "nothing to report".to_owned() } else { parts.join(", ") };
        write!(f, "{summary} in {file}")
    }
}

fn snippet(
    f: &mut fmt::Formatter<'_>,
    lines: &[&str],
    place: &Place,
    head: &str,
    label: &str,
) -> fmt::Result {
    let line = lines.get(place.line.saturating_sub(1)).unwrap_or(&"");
    let column = place.column.saturating_sub(1);
    let cut = if column < SHOWN.0 { 0 } else { column.saturating_sub(SHOWN.1) };
    // One character for one, so that the carets stay below what they mean; the terminal sees no control characters.
    let shown = |c: char| match c {
        '\t' => ' ',
        c if is_unprintable(c) => '\u{fffd}',
        c => c,
    };
    let dots = if cut > 0 { "..." } else { "" };
    let text: String = line.chars().skip(cut).take(SHOWN.0).map(shown).collect();
    let number = place.line.to_string();
    let gutter = " ".repeat(number.len());
    let before = " ".repeat(dots.len() + column.saturating_sub(cut));
    let room = SHOWN.0.saturating_sub(column.saturating_sub(cut)).max(1);
    let carets = "^".repeat(place.width.clamp(1, room));
    let space = if label.is_empty() { "" } else { " " };
    writeln!(f, "{gutter} {head}:{number}:{}", place.column)?;
    writeln!(f, "{gutter} |")?;
    writeln!(f, "{number} | {dots}{text}")?;
    writeln!(f, "{gutter} | {before}{carets}{space}{label}")
}
