//! Artefacts that are slow to build, each kept in `<cache>/<name>-<hash of its inputs>/`.
//!
//! An artefact is built in a temporary folder beside its place and renamed when it is complete, so a folder with its
//! final name is always whole. A lock per artefact keeps two runs from building the same one at once.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::step::Step;

/// Age after which a temporary folder belongs to nobody any more.
const LEFTOVER: Duration = Duration::from_secs(24 * 3600);

/// Hash of everything that decides what an artefact's bytes are.
#[derive(Debug, Clone)]
pub struct Key(Sha256);

impl Key {
    /// Starts with the name and version of the recipe: change the version when the recipe gives other bytes.
    #[must_use]
    pub fn new(recipe: &str) -> Self {
        Self(Sha256::new()).with("recipe", recipe)
    }

    /// Adds one input. The label keeps two inputs with swapped contents apart; lengths keep borders apart.
    #[must_use]
    pub fn with(mut self, label: &str, content: impl AsRef<[u8]>) -> Self {
        for part in [label.as_bytes(), content.as_ref()] {
            self.0.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// The first 16 hex digits of the hash.
    #[must_use]
    pub fn hex16(&self) -> String {
        let mut digits = hex(&self.0.clone().finalize());
        digits.truncate(16);
        digits
    }
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$ENNEAD_CACHE`, or `ennead` in `$XDG_CACHE_HOME`, or `.cache/ennead` in the home folder.
    ///
    /// # Errors
    /// When none of the three is set, or the folder cannot be made.
    pub fn from_environment() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("ENNEAD_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("ennead")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache/ennead")))
            .context("No place for built artefacts: set ENNEAD_CACHE to a folder, or HOME")?;
        Self::at(&root)
    }

    /// A cache in this folder, which is made when it does not exist.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)
            .with_context(|| format!("Cannot make the cache folder {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("Cannot find {}", root.display()))?;
        for part in ["logs", "locks", "tmp"] {
            let dir = root.join(part);
            fs::create_dir_all(&dir).with_context(|| format!("Cannot make {}", dir.display()))?;
        }
        let cache = Self { root };
        cache.remove_leftovers();
        Ok(cache)
    }

    /// Removes what interrupted runs left; a build takes minutes, so a day is surely over. What cannot be removed stays.
    fn remove_leftovers(&self) {
        let old = |entry: &fs::DirEntry| {
            let age =
                entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
            age.is_some_and(|age| age > LEFTOVER)
        };
        for entry in
            fs::read_dir(self.root.join("tmp")).into_iter().flatten().filter_map(Result::ok).filter(old)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the log of a step goes.
    #[must_use]
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// A temporary folder in the cache, gone when dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temporary(&self, name: &str) -> Result<tempfile::TempDir> {
        let tmp = self.root.join("tmp");
        tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(&tmp)
            .with_context(|| format!("Cannot make a folder in {}", tmp.display()))
    }

    /// Writes a file that only its owner can read; it appears under its name only when it is whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_private(&self, path: &Path, content: &str) -> Result<()> {
        let cannot = || format!("Cannot write {}", path.display());
        // Beside its place, which may be on another file system than the cache.
        let folder = path.parent().with_context(cannot)?;
        // Such a file is its owner's alone from the first.
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
        file.write_all(content.as_bytes()).with_context(cannot)?;
        file.persist(path).with_context(cannot)?;
        Ok(())
    }

    /// Waits until no other run holds this lock, then holds it until the file is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.root.join("locks").join(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("Cannot make the lock {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("Cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// The artefact's folder; built by `build` (which fills the folder it is given) when it is not there yet.
    ///
    /// # Errors
    /// What `build` reports, with the end of the log; and when files cannot be made.
    pub fn artefact(
        &self,
        name: &str,
        key: &Key,
        step: &mut Step,
        build: impl FnOnce(&Path, &mut Step) -> Result<()>,
    ) -> Result<PathBuf> {
        let full = format!("{name}-{}", key.hex16());
        let place = self.root.join(&full);
        if place.is_dir() {
            step.cached();
            return Ok(place);
        }
        let _lock = self.lock(&full)?;
        if place.is_dir() {
            step.cached();
            return Ok(place);
        }
        step.log_to(&self.log_path(&full))?;
        let scratch = self.temporary(&full)?;
        let filled = scratch.path().join("artefact");
        fs::create_dir(&filled).with_context(|| format!("Cannot make {}", filled.display()))?;
        build(&filled, step)?;
        fs::rename(&filled, &place)
            .with_context(|| format!("Cannot move {full} to its place in {}", self.root.display()))?;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    #[test]
    fn a_key_depends_on_every_input_and_its_borders() {
        let key = |parts: &[(&str, &str)]| {
            parts.iter().fold(Key::new("r1"), |key, (label, text)| key.with(label, text)).hex16()
        };
        assert_eq!(key(&[("a", "bc")]).len(), 16);
        assert_eq!(key(&[("a", "bc")]), key(&[("a", "bc")]));
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b"), ("c", "d")]), key(&[("c", "d"), ("a", "b")]));
        assert_ne!(Key::new("r1").hex16(), Key::new("r2").hex16());
    }

    #[test]
    fn sha256_of_nothing_is_the_known_one() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn an_artefact_is_built_once_and_a_failed_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let progress = Progress::silent();
        let key = Key::new("test");
        let mut step = progress.step("test");
        let failed = cache.artefact("thing", &key, &mut step, |_, _| anyhow::bail!("no"));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert!(!dir.path().join(format!("thing-{}", key.hex16())).exists());
        for expected_builds in [1, 0] {
            let mut builds = 0;
            let mut step = progress.step("test");
            let place = cache
                .artefact("thing", &key, &mut step, |dir, _| {
                    builds += 1;
                    fs::write(dir.join("file"), "x").context("write")
                })
                .unwrap();
            assert_eq!(builds, expected_builds);
            assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "x");
        }
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "no scratch folder is left");
    }
}
