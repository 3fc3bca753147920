//! Disks of guests that run.

use ennead_api::Client;
use ennead_guest::{Access, Disk};
use serde_json::json;

use crate::cli::{self, Name};
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(client: &Client, output: Output, command: cli::Disk) -> Result<(), Failure> {
    match command {
        cli::Disk::Attach { name: Name { name }, vdev, source, read_only, backend } => {
            let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
            let wanted = Disk { vdev, source: Some(source), access, backend, cdrom: false };
            let disk = client.attach_disk(&name, &wanted).await?;
            output.show(&disk, || format!("{name}: has the disk {}\n", disk.vdev))
        }
        cli::Disk::Detach { name: Name { name }, vdev } => {
            client.detach_disk(&name, &vdev).await?;
            output.show(&json!({ "name": name, "vdev": vdev }), || {
                format!("{name}: has no disk {vdev} any more\n")
            })
        }
    }
}
