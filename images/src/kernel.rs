//! The kernels of the service VMs: Debian's Linux source, `tinyconfig`, and our options.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::progress::Progress;
use crate::step::{Step, size};
use crate::xen::{file_size, read, write};
use crate::{options, packages};

/// Debian's package with the source.
const PACKAGE: &str = "linux-source-6.1";

/// What the package installs.
const ARCHIVE: &str = "/usr/src/linux-source-6.1.tar.xz";

/// `-j` with one job per processor.
pub(crate) fn jobs() -> String {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("-j{count}")
}

/// Builds one kernel, or takes it from the cache. Gives the path of its bzImage.
///
/// `config` is the file that the manifest names; `common.config` beside it goes first. If there is a `NAME.patch` beside
/// `NAME.config`, it is applied to the source of this kernel.
///
/// # Errors
/// When the source is not installed, an option was not taken over, or it does not build.
pub fn build(cache: &Cache, progress: Progress, name: &str, config: &Path) -> Result<PathBuf> {
    let common = config.with_file_name("common.config");
    let asked = format!("{}\n{}", read(&common)?, read(config)?);
    let version = packages::installed_version(PACKAGE)?
        .with_context(|| format!("Package {PACKAGE} is missing: apt-get install {PACKAGE}"))?;
    let patch = config.with_extension("patch");
    let patch = patch.exists().then_some(patch);
    let mut key = key(&version, &asked)?;
    if let Some(patch) = &patch {
        key = key.with("patch", read(patch)?);
    }
    let mut step = progress.step(format!("Kernel `{name}`"));
    let dir = cache.artefact(&format!("kernel-{name}"), &key, &mut step, |dir, step| {
        let file = config.file_name().unwrap_or_default().to_string_lossy().into_owned();
        make(cache, &version, &file, &asked, patch.as_deref(), dir, step)
    })?;
    let image = dir.join("bzImage");
    step.done(&size(file_size(&image)?));
    Ok(image)
}

fn key(version: &str, asked: &str) -> Result<Key> {
    Ok(Key::new("kernel 1")
        .with("version", version)
        .with("config", asked)
        .with("gcc", packages::tool_version("gcc")?)
        .with("ld", packages::tool_version("ld")?))
}

fn source(cache: &Cache, version: &str, step: &mut Step) -> Result<PathBuf> {
    let key = Key::new("linux-source 1").with("version", version);
    let mut inner = Progress::Silent.step(format!("Unpacking {ARCHIVE}"));
    step.note("unpacking the source");
    let dir = cache.artefact("linux-source", &key, &mut inner, |dir, step| {
        step.run(
            Command::new("tar")
                .args(["--extract", "--strip-components=1", "--file", ARCHIVE])
                .args(["--exclude=*.rst", "--directory"])
                .arg(dir),
        )
    })?;
    Ok(dir)
}

fn make(
    cache: &Cache,
    version: &str,
    file: &str,
    asked: &str,
    patch: Option<&Path>,
    dir: &Path,
    step: &mut Step,
) -> Result<()> {
    let mut source = source(cache, version, step)?;
    let work = cache.temporary("kernel")?;
    let patched = cache.temporary("patched")?;
    if let Some(patch) = patch {
        step.note("patching the source");
        let copy = patched.path().join("source");
        // As links to the same files; `patch` puts new files in their place, and leaves the originals as they are.
        step.run(Command::new("cp").args(["--archive", "--link"]).arg(&source).arg(&copy))?;
        step.run(
            Command::new("patch").args(["--strip=1", "--directory"]).arg(&copy).arg("--input").arg(patch),
        )?;
        source = copy;
    }
    let make = |target: &str| {
        let mut command = Command::new("make");
        command.arg("-C").arg(&source).arg(format!("O={}", work.path().display()));
        command.arg(jobs()).arg(target).env_remove("MAKEFLAGS").env("LC_ALL", "C");
        command.env("KBUILD_BUILD_TIMESTAMP", "2026-01-01").env("KBUILD_BUILD_VERSION", "1");
        command.env("KBUILD_BUILD_USER", "ennead").env("KBUILD_BUILD_HOST", "ennead");
        command
    };
    step.run(&mut make("tinyconfig"))?;
    let dot_config = work.path().join(".config");
    let tiny = read(&dot_config)?;
    write(&dot_config, &format!("{tiny}\n{asked}"))?;
    step.run(&mut make("olddefconfig"))?;
    options::check(file, asked, &read(&dot_config)?)?;
    step.run(&mut make("bzImage"))?;
    for (from, name) in [(work.path().join("arch/x86/boot/bzImage"), "bzImage"), (dot_config, "config")] {
        fs::copy(&from, dir.join(name)).with_context(|| format!("Cannot copy {}", from.display()))?;
    }
    Ok(())
}
