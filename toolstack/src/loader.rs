//! The boot loader of guests that boot from their disks: GRUB as it is built for Xen. It is started in place of a kernel and reads the
//! disk from inside the guest, so nobody else has to trust what is on it.

use std::io;
use std::path::Path;
use std::rc::Rc;

use ennead_guest::Kind;

/// The boot loader for each kind of guest, if this host has it.
#[derive(Debug, Clone, Default)]
pub struct Loaders {
    /// For PV guests.
    pub pv: Option<Rc<Vec<u8>>>,
    /// For PVH guests.
    pub pvh: Option<Rc<Vec<u8>>>,
}

impl Loaders {
    /// Takes them out of a folder: `loader.pv`, `loader.pvh`. They are in memory there, too, and not needed twice.
    ///
    /// # Errors
    /// Linux's, but for files that are not there.
    pub fn take(folder: &Path) -> io::Result<Self> {
        let take = |kind: Kind| {
            let path = folder.join(format!("loader.{}", kind.as_str()));
            match std::fs::read(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
                Ok(bytes) => std::fs::remove_file(&path).map(|()| Some(Rc::new(bytes))),
            }
        };
        Ok(Self { pv: take(Kind::Pv)?, pvh: take(Kind::Pvh)? })
    }

    /// That for guests of this kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<Rc<Vec<u8>>> {
        match kind {
            Kind::Pv => self.pv.clone(),
            Kind::Pvh => self.pvh.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_taken_once_and_may_be_absent() {
        let folder = std::env::temp_dir().join(format!("ennead-loaders-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("loader.pvh"), b"grub").unwrap();
        let loaders = Loaders::take(&folder).unwrap();
        assert_eq!(loaders.of(Kind::Pv), None);
        assert_eq!(loaders.of(Kind::Pvh).unwrap().as_slice(), b"grub");
        assert!(Loaders::take(&folder).unwrap().of(Kind::Pvh).is_none());
        std::fs::remove_dir(&folder).unwrap();
    }
}
