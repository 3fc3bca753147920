//! The guests that start with the host: they and their files are in this VM's ramdisk, so they are part of what was verified.

use std::io;
use std::path::Path;
use std::rc::Rc;

use anyhow::Context as _;
use ennead_api::{BOOT_GUESTS, CreateGuest, boot_image};

use crate::images::Images;

/// Takes them out of a folder; their images, which are in memory there, too, go to the others, for good.
///
/// # Errors
/// When a file is no such, or not there.
pub fn take(folder: &Path, images: &mut Images) -> anyhow::Result<Vec<CreateGuest>> {
    let json = match std::fs::read(folder.join(BOOT_GUESTS)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        json => json.context("Cannot read the guests that start with the host")?,
    };
    let guests: Vec<CreateGuest> =
        serde_json::from_slice(&json).context("Cannot read the guests that start with the host")?;
    for id in guests.iter().flat_map(|guest| guest.kernel.into_iter().chain(guest.ramdisk)) {
        if images.has(id) {
            // Two guests are made of it.
            continue;
        }
        let path = folder.join(boot_image(id));
        let bytes = std::fs::read(&path).with_context(|| format!("Cannot read {}", path.display()))?;
        std::fs::remove_file(&path).with_context(|| format!("Cannot remove {}", path.display()))?;
        images.add_own(id, Rc::new(bytes));
    }
    Ok(guests)
}

#[cfg(test)]
mod tests {
    use ennead_api::Sha256;

    use super::*;
    use crate::loader::Loaders;

    #[test]
    fn guests_come_with_their_images_and_may_be_absent() {
        let folder = std::env::temp_dir().join(format!("ennead-boot-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut images = Images::new(0, Loaders::default());
        assert_eq!(take(&folder, &mut images).unwrap(), []);
        let text = "name = \"a\"\nkind = \"pv\"\nkernel = \"k\"\nmemory-mib = 32\n";
        let config = ennead_guest::parse_toml("a.toml", text).unwrap_or_else(|e| panic!("{e}")).config;
        let id = Sha256([7; 32]);
        let guest = CreateGuest { config, kernel: Some(id), ramdisk: Some(id), paused: false };
        std::fs::write(folder.join(BOOT_GUESTS), serde_json::to_vec(&[&guest]).unwrap()).unwrap();
        let error = take(&folder, &mut images).unwrap_err();
        assert!(format!("{error:#}").contains("image.0707"), "{error:#}");
        std::fs::write(folder.join(boot_image(id)), b"an image").unwrap();
        assert_eq!(take(&folder, &mut images).unwrap(), [guest]);
        assert_eq!(*images.get(id).unwrap(), b"an image");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
