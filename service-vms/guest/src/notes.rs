//! Collecting what there is to say about a file, each with its place.

use crate::report::{Diagnostic, Level, Place, Report};

/// Most diagnostics that are kept; the others are only counted.
const MAX_DIAGNOSTICS: usize = 64;

/// Bytes of the file, from `start` up to but not including `end`.
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

/// A value and its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl<T> At<T> {
    pub(crate) fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl At<&str> {
    /// Place of a part of a word in the file; that of the whole word if it is not written there as it is.
    pub(crate) fn part(&self, start: usize, length: usize) -> Span {
        if self.span.end.saturating_sub(self.span.start) == self.value.len() && start < self.value.len() {
            let start = self.span.start + start;
            Span { start, end: start + length }
        } else {
            self.span
        }
    }
}

impl At<String> {
    /// Place of a part of a string in the file; that of the whole string if it is not written there as it is.
    pub(crate) fn part(&self, start: usize, length: usize) -> Span {
        if self.span.end.saturating_sub(self.span.start) == self.value.len() + 2 && start < self.value.len() {
            let start = self.span.start + 1 + start;
            Span { start, end: start + length }
        } else {
            self.span
        }
    }
}

/// Collects diagnostics while a file is read.
#[derive(Debug)]
pub(crate) struct Notes<'s> {
    source: &'s str,
    line_starts: Vec<usize>,
    found: Vec<(usize, Diagnostic)>,
    errors: usize,
    omitted: usize,
}

impl<'s> Notes<'s> {
    pub(crate) fn new(source: &'s str) -> Self {
        let ends = source.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(ends).collect();
        Self { source, line_starts, found: Vec::new(), errors: 0, omitted: 0 }
    }

    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.note(Level::Error, Some(span), None, message.into(), help.into());
    }

    pub(crate) fn warning(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.note(Level::Warning, Some(span), None, message.into(), help.into());
    }

    /// Notes that something is missing from the whole file.
    pub(crate) fn error_nowhere(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.note(Level::Error, None, None, message.into(), help.into());
    }

    /// Notes something between two places: `span`, and another with a label.
    pub(crate) fn note(
        &mut self,
        level: Level,
        span: Option<Span>,
        other: Option<(Span, &str)>,
        message: String,
        help: String,
    ) {
        self.errors += usize::from(level == Level::Error);
        if self.is_full() {
            // An error is worth more than a warning.
            let warning = self.found.iter().rposition(|(_, d)| d.level == Level::Warning);
            self.omitted += 1;
            match warning {
                Some(at) if level == Level::Error => drop(self.found.remove(at)),
                _ => return,
            }
        }
        let place = span.map(|span| self.place(span));
        let other = other.map(|(span, label)| (self.place(span), label.to_owned()));
        let at = span.map_or(usize::MAX, |span| span.start);
        self.found.push((at, Diagnostic { level, message, place, other, help }));
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether no more are kept, so that a costly remedy need not be looked for.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MAX_DIAGNOSTICS
    }

    pub(crate) fn into_report(mut self, file: &str) -> Report {
        self.found.sort_by_key(|(at, _)| *at);
        let diagnostics = self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        let source = self.source.to_owned();
        Report { file: file.to_owned(), diagnostics, omitted: self.omitted, source }
    }

    fn place(&self, span: Span) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= span.start);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let text = self.source.get(start..).and_then(|rest| rest.lines().next()).unwrap_or("");
        // Characters of the line that begin before a byte of the file.
        let chars = |at: usize| text.char_indices().take_while(|(i, _)| start + i < at).count();
        let (from, to) = (chars(span.start), chars(span.end));
        Place { line, column: from + 1, width: to.saturating_sub(from).max(1) }
    }
}
