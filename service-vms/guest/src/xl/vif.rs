//! A NIC, as xl-network-configuration(5) writes it: `key=value` and flags with commas between.

use crate::config::Vif;
use crate::draft::Draft;
use crate::notes::{At, Notes, Span};
use crate::rate::Rate;
use crate::text::{closest, code};

const KEYS: &[&str] = &[
    "mac",
    "bridge",
    "gatewaydev",
    "type",
    "model",
    "vifname",
    "script",
    "ip",
    "backend",
    "rate",
    "devid",
    "mtu",
    "trusted",
    "untrusted",
];

/// Reads one NIC. What cannot be read is reported.
pub(super) fn read(text: &At<String>, draft: &mut Draft, notes: &mut Notes<'_>) {
    let mut vif = Vif::default();
    let mut places = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut at = 0;
    for part in text.value.split(',') {
        let begin = part.trim_start_matches([' ', '\t']);
        let start = at + part.len() - begin.len();
        at += part.len() + 1;
        let word = begin.trim_end_matches([' ', '\t']);
        if word.is_empty() {
            continue;
        }
        let span = text.part(start, word.len());
        let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
        if KEYS.contains(&key) && seen.contains(&key) {
            notes.error(span, format!("`{key}` is here a second time"), "take one of the two out");
            continue;
        }
        // An unknown key is reported each time, a known one is kept in mind.
        if KEYS.contains(&key) {
            seen.push(key);
        }
        let value = value.map(|value| At::new(value, text.part(start + key.len() + 1, value.len().max(1))));
        set(&mut vif, &mut places, &At::new(key, span), value.as_ref(), notes);
    }
    draft.vif(vif, &places);
}

fn set(
    vif: &mut Vif,
    places: &mut Vec<(&'static str, Span)>,
    key: &At<&str>,
    value: Option<&At<&str>>,
    notes: &mut Notes<'_>,
) {
    let (text, span) = value.map_or(("", key.span), |at| (at.value, at.span));
    match (key.value, text) {
        ("trusted", _) | ("type", "vif") | ("mtu", "1500") => {}
        ("untrusted", _) => {
            let help = "take it out: Ennead does not yet tell guests to distrust a backend; their kernels can, with `xen_netfront.trusted=0`";
            notes.error(span, "`untrusted` is not supported", help);
        }
        (known, "") if KEYS.contains(&known) => {
            notes.error(
                span,
                format!("`{known}` of the NIC has no value"),
                "write one after a `=`, or take it out",
            );
        }
        ("mac", _) => put(&mut vif.mac, "mac", text, span, places),
        ("bridge", _) => put(&mut vif.bridge, "bridge", text, span, places),
        ("backend", _) => put(&mut vif.backend, "backend", text, span, places),
        ("ip", _) => {
            places.push(("ip", span));
            vif.ip = text.split_ascii_whitespace().map(str::to_owned).collect();
        }
        ("rate", _) => match Rate::read(text) {
            Ok(rate) => vif.rate = Some(rate),
            Err(refusal) => refusal.note(span, notes),
        },
        ("script", _) => script(text, span, notes),
        ("model", _) | ("type", "ioemu") => {
            notes.warning(
                span,
                format!("`{}` of the NIC is ignored", key.value),
                "there are only paravirtual NICs",
            );
        }
        ("vifname", _) => {
            notes.warning(
                span,
                "`vifname` is ignored",
                "names of backends' interfaces are not seen outside of them",
            );
        }
        ("gatewaydev" | "netdev", _) => {
            notes.warning(span, format!("`{}` is ignored", key.value), "it is for xl's script `vif-route`");
        }
        ("mtu", _) => {
            notes.error(
                span,
                format!("A NIC with an MTU of {} is not supported", code(text)),
                "take it out: it is 1500",
            );
        }
        ("devid", _) => {
            let help = "take it out: NICs have the numbers of their order in the list";
            notes.error(span, "`devid` is not supported", help);
        }
        (other, _) => {
            let help = closest(other, KEYS.iter().copied())
                .map_or_else(|| "take it out".to_owned(), |word| format!("did you mean `{word}`?"));
            notes.error(key.span, format!("Unknown parameter {} of a NIC", code(other)), help);
        }
    }
}

fn put(
    slot: &mut Option<String>,
    key: &'static str,
    text: &str,
    span: Span,
    places: &mut Vec<(&'static str, Span)>,
) {
    places.push((key, span));
    *slot = Some(text.to_owned());
}

/// The script that puts a NIC into a bridge does what netback does itself; others do what nobody knows.
fn script(path: &str, span: Span, notes: &mut Notes<'_>) {
    if path.rsplit('/').next() == Some("vif-bridge") {
        notes.warning(
            span,
            "`script` is ignored",
            "the network service VM puts the NIC into its bridge itself",
        );
    } else {
        let help =
            "take it out: no program on the host is run for a guest; name a network of the host as `bridge`";
        notes.error(span, "`script` of a NIC is not supported", help);
    }
}
