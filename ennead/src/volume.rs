//! Volumes.

use std::time::Duration;

use ennead_api::{Client, CreateVolume, Volume};
use serde_json::json;

use crate::cli;
use crate::failure::Failure;
use crate::output::Output;
use crate::show;

/// How often a volume that is being made is looked at.
const GLANCE: Duration = Duration::from_millis(500);

pub(crate) async fn run(client: &Client, output: Output, command: cli::Volume) -> Result<(), Failure> {
    let made = match command {
        cli::Volume::List => {
            let volumes = client.volumes().await?;
            return output.show(&volumes, || show::volumes(&volumes));
        }
        cli::Volume::Delete(cli::VolumeName { name }) => {
            client.delete_volume(&name).await?;
            return output.show(&json!({ "name": name }), || format!("{name}: deleted\n"));
        }
        cli::Volume::Create { name: cli::VolumeName { name }, size, backend } => {
            let wanted = CreateVolume { name, bytes: Some(size), copy_of: None, backend };
            client.create_volume(&wanted).await?
        }
        cli::Volume::Copy { from, name: cli::VolumeName { name } } => {
            let wanted = CreateVolume { name, bytes: None, copy_of: Some(from), backend: None };
            client.create_volume(&wanted).await?
        }
        cli::Volume::Resize { name: cli::VolumeName { name }, size } => {
            client.grow_volume(&name, size).await?
        }
    };
    let volume = wait(client, output, made).await?;
    output.show(&volume, || show::volume(&volume))
}

/// Waits until a volume can be had.
async fn wait(client: &Client, output: Output, mut volume: Volume) -> Result<Volume, Failure> {
    while volume.made_bytes.is_some() {
        output.progress(show::volume(&volume).trim_end());
        tokio::time::sleep(GLANCE).await;
        let all = client.volumes().await?.volumes;
        let same = |one: &Volume| one.name == volume.name && one.backend == volume.backend;
        let Some(now) = all.into_iter().find(same) else {
            let message = format!("{} was deleted while it was being made", volume.name);
            return Err(Failure::Waited { message, help: String::new() });
        };
        volume = now;
    }
    output.progress("");
    Ok(volume)
}
