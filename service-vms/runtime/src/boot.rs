//! What a VM is told on its kernel's command line, typed. Who builds the VM writes it with `Params`' `Display`, the VM
//! reads it with `FromStr`: one code, so that the two cannot differ.
//!
//! ```text
//! ennead.vm=NAME                           required
//! ennead.health=DOMID:PORT                 where to report that all is well
//! ennead.answers=NAME:DOMID,...            clients, in the order of the manifest: client i gets the gref 8 + i
//! ennead.talks-to=NAME:DOMID:GREF,...      servers
//! ennead.xenstore=DOMID                    there is a XenStore ring, and who serves it
//! ennead.backends=NAME:DOMID:vbd|vif,... a toolstack: who serves its guests' disks and NICs
//! ennead.quotas=QUOTA:NUMBER,...           XenStore-State: what differs from Xen's defaults
//! ```

use std::fmt;
use std::str::FromStr;

use ennead_xen::{DomId, GrantRef, Port};

/// Options of the kernel that the runtime relies on, for the command line of every service VM.
///
/// Seen on Xen 4.17 with Linux 6.1: `quiet` leaves only the kernel's lines that matter, and ours, which have level 2; without
/// `printk.devkmsg=on` Linux drops all but 10 lines in 5 seconds. A VM with start-info flag `SIF_INITDOMAIN` (bootstrapper,
/// pciback) has hvc0 on Xen's console by itself; any other gets there with the early console, and keeps it. Both at once
/// would print each line twice.
pub const fn kernel_options(initial_domain: bool) -> &'static str {
    if initial_domain {
        "quiet printk.devkmsg=on"
    } else {
        "quiet console=ttynull earlyprintk=xen keep_bootcon printk.devkmsg=on"
    }
}

/// Longest command line that is read, bytes. (Linux's limit on x86 is 2048.)
const MAX_COMMAND_LINE: usize = 4096;
/// Longest lists.
const MAX_PEERS: usize = 32;
/// Domids of ordinary domains are below this (`DOMID_FIRST_RESERVED` in Xen's public/xen.h).
const DOMID_FIRST_RESERVED: u16 = 0x7ff0;

/// A VM's name in the manifest: 1 to 32 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);

impl VmName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(fine) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::Value { key: "vm", value: text.to_owned(), expected: NAME })
        }
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NAME: &str = "a name of 1 to 32 characters of a-z, 0-9 and -";
const HEALTH: &str = "DOMID:PORT";
const ANSWERS: &str = "NAME:DOMID,... (at most 32)";
const TALKS_TO: &str = "NAME:DOMID:GREF,... (at most 32)";
const XENSTORE: &str = "DOMID";
const BACKENDS: &str = "NAME:DOMID:vbd|vif,... (at most 32)";
const QUOTAS: &str = "QUOTA:NUMBER,... (at most 32)";

/// Where a VM reports its health: an unbound port for it in the VM that built it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthPort {
    /// Domid of the VM that waits.
    pub domid: DomId,
    /// Its port.
    pub port: Port,
}

/// As it stands on the command line: who builds a VM adds it last, when the port exists.
impl fmt::Display for HealthPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ennead.health={}:{}", self.domid.0, self.port.0)
    }
}

/// A VM that this one answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientVm {
    /// Its name.
    pub name: VmName,
    /// Its domid.
    pub domid: DomId,
}

/// A VM that answers this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVm {
    /// Its name.
    pub name: VmName,
    /// Its domid.
    pub domid: DomId,
    /// The page that it grants to this VM.
    pub gref: GrantRef,
}

/// A VM that serves disks or NICs to guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendVm {
    /// Its name.
    pub name: VmName,
    /// Its domid.
    pub domid: DomId,
    /// What it serves.
    pub device: DeviceKind,
}

/// A kind of device, by its name in XenStore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A disk: `vbd`.
    Vbd,
    /// A NIC: `vif`.
    Vif,
}

impl DeviceKind {
    /// Its name in XenStore.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vif => "vif",
        }
    }
}

/// What one guest may use of XenStore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The manifest's word for it.
    pub name: String,
    /// How much.
    pub value: u32,
}

/// A VM's boot parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Its name.
    pub vm: VmName,
    /// Where it reports that it is healthy.
    pub health: Option<HealthPort>,
    /// Whom it answers, in the manifest's order.
    pub answers: Vec<ClientVm>,
    /// Who answers it.
    pub talks_to: Vec<ServerVm>,
    /// Who serves XenStore to it; without, what is written to /dev/xen/xenbus is never answered.
    pub xenstore: Option<DomId>,
    /// Who serves this toolstack's guests' disks and NICs.
    pub backends: Vec<BackendVm>,
    /// What XenStore-State is to hold guests to, where that differs from Xen's defaults.
    pub quotas: Vec<Quota>,
}

/// What is wrong with a command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No name.
    #[error("Kernel command line has no ennead.vm=NAME: who builds this VM must say who it is")]
    NoName,
    /// A key that does not exist.
    #[error(
        "Kernel command line has ennead.{key}, which this VM does not know: keys are vm, health, answers, talks-to, xenstore, backends, quotas"
    )]
    UnknownKey {
        /// What follows `ennead.`.
        key: String,
    },
    /// A key that is there twice.
    #[error("Kernel command line has ennead.{key} twice")]
    Twice {
        /// What follows `ennead.`.
        key: &'static str,
    },
    /// A value that is none.
    #[error("Kernel command line has ennead.{key}={value:?}: expected {expected}")]
    Value {
        /// What follows `ennead.`.
        key: &'static str,
        /// What follows `=`.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A command line that is too long.
    #[error("Kernel command line has {len} bytes, more than {MAX_COMMAND_LINE}")]
    TooLong {
        /// Its length.
        len: usize,
    },
}

impl Params {
    /// Parameters of a VM that reports to nobody and talks to nobody.
    pub fn new(vm: VmName) -> Self {
        let (answers, talks_to, backends, quotas) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { vm, health: None, answers, talks_to, xenstore: None, backends, quotas }
    }

    /// The server with that name.
    pub fn server(&self, name: &str) -> Option<&ServerVm> {
        self.talks_to.iter().find(|server| server.name.as_str() == name)
    }

    /// The client with that name.
    pub fn client(&self, name: &str) -> Option<&ClientVm> {
        self.answers.iter().find(|client| client.name.as_str() == name)
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ennead.vm={}", self.vm)?;
        if let Some(health) = self.health {
            write!(f, " {health}")?;
        }
        for (n, ClientVm { name, domid }) in self.answers.iter().enumerate() {
            let before = if n == 0 { " ennead.answers=" } else { "," };
            write!(f, "{before}{name}:{}", domid.0)?;
        }
        for (n, ServerVm { name, domid, gref }) in self.talks_to.iter().enumerate() {
            let before = if n == 0 { " ennead.talks-to=" } else { "," };
            write!(f, "{before}{name}:{}:{}", domid.0, gref.0)?;
        }
        if let Some(domid) = self.xenstore {
            write!(f, " ennead.xenstore={}", domid.0)?;
        }
        for (n, BackendVm { name, domid, device }) in self.backends.iter().enumerate() {
            let before = if n == 0 { " ennead.backends=" } else { "," };
            write!(f, "{before}{name}:{}:{}", domid.0, device.as_str())?;
        }
        for (n, Quota { name, value }) in self.quotas.iter().enumerate() {
            let before = if n == 0 { " ennead.quotas=" } else { "," };
            write!(f, "{before}{name}:{value}")?;
        }
        Ok(())
    }
}

impl FromStr for Params {
    type Err = Error;

    /// Reads a whole kernel command line; words that do not begin with `ennead.` are the kernel's.
    fn from_str(line: &str) -> Result<Self, Error> {
        if line.len() > MAX_COMMAND_LINE {
            return Err(Error::TooLong { len: line.len() });
        }
        let (mut vm, mut health, mut xenstore) = (None, None, None);
        let (mut answers, mut talks_to, mut backends, mut quotas) = (None, None, None, None);
        for word in line.split_ascii_whitespace() {
            let Some(word) = word.strip_prefix("ennead.") else { continue };
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "vm" => once("vm", NAME, &mut vm, value, |name| name.parse().ok())?,
                "health" => once("health", HEALTH, &mut health, value, health_port)?,
                "answers" => once("answers", ANSWERS, &mut answers, value, |all| list(all, client_vm))?,
                "talks-to" => once("talks-to", TALKS_TO, &mut talks_to, value, |all| list(all, server_vm))?,
                "xenstore" => once("xenstore", XENSTORE, &mut xenstore, value, parse_domid)?,
                "backends" => once("backends", BACKENDS, &mut backends, value, |all| list(all, backend_vm))?,
                "quotas" => once("quotas", QUOTAS, &mut quotas, value, |all| list(all, quota))?,
                _ => return Err(Error::UnknownKey { key: key.to_owned() }),
            }
        }
        Ok(Self {
            vm: vm.ok_or(Error::NoName)?,
            health,
            answers: answers.unwrap_or_default(),
            talks_to: talks_to.unwrap_or_default(),
            xenstore,
            backends: backends.unwrap_or_default(),
            quotas: quotas.unwrap_or_default(),
        })
    }
}

fn once<T>(
    key: &'static str,
    expected: &'static str,
    slot: &mut Option<T>,
    value: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<(), Error> {
    let parsed = parse(value).ok_or_else(|| Error::Value { key, value: value.to_owned(), expected })?;
    if slot.replace(parsed).is_some() { Err(Error::Twice { key }) } else { Ok(()) }
}

fn list<T>(text: &str, element: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if text.split(',').count() > MAX_PEERS {
        return None;
    }
    text.split(',').map(element).collect()
}

fn health_port(text: &str) -> Option<HealthPort> {
    let (domid, port) = text.split_once(':')?;
    // Xen never gives out port 0.
    let port = number(port).filter(|&port| port != 0)?;
    Some(HealthPort { domid: parse_domid(domid)?, port: Port(port) })
}

fn client_vm(text: &str) -> Option<ClientVm> {
    let (name, domid) = text.split_once(':')?;
    Some(ClientVm { name: name.parse().ok()?, domid: parse_domid(domid)? })
}

fn server_vm(text: &str) -> Option<ServerVm> {
    let (client, gref) = text.rsplit_once(':')?;
    let ClientVm { name, domid } = client_vm(client)?;
    Some(ServerVm { name, domid, gref: GrantRef(number(gref)?) })
}

fn backend_vm(text: &str) -> Option<BackendVm> {
    let (client, device) = text.rsplit_once(':')?;
    let ClientVm { name, domid } = client_vm(client)?;
    let device = [DeviceKind::Vbd, DeviceKind::Vif].into_iter().find(|kind| kind.as_str() == device)?;
    Some(BackendVm { name, domid, device })
}

fn quota(text: &str) -> Option<Quota> {
    let (name, value) = text.split_once(':')?;
    // The same words as for a VM's name.
    let VmName(name) = name.parse().ok()?;
    Some(Quota { name, value: number(value)? })
}

fn parse_domid(text: &str) -> Option<DomId> {
    let domid = u16::try_from(number(text)?).ok()?;
    (domid < DOMID_FIRST_RESERVED).then_some(DomId(domid))
}

/// A decimal number, digits only (`parse` alone would take a `+`).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params() -> impl Strategy<Value = Params> {
        let name = || "[a-z0-9-]{1,32}".prop_map(VmName);
        let domid = || (0..DOMID_FIRST_RESERVED).prop_map(DomId);
        let client = (name(), domid()).prop_map(|(name, domid)| ClientVm { name, domid });
        let server = (name(), domid(), any::<u32>()).prop_map(|(name, domid, gref)| ServerVm {
            name,
            domid,
            gref: GrantRef(gref),
        });
        let device = prop_oneof![Just(DeviceKind::Vbd), Just(DeviceKind::Vif)];
        let backend =
            (name(), domid(), device).prop_map(|(name, domid, device)| BackendVm { name, domid, device });
        let quota = ("[a-z-]{1,20}", any::<u32>()).prop_map(|(name, value)| Quota { name, value });
        let health = (domid(), 1..=u32::MAX).prop_map(|(domid, port)| HealthPort { domid, port: Port(port) });
        (
            name(),
            prop::option::of(health),
            prop::collection::vec(client, 0..=MAX_PEERS),
            prop::collection::vec(server, 0..=MAX_PEERS),
            prop::option::of(domid()),
            prop::collection::vec(backend, 0..=MAX_PEERS),
            prop::collection::vec(quota, 0..=MAX_PEERS),
        )
            .prop_map(|(vm, health, answers, talks_to, xenstore, backends, quotas)| Params {
                vm,
                health,
                answers,
                talks_to,
                xenstore,
                backends,
                quotas,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(params in params()) {
            let line = format!("{} {params} root=/dev/ram0\n", kernel_options(false));
            prop_assert_eq!(line.parse(), Ok(params));
        }

        #[test]
        fn anything_is_read_or_refused(line in "(ennead\\.(vm|health|answers|talks-to|xenstore|backends|quotas|x)=?[a-z0-9:,=+-]{0,12} ?){0,4}") {
            if let Ok(params) = line.parse::<Params>() {
                prop_assert_eq!(params.to_string().parse(), Ok(params));
            }
        }
    }

    #[test]
    fn a_whole_command_line() {
        let line = "quiet ennead.vm=pciback x=ennead.y ennead.health=1:17 ennead.answers=builder:1,toolstack:9 \
                    ennead.talks-to=xenstore-state:4:8 ennead.xenstore=6";
        let params: Params = line.parse().unwrap();
        assert_eq!(params.vm.as_str(), "pciback");
        assert_eq!(params.health, Some(HealthPort { domid: DomId(1), port: Port(17) }));
        assert_eq!(params.client("toolstack").map(|vm| vm.domid), Some(DomId(9)));
        assert_eq!(
            params.server("xenstore-state").map(|vm| (vm.domid, vm.gref)),
            Some((DomId(4), GrantRef(8)))
        );
        assert_eq!(params.server("builder"), None);
        assert_eq!(params.xenstore, Some(DomId(6)));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |line: &str| line.parse::<Params>().unwrap_err();
        assert_eq!(error("quiet"), Error::NoName);
        assert_eq!(error("ennead.vm=a ennead.colour=red"), Error::UnknownKey { key: "colour".into() });
        assert!(error("ennead.vm=a ennead.colour=red").to_string().contains("ennead.colour"));
        assert_eq!(error("ennead.vm=a ennead.vm=a"), Error::Twice { key: "vm" });
        for value in ["", "A", "a_b", "a.b", "123456789012345678901234567890123"] {
            let wrong = error(&format!("ennead.vm={value}"));
            assert!(matches!(wrong, Error::Value { key: "vm", .. }), "{value:?}");
        }
        for (key, value) in [
            ("health", "1"),
            ("health", "1:0"),
            ("health", "+1:2"),
            ("health", "32752:2"),
            ("health", "70000:2"),
            ("answers", ""),
            ("answers", "a:1,"),
            ("answers", "a:1:8"),
            ("answers", "A:1"),
            ("talks-to", "a:1"),
            ("talks-to", "a:1:4294967296"),
            ("xenstore", ""),
            ("xenstore", "32752"),
            ("backends", "a:8"),
            ("backends", "a:8:vkbd"),
            ("quotas", "nodes"),
            ("quotas", "nodes:-1"),
            ("quotas", "nodes:1,"),
        ] {
            let wrong = error(&format!("ennead.vm=a ennead.{key}={value}"));
            assert!(
                matches!(&wrong, Error::Value { key: k, value: v, .. } if *k == key && v == value),
                "{wrong}"
            );
        }
        let many = vec!["a:1"; MAX_PEERS + 1].join(",");
        assert!(matches!(error(&format!("ennead.vm=a ennead.answers={many}")), Error::Value { .. }));
        assert_eq!(error(&" ".repeat(5000)), Error::TooLong { len: 5000 });
    }
}
