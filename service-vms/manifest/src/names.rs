//! The manifest's words for the plan's enums: the same as serde's (a test holds them together).

use std::fmt;

use crate::plan::{Device, DeviceClass, Kind, Permission, Quota, RestartPolicy};

macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),+ $(,)?) => {
        impl $type {
            /// Every one of them, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The manifest's word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! { Kind:
    Bootstrapper = "bootstrapper",
    Builder = "builder",
    Pciback = "pciback",
    XenstoreLogic = "xenstore-logic",
    XenstoreState = "xenstore-state",
    Toolstack = "toolstack",
    Blkback = "blkback",
    Netback = "netback",
    QemuStub = "qemu-stub",
}

words! { Permission:
    BuildVms = "build-vms",
    CreateHardwareDomain = "create-hardware-domain",
    DestroyBootstrapper = "destroy-bootstrapper",
    ListVms = "list-vms",
    HostEvents = "host-events",
    ReadHostConsole = "read-host-console",
    WriteHostConsole = "write-host-console",
    Hardware = "hardware",
    HostPower = "host-power",
    LendDevices = "lend-devices",
    UseDevice = "use-device",
}

words! { DeviceClass: Network = "network", Storage = "storage" }

words! { Quota:
    Nodes = "nodes",
    NodeSize = "node-size",
    Watches = "watches",
    Transactions = "transactions",
    TransactionNodes = "transaction-nodes",
    Permissions = "permissions",
    PathMax = "path-max",
    Memory = "memory",
    Events = "events",
}

words! { RestartPolicy: Never = "never", OnCrash = "on-crash", OnRequest = "on-request", Every = "every" }

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Class(class) => class.fmt(f),
            Self::Address(address) => f.write_str(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;

    fn assert_word<T: Serialize>(value: T, word: &str) {
        assert_eq!(toml::Value::try_from(value).unwrap(), toml::Value::String(word.to_owned()));
    }

    #[test]
    fn words_are_those_of_serde() {
        Kind::ALL.iter().for_each(|v| assert_word(v, v.as_str()));
        Permission::ALL.iter().for_each(|v| assert_word(v, v.as_str()));
        DeviceClass::ALL.iter().for_each(|v| assert_word(v, v.as_str()));
        Quota::ALL.iter().for_each(|v| assert_word(v, v.as_str()));
        RestartPolicy::ALL.iter().for_each(|v| assert_word(v, v.as_str()));
    }
}
