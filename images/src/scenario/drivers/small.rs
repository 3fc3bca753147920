//! A small guest: busybox, a disk and a network interface.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::server::{MIB, Server};
use crate::first_guest::PATIENCE;
use crate::guest;
use crate::operator::Operator;
use crate::scenario::Setup;
use crate::scenario::shell::Shell;

/// Its name.
const NAME: &str = "web";
/// Its disk.
const DISK: &str = "disk = [{ vdev = \"xvda\", source = \"label:scratch\", access = \"w\" }]";
/// MiB that are written to its disk.
const DISK_MIB: usize = 64;

pub(in crate::scenario) struct Small<'a>(pub(in crate::scenario) Shell<'a>);

/// Writes the configuration of such a guest to a file.
pub(super) fn configure(setup: &Setup, file: &Path, name: &str, vcpus: u32, devices: &str) -> Result<()> {
    let files = guest::debian(&setup.cache, setup.progress)?;
    let text = format!(
        "name = \"{name}\"\nkind = \"pv\"\nkernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console=hvc0 quiet\"\n\
         memory-mib = 128\nvcpus = {vcpus}\n{devices}\n",
        files.kernel.display(),
        files.ramdisk.display()
    );
    std::fs::write(file, text).context("Cannot write the guest's configuration")
}

impl<'a> Small<'a> {
    pub(in crate::scenario) fn of(operator: &'a Operator) -> Self {
        Self(Shell { operator, name: NAME })
    }

    /// Writes its configuration to a file.
    pub(in crate::scenario) fn configure(setup: &Setup, file: &Path) -> Result<()> {
        configure(setup, file, NAME, 1, &format!("{DISK}\nvif = [{{}}]"))
    }

    /// The same without a network interface.
    pub(in crate::scenario) fn configure_disk_only(setup: &Setup, file: &Path) -> Result<()> {
        configure(setup, file, NAME, 1, DISK)
    }

    pub(in crate::scenario) fn created(&self, file: &Path) -> Result<String> {
        let start = Instant::now();
        self.0.operator.ask(&["create", &file.display().to_string()])?;
        self.0.operator.wait_for(NAME, "guest-ready", 1, PATIENCE)?;
        Ok(format!("its shell after {:.1?}", start.elapsed()))
    }

    pub(in crate::scenario) fn address(&self) -> Result<String> {
        let said = self.0.run(
            "ifconfig eth0 up; udhcpc -i eth0 -n -q -s /usr/share/udhcpc/default.script 2>&1 | grep obtained",
        )?;
        anyhow::ensure!(said.contains("obtained"), "{said}");
        Ok(said)
    }

    /// Writes, forgets what it has in memory, and reads.
    pub(in crate::scenario) fn writes(&self, what: &str) -> Result<String> {
        self.0.run(&format!(
            "(echo {what}; cat /bin/busybox) > /tmp/seed; rm -f /tmp/data; while [ $(stat -c %s /tmp/data 2>/dev/null || echo 0) -lt {} ]; do cat /tmp/seed >> /tmp/data; done",
            1 << 20
        ))?;
        let start = Instant::now();
        let said = self.0.run(&format!(
            "n=0; while [ $n -lt {DISK_MIB} ]; do dd if=/tmp/data of=/dev/xvda bs=1M count=1 seek=$n conv=notrunc 2>/dev/null || echo dd-failed; n=$((n+1)); done; \
             sync; echo 3 > /proc/sys/vm/drop_caches; \
             dd if=/tmp/data bs=1M count=1 2>/dev/null | md5sum; \
             n=0; while [ $n -lt {DISK_MIB} ]; do dd if=/dev/xvda bs=1M count=1 skip=$n 2>/dev/null | md5sum; n=$((n+1)); done | sort | uniq -c"
        ))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let expected = words.first().context("no sum")?;
        let same = words.get(2).is_some_and(|count| *count == DISK_MIB.to_string().as_str())
            && words.get(3) == Some(expected);
        anyhow::ensure!(same, "{said}");
        Ok(format!("{DISK_MIB} MiB in {:.1?}", start.elapsed()))
    }

    pub(in crate::scenario) fn downloads(&self, server: &Server) -> Result<String> {
        let start = Instant::now();
        let said = self.0.run(&format!("wget -q -O - http://10.0.2.2:{}/ | sha256sum", server.port))?;
        anyhow::ensure!(said.contains(&server.sha256), "{said}, not {}", server.sha256);
        let speed = f64::from(u32::try_from(MIB)?) / start.elapsed().as_secs_f64();
        Ok(format!("{MIB} MiB, {speed:.1} MiB/s"))
    }
}
