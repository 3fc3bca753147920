//! Paths: as patterns for who serves (`{name}` stands for a part), and made for who asks.

use crate::{Action, Sha256};

/// All guests.
pub const GUESTS: &str = "/v1/guests";
/// A guest.
pub const GUEST: &str = "/v1/guests/{name}";
/// What can be done with a guest: `action` is an [`Action`].
pub const GUEST_ACTION: &str = "/v1/guests/{name}/{action}";
/// The last bytes of a guest's console.
pub const LOG: &str = "/v1/guests/{name}/log";
/// A guest's console.
pub const CONSOLE: &str = "/v1/guests/{name}/console";
/// A guest's disks.
pub const DISKS: &str = "/v1/guests/{name}/disks";
/// A guest's disk.
pub const DISK: &str = "/v1/guests/{name}/disks/{vdev}";
/// All images.
pub const IMAGES: &str = "/v1/images";
/// An image.
pub const IMAGE: &str = "/v1/images/{sha256}";
/// All volumes.
pub const VOLUMES: &str = "/v1/volumes";
/// A volume.
pub const VOLUME: &str = "/v1/volumes/{name}";
/// To make a volume larger.
pub const VOLUME_GROW: &str = "/v1/volumes/{name}/grow";
/// Events.
pub const EVENTS: &str = "/v1/events";
/// The parameter of [`EVENTS`] that asks for those to come, too: `true` or `false`.
pub const FOLLOW: &str = "follow";
/// The host.
pub const HOST: &str = "/v1/host";
/// Numbers for monitoring, as OpenMetrics.
pub const METRICS: &str = "/metrics";

/// The path of a guest, whose name is one ([`ennead_guest::is_name`]): it has no character that a path needs escaped.
#[must_use]
pub fn guest(name: &str) -> String {
    format!("{GUESTS}/{name}")
}

/// The path of what can be done with a guest.
#[must_use]
pub fn guest_action(name: &str, action: Action) -> String {
    format!("{GUESTS}/{name}/{action}")
}

/// The path of a guest's log.
#[must_use]
pub fn log(name: &str) -> String {
    format!("{GUESTS}/{name}/log")
}

/// The path of a guest's console.
#[must_use]
pub fn console(name: &str) -> String {
    format!("{GUESTS}/{name}/console")
}

/// The path of a guest's disks.
#[must_use]
pub fn disks(name: &str) -> String {
    format!("{GUESTS}/{name}/disks")
}

/// The path of a guest's disk, whose name is one ([`ennead_guest::vdev_number`]).
#[must_use]
pub fn disk(name: &str, vdev: &str) -> String {
    format!("{GUESTS}/{name}/disks/{vdev}")
}

/// The path of an image.
#[must_use]
pub fn image(sha256: &Sha256) -> String {
    format!("{IMAGES}/{sha256}")
}

/// The path of a volume, whose name has no character that a path needs escaped.
#[must_use]
pub fn volume(name: &str) -> String {
    format!("{VOLUMES}/{name}")
}

/// The path that makes a volume larger.
#[must_use]
pub fn volume_grow(name: &str) -> String {
    format!("{VOLUMES}/{name}/grow")
}

/// The path of the events.
#[must_use]
pub fn events(follow: bool) -> String {
    format!("{EVENTS}?{FOLLOW}={follow}")
}
