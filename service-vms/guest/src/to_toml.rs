//! A guest as TOML.

use std::fmt::Write;

use toml::Value;

use crate::config::GuestConfig;

/// A guest as TOML that [`crate::parse_toml`] reads as the same guest. What is as it is without being said is left out.
#[must_use]
pub fn to_toml(config: &GuestConfig) -> String {
    let mut out = String::new();
    let max_memory = Some(config.max_memory_mib).filter(|max| *max != config.memory_mib);
    let max_vcpus = Some(config.max_vcpus).filter(|max| *max != config.vcpus);
    let text = |text: &str| Some(Value::from(text));
    let boot = |file: &Option<crate::BootFile>| file.clone().map(|file| Value::from(String::from(file)));
    table(
        &mut out,
        &[
            ("name", text(&config.name)),
            ("kind", text(config.kind.as_str())),
            ("uuid", config.uuid.as_deref().map(Value::from)),
            ("kernel", boot(&config.kernel)),
            ("ramdisk", boot(&config.ramdisk)),
            ("cmdline", text(&config.cmdline).filter(|_| !config.cmdline.is_empty())),
            ("memory-mib", Some(Value::from(config.memory_mib))),
            ("max-memory-mib", max_memory.map(Value::from)),
            ("vcpus", Some(Value::from(config.vcpus))),
            ("max-vcpus", max_vcpus.map(Value::from)),
            ("on-poweroff", text(config.on_poweroff.as_str())),
            ("on-reboot", text(config.on_reboot.as_str())),
            ("on-crash", text(config.on_crash.as_str())),
        ],
    );
    for disk in &config.disks {
        out.push_str("\n[[disk]]\n");
        table(
            &mut out,
            &[
                ("vdev", text(&disk.vdev)),
                ("source", disk.source.as_deref().map(Value::from)),
                ("access", text(disk.access.as_str())),
                ("backend", disk.backend.as_deref().map(Value::from)),
                ("cdrom", Some(Value::from(true)).filter(|_| disk.cdrom)),
            ],
        );
    }
    for vif in &config.vifs {
        out.push_str("\n[[vif]]\n");
        let ip = Some(Value::from(vif.ip.clone())).filter(|_| !vif.ip.is_empty());
        table(
            &mut out,
            &[
                ("mac", vif.mac.as_deref().map(Value::from)),
                ("bridge", vif.bridge.as_deref().map(Value::from)),
                ("backend", vif.backend.as_deref().map(Value::from)),
                ("ip", ip),
                ("rate", vif.rate.map(|rate| Value::from(rate.to_string()))),
                ("vlan", vif.vlan.map(|vlan| Value::from(u32::from(vlan)))),
            ],
        );
    }
    out
}

fn table(out: &mut String, entries: &[(&str, Option<Value>)]) {
    for (key, value) in entries {
        if let Some(value) = value {
            // Writing into a String does not fail.
            let _ = writeln!(out, "{key} = {value}");
        }
    }
}
