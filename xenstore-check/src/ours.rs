//! Where our two binaries are: built by cargo, into its usual place.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::daemon::Ours;
use crate::debian::run;

#[derive(Debug, Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// How the binaries are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// With checks of overflow, as tests want it.
    Debug,
    /// As they run in a service VM, as measurements want it.
    Release,
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    command
}

impl Ours {
    /// Builds `xenstore-state` and `xenstore-logic`.
    ///
    /// # Errors
    /// When they do not build.
    pub fn build(profile: Profile) -> Result<Self> {
        let metadata = run(cargo().args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
        let metadata: Metadata =
            serde_json::from_str(&metadata).context("Cannot read what `cargo metadata` says")?;
        let mut build = cargo();
        build.args([
            "build",
            "--locked",
            "-p",
            "ennead-xenstore-state",
            "-p",
            "ennead-xenstore-logic",
            "--bins",
        ]);
        let folder = match profile {
            Profile::Debug => "debug",
            Profile::Release => "release",
        };
        if profile == Profile::Release {
            build.arg("--release");
        }
        run(&mut build)?;
        let folder = metadata.target_directory.join(folder);
        let ours = Self { state: folder.join("xenstore-state"), logic: folder.join("xenstore-logic") };
        for binary in [&ours.state, &ours.logic] {
            anyhow::ensure!(binary.is_file(), "cargo has built no {}", binary.display());
        }
        Ok(ours)
    }
}
