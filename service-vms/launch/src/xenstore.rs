//! XenStore as who builds VMs sees it: its channel to XenStore-State.

use std::time::Duration;

use ennead_channel::xenstore::{Backend, Device, Path, Request};
use ennead_channel::{Client, List, XenStoreControl};
use ennead_manifest::{Plan, Vm};
use ennead_runtime::boot::ServerVm;
use ennead_xen::{EventChannels, Port};
use ennead_xs_wire::{Access, Errno, Perm};

/// How long State may take to offer its channel, and to answer. It waits for nobody itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to give everything to its successor: longer than it tries.
const HAND_OVER: Duration = Duration::from_secs(60);

/// Why State does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The channel failed, or State did not answer.
    #[error("XenStore-State does not answer")]
    Channel(#[from] ennead_channel::Error),
    /// Xen gives no event channels.
    #[error("Cannot open event channels")]
    Events(#[from] ennead_xen::Error),
    /// It said no.
    #[error("XenStore-State refused {asked}: {errno}")]
    Refused {
        /// The request.
        asked: String,
        /// State's reason.
        errno: Errno,
    },
    /// Something is too long for the channel.
    #[error("{0:?} does not fit into a message to XenStore-State")]
    Unfit(String),
}

/// The open channel.
#[derive(Debug)]
pub struct XenStore {
    client: Client<XenStoreControl>,
    /// Ports of this channel only, so that waiting for an answer takes no other event away.
    events: EventChannels,
}

impl XenStore {
    /// Opens the channel to State.
    ///
    /// # Errors
    /// When State does not offer it in time.
    pub fn connect(state: &ServerVm) -> Result<Self, Error> {
        let events = EventChannels::open()?;
        let client = Client::connect(state.domid, state.gref, &events, PATIENCE)?;
        Ok(Self { client, events })
    }

    /// Tells State something; returns when it has been done.
    ///
    /// # Errors
    /// When State refuses or does not answer.
    pub fn tell(&mut self, request: Request) -> Result<(), Error> {
        let asked = format!("{request:?}");
        let patience = if matches!(request, Request::HandOver { .. }) { HAND_OVER } else { PATIENCE };
        refused(self.client.tell(&self.events, request, patience)?, || asked)
    }

    /// Announces a domain that has been made for `vm`. A new one gets its tree: `/local/domain/N`, which is its own, with
    /// its `name` and `domid`. `ring` is its port if it has a ring: State knows the ring when this returns.
    ///
    /// # Errors
    /// As [`XenStore::tell`].
    pub fn announce(&mut self, plan: &Plan, vm: &Vm, life: Life, ring: Option<Port>) -> Result<(), Error> {
        announcement(plan, vm, life, ring)?.into_iter().try_for_each(|request| self.tell(request))
    }

    /// How many nodes there are in all.
    ///
    /// # Errors
    /// When State does not answer.
    pub fn count(&mut self) -> Result<u32, Error> {
        Ok(self.client.count(&self.events, PATIENCE)?)
    }

    /// The value of a node.
    ///
    /// # Errors
    /// As [`XenStore::tell`].
    pub fn read(&mut self, path: &Path) -> Result<Vec<u8>, Error> {
        refused(self.client.read(&self.events, path, PATIENCE)?, || format!("to read {path}"))
    }

    /// The names of a node's children.
    ///
    /// # Errors
    /// As [`XenStore::tell`].
    pub fn list(&mut self, path: &Path) -> Result<Vec<Path>, Error> {
        refused(self.client.list(&self.events, path, PATIENCE)?, || format!("to list {path}"))
    }
}

fn refused<T>(answer: Result<T, Errno>, asked: impl FnOnce() -> String) -> Result<T, Error> {
    answer.map_err(|errno| Error::Refused { asked: asked(), errno })
}

/// Whether XenStore knows a VM already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It is new: permissions for an earlier VM of its number are not for it, and its tree is written.
    New,
    /// It was announced as restarting: its nodes are still there, and its ring is bound again.
    Again,
}

/// What State is told of a VM that will run, in order.
fn announcement(plan: &Plan, vm: &Vm, life: Life, ring: Option<Port>) -> Result<Vec<Request>, Error> {
    let domid = vm.domid;
    let mut requests = Vec::new();
    if life == Life::New {
        requests.push(Request::Created { domid, manager: None });
        if let Some(tenant) = plan.tenants.iter().find(|tenant| vm.tenant.as_ref() == Some(&tenant.name)) {
            let backends = plan.backends(tenant).map(|(vm, device)| Backend {
                domid: vm.domid,
                device: if device == "vbd" { Device::Vbd } else { Device::Vif },
            });
            let backends = List::new(backends.collect()).ok_or_else(|| Error::Unfit(tenant.name.clone()))?;
            requests.push(Request::Toolstack { domid, backends });
        }
        requests.extend(tree(vm)?);
    }
    requests.extend(ring.map(|Port(port)| match life {
        Life::New => Request::Introduce { domid, port, manager: None },
        Life::Again => Request::Rebound { domid, port },
    }));
    Ok(requests)
}

/// The request that writes a node; the first permission names its owner.
pub(crate) fn write(path: String, value: &str, perms: Vec<Perm>) -> Result<Request, Error> {
    Ok(Request::Write {
        path: path.parse().map_err(|_| Error::Unfit(path))?,
        value: List::new(value.as_bytes().to_vec()).ok_or_else(|| Error::Unfit(value.to_owned()))?,
        perms: List::new(perms).unwrap_or_default(),
    })
}

/// What a service VM's tree is made of.
fn tree(vm: &Vm) -> Result<Vec<Request>, Error> {
    let home = format!("/local/domain/{}", vm.domid);
    // The VM owns it; nobody else sees it.
    let perms = || vec![Perm { access: Access::None, domid: vm.domid }];
    let write = |path: String, value: &str| write(path, value, perms());
    let mut nodes = vec![
        write(home.clone(), "")?,
        write(format!("{home}/name"), &vm.name)?,
        write(format!("{home}/domid"), &vm.domid.to_string())?,
    ];
    // Toolstacks put their guests' devices below: the directory is the backend's all the same.
    if let Some(device) = vm.kind.device() {
        nodes.push(write(format!("{home}/backend"), "")?);
        nodes.push(write(format!("{home}/backend/{device}"), "")?);
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let text = include_str!("../../../images/host.toml");
        ennead_manifest::check("host.toml", text).expect("the shipped manifest is valid")
    }

    fn pciback() -> Vm {
        plan().vm("pciback").expect("it is there").clone()
    }

    #[test]
    fn a_new_vm_is_created_written_and_introduced_in_this_order() {
        let requests = announcement(&plan(), &pciback(), Life::New, Some(Port(1))).expect("short enough");
        assert_eq!(requests.first(), Some(&Request::Created { domid: 3, manager: None }));
        assert_eq!(requests.last(), Some(&Request::Introduce { domid: 3, port: 1, manager: None }));
        let between = requests.get(1..requests.len() - 1).expect("its tree");
        assert_eq!(between, tree(&pciback()).expect("short enough"));
        let without = announcement(&plan(), &pciback(), Life::New, None).expect("short enough");
        assert_eq!(Some(without.as_slice()), requests.get(..requests.len() - 1));
    }

    #[test]
    fn a_toolstack_is_announced_with_the_backends_of_its_tenant() {
        let plan = plan();
        let toolstack = plan.vm("toolstack").expect("it is there");
        let requests = announcement(&plan, toolstack, Life::New, None).expect("short enough");
        let backend = |name, device| Backend { domid: plan.vm(name).expect("it is there").domid, device };
        let expected = [backend("blkback", Device::Vbd), backend("netback", Device::Vif)];
        let told = requests.iter().find_map(|request| match request {
            Request::Toolstack { backends, .. } => Some(backends.to_vec()),
            _ => None,
        });
        assert_eq!(told, Some(expected.to_vec()));
    }

    #[test]
    fn a_restarted_vm_keeps_its_nodes_and_only_its_ring_is_bound() {
        let requests = announcement(&plan(), &pciback(), Life::Again, Some(Port(7))).expect("short enough");
        assert_eq!(requests, [Request::Rebound { domid: 3, port: 7 }]);
    }

    #[test]
    fn a_vm_owns_its_tree() {
        let written: Vec<_> = tree(&pciback())
            .expect("short enough")
            .into_iter()
            .map(|request| match request {
                Request::Write { path, value, perms } => {
                    let owners: Vec<u16> = perms.iter().map(|perm| perm.domid).collect();
                    (path.to_string(), String::from_utf8(value.into_vec()).expect("text"), owners)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let node = |path: &str, value: &str| (path.to_owned(), value.to_owned(), vec![3]);
        assert_eq!(
            written,
            [
                node("/local/domain/3", ""),
                node("/local/domain/3/name", "pciback"),
                node("/local/domain/3/domid", "3"),
            ]
        );
    }
}
