//! Numbers for monitoring, as OpenMetrics 1.0 text.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use ennead_api::{Guest, Host, Images, State};

use crate::console::client::Counts;

/// The media type.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there is to tell.
#[derive(Debug)]
pub struct Numbers<'a> {
    /// All guests.
    pub guests: &'a [Guest],
    /// The host.
    pub host: &'a Host,
    /// The images.
    pub images: &'a Images,
    /// The consoles.
    pub consoles: Counts,
    /// Requests, by the first digit of their answers' status.
    pub requests: &'a BTreeMap<u16, u64>,
    /// Guests created, and created anew.
    pub builds: u64,
    /// The same that did not work.
    pub failed_builds: u64,
    /// Guests that crashed.
    pub crashes: u64,
}

/// The text.
#[must_use]
pub fn text(numbers: &Numbers<'_>) -> String {
    let Numbers { guests, host, images, consoles, .. } = numbers;
    let mut text = Text(String::new());
    text.gauge(
        "ennead_limit_memory_bytes",
        "Memory that guests may have together.",
        mib(host.limits.memory_mib),
    );
    text.gauge("ennead_limit_vcpus", "vCPUs that guests may have together.", host.limits.vcpus);
    text.gauge("ennead_limit_guests", "Guests that there may be.", host.limits.guests);
    text.gauge("ennead_used_memory_bytes", "Memory that guests have together.", mib(host.used.memory_mib));
    text.gauge("ennead_used_vcpus", "vCPUs that guests have together.", host.used.vcpus);
    text.gauge("ennead_used_guests", "Guests that have a domain.", host.used.guests);
    text.gauge("ennead_image_bytes", "Memory that images take.", images.bytes);
    text.gauge("ennead_image_limit_bytes", "Memory that images may take.", images.max_bytes);
    text.gauge("ennead_uptime_seconds", "Time since the toolstack started.", host.uptime_s);
    text.counter("ennead_builds", "Guests built.", numbers.builds);
    text.counter("ennead_failed_builds", "Guests that could not be built.", numbers.failed_builds);
    text.counter("ennead_guest_crashes", "Guests that crashed.", numbers.crashes);
    text.counter("ennead_console_output_bytes", "Bytes that guests printed.", consoles.printed);
    text.counter("ennead_console_input_bytes", "Bytes that were typed for guests.", consoles.given);
    text.counter("ennead_console_faults", "Console rings that could not be.", consoles.impossible);

    text.head("ennead_requests", "counter", "Requests of operators, by the class of the answer.");
    for (class, count) in numbers.requests {
        text.sample("ennead_requests_total", &[("class", &format!("{class}xx"))], count);
    }
    text.head("ennead_guest_memory_bytes", "gauge", "Memory of a guest.");
    for guest in *guests {
        text.sample(
            "ennead_guest_memory_bytes",
            &[("guest", &guest.name)],
            guest.memory_kib.saturating_mul(1024),
        );
    }
    text.head("ennead_guest_vcpus", "gauge", "vCPUs of a guest.");
    for guest in *guests {
        text.sample("ennead_guest_vcpus", &[("guest", &guest.name)], guest.vcpus);
    }
    text.head("ennead_guest_cpu_seconds", "counter", "Processor time that a guest's domain has used.");
    for guest in *guests {
        text.sample("ennead_guest_cpu_seconds_total", &[("guest", &guest.name)], seconds(guest.cpu_time_ns));
    }
    text.head("ennead_guest_restarts", "counter", "How often a guest was built again.");
    for guest in *guests {
        text.sample("ennead_guest_restarts_total", &[("guest", &guest.name)], guest.restarts);
    }
    text.head("ennead_guest_state", "stateset", "What a guest does.");
    let states = [State::Building, State::Running, State::Paused, State::ShutDown, State::Dying];
    for guest in *guests {
        for state in states.into_iter().chain([State::Restarting, State::Gone]) {
            let labels = [("guest", guest.name.as_str()), ("ennead_guest_state", state.as_str())];
            text.sample("ennead_guest_state", &labels, u8::from(guest.state == state));
        }
    }
    text.head("ennead_service_memory_bytes", "gauge", "Memory of a service VM.");
    for service in &host.services {
        text.sample(
            "ennead_service_memory_bytes",
            &[("vm", &service.name)],
            service.memory_kib.saturating_mul(1024),
        );
    }
    text.head("ennead_service_restarts", "counter", "How often a service VM was built again.");
    for service in &host.services {
        text.sample("ennead_service_restarts_total", &[("vm", &service.name)], service.restarts);
    }
    text.0.push_str("# EOF\n");
    text.0
}

fn mib(count: u32) -> u64 {
    u64::from(count) << 20
}

/// Nanoseconds as seconds with all their digits.
fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// Writing to a String cannot fail.
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}\n# HELP {name} {help}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.sample(&format!("{name}_total"), &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let before = if n == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{before}{label}=\"{text}\"");
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use ennead_api::{Resources, Service};
    use ennead_guest::Kind;

    use super::*;

    #[test]
    fn every_sample_has_a_family_and_the_text_ends() {
        let guest = Guest {
            name: "a\"b".into(),
            uuid: "u".into(),
            domid: Some(1024),
            kind: Kind::Pv,
            state: State::Running,
            shutdown: None,
            memory_kib: 4,
            vcpus: 2,
            cpu_time_ns: 1_000_000_001,
            started_ms: None,
            restarts: 3,
        };
        let service = Service {
            name: "builder".into(),
            domid: 1,
            state: State::Running,
            memory_kib: 1,
            uptime_s: 1,
            restarts: 0,
        };
        let host = Host {
            toolstack: "t".into(),
            version: "1".into(),
            uptime_s: 7,
            iommu: true,
            limits: Resources { memory_mib: 2, vcpus: 3, guests: 4 },
            used: Resources::default(),
            services: vec![service],
        };
        let text = text(&Numbers {
            guests: &[guest],
            host: &host,
            images: &Images { images: Vec::new(), bytes: 1, max_bytes: 2 },
            consoles: Counts { printed: 9, given: 0, impossible: 0 },
            requests: &BTreeMap::from([(2, 5), (4, 1)]),
            builds: 1,
            failed_builds: 0,
            crashes: 0,
        });
        for line in [
            "ennead_limit_memory_bytes 2097152",
            "ennead_console_output_bytes_total 9",
            "ennead_requests_total{class=\"4xx\"} 1",
            "ennead_guest_cpu_seconds_total{guest=\"a\\\"b\"} 1.000000001",
            "ennead_guest_state{guest=\"a\\\"b\",ennead_guest_state=\"running\"} 1",
            "ennead_guest_state{guest=\"a\\\"b\",ennead_guest_state=\"paused\"} 0",
            "ennead_service_memory_bytes{vm=\"builder\"} 1024",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let mut family = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("# TYPE ") {
                family = name.split(' ').next().unwrap().to_owned();
                assert_eq!(text.matches(&format!("# TYPE {family} ")).count(), 1, "{family}");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(&family), "{line}");
            }
        }
    }
}
