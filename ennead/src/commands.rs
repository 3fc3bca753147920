//! What the commands do.

use std::time::Duration;

use clap::CommandFactory as _;
use ennead_api::{Action, Client, Error, ErrorKind, State};
use serde_json::json;
use tokio::time::Instant;

use crate::cli::{Cli, Command, Name};
use crate::failure::Failure;
use crate::output::Output;
use crate::{console, create, disk, host, show, volume};

/// How often a guest that shuts down is looked at.
const GLANCE: Duration = Duration::from_millis(500);

/// Carries out a command.
pub(crate) fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::local(format!("Cannot start: {error}"), ""))?;
    let client = host::client(cli.host, cli.profile)?.patience(cli.timeout);
    let done = runtime.block_on(obey(&client, output, cli.command));
    // Not waiting for whoever reads from the terminal.
    runtime.shutdown_background();
    done
}

async fn obey(client: &Client, output: Output, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { file, paused, console, name } => {
            let guest = create::create(client, output, &file, name, paused).await?;
            if console {
                return console::console(client, output, &guest.name).await;
            }
            output.show(&guest, || show::guest(&guest))
        }
        Command::List => {
            let guests = client.guests().await?;
            output.show(&guests, || show::guests(&guests))
        }
        Command::Info(Name { name }) => {
            let info = client.guest(&name).await?;
            output.show(&info, || show::info(&info))
        }
        Command::Console(Name { name }) => console::console(client, output, &name).await,
        Command::Pause(Name { name }) => act(client, output, &name, Action::Pause).await,
        Command::Unpause(Name { name }) => act(client, output, &name, Action::Unpause).await,
        Command::Shutdown { name: Name { name }, wait: None } => {
            act(client, output, &name, Action::Shutdown).await
        }
        Command::Shutdown { name: Name { name }, wait: Some(wait) } => {
            shut_down(client, &name, wait).await?;
            output.show(&json!({ "name": name }), || format!("{name}: has shut down\n"))
        }
        Command::Reboot(Name { name }) => {
            let guest = create::reboot(client, output, &name).await?;
            output.show(&guest, || show::guest(&guest))
        }
        Command::Destroy(Name { name }) => {
            client.destroy(&name).await?;
            output.show(&json!({ "name": name }), || format!("{name}: destroyed\n"))
        }
        Command::Logs(Name { name }) => {
            let log = client.log(&name).await?;
            if output.is_json() {
                let text = json!({ "name": name, "log": String::from_utf8_lossy(&log) });
                return output.show(&text, String::new);
            }
            output.bytes(&log)
        }
        Command::Events { follow } => {
            let mut events = client.events(follow).await?;
            while let Some(event) = events.next().await? {
                output.show(&event, || show::event(&event))?;
            }
            Ok(())
        }
        Command::Disk { command } => disk::run(client, output, command).await,
        Command::Volume { command } => volume::run(client, output, command).await,
        Command::Host => {
            let host = client.host().await?;
            output.show(&host, || show::host(&host))
        }
        Command::Convert { file } => {
            let config = create::read(&file, output)?;
            output.show(&config, || ennead_guest::to_toml(&config))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ennead", &mut script);
            output.bytes(&script)
        }
    }
}

async fn act(client: &Client, output: Output, name: &str, action: Action) -> Result<(), Failure> {
    let guest = client.act(name, action).await?;
    output.show(&guest, || show::guest(&guest))
}

/// Asks a guest to shut down, and waits until its domain has.
async fn shut_down(client: &Client, name: &str, wait: Duration) -> Result<(), Failure> {
    let asked = client.act(name, Action::Shutdown).await?;
    let deadline = Instant::now() + wait;
    loop {
        match client.guest(name).await {
            Ok(info) if info.guest.domid == asked.domid && info.guest.state != State::ShutDown => {}
            Ok(_) => return Ok(()),
            Err(Error::Refused(error)) if error.kind == ErrorKind::NoSuchGuest => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            let message = format!("{name} has not shut down within {} s", wait.as_secs());
            return Err(Failure::Waited {
                message,
                help: format!("`ennead destroy {name}` ends it at once"),
            });
        }
        tokio::time::sleep(GLANCE).await;
    }
}
