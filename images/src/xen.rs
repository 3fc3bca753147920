//! Xen from Debian's source, with our configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::options;
use crate::packages;
use crate::progress::Progress;
use crate::step::{Step, size};

/// Debian's version of the source, in the main archive of [`SUITE`].
pub const VERSION: &str = "4.17.5+72-g01140da4e8-1";

/// Debian's release.
pub const SUITE: &str = "bookworm";

/// FLASK's files that the policy is generated from, in `xen/xsm/flask/policy`.
const FLASK_FILES: [&str; 3] = ["access_vectors", "security_classes", "initial_sids"];

/// A built Xen.
#[derive(Debug, Clone)]
pub struct Xen {
    dir: PathBuf,
}

impl Xen {
    /// The hypervisor, an ELF file that GRUB's `multiboot2` loads.
    #[must_use]
    pub fn hypervisor(&self) -> PathBuf {
        self.dir.join("xen")
    }

    /// One of FLASK's files: `access_vectors`, `security_classes` or `initial_sids`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn flask_file(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("Cannot read {}", path.display()))
    }
}

/// Builds Xen, or takes it from the cache.
///
/// # Errors
/// When the source cannot be downloaded or does not build.
pub fn build(cache: &Cache, progress: Progress) -> Result<Xen> {
    let config = read(&crate::images_dir().join("xen/xen.config"))?;
    let key = Key::new("xen 2")
        .with("version", VERSION)
        .with("config", &config)
        .with("gcc", packages::tool_version("gcc")?)
        .with("ld", packages::tool_version("ld")?);
    let mut step = progress.step("Xen with FLASK");
    let dir = cache.artefact("xen", &key, &mut step, |dir, step| make(cache, &config, dir, step))?;
    let xen = Xen { dir };
    step.done(&size(file_size(&xen.hypervisor())?));
    Ok(xen)
}

/// The unpacked source of a Debian source package, in the cache.
fn source(cache: &Cache, step: &mut Step) -> Result<PathBuf> {
    let key = Key::new("xen-source 1").with("version", VERSION);
    let log = cache.log_path(&format!("xen-source-{}", key.hex16()));
    let mut inner = Progress::Silent.step(format!("The download of Xen's source ({VERSION})"));
    inner.log_to(&log)?;
    step.note("downloading the source");
    let dir = cache.artefact("xen-source", &key, &mut inner, download)?;
    Ok(dir)
}

/// Downloads with apt, from a private list of archives: the system's own is left as it is.
fn download(dir: &Path, step: &mut Step) -> Result<()> {
    let apt = tempfile::tempdir().context("Cannot make a temporary folder")?;
    let at = |name: &str| apt.path().join(name);
    for part in ["parts", "lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(at(part)).with_context(|| format!("Cannot make {}", at(part).display()))?;
    }
    let entry = packages::source_entry(Path::new("/etc/apt"), SUITE)?;
    write(&at("parts/xen.sources"), &entry)?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        let user = if rustix::process::geteuid().is_root() { "root" } else { "" };
        for option in [
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={}", at("parts").display()),
            format!("Dir::State::lists={}", at("lists").display()),
            format!("Dir::Cache={}", at("cache").display()),
            format!("APT::Sandbox::User={user}"),
            "Acquire::Languages=none".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.current_dir(dir);
        command
    };
    step.run(apt_get().arg("update"))?;
    step.run(apt_get().args(["source", "--download-only"]).arg(format!("xen={VERSION}")))?;
    let dsc = fs::read_dir(dir)
        .context("Cannot list the download")?
        .filter_map(Result::ok)
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
        .context("apt-get downloaded no .dsc file")?;
    step.run(Command::new("dpkg-source").arg("-x").arg(&dsc).arg("source").current_dir(dir))?;
    for file in fs::read_dir(dir).context("Cannot list the download")?.filter_map(Result::ok) {
        if file.path().is_file() {
            fs::remove_file(file.path()).context("Cannot remove a downloaded archive")?;
        }
    }
    Ok(())
}

fn make(cache: &Cache, config: &str, dir: &Path, step: &mut Step) -> Result<()> {
    let source = source(cache, step)?;
    let work = cache.temporary("xen")?;
    let tree = work.path().join("source");
    step.run(Command::new("cp").arg("-a").arg(source.join("source")).arg(&tree))?;
    let make = |targets: &[&str]| {
        let mut command = Command::new("make");
        command.arg("-C").arg(tree.join("xen")).args(targets);
        command.env_remove("MAKEFLAGS").env("LC_ALL", "C");
        for (name, value) in [
            ("XEN_BUILD_DATE", "Thu Jan  1 00:00:00 UTC 2026"),
            ("XEN_BUILD_TIME", "00:00:00"),
            ("XEN_BUILD_HOST", "ennead"),
            ("XEN_DOMAIN", "ennead"),
            ("XEN_WHOAMI", "ennead"),
        ] {
            command.env(name, value);
        }
        command.env("EXTRA_CFLAGS_XEN_CORE", format!("-ffile-prefix-map={}=.", tree.join("xen").display()));
        command
    };
    write(&tree.join("xen/.scmversion"), VERSION)?;
    write(&tree.join(".scmversion"), VERSION)?;
    step.run(&mut make(&["defconfig"]))?;
    let dot_config = tree.join("xen/.config");
    let defaults = read(&dot_config)?;
    write(&dot_config, &format!("{defaults}\n{config}"))?;
    step.run(&mut make(&["olddefconfig"]))?;
    options::check("xen/xen.config", config, &read(&dot_config)?)?;
    step.run(&mut make(&[&crate::kernel::jobs()]))?;
    let mut files = vec![(tree.join("xen/xen"), "xen"), (dot_config, "config")];
    for name in FLASK_FILES {
        files.push((tree.join("xen/xsm/flask/policy").join(name), name));
    }
    for (from, name) in files {
        fs::copy(&from, dir.join(name)).with_context(|| format!("Cannot copy {}", from.display()))?;
    }
    Ok(())
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("Cannot read {}", path.display()))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("Cannot write {}", path.display()))
}

pub(crate) fn file_size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("Cannot read {}", path.display()))?.len())
}
