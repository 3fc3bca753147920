//! Where what is said goes.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use ennead_guest::Report;
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::text::printable;

/// The standard output and the standard error, for people or for programs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Shows a value: as one line of JSON, or as text that ends with a line's end.
    pub(crate) fn show<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = if self.json {
            let line = serde_json::to_string(value);
            line.map_err(|error| Failure::local(format!("Cannot write JSON: {error}"), ""))? + "\n"
        } else {
            text()
        };
        self.bytes(text.as_bytes())
    }

    /// Writes bytes to the standard output as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::Unread),
            written => {
                written.map_err(|error| Failure::local(format!("Cannot write the output: {error}"), ""))
            }
        }
    }

    pub(crate) fn failure(self, failure: &Failure) {
        if let Failure::Unread = failure {
            return;
        }
        if self.json {
            eprintln!("{}", failure.json());
            return;
        }
        let (message, help) = (failure.message(), failure.help());
        match failure {
            Failure::Configuration(_) => eprintln!("{message}"),
            _ => eprintln!("error: {}", printable(&message)),
        }
        if !help.is_empty() {
            eprintln!("help: {}", printable(&help));
        }
    }

    /// What is in a file but does nothing.
    pub(crate) fn warnings(self, report: &Report) {
        if !self.json {
            if !report.is_empty() {
                eprintln!("{report}");
            }
            return;
        }
        for warning in &report.diagnostics {
            let line = warning.place.as_ref().map(|place| place.line);
            eprintln!(
                "{}",
                json!({ "warning": { "message": warning.message, "line": line, "help": warning.help } })
            );
        }
    }

    /// Text that stands on the terminal until the next such text: for people who wait.
    pub(crate) fn progress(self, text: &str) {
        if !self.json && std::io::stderr().is_terminal() {
            // To the line's start, the text, and nothing behind it.
            eprint!("\r{text}\x1b[K");
        }
    }

    /// A note for people.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            eprintln!("{}", printable(text));
        }
    }
}
