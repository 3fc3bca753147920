//! Tables for people: columns as wide as their contents, numbers to the right.

use anyhow::{Context, Result};

use crate::milestone::Milestone;

/// One VM as the running host reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningVm {
    /// Its domid.
    pub domid: u16,
    /// Its name in the manifest.
    pub name: String,
    /// Its memory.
    pub memory_kib: u64,
    /// What Xen says it does: `running`, `blocked`, `paused`, ...
    pub state: String,
    /// Its FLASK type.
    pub flask_type: String,
    /// SHA-256 of its image, or the part of it that the host shows.
    pub image: String,
}

impl RunningVm {
    /// Reads a `vm` line of Builder's answer to `list`.
    ///
    /// # Errors
    /// When a value is missing or no number.
    pub fn from_milestone(line: &Milestone) -> Result<Self> {
        let text =
            |key: &str| line.value(key).map(str::to_owned).with_context(|| format!("No `{key}` in: {line}"));
        Ok(Self {
            domid: text("domid")?.parse().with_context(|| format!("`domid` is no number in: {line}"))?,
            name: text("name")?,
            memory_kib: line.number("memory-kib").with_context(|| format!("No `memory-kib` in: {line}"))?,
            state: text("state")?,
            flask_type: text("type").or_else(|error| text("label").map_err(|_| error))?,
            image: text("image")?,
        })
    }
}

/// The VMs of a host and the memory that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmList {
    /// All VMs, by domid.
    pub vms: Vec<RunningVm>,
    /// Memory that no VM has.
    pub free_kib: u64,
}

impl VmList {
    /// The table that `./run` ends with.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows =
            vec![["domid", "name", "memory", "state", "FLASK type", "image"].map(str::to_owned).to_vec()];
        for vm in &self.vms {
            let image = vm.image.get(..12).unwrap_or(&vm.image);
            rows.push(vec![
                vm.domid.to_string(),
                vm.name.clone(),
                mib(vm.memory_kib),
                vm.state.clone(),
                vm.flask_type.clone(),
                image.to_owned(),
            ]);
        }
        let all: u64 = self.vms.iter().map(|vm| vm.memory_kib).sum();
        let count = self.vms.len();
        let noun = if count == 1 { "VM" } else { "VMs" };
        format!(
            "{}{count} {noun}, {} in use, {} free\n",
            render(&rows, &[0, 2]),
            mib(all),
            mib(self.free_kib)
        )
    }
}

/// "48.0 MiB".
#[must_use]
pub fn mib(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// Rows of equal length, the first one a header; `right` are the columns that are aligned to the right.
#[must_use]
pub fn render(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, width) in widths.iter().enumerate() {
            let value = cell(row, column);
            let padding = " ".repeat(width.saturating_sub(value.chars().count()));
            line += "  ";
            line += &if right.contains(&column) { padding + &value } else { value + &padding };
        }
        text += line.trim_end();
        text.push('\n');
        if index == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text += &format!("  {}\n", rule.join("  "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 2] = [
        "(d1) ennead builder: vm domid=1 name=builder memory-kib=49152 state=running type=builder_t image=0123456789abcdef0123",
        "(d1) ennead builder: vm domid=13 name=pciback memory-kib=1536 state=blocked type=pciback_t image=ab",
    ];

    #[test]
    fn the_table_is_aligned() {
        let read = |line: &&str| RunningVm::from_milestone(&Milestone::parse(line).unwrap()).unwrap();
        let list = VmList { vms: LINES.iter().map(read).collect(), free_kib: 1_000_000 };
        let expected = "  \
  domid  name       memory  state    FLASK type  image
  -----  -------  --------  -------  ----------  ------------
      1  builder  48.0 MiB  running  builder_t   0123456789ab
     13  pciback   1.5 MiB  blocked  pciback_t   ab
2 VMs, 49.5 MiB in use, 976.5 MiB free
";
        assert_eq!(list.table(), expected);
    }

    #[test]
    fn a_missing_value_is_named() {
        let line = Milestone::parse("ennead builder: vm domid=1 name=builder").unwrap();
        let error = RunningVm::from_milestone(&line).unwrap_err().to_string();
        assert_eq!(error, "No `memory-kib` in: builder: vm domid=1 name=builder");
    }
}
