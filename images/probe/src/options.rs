//! What the scenario tells the programs: `probe.NAME=VALUE` on the kernel's command line.

use anyhow::Context as _;
use ennead_xen::DomId;

use crate::attempts::Other;

/// The value of an option.
///
/// # Errors
/// When it is not there.
pub fn option(name: &str) -> anyhow::Result<String> {
    let line = std::fs::read_to_string("/proc/cmdline").context("Cannot read the command line")?;
    let key = format!("probe.{name}=");
    let value = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(&key));
    Ok(value.with_context(|| format!("No {key} on the command line"))?.to_owned())
}

/// A number.
///
/// # Errors
/// When it is not there or none.
pub fn number(name: &str) -> anyhow::Result<u64> {
    option(name)?.parse().with_context(|| format!("probe.{name}"))
}

/// The VMs of `probe.others=NAME:DOMID,...`.
///
/// # Errors
/// When it is not there or no such list.
pub fn others() -> anyhow::Result<Vec<Other>> {
    let other = |text: &str| {
        let (name, domid) = text.split_once(':')?;
        Some(Other { name: name.to_owned(), domid: DomId(domid.parse().ok()?) })
    };
    option("others")?.split(',').map(other).collect::<Option<_>>().context("probe.others is no list")
}
