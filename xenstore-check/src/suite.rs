//! Xen's own test of a daemon and its command line tools, against any of the daemons.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::daemon::Daemon;
use crate::debian::run;
use crate::peer::Peers;

/// Runs everything; a line for each part that passed.
///
/// # Errors
/// At the first part that fails, with what the program said.
pub fn suite(peers: &Peers, daemon: &Daemon) -> Result<Vec<String>> {
    let socket = daemon.socket();
    let mut passed = Vec::new();
    for arguments in [&[][..], &["-r", "3"]] {
        run(client(&peers.test_xenstore(), &socket).args(arguments))
            .with_context(|| format!("test-xenstore {arguments:?}"))?;
        passed.push(format!("test-xenstore {}", arguments.join(" ")));
    }
    let tools = Tools { peers, socket: &socket };
    let parts: [(&str, Part); 4] = [
        ("xenstore-write, -read, -exists, -list, -rm", values),
        ("xenstore-chmod, -ls", permissions),
        ("xenstore-watch", watch),
        ("an error is reported", errors),
    ];
    for (name, part) in parts {
        part(&tools).with_context(|| name.to_owned())?;
        passed.push(name.to_owned());
    }
    Ok(passed)
}

type Part = fn(&Tools<'_>) -> Result<()>;

fn client(program: &Path, socket: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("XENSTORED_PATH", socket);
    command
}

struct Tools<'a> {
    peers: &'a Peers,
    socket: &'a Path,
}

impl Tools<'_> {
    fn command(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = client(&self.peers.tool(tool), self.socket);
        command.args(arguments);
        command
    }

    fn says(&self, tool: &str, arguments: &[&str], expected: &str) -> Result<()> {
        let said = run(&mut self.command(tool, arguments))?;
        anyhow::ensure!(said == expected, "{tool} {arguments:?} says {said:?}, not {expected:?}");
        Ok(())
    }

    fn fails(&self, tool: &str, arguments: &[&str], expected: &str) -> Result<()> {
        let output =
            self.command(tool, arguments).output().with_context(|| format!("Cannot start {tool}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(!output.status.success(), "{tool} {arguments:?} succeeds");
        anyhow::ensure!(said.contains(expected), "{tool} {arguments:?} says {said:?}, not {expected:?}");
        Ok(())
    }
}

fn values(tools: &Tools<'_>) -> Result<()> {
    tools.says("xenstore-write", &["/suite/a", "one", "/suite/b/c", "two words"], "")?;
    tools.says("xenstore-read", &["/suite/a", "/suite/b/c"], "one\ntwo words\n")?;
    tools.says("xenstore-list", &["/suite"], "a\nb\n")?;
    tools.says("xenstore-exists", &["/suite/b"], "")?;
    tools.fails("xenstore-exists", &["/suite/d"], "")?;
    tools.says("xenstore-rm", &["/suite/b"], "")?;
    tools.fails("xenstore-exists", &["/suite/b/c"], "")?;
    tools.says("xenstore-list", &["/suite"], "a\n")
}

fn permissions(tools: &Tools<'_>) -> Result<()> {
    tools.says("xenstore-write", &["/perms/a/b", "v"], "")?;
    tools.says("xenstore-chmod", &["-r", "/perms/a", "n0", "r0"], "")?;
    let expected = "/perms/a = \"\"   (n0,r0)\n/perms/a/b = \"v\"   (n0,r0)\n";
    let said = run(&mut tools.command("xenstore-ls", &["-f", "-p", "/perms"]))?;
    // The dots before the permissions fill up the terminal's width.
    let said: String = said.replace(". ", "").replace(" .", "");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    anyhow::ensure!(words(&said) == words(expected), "xenstore-ls -f -p says {said:?}");
    tools.says("xenstore-ls", &["/perms"], "a = \"\"\n b = \"v\"\n")
}

/// A program that is killed when it is no longer needed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(tools: &Tools<'_>) -> Result<()> {
    let mut watcher = tools.command("xenstore-watch", &["-n", "3", "/watched"]);
    let mut child = Running(watcher.stdout(Stdio::piped()).spawn().context("Cannot start xenstore-watch")?);
    let output = child.0.stdout.take().context("xenstore-watch has no output")?;
    let mut lines = BufReader::new(output).lines();
    let mut expect = |expected: &str| {
        let line =
            lines.next().context("xenstore-watch ended")?.context("Cannot read from xenstore-watch")?;
        anyhow::ensure!(line == expected, "xenstore-watch says {line:?}, not {expected:?}");
        Ok(())
    };
    expect("/watched")?;
    tools.says("xenstore-write", &["/watched/x", "1"], "")?;
    expect("/watched/x")?;
    tools.says("xenstore-rm", &["/watched"], "")?;
    expect("/watched")
}

fn errors(tools: &Tools<'_>) -> Result<()> {
    tools.fails("xenstore-read", &["/no/such/node"], "couldn't read path /no/such/node")?;
    tools.fails("xenstore-list", &["/no/such/node"], "could not list path /no/such/node")
}
