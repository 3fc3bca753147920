//! Other people's daemons and clients: Debian's packages, unpacked into the cache, never installed.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::debian;

/// Debian's packages with C xenstored, oxenstored, test-xenstore and the command line tools.
const PACKAGES: [&str; 2] = ["xen-utils-4.17", "xenstore-utils"];
/// Where the first package keeps its programs.
const XEN_BIN: &str = "usr/lib/xen-4.17/bin";
/// Stands in for Xen's libraries, so that the daemons run without a hypervisor.
const FAKEXEN: &str = include_str!("../fakexen.c");

/// The unpacked packages and the preloaded library.
#[derive(Debug)]
pub struct Peers {
    root: PathBuf,
    scratch: TempDir,
}

impl Peers {
    /// Takes the packages from the cache, or downloads them, and compiles the library that is preloaded.
    ///
    /// # Errors
    /// When a package cannot be had or the library does not compile: without peers there is nothing to compare with.
    pub fn get() -> Result<Self> {
        let root = unpacked(&cache()?)?;
        let scratch = tempfile::Builder::new()
            .prefix("xenstore-peers-")
            .tempdir()
            .context("Cannot make a temporary folder")?;
        let peers = Self { root, scratch };
        compile(&peers.preload())?;
        Ok(peers)
    }

    /// C xenstored.
    #[must_use]
    pub fn xenstored(&self) -> PathBuf {
        self.root.join(XEN_BIN).join("xenstored")
    }

    /// oxenstored, in OCaml.
    #[must_use]
    pub fn oxenstored(&self) -> PathBuf {
        self.root.join(XEN_BIN).join("oxenstored")
    }

    /// Xen's own test of a XenStore daemon.
    #[must_use]
    pub fn test_xenstore(&self) -> PathBuf {
        self.root.join(XEN_BIN).join("test-xenstore")
    }

    /// A command line tool, as `xenstore-ls`.
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        self.root.join("usr/bin").join(name)
    }

    /// The library to preload into a daemon.
    #[must_use]
    pub fn preload(&self) -> PathBuf {
        self.scratch.path().join("fakexen.so")
    }
}

/// `$ENNEAD_CACHE`, or `ennead` in `$XDG_CACHE_HOME`, or `.cache/ennead` in the home folder: as the image builder.
fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let root = set("ENNEAD_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("ennead")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/ennead")))
        .context("No place for downloads: set ENNEAD_CACHE to a folder, or HOME")?;
    fs::create_dir_all(&root).with_context(|| format!("Cannot make the cache folder {}", root.display()))?;
    Ok(root)
}

/// The folder with the unpacked packages; filled when there is none yet.
fn unpacked(cache: &Path) -> Result<PathBuf> {
    if let Some(found) = newest(cache)? {
        return Ok(found);
    }
    let scratch = tempfile::Builder::new()
        .prefix("xen-utils-download-")
        .tempdir_in(cache)
        .with_context(|| format!("Cannot make a folder in {}", cache.display()))?;
    let root = debian::unpack(&PACKAGES, scratch.path()).context("Cannot get Xen's tools")?;
    let place = cache.join(format!("xen-utils-{}", debian::candidate(PACKAGES[0])?));
    if let Err(error) = fs::rename(&root, &place) {
        // Somebody else may have been faster.
        anyhow::ensure!(is_whole(&place), "Cannot move the packages to {}: {error}", place.display());
    }
    newest(cache)?.with_context(|| format!("{PACKAGES:?} do not hold xenstored, or not where expected"))
}

/// The last of the whole `xen-utils-<version>` folders.
fn newest(cache: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(cache).with_context(|| format!("Cannot list {}", cache.display()))?;
    Ok(entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("xen-utils-"))
                && is_whole(path)
        })
        .max())
}

fn is_whole(root: &Path) -> bool {
    let programs = ["xenstored", "oxenstored", "test-xenstore"];
    programs.iter().all(|name| root.join(XEN_BIN).join(name).is_file())
        && root.join("usr/bin/xenstore-ls").exists()
}

fn compile(library: &Path) -> Result<()> {
    let mut child = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-w", "-x", "c", "-", "-ldl", "-o"])
        .arg(library)
        .stdin(Stdio::piped())
        .spawn()
        .context("Cannot start `cc`: install a C compiler")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(FAKEXEN.as_bytes()).context("Cannot pass the source to `cc`")?;
    }
    let status = child.wait().context("Cannot wait for `cc`")?;
    anyhow::ensure!(status.success(), "fakexen.c does not compile");
    Ok(())
}
