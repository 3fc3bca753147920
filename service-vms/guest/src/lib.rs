//! A guest's configuration, as the operator writes it: TOML, or the syntax of xl.cfg(5) -> a checked [`GuestConfig`].
//!
//! Both readers report every mistake at once, with its place in the file and its remedy, and warn of what is in the file
//! but does nothing. No I/O: paths stay words.
#![forbid(unsafe_code)]

mod config;
mod draft;
mod from_toml;
mod notes;
mod rate;
mod report;
mod rules;
mod text;
mod to_toml;
mod vdev;
mod words;
mod xl;

pub use config::{Access, Action, BootFile, Disk, GuestConfig, Kind, Vif};
pub use rate::Rate;
pub use report::{Diagnostic, Level, Place, Report};
pub use rules::{
    Invalid, MAX_CMDLINE, MAX_DEVICES, MAX_NAME, MAX_PATH, MEMORY_MIB, VCPUS, is_mac, is_name, is_uuid,
};
pub use to_toml::to_toml;
pub use vdev::vdev_number;

use draft::Draft;
use notes::Notes;

/// Bytes that a configuration may at most have.
pub const MAX_CONFIG_LENGTH: usize = 64 * 1024;

/// What was read from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The guest; what [`GuestConfig::check`] asks for holds.
    pub config: GuestConfig,
    /// What is in the file but does nothing; often empty.
    pub warnings: Report,
}

/// Reads a configuration: TOML if the file's `name` ends in `.toml`, else xl.cfg. The name is not otherwise used but for the report.
///
/// # Errors
/// As [`parse_toml`] and [`parse_xl`].
pub fn parse(name: &str, text: &str) -> Result<Parsed, Report> {
    let is_toml = name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case("toml"));
    if is_toml { parse_toml(name, text) } else { parse_xl(name, text) }
}

/// Reads a configuration in TOML; `name` is for the report only.
///
/// # Errors
/// Every mistake in it, with place and remedy. (Of a file that is no TOML only the mistakes in its syntax.)
pub fn parse_toml(name: &str, text: &str) -> Result<Parsed, Report> {
    parse_with(name, text, from_toml::read)
}

/// Reads a configuration in the syntax of xl.cfg(5), as libxlu of Xen 4.17 reads it; `name` is for the report only.
/// What of xl's would change what the guest can do, or what protects it, and is not there in Ennead, is an error; what
/// has no effect is a warning.
///
/// # Errors
/// Every mistake in it, with place and remedy.
pub fn parse_xl(name: &str, text: &str) -> Result<Parsed, Report> {
    parse_with(name, text, xl::read)
}

fn parse_with(
    name: &str,
    text: &str,
    read: impl FnOnce(&str, &mut Notes<'_>) -> Option<Draft>,
) -> Result<Parsed, Report> {
    if text.len() > MAX_CONFIG_LENGTH {
        let mut notes = Notes::new("");
        let message = format!("The configuration has {} bytes, more than {MAX_CONFIG_LENGTH}", text.len());
        notes.error_nowhere(message, "is this really a guest's configuration? Take out what is not needed");
        return Err(notes.into_report(name));
    }
    let mut notes = Notes::new(text);
    let config = read(text, &mut notes).map(|draft| draft.finish(&mut notes));
    match config {
        Some(config) if !notes.has_errors() => Ok(Parsed { config, warnings: notes.into_report(name) }),
        _ => Err(notes.into_report(name)),
    }
}

#[cfg(test)]
mod tests;
