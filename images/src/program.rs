//! The service VMs' programs: static executables, the same bytes wherever they are built.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cache::Cache;
use crate::progress::Progress;

const TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

/// The program that builds programs.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::source_root());
    // What the cargo that started us set for its own build must not reach another build.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command
}

fn metadata() -> Result<Metadata> {
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .output()
        .context("Cannot start `cargo`: install Rust (rustup.rs) and try again")?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "`cargo metadata` failed: {}", errors.trim());
    serde_json::from_slice(&output.stdout).context("Cannot read what `cargo metadata` says")
}

/// Builds the programs (names of binaries in this workspace) and gives the bytes of each.
///
/// # Errors
/// When no package has such a binary, it does not build, or it is not static.
pub fn build(cache: &Cache, progress: Progress, names: &[String]) -> Result<BTreeMap<String, Vec<u8>>> {
    let metadata = metadata()?;
    let mut step = progress.step("Programs of the service VMs");
    step.log_to(&cache.log_path("programs"))?;
    let flags = flags(&metadata.target_directory)?.join("\x1f");
    for name in names {
        let package = metadata
            .packages
            .iter()
            .find(|package| {
                package.targets.iter().any(|t| t.name == *name && t.kind.iter().any(|k| k == "bin"))
            })
            .with_context(|| {
                format!("The manifest names program `{name}`, but no package here has such a binary")
            })?;
        // One at a time: cargo would give all of them the features that any of them asks for.
        let mut command = cargo();
        command.args([
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "-p",
            &package.name,
            "--bin",
            name,
        ]);
        command.env("CARGO_ENCODED_RUSTFLAGS", &flags);
        command.env("CARGO_TARGET_DIR", &metadata.target_directory);
        step.run(&mut command)?;
    }
    let folder = metadata.target_directory.join(TARGET).join("release");
    let mut programs = BTreeMap::new();
    for name in names {
        let path = folder.join(name);
        let bytes = fs::read(&path).with_context(|| format!("Cannot read {}", path.display()))?;
        check_static(&bytes).with_context(|| format!("Program `{name}` ({})", path.display()))?;
        programs.insert(name.clone(), bytes);
    }
    step.done(&names.join(", "));
    Ok(programs)
}

/// The source files of a program, which is built if need be: what cargo noted down (its dep-info).
///
/// # Errors
/// When it does not build.
pub fn sources(cache: &Cache, progress: Progress, name: &str) -> Result<Vec<PathBuf>> {
    build(cache, progress, &[name.to_owned()])?;
    let path = metadata()?.target_directory.join(TARGET).join("release").join(format!("{name}.d"));
    let text = fs::read_to_string(&path).with_context(|| format!("Cannot read {}", path.display()))?;
    let files = text.split_once(": ").map(|(_, files)| files.trim_end()).unwrap_or_default();
    // A blank in a name stands there as `\ `.
    let names = files.replace("\\ ", "\0");
    Ok(names.split(' ').map(|name| PathBuf::from(name.replace('\0', " "))).collect())
}

/// Builds `ennead`, the operator's program, for this machine; gives where it is.
///
/// # Errors
/// When it does not build.
pub fn cli(cache: &Cache, progress: Progress) -> Result<PathBuf> {
    let mut step = progress.step("The operator's program");
    step.log_to(&cache.log_path("ennead"))?;
    let metadata = metadata()?;
    let mut command = cargo();
    command.args(["build", "--release", "--locked", "-p", "ennead"]);
    command.env("CARGO_TARGET_DIR", &metadata.target_directory);
    step.run(&mut command)?;
    step.done("ennead");
    Ok(metadata.target_directory.join("release/ennead"))
}

/// Static, and without paths of the machine that builds.
fn flags(target_directory: &Path) -> Result<Vec<String>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--print", "sysroot"])
        .current_dir(crate::source_root())
        .output()
        .context("Cannot start `rustc`: install Rust (rustup.rs) and try again")?;
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    let root = crate::source_root();
    let mut remap = vec![(root.display().to_string(), "/ennead"), (sysroot, "/rust")];
    if let Some(home) = home {
        remap.push((home.display().to_string(), "/cargo"));
    }
    // The last match wins: the target folder is usually inside the source.
    remap.push((target_directory.display().to_string(), "/target"));
    for (from, to) in remap.into_iter().filter(|(from, _)| !from.is_empty()) {
        flags.push(format!("--remap-path-prefix={from}={to}"));
    }
    Ok(flags)
}

/// A static executable has no program header that names an interpreter.
///
/// # Errors
/// When the file is not a 64-bit ELF executable or names an interpreter.
pub fn check_static(elf: &[u8]) -> Result<()> {
    const PT_INTERP: u64 = 3;
    let number = |offset: usize, length: usize| -> Option<u64> {
        let bytes = elf.get(offset..offset.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let interpreter = || -> Option<bool> {
        let place = usize::try_from(number(0x20, 8)?).ok()?;
        let size = usize::try_from(number(0x36, 2)?).ok()?;
        let count = usize::try_from(number(0x38, 2)?).ok()?;
        for index in 0..count {
            let header = place.checked_add(index.checked_mul(size)?)?;
            if number(header, 4)? == PT_INTERP {
                return Some(true);
            }
        }
        Some(false)
    };
    anyhow::ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "Not a 64-bit ELF file");
    match interpreter() {
        Some(false) => Ok(()),
        Some(true) => anyhow::bail!("Not static: it names an interpreter (PT_INTERP)"),
        None => anyhow::bail!("Its program headers lie outside the file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kind: u8) -> Vec<u8> {
        let mut bytes = vec![0; 0x40 + 0x38];
        bytes.splice(..6, *b"\x7fELF\x02\x01");
        bytes.splice(0x20..0x21, [0x40]);
        bytes.splice(0x36..0x37, [0x38]);
        bytes.splice(0x38..0x39, [1]);
        bytes.splice(0x40..0x41, [kind]);
        bytes
    }

    #[test]
    fn an_interpreter_is_found() {
        check_static(&elf(1)).unwrap();
        assert!(check_static(&elf(3)).unwrap_err().to_string().contains("PT_INTERP"));
    }

    #[test]
    fn broken_files_are_refused() {
        assert!(check_static(b"#!/bin/sh").is_err());
        let whole = elf(1);
        for length in 6..whole.len() - 0x38 + 3 {
            assert!(check_static(whole.get(..length).unwrap()).is_err(), "{length} bytes");
        }
    }
}
