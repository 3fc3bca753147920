//! What operators are told when something does not work.

use ennead_api::{ApiError, ErrorKind, Sha256};
use ennead_channel::guests::Refusal;

use crate::{builder, console, images, kernel};

/// Why something was not done.
pub type Problem = ApiError;

/// There is no guest of this name.
#[must_use]
pub fn no_such_guest(name: &str) -> Problem {
    ApiError::new(ErrorKind::NoSuchGuest, format!("There is no guest `{name}`"))
}

/// The guest's images are needed and not there.
#[must_use]
pub fn images_missing(images: Vec<Sha256>) -> Problem {
    let message = "The host does not have the images that the guest is made of";
    let help = "upload them again; a toolstack that was restarted has none";
    ApiError { images, ..ApiError::new(ErrorKind::ImagesMissing, message).help(help) }
}

/// Guests of this kind cannot boot from their disks here.
#[must_use]
pub fn no_loader() -> Problem {
    let message = "The guest has no `kernel`, and this host has no boot loader for guests of its kind";
    ApiError::new(ErrorKind::Invalid, message).help("give it a `kernel`")
}

/// Of Builder.
#[must_use]
pub fn of_builder(error: &builder::Error) -> Problem {
    let kind = match error.refusal() {
        Some(Refusal::Invalid) => ErrorKind::Invalid,
        Some(Refusal::Unknown) => ErrorKind::NoSuchGuest,
        Some(Refusal::Exists) => ErrorKind::Exists,
        Some(Refusal::State) => ErrorKind::State,
        Some(Refusal::Quota) => ErrorKind::Quota,
        Some(Refusal::Memory) => ErrorKind::Memory,
        Some(Refusal::Failed) => ErrorKind::Failed,
        None if matches!(error, builder::Error::Silent) => ErrorKind::Busy,
        None => ErrorKind::Failed,
    };
    ApiError::new(kind, error.to_string())
}

/// Of XenStore.
#[must_use]
pub fn of_xenstore(error: &ennead_xs_client::Error) -> Problem {
    ApiError::new(ErrorKind::Failed, error.to_string())
}

/// Of the console.
#[must_use]
pub fn of_console(error: &console::client::Error) -> Problem {
    ApiError::new(ErrorKind::Failed, error.to_string())
}

/// Of a kernel's file.
#[must_use]
pub fn of_kernel(error: &kernel::Error) -> Problem {
    ApiError::new(ErrorKind::Invalid, error.to_string())
}

/// Of the images.
#[must_use]
pub fn of_images(error: &images::Refused) -> Problem {
    match error {
        images::Refused::Other(_) => ApiError::new(ErrorKind::Invalid, error.to_string()),
        _ => ApiError::new(ErrorKind::TooLarge, error.to_string())
            .help("destroy guests that are no longer needed, or give the toolstack's VM more memory"),
    }
}
