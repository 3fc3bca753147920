//! Debian's packages as sources of files: downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// The version of a package that would be downloaded.
///
/// # Errors
/// When Debian has no such package, or nobody has asked it yet.
pub fn candidate(package: &str) -> Result<String> {
    Ok(field(package, "Version")?.trim().to_owned())
}

/// The package that another one names first among those that it depends on: a metapackage's real one.
///
/// # Errors
/// As [`candidate`], and when it depends on none.
pub fn first_dependency(package: &str) -> Result<String> {
    let depends = field(package, "Depends")?;
    let first = depends.split_whitespace().next().map(|name| name.trim_end_matches(','));
    Ok(first.with_context(|| format!("{package} depends on nothing"))?.to_owned())
}

/// A field of the package's entry.
fn field(package: &str, name: &str) -> Result<String> {
    let text = run(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let value = values.map(str::to_owned).next();
    value.with_context(|| format!("Debian's {package} has no `{name}`; is `apt-get update` due?"))
}

/// Downloads packages into `folder` and unpacks them into `root` there, which it gives.
///
/// # Errors
/// When a package cannot be had.
pub fn unpack(packages: &[&str], folder: &Path) -> Result<PathBuf> {
    let mut apt = Command::new("apt-get");
    if rustix::process::geteuid().is_root() {
        // Else apt complains that its own user may not write here.
        apt.args(["-o", "APT::Sandbox::User=root"]);
    }
    run(apt.arg("download").args(packages).current_dir(folder))
        .context("Cannot download Debian's packages; is `apt-get update` due?")?;
    let root = folder.join("root");
    for entry in fs::read_dir(folder).context("Cannot list the download")?.filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
        }
    }
    Ok(root)
}

/// Where a file of unpacked packages really is: a link with an absolute target is meant below `root`.
#[must_use]
pub fn place(root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    match fs::read_link(&path) {
        Ok(target) => target.strip_prefix("/").map(|inside| root.join(inside)).unwrap_or(path),
        Err(_) => path,
    }
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// When it does not start or fails, with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("Cannot start `{name}`"))?;
    anyhow::ensure!(
        output.status.success(),
        "`{name}` failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_links_stay_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        for (target, name) in [("/lib/loader", "absolute"), ("near", "relative")] {
            std::os::unix::fs::symlink(target, root.path().join(name)).unwrap();
        }
        for (name, real) in [("absolute", "lib/loader"), ("relative", "relative"), ("none", "none")] {
            assert_eq!(place(root.path(), name), root.path().join(real));
        }
    }
}
