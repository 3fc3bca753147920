//! What the manifest says of State's settings, as it comes on the kernel's command line.

use anyhow::Context as _;
use ennead_runtime::boot::Quota;
use ennead_xenstore_state::{Quotas, Settings};

/// Xen's defaults, with these quotas for guests.
pub(crate) fn settings(set: &[Quota]) -> anyhow::Result<Settings> {
    let mut settings = Settings::default();
    for Quota { name, value } in set {
        let field = field(&mut settings.quotas, name).with_context(|| format!("Unknown quota `{name}`"))?;
        *field = usize::try_from(*value).with_context(|| format!("The quota `{name}` is {value}"))?;
    }
    Ok(settings)
}

/// The quota with the manifest's name for it.
fn field<'q>(quotas: &'q mut Quotas, name: &str) -> Option<&'q mut usize> {
    Some(match name {
        "nodes" => &mut quotas.nodes,
        "node-size" => &mut quotas.node_size,
        "watches" => &mut quotas.watches,
        "transactions" => &mut quotas.transactions,
        "transaction-nodes" => &mut quotas.transaction_nodes,
        "permissions" => &mut quotas.permissions,
        "path-max" => &mut quotas.path_max,
        "memory" => &mut quotas.memory,
        "events" => &mut quotas.events,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use ennead_manifest::Plan;
    use ennead_runtime::Params;

    use super::*;

    const SHIPPED: &str = include_str!("../../images/host.toml");

    /// From the manifest's text the way that a host goes.
    fn settings_of(manifest: &str) -> Settings {
        let plan: Plan = ennead_manifest::check("host.toml", manifest).unwrap_or_else(|e| panic!("{e}"));
        let line = ennead_launch::command_line(&plan, plan.xenstore_state().unwrap()).unwrap();
        let params: Params = line.parse().unwrap();
        settings(&params.quotas).unwrap()
    }

    #[test]
    fn without_quotas_they_are_xens() {
        assert_eq!(settings_of(SHIPPED).quotas, Quotas::GUEST);
    }

    #[test]
    fn every_quota_of_the_manifest_comes_into_force() {
        let mut manifest = format!("{SHIPPED}\n[vm.xenstore-state.quotas]\n");
        for (quota, value) in ennead_manifest::Quota::ALL.iter().zip(300..) {
            let value = if quota.as_str() == "memory" { 65_536 } else { value };
            let value = if quota.as_str() == "permissions" { 7 } else { value };
            let _ = writeln!(manifest, "{quota} = {value}");
        }
        let settings = settings_of(&manifest);
        let expected = Quotas {
            nodes: 300,
            node_size: 301,
            watches: 302,
            transactions: 303,
            transaction_nodes: 304,
            permissions: 7,
            path_max: 306,
            memory: 65_536,
            events: 308,
        };
        assert_eq!(settings.quotas, expected);
        assert_eq!(settings.service_quotas, Quotas::SERVICE);
    }

    #[test]
    fn an_unknown_quota_is_refused() {
        let unknown = Quota { name: "rings".into(), value: 1 };
        assert_eq!(settings(&[unknown]).unwrap_err().to_string(), "Unknown quota `rings`");
    }
}
