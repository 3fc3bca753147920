//! The image builder: one manifest -> Xen, kernels, static programs, ramdisks, policy, signed plan, ISO; and the QEMU
//! runner that boots the ISO and checks what the host says on its serial line.
#![forbid(unsafe_code)]

pub mod backends;
pub mod bench;
pub mod boot_guests;
pub mod cache;
pub mod certificate;
pub mod classic;
pub mod cli;
pub mod console;
pub mod cpio;
pub mod crashes;
pub mod devices;
pub mod disk;
pub mod first_guest;
pub mod graph;
pub mod guest;
pub mod host;
pub mod iso;
pub mod kernel;
pub mod lines;
pub mod loader;
pub mod milestone;
pub mod operator;
pub mod options;
pub mod packages;
pub mod plan;
pub mod policy;
pub mod previous;
pub mod program;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod ramdisk;
pub mod relay;
pub mod run;
pub mod scenario;
pub mod session;
pub mod sign;
pub mod step;
pub mod table;
pub mod timeline;
pub mod xen;

use std::path::{Path, PathBuf};

/// The root of the source tree, where `Cargo.toml` of the workspace is.
#[must_use]
pub fn source_root() -> PathBuf {
    let images = Path::new(env!("CARGO_MANIFEST_DIR"));
    images.parent().unwrap_or(images).to_path_buf()
}

/// The folder `images/` of the source tree.
#[must_use]
pub fn images_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
