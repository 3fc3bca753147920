//! A picture of a host (SVG): its VMs, its tenants' guests, and who may talk to whom. What is not drawn, Xen refuses. The reason of each
//! line, and where the manifest says so, is its tooltip.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ennead_manifest::{Kind, Plan, Vm};

/// Lengths in pixels: a box, and the room between boxes and between rows.
const WIDTH: u32 = 164;
const HEIGHT: u32 = 58;
const GAP: u32 = 36;
const RISE: u32 = 104;
const MARGIN: u32 = 24;
/// Room for the legend.
const LEGEND: u32 = 40;
const HARDWARE: &str = "hardware";

const STYLE: &str = "text{font:13px sans-serif;fill:#222;text-anchor:middle}.s{font-size:11px;fill:#555}.l{text-anchor:start}\
    rect{fill:#fff;stroke:#444;rx:6}.guest{fill:#eef4ff}.core{fill:#f4f1ff}.gone{stroke-dasharray:5 4;fill:#fafafa}.metal{fill:#eee}\
    path{fill:none;stroke-width:1.6}.channel{stroke:#6a3fb5}.xenstore{stroke:#b8860b;stroke-dasharray:4 3}\
    .io{stroke:#1f6fd0;stroke-width:2.2}.device{stroke:#444}";

/// Why two boxes are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Messages between two service VMs.
    Channel,
    /// A XenStore ring.
    XenStore,
    /// A guest's disk, network interface or console.
    Io,
    /// A device that is its own.
    Device,
}

impl Link {
    const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::Channel, "channel", "channel"),
        (Self::XenStore, "xenstore", "XenStore ring"),
        (Self::Io, "io", "disk, network, console"),
        (Self::Device, "device", "device"),
    ];

    fn class(self) -> &'static str {
        Self::ALL.iter().find(|(link, ..)| *link == self).map_or("", |(_, class, _)| class)
    }
}

#[derive(Debug)]
struct Node {
    name: String,
    below: String,
    class: &'static str,
}

#[derive(Debug)]
struct Edge {
    from: String,
    to: String,
    link: Link,
    why: String,
}

/// Guests above those that serve them, above those that no guest reaches, above the hardware.
fn tier(kind: Kind) -> usize {
    match kind {
        Kind::Toolstack | Kind::XenstoreLogic | Kind::Blkback | Kind::Netback | Kind::QemuStub => 1,
        Kind::XenstoreState | Kind::Builder | Kind::Pciback | Kind::Bootstrapper => 2,
    }
}

fn guests_of(tenant: &str) -> String {
    format!("guests of {tenant}")
}

fn rows(plan: &Plan) -> Vec<Vec<Node>> {
    let mut rows: [Vec<Node>; 4] = Default::default();
    for tenant in &plan.tenants {
        let below = format!("at most {}, {} MiB", tenant.guests, tenant.memory_mib);
        rows[0].push(Node { name: guests_of(&tenant.name), below, class: "guest" });
    }
    for vm in &plan.vms {
        let (class, gone) = match (vm.kind, tier(vm.kind)) {
            (Kind::Bootstrapper, _) => ("gone", ", ends"),
            (_, 2) => ("core", ""),
            _ => ("", ""),
        };
        let below = format!("domid {}, {} MiB{gone}", vm.domid, vm.memory_mib);
        rows[tier(vm.kind)].push(Node { name: vm.name.clone(), below, class });
    }
    let below = "a function has one owner".to_owned();
    rows[3].push(Node { name: HARDWARE.to_owned(), below, class: "metal" });
    rows.into_iter().filter(|row| !row.is_empty()).collect()
}

fn edges(plan: &Plan) -> Vec<Edge> {
    let edge = |from: &str, to: &str, link, why: &str, line: u32| Edge {
        from: from.to_owned(),
        to: to.to_owned(),
        link,
        why: format!("{from} - {to}: {why} (line {line})"),
    };
    let logic = plan.vms_of_kind(Kind::XenstoreLogic).next();
    let mut edges = Vec::new();
    for tenant in &plan.tenants {
        let guests = guests_of(&tenant.name);
        for backend in &tenant.backends {
            edges.push(edge(&guests, &backend.peer, Link::Io, &backend.reason, backend.line));
        }
        edges.push(edge(&guests, &tenant.toolstack, Link::Io, "consoles", tenant.line));
        if let Some(logic) = logic {
            edges.push(edge(&guests, &logic.name, Link::XenStore, "as any guest", tenant.line));
        }
    }
    for vm in &plan.vms {
        edges.extend(
            vm.talks_to.iter().map(|to| edge(&vm.name, &to.peer, Link::Channel, &to.reason, to.line)),
        );
        if let (Some(ring), Some(logic)) = (&vm.xenstore, logic) {
            edges.push(edge(&vm.name, &logic.name, Link::XenStore, &ring.reason, ring.line));
        }
        if let Some(network) = &vm.network {
            let why = format!("operators reach it at {}, port {}", network.address, network.port);
            edges.push(edge(&vm.name, &network.backend, Link::Io, &why, network.line));
        }
        if !vm.devices.is_empty() {
            edges.push(edge(&vm.name, HARDWARE, Link::Device, &devices(vm), vm.line));
        }
    }
    edges
}

fn devices(vm: &Vm) -> String {
    let grants = vm.may.iter().filter(|grant| {
        use ennead_manifest::Permission::{Hardware, UseDevice};
        matches!(grant.permission, Hardware | UseDevice)
    });
    grants.map(|grant| grant.reason.as_str()).collect::<Vec<_>>().join("; ")
}

/// The picture.
#[must_use]
pub fn svg(plan: &Plan) -> String {
    let (rows, edges) = (rows(plan), edges(plan));
    let length = |count: usize| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        count.saturating_mul(WIDTH + GAP).saturating_sub(GAP)
    };
    let inner = rows.iter().map(|row| length(row.len())).max().unwrap_or_default();
    let (width, mut top) = (inner + 2 * MARGIN, MARGIN);
    let mut places: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let mut boxes = String::new();
    for row in &rows {
        let mut left = MARGIN + (inner - length(row.len())) / 2;
        for node in row {
            places.insert(&node.name, (left, top));
            boxes.push_str(&node_svg(node, left, top));
            left += WIDTH + GAP;
        }
        top += HEIGHT + RISE;
    }
    let height = top - RISE + LEGEND + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
         <title>{}: who may talk to whom</title>\n<style>{STYLE}</style>\n",
        escape(&plan.host.name)
    );
    out.push_str(&lines(&edges, &places));
    out.push_str(&boxes);
    out.push_str(&legend(width, height - MARGIN));
    out.push_str("</svg>\n");
    out
}

fn node_svg(node: &Node, left: u32, top: u32) -> String {
    let middle = left + WIDTH / 2;
    format!(
        "<rect class=\"{}\" x=\"{left}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\
         <text x=\"{middle}\" y=\"{}\">{}</text><text class=\"s\" x=\"{middle}\" y=\"{}\">{}</text>\n",
        node.class,
        top + 25,
        escape(&node.name),
        top + 43,
        escape(&node.below)
    )
}

/// Each line ends at a place of its own along its boxes' edges, in the order of what is at its other end.
fn lines(edges: &[Edge], places: &BTreeMap<&str, (u32, u32)>) -> String {
    let place = |name: &String| places.get(&**name).copied();
    let known = edges.iter().filter_map(|edge| Some((edge, place(&edge.from)?, place(&edge.to)?)));
    let known: Vec<_> = known.collect();
    // By box and edge of it: where the other ends are, and whose they are.
    let mut ends: BTreeMap<(&str, bool), Vec<(u32, usize)>> = BTreeMap::new();
    for (index, (edge, from, to)) in known.iter().enumerate() {
        ends.entry((&edge.from, from.1 <= to.1)).or_default().push((to.0, index));
        ends.entry((&edge.to, to.1 <= from.1)).or_default().push((from.0, index));
    }
    ends.values_mut().for_each(|there| there.sort_unstable());
    let end = |name: &str, lower: bool, (left, top): (u32, u32), index: usize| {
        let there = ends.get(&(name, lower)).map(Vec::as_slice).unwrap_or_default();
        let before = (1..).zip(there).find(|(_, (_, other))| *other == index).map_or(0, |(n, _)| n);
        let all = u32::try_from(there.len()).unwrap_or(u32::MAX);
        (left + WIDTH * before / all.saturating_add(1), if lower { top + HEIGHT } else { top })
    };
    let mut out = String::new();
    for (index, (edge, from, to)) in known.iter().enumerate() {
        let (x1, y1) = end(&edge.from, from.1 <= to.1, *from, index);
        let (x2, y2) = end(&edge.to, to.1 <= from.1, *to, index);
        // The curve leaves and arrives upright; between neighbours it hangs.
        let bend = if y1 == y2 { RISE / 2 } else { y1.abs_diff(y2) / 2 };
        let bent = |y: u32, other: u32| if y <= other { y + bend } else { y - bend };
        let _ = writeln!(
            out,
            "<path class=\"{}\" d=\"M{x1} {y1} C{x1} {} {x2} {} {x2} {y2}\"><title>{}</title></path>",
            edge.link.class(),
            bent(y1, y2),
            bent(y2, y1),
            escape(&edge.why)
        );
    }
    out
}

fn legend(width: u32, y: u32) -> String {
    let step = width / 4;
    let part = |(at, (_, class, text)): (u32, &(Link, &str, &str))| {
        let left = step * at + MARGIN;
        format!(
            "<path class=\"{class}\" d=\"M{left} {} h30\"/><text class=\"s l\" x=\"{}\" y=\"{y}\">{text}</text>\n",
            y - 4,
            left + 38
        )
    };
    (0..).zip(&Link::ALL).map(part).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Plan {
        crate::plan::check(&crate::host::Options::standard().manifest).unwrap().plan
    }

    #[test]
    fn the_readme_shows_the_shipped_host() {
        let shown = std::fs::read_to_string(crate::source_root().join("docs/host.svg")).unwrap();
        assert!(shown == svg(&shipped()), "run: images graph --out docs/host.svg");
    }

    #[test]
    fn every_vm_and_every_channel_is_drawn() {
        let plan = shipped();
        let (drawn, boxes) = (svg(&plan), rows(&plan));
        for vm in &plan.vms {
            assert!(drawn.contains(&format!(">{}</text>", vm.name)), "{}", vm.name);
            for channel in &vm.talks_to {
                assert!(drawn.contains(&escape(&channel.reason)), "{}", channel.reason);
            }
        }
        let edges = edges(&plan);
        let known = |name: &str| boxes.iter().flatten().any(|node| node.name == name);
        assert!(edges.iter().all(|edge| known(&edge.from) && known(&edge.to)));
        assert_eq!(drawn.matches("<title>").count(), edges.len() + 1);
    }

    #[test]
    fn words_of_the_manifest_do_not_end_the_text() {
        assert_eq!(escape("a<b & \"c\">"), "a&lt;b &amp; &quot;c&quot;&gt;");
    }
}
