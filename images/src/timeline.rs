//! The boot as a timeline: what happened when, in plain words.

use std::time::Duration;

use crate::milestone::Milestone;
use crate::qemu::Line;
use crate::table::mib;

/// What happened, in the order in which it happened.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    show: bool,
    entries: Vec<(Duration, Milestone)>,
    xen: Option<Duration>,
}

impl Timeline {
    /// Nothing has happened yet. With `show`, each entry is printed as it comes.
    #[must_use]
    pub fn new(show: bool) -> Self {
        Self { show, ..Self::default() }
    }

    /// Looks at a line of the serial console; gives the milestone in it.
    pub fn observe(&mut self, line: &Line) -> Option<Milestone> {
        if is_xens_first(&line.text) && self.xen.is_none() {
            self.xen = Some(line.at);
            self.print(line.at, "Xen starts");
        }
        let milestone = Milestone::parse(&line.text)?;
        if let Some(words) = in_plain_words(&milestone) {
            self.print(line.at, &words);
        }
        self.entries.push((line.at, milestone.clone()));
        Some(milestone)
    }

    fn print(&self, at: Duration, words: &str) {
        if self.show {
            println!("  {:7.2} s  {words}", at.as_secs_f64());
        }
    }

    /// When Xen said its first line, since QEMU's start.
    #[must_use]
    pub fn xen(&self) -> Option<Duration> {
        self.xen
    }

    /// All milestones, with the time since QEMU's start.
    #[must_use]
    pub fn entries(&self) -> &[(Duration, Milestone)] {
        &self.entries
    }

    /// The first milestone of this name.
    #[must_use]
    pub fn find(&self, vm: &str, name: &str) -> Option<(Duration, &Milestone)> {
        self.entries
            .iter()
            .find(|(_, milestone)| milestone.is(vm, name))
            .map(|(at, milestone)| (*at, milestone))
    }
}

/// Whether it is the first line of Xen's own.
#[must_use]
pub fn is_xens_first(line: &str) -> bool {
    // Between the two may stand a time stamp.
    line.contains("(XEN) ") && line.contains(" Xen version ")
}

/// A milestone for people; `None` for the lines of a list.
fn in_plain_words(milestone: &Milestone) -> Option<String> {
    let Milestone { vm, name, .. } = milestone;
    let value = |key: &str| milestone.value(key).unwrap_or("?");
    let memory = |key: &str| milestone.number(key).map_or_else(|| "?".to_owned(), mib);
    Some(match (vm.as_str(), name.as_str()) {
        (_, "vm" | "list-end" | "controller" | "probe" | "node" | "node-end")
        | ("builder", "controllers" | "sealed") => {
            return None;
        }
        ("bootstrapper", "started") => "domain 0 runs the bootstrapper".to_owned(),
        ("bootstrapper", "verified") => format!("bootstrapper has verified {} images", value("images")),
        ("bootstrapper", "goodbye") => "bootstrapper says goodbye".to_owned(),
        ("builder", "bootstrapper-destroyed") => {
            format!("builder has destroyed domain 0: {} are free again", memory("freed-kib"))
        }
        ("builder", "verified") => {
            format!("builder has verified {} images, FLASK is {}", value("images"), value("flask"))
        }
        ("builder", "host-ready") => "the host is ready, without a Dom0".to_owned(),
        ("builder", "restarting") => format!("builder restarts {}", value("vm")),
        ("pciback", "published") => format!("pciback has published controllers: {}", value("count")),
        ("pciback", "controllers") => format!("pciback has found controllers: {}", value("count")),
        ("pciback", "sealed") => "pciback has dropped what it needed only to start".to_owned(),
        (_, "guests-started") => format!("{vm} has created its guests: {}", value("count")),
        ("pciback", "power-off") => "pciback switches the host off".to_owned(),
        ("pciback", "reboot") => "pciback restarts the host".to_owned(),
        (_, "started") => format!("{vm} runs"),
        (_, "built") => {
            format!("{vm} has built {} (domid {}, {})", value("vm"), value("domid"), memory("memory-kib"))
        }
        (_, "healthy") => match milestone.value("vm") {
            Some(other) => format!("{other} is healthy"),
            None => format!("{vm} is healthy"),
        },
        (_, "destroyed") => format!("{vm} has destroyed {}", value("vm")),
        ("bootstrapper", "refused") => format!("{vm} REFUSES {}: {}", value("image"), value("reason")),
        (_, "failed") => format!("{} FAILED: {}", value("vm"), value("cause")),
        _ => milestone.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seconds: u64, text: &str) -> Line {
        Line { at: Duration::from_secs(seconds), text: text.to_owned() }
    }

    #[test]
    fn the_timeline_keeps_the_first_of_each() {
        let mut timeline = Timeline::new(false);
        for (at, text) in [
            (1, "(XEN) Xen version 4.17.5 (Debian)"),
            (2, "noise"),
            (3, "ennead bootstrapper: started"),
            (4, "ennead bootstrapper: started"),
        ] {
            timeline.observe(&line(at, text));
        }
        assert_eq!(timeline.xen(), Some(Duration::from_secs(1)));
        assert_eq!(timeline.find("bootstrapper", "started").map(|(at, _)| at.as_secs()), Some(3));
        assert_eq!(timeline.entries().len(), 2);
        assert!(timeline.find("builder", "started").is_none());
    }

    #[test]
    fn milestones_become_sentences() {
        let words = |text: &str| in_plain_words(&Milestone::parse(text).unwrap());
        let built = words("ennead bootstrapper: built vm=pciback domid=3 memory-kib=49152");
        assert_eq!(built.as_deref(), Some("bootstrapper has built pciback (domid 3, 48.0 MiB)"));
        assert_eq!(words("ennead builder: list-end count=1 free-kib=2"), None);
        assert_eq!(words("ennead netback: something n=1").as_deref(), Some("netback: something n=1"));
    }
}
