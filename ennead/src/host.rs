//! Which host: as the command line says, else the environment, else a profile that is there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ennead_api::{Address, Client, Profile};

use crate::failure::Failure;

/// The profile that `./run` writes.
const OF_RUN: &str = "out/profile.toml";
/// The user's own, below the folder of configurations.
const OWN: &str = "ennead/profile.toml";
/// Where `./run` has a host that is on no network.
const SOCKET: &str = "unix:out/toolstack.sock";

#[derive(Debug, PartialEq)]
enum Host {
    At(Address),
    Of(PathBuf),
}

/// Who asks the host.
pub(crate) fn client(address: Option<Address>, profile: Option<PathBuf>) -> Result<Client, Failure> {
    let file = match choose(address, profile, |name| std::env::var_os(name), Path::exists)? {
        Host::At(address) => return Ok(Client::new(address)),
        Host::Of(file) => file,
    };
    let text = std::fs::read_to_string(&file).map_err(|error| Failure::file("the profile", &file, &error))?;
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::local(
            format!("Cannot use {}: {error}", file.display()),
            "`./run` writes `out/profile.toml` anew",
        )
    };
    // The parser's own words would show a line of the file, and that may be of the key.
    let profile: Profile = toml::from_str(&text).map_err(|error: toml::de::Error| wrong(&error.message()))?;
    Client::of(&profile).map_err(|error| wrong(&error))
}

fn choose(
    address: Option<Address>,
    profile: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<OsString>,
    exists: impl Fn(&Path) -> bool,
) -> Result<Host, Failure> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let parse =
        |text: &str| text.parse().map(Host::At).map_err(|error| Failure::local(format!("{error}"), ""));
    if let Some(address) = address {
        return Ok(Host::At(address));
    }
    if let Some(file) = profile {
        return Ok(Host::Of(file));
    }
    if let Some(text) = set("ENNEAD_HOST") {
        return parse(&text.to_string_lossy());
    }
    if let Some(file) = set("ENNEAD_PROFILE") {
        return Ok(Host::Of(file.into()));
    }
    let folder = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")));
    let files = [Some(PathBuf::from(OF_RUN)), folder.map(|folder| folder.join(OWN))];
    match files.into_iter().flatten().find(|file| exists(file)) {
        Some(file) => Ok(Host::Of(file)),
        None => parse(SOCKET),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_counts_before_what_is_there() {
        let address = |text: &str| Some(text.parse::<Address>().unwrap());
        let chosen = |address, profile: Option<&str>, variables: &[(&str, &str)], files: &[&str]| {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
            };
            let exists = |file: &Path| files.iter().any(|known| Path::new(known) == file);
            choose(address, profile.map(PathBuf::from), variable, exists).unwrap()
        };
        let all = [("ENNEAD_HOST", "unix:e"), ("ENNEAD_PROFILE", "p"), ("HOME", "/h")];
        let files = ["out/profile.toml", "/h/.config/ennead/profile.toml"];
        let at = |text: &str| Host::At(text.parse().unwrap());
        let of = |file: &str| Host::Of(file.into());
        assert_eq!(chosen(address("unix:a"), None, &all, &files), at("unix:a"));
        assert_eq!(chosen(None, Some("x"), &all, &files), of("x"));
        assert_eq!(chosen(None, None, &all, &files), at("unix:e"));
        assert_eq!(chosen(None, None, &all[1..], &files), of("p"));
        assert_eq!(chosen(None, None, &all[2..], &files), of("out/profile.toml"));
        assert_eq!(chosen(None, None, &all[2..], &files[1..]), of(files[1]));
        assert_eq!(chosen(None, None, &[("ENNEAD_HOST", ""), ("HOME", "/h")], &[]), at(SOCKET));
        let elsewhere = [("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")];
        assert_eq!(chosen(None, None, &elsewhere, &["/c/ennead/profile.toml"]), of("/c/ennead/profile.toml"));
    }
}
