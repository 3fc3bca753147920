//! Creating guests, and giving the host the images that they are made of.

use std::path::Path;

use bytes::Bytes;
use ennead_api::{Action, Client, CreateGuest, Error, ErrorKind, Guest, Sha256, Uploaded};
use ennead_guest::{BootFile, GuestConfig, MAX_CONFIG_LENGTH, Parsed};

use crate::failure::Failure;
use crate::output::Output;
use crate::text;

/// Reads a guest's configuration, and says what in it does nothing.
pub(crate) fn read(file: &Path, output: Output) -> Result<GuestConfig, Failure> {
    let failed = |error: &_| Failure::file("the configuration", file, error);
    let size = std::fs::metadata(file).map_err(|error| failed(&error))?.len();
    if size > u64::try_from(MAX_CONFIG_LENGTH).unwrap_or(u64::MAX) {
        let message = format!("{} has {size} bytes, more than {MAX_CONFIG_LENGTH}", file.display());
        return Err(Failure::local(message, "is this a guest's configuration?"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    let Parsed { config, warnings } = ennead_guest::parse(&file.display().to_string(), &text)
        .map_err(|report| Failure::Configuration(Box::new(report)))?;
    output.warnings(&warnings);
    Ok(config)
}

/// An image that a guest is made of.
#[derive(Debug)]
struct Image {
    sha256: Sha256,
    /// Name and bytes; `None` if only the host has it.
    file: Option<(String, Bytes)>,
}

/// Creates a guest.
pub(crate) async fn create(
    client: &Client,
    output: Output,
    file: &Path,
    name: Option<String>,
    paused: bool,
) -> Result<Guest, Failure> {
    let mut config = read(file, output)?;
    if let Some(name) = name {
        config.name = name;
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let read =
        |what, file: &mut Option<BootFile>| file.as_mut().map(|file| image(what, file, folder)).transpose();
    // Without a kernel it boots from its disk.
    let kernel = read("the kernel", &mut config.kernel)?;
    let ramdisk = read("the ramdisk", &mut config.ramdisk)?;
    let sha256 = |image: &Option<Image>| image.as_ref().map(|image| image.sha256);
    let guest = CreateGuest { config, kernel: sha256(&kernel), ramdisk: sha256(&ramdisk), paused };
    let images: Vec<&Image> = kernel.iter().chain(&ramdisk).collect();
    // Twice, since they may make room for others in the meantime. Asked first: the host mostly has them, or refuses for another reason.
    for _ in 0..2 {
        let created = client.create(&guest).await;
        if !is_missing(&created) {
            return Ok(created?);
        }
        upload(client, output, &images).await?;
    }
    let created = client.create(&guest).await;
    // One that is named by its hash may never have been there.
    if is_missing(&created) && images.iter().any(|image| image.file.is_some()) {
        return Err(too_large(&images));
    }
    Ok(created?)
}

/// Asks a guest to reboot. If the host no longer has its images, they are uploaded from where they came from.
pub(crate) async fn reboot(client: &Client, output: Output, name: &str) -> Result<Guest, Failure> {
    let asked = client.act(name, Action::Reboot).await;
    if !is_missing(&asked) {
        return Ok(asked?);
    }
    let info = client.guest(name).await?;
    let mut images = Vec::new();
    let used = [
        ("the kernel", info.kernel.as_ref(), &info.config.kernel),
        ("the ramdisk", info.ramdisk.as_ref(), &info.config.ramdisk),
    ];
    for (what, used, file) in used {
        let Some(used) = used.filter(|used| !used.present) else { continue };
        let Some(BootFile::Path(path)) = file else { return Ok(asked?) };
        let image = image(what, &mut BootFile::Path(path.clone()), Path::new(""))?;
        if image.sha256 != used.sha256 {
            let message = format!("The host no longer has {what} of {name}, and {path} is another one now");
            return Err(Failure::local(message, format!("restore it, or create {name} anew")));
        }
        images.push(image);
    }
    upload(client, output, &images.iter().collect::<Vec<_>>()).await?;
    Ok(client.act(name, Action::Reboot).await?)
}

fn is_missing(answer: &Result<Guest, Error>) -> bool {
    matches!(answer, Err(Error::Refused(error)) if error.kind == ErrorKind::ImagesMissing)
}

/// Images that drive each other out.
fn too_large(images: &[&Image]) -> Failure {
    let bytes: usize =
        images.iter().filter_map(|image| image.file.as_ref()).map(|(_, bytes)| bytes.len()).sum();
    let size = text::bytes(u64::try_from(bytes).unwrap_or(u64::MAX));
    let message = format!("Kernel and ramdisk have {size} together, which is more than the host keeps");
    Failure::local(message, "compress the ramdisk (`zstd`), or let the guest boot from its disk")
}

/// Reads an image, and makes its path absolute: a later reboot may come from another folder.
fn image(what: &str, place: &mut BootFile, folder: &Path) -> Result<Image, Failure> {
    let path = match place {
        BootFile::Path(path) => folder.join(path),
        BootFile::Stored(name) => {
            let help = "the host's images are called by their SHA-256, as `sha256sum` prints it";
            let sha256 = name
                .parse()
                .map_err(|_| Failure::local(format!("There is no image `image:{name}`"), help))?;
            return Ok(Image { sha256, file: None });
        }
    };
    let bytes = std::fs::read(&path).map_err(|error| Failure::file(what, &path, &error))?;
    let absolute = std::path::absolute(&path).map_err(|error| Failure::file(what, &path, &error))?;
    let Some(text) = absolute.to_str().filter(|text| text.len() <= ennead_guest::MAX_PATH) else {
        let message = format!("The path of {what}, {}, is too long or no UTF-8", absolute.display());
        return Err(Failure::local(message, "put it elsewhere"));
    };
    *place = BootFile::Path(text.to_owned());
    let name = path.file_name().map_or_else(|| what.to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(Image { sha256: Sha256::of(&bytes), file: Some((name, bytes.into())) })
}

async fn upload(client: &Client, output: Output, images: &[&Image]) -> Result<(), Failure> {
    for Image { sha256, file } in images {
        let Some((name, image)) = file else { continue };
        let size = text::bytes(u64::try_from(image.len()).unwrap_or(u64::MAX));
        let progress = |sent| output.progress(&format!("Uploading {name}: {} of {size}", text::bytes(sent)));
        let done = client.upload(sha256, image.clone(), progress).await;
        output.progress("");
        if done? == Uploaded::Sent {
            output.note(&format!("Uploaded {name} ({size})"));
        }
    }
    Ok(())
}
