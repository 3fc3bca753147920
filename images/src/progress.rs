//! What is being built and for how long: a spinner on a terminal, plain lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::step::Step;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A spinner with the last line of the log.
    Terminal,
    /// One line at the start and one at the end of each step that takes long.
    Plain,
    /// Nothing.
    Silent,
}

impl Progress {
    /// A spinner when standard error is a terminal, else plain lines.
    #[must_use]
    pub fn for_stderr() -> Self {
        use std::io::IsTerminal as _;
        if std::io::stderr().is_terminal() { Self::Terminal } else { Self::Plain }
    }

    /// Shows nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::Silent
    }

    /// Begins a step. `what` is a noun: "Xen 4.17", "kernel `driver`".
    #[must_use]
    pub fn step(self, what: impl Into<String>) -> Step {
        Step::new(self, what.into())
    }

    pub(crate) fn bar(self, what: &str) -> ProgressBar {
        if self != Self::Terminal {
            return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        }
        let bar = ProgressBar::new_spinner().with_prefix(what.to_owned());
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {prefix:<28} {elapsed:>5}  {wide_msg:.dim}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(150));
        bar
    }
}
