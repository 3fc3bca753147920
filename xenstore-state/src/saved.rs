//! The contents in a file, so that they outlive the process.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use ennead_xenstore_state::service::{Mode, Service};
use ennead_xenstore_state::{Settings, State};
use signal_hook::consts::SIGTERM;

/// Where they are kept, and whether it is time.
pub(crate) struct Saved {
    file: PathBuf,
    term: Arc<AtomicBool>,
    bell: UnixStream,
}

impl Saved {
    /// What the file holds; if there is none, or no name of one, the empty store.
    pub(crate) fn load(file: Option<PathBuf>) -> anyhow::Result<(Service, Option<Self>)> {
        let settings = Settings::default();
        let Some(file) = file else {
            return Ok((Service::new(State::new(settings), Mode::Process), None));
        };
        // First, so that a SIGTERM from here on loses nothing.
        let term = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGTERM, Arc::clone(&term)).context("Cannot catch SIGTERM")?;
        let (bell, rings) = UnixStream::pair().context("Cannot make a pair of sockets")?;
        signal_hook::low_level::pipe::register(SIGTERM, rings).context("Cannot catch SIGTERM")?;
        let service = match fs::read(&file) {
            Ok(bytes) => Service::load(settings, Mode::Process, &bytes)
                .with_context(|| format!("Cannot take up {}", file.display()))?,
            Err(e) if e.kind() == ErrorKind::NotFound => Service::new(State::new(settings), Mode::Process),
            Err(e) => return Err(e).with_context(|| format!("Cannot read {}", file.display())),
        };
        Ok((service, Some(Self { file, term, bell })))
    }

    /// Whether SIGTERM came.
    pub(crate) fn must_end(&self) -> bool {
        self.term.load(Ordering::Relaxed)
    }

    /// Readable when SIGTERM came.
    pub(crate) const fn bell(&self) -> &UnixStream {
        &self.bell
    }

    /// Replaces the file: it is the old one or the new one, whatever happens.
    pub(crate) fn save(&self, service: &Service) -> anyhow::Result<()> {
        let mut name = self.file.clone().into_os_string();
        name.push(".new");
        let new = PathBuf::from(name);
        let write = || {
            let mut out = File::create(&new)?;
            out.write_all(&service.save())?;
            out.sync_all()?;
            fs::rename(&new, &self.file)
        };
        write().with_context(|| format!("Cannot write {}", self.file.display()))
    }
}
