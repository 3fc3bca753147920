//! QEMU's control socket (QMP, docs/interop/qmp-spec.txt): a machine is stopped, and devices come and go.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines that are no answer before one: the greeting, and events.
const MAX_EVENTS: usize = 1000;

/// QEMU's options for the socket.
#[must_use]
pub fn at(socket: &Path) -> Vec<String> {
    vec!["-qmp".to_owned(), format!("unix:{},server=on,wait=off", socket.display())]
}

/// The open socket.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// To a QEMU that runs.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("Cannot reach QEMU's control socket")?;
        Self::over(stream)
    }

    fn over(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut control = Self { stream: BufReader::new(stream) };
        control.ask("qmp_capabilities", &Value::Null)?;
        Ok(control)
    }

    /// Has QEMU do something, and waits until it is done. `arguments`: an object, or null for none.
    ///
    /// # Errors
    /// When QEMU refuses, with its words, or does not answer.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let request = format!("{request}\n");
        self.stream.get_mut().write_all(request.as_bytes()).context("Cannot ask QEMU")?;
        for _ in 0..MAX_EVENTS {
            let mut line = String::new();
            self.stream.read_line(&mut line).with_context(|| format!("QEMU does not answer `{command}`"))?;
            let answer: Value =
                serde_json::from_str(&line).with_context(|| format!("QEMU says to `{command}`: {line:?}"))?;
            anyhow::ensure!(answer.get("error").is_none(), "QEMU says to `{command}`: {}", line.trim_end());
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
        anyhow::bail!("QEMU does not answer `{command}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU, which greets and says `answers`, one to each request; gives the requests.
    fn qemu(answers: &'static [&'static str]) -> (UnixStream, std::thread::JoinHandle<Vec<Value>>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let serving = std::thread::spawn(move || {
            theirs.write_all(b"{\"QMP\": {}}\n").unwrap();
            let mut requests = BufReader::new(theirs.try_clone().unwrap()).lines();
            let mut heard = Vec::new();
            for answer in answers {
                let Some(Ok(request)) = requests.next() else { break };
                heard.push(serde_json::from_str(&request).unwrap());
                theirs.write_all(answer.as_bytes()).unwrap();
            }
            heard
        });
        (ours, serving)
    }

    #[test]
    fn events_are_no_answers_and_refusals_are_told() {
        let (ours, serving) = qemu(&[
            "{\"return\": {}}\n",
            "{\"event\": \"STOP\"}\n{\"return\": {}}\n",
            "{\"error\": {\"desc\": \"no such bus\"}}\n",
            "",
        ]);
        let mut control = Control::over(ours).unwrap();
        control.ask("stop", &Value::Null).unwrap();
        let arguments = json!({ "driver": "e1000e" });
        let refused = control.ask("device_add", &arguments).unwrap_err().to_string();
        assert!(refused.contains("device_add") && refused.contains("no such bus"), "{refused}");
        assert!(control.ask("quit", &Value::Null).is_err(), "it has gone");
        let asked = |command: &str| json!({ "execute": command });
        let added = json!({ "execute": "device_add", "arguments": arguments });
        assert_eq!(serving.join().unwrap(), [asked("qmp_capabilities"), asked("stop"), added, asked("quit")]);
    }
}
