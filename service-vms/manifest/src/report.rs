//! What is wrong with a manifest, for people: every mistake with its place in the file and its remedy.

use std::fmt;

use crate::rules::printable;

/// Bytes of the manifest, from `start` up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A place in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Characters, at least 1, within the line.
    pub width: u32,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// Where; `None` if something is missing that could stand anywhere.
    pub place: Option<Place>,
    /// A second place that belongs to it, and what is there.
    pub other: Option<(Place, String)>,
    /// The remedy.
    pub help: String,
}

/// Every mistake in a manifest, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the file.
    pub file: String,
    /// The mistakes; never empty.
    pub errors: Vec<Diagnostic>,
    source: String,
}

impl std::error::Error for Report {}

impl Report {
    /// A report of mistakes that are found only in files that the manifest names: each at a line of the manifest, from 1, with message
    /// and remedy.
    #[must_use]
    pub fn at_lines(file: &str, source: &str, mistakes: Vec<(u32, String, String)>) -> Self {
        let mut errors = Errors::new(source);
        for (line, message, help) in mistakes {
            errors.at(errors.line_span(line), message, help);
        }
        errors.into_report(file)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.source.lines().collect();
        let file = printable(&self.file);
        for error in &self.errors {
            writeln!(f, "error: {}", error.message)?;
            match &error.place {
                Some(place) => snippet(f, &lines, place, &format!("--> {file}"), "")?,
                None => writeln!(f, "  --> {file}")?,
            }
            if let Some((place, label)) = &error.other {
                snippet(f, &lines, place, &format!("::: {file}"), label)?;
            }
            writeln!(f, "help: {}\n", error.help)?;
        }
        let count = self.errors.len();
        write!(f, "{count} error{} in {file}", if count == 1 { "" } else { "s" })
    }
}

fn snippet(
    f: &mut fmt::Formatter<'_>,
    lines: &[&str],
    place: &Place,
    head: &str,
    label: &str,
) -> fmt::Result {
    let index = usize::try_from(place.line).unwrap_or(usize::MAX).saturating_sub(1);
    // One character for one, so that the carets stay below what they mean; the terminal sees no control characters.
    let shown = |c: char| match c {
        '\t' => ' ',
        c if crate::rules::is_unprintable(c) => '\u{fffd}',
        c => c,
    };
    let text: String = lines.get(index).unwrap_or(&"").chars().map(shown).collect();
    let line = place.line.to_string();
    let gutter = " ".repeat(line.len());
    let before = " ".repeat(usize::try_from(place.column).unwrap_or(1).saturating_sub(1));
    let carets = "^".repeat(usize::try_from(place.width).unwrap_or(1).max(1));
    let space = if label.is_empty() { "" } else { " " };
    writeln!(f, "{gutter} {head}:{line}:{}", place.column)?;
    writeln!(f, "{gutter} |")?;
    writeln!(f, "{line} | {text}")?;
    writeln!(f, "{gutter} | {before}{carets}{space}{label}")
}

/// Collects mistakes while a manifest is checked.
#[derive(Debug)]
pub(crate) struct Errors<'s> {
    source: &'s str,
    line_starts: Vec<usize>,
    found: Vec<(usize, Diagnostic)>,
}

impl<'s> Errors<'s> {
    pub(crate) fn new(source: &'s str) -> Self {
        let ends = source.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { source, line_starts: std::iter::once(0).chain(ends).collect(), found: Vec::new() }
    }

    /// Notes a mistake at one place.
    pub(crate) fn at(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        let place = Some(self.place(span));
        let diagnostic = Diagnostic { message: message.into(), place, other: None, help: help.into() };
        self.found.push((span.start, diagnostic));
    }

    /// Notes a mistake between two places: `span`, and an earlier one with a label.
    pub(crate) fn between(
        &mut self,
        span: Span,
        (other, label): (Span, String),
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let other = Some((self.place(other), label));
        let place = Some(self.place(span));
        self.found
            .push((span.start, Diagnostic { message: message.into(), place, other, help: help.into() }));
    }

    /// Notes that something is missing from the whole file.
    pub(crate) fn nowhere(&mut self, message: impl Into<String>, help: impl Into<String>) {
        let diagnostic = Diagnostic { message: message.into(), place: None, other: None, help: help.into() };
        self.found.push((usize::MAX, diagnostic));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Line of a byte, from 1.
    pub(crate) fn line(&self, at: usize) -> u32 {
        u32::try_from(self.line_starts.partition_point(|start| *start <= at)).unwrap_or(u32::MAX)
    }

    /// A line, from 1, without its end.
    fn line_span(&self, line: u32) -> Span {
        let index = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
        let start = self.line_starts.get(index).copied().unwrap_or(self.source.len());
        let text = self.source.get(start..).and_then(|rest| rest.lines().next()).unwrap_or("");
        Span { start, end: start + text.len() }
    }

    pub(crate) fn into_report(mut self, file: &str) -> Report {
        self.found.sort_by_key(|(at, _)| *at);
        let errors = self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        Report { file: file.to_owned(), errors, source: self.source.to_owned() }
    }

    fn place(&self, span: Span) -> Place {
        let line = self.line(span.start);
        let index = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
        let start = self.line_starts.get(index).copied().unwrap_or(0);
        let text = self.source.get(start..).and_then(|rest| rest.lines().next()).unwrap_or("");
        // Characters of the line that begin before a byte of the file.
        let chars = |at: usize| text.char_indices().take_while(|(i, _)| start + i < at).count();
        let (from, to) = (chars(span.start), chars(span.end));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place { line, column: number(from.saturating_add(1)), width: number(to.saturating_sub(from).max(1)) }
    }
}

/// `text` in backquotes, short and without control characters.
pub(crate) fn code(text: &str) -> String {
    if text.is_empty() {
        return "`\"\"`".to_owned();
    }
    let shown: String = text.chars().take(60).collect();
    let more = if shown.len() < text.len() { "..." } else { "" };
    format!("`{}{more}`", printable(&shown))
}

/// "`a`, `b` and `c`".
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    join(words, "and")
}

fn join<'a>(words: impl IntoIterator<Item = &'a str>, last_word: &str) -> String {
    let words: Vec<String> = words.into_iter().map(code).collect();
    match words.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {last_word} {last}", first.join(", ")),
    }
}

/// The word that `text` was probably meant to be.
pub(crate) fn closest<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = text.chars().count();
    if length > 64 {
        return None;
    }
    words
        .into_iter()
        .map(|word| (strsim::osa_distance(text, word), word))
        .filter(|(distance, word)| *distance <= (length.max(word.chars().count()) + 1) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// "did you mean `x`?", or all the words there are.
pub(crate) fn suggest<'a>(text: &str, what: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    if let Some(word) = closest(text, words.iter().copied()) {
        return format!("did you mean {}?", code(word));
    }
    match words.as_slice() {
        [] => format!("there is no {what} yet: add one, or take this out"),
        [one] => format!("the only {what} is {}", code(one)),
        _ => format!("write {}", join(words, "or")),
    }
}
