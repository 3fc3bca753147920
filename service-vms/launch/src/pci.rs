//! XenStore's nodes of lent PCI devices, between Linux's xen-pciback and xen-pcifront (Xen's `xen/include/public/io/pciif.h`).
//!
//! They are made anew for each life of the borrower, and go with it: that is how xen-pciback lets go of its page.

use ennead_channel::pciback::Address;
use ennead_channel::xenstore::Request;
use ennead_xen::DomId;
use ennead_xs_wire::{Access, Errno, Perm};

use crate::xenstore::{Error, XenStore, write};

/// `XenbusStateInitialising`: whoever finds it begins.
const INITIALISING: &str = "1";

/// Tells the kernels of both VMs which functions `lender` lends to `borrower`.
///
/// # Errors
/// When State refuses or does not answer.
pub fn lend(
    xenstore: &mut XenStore,
    lender: DomId,
    borrower: DomId,
    functions: &[Address],
) -> Result<(), Error> {
    nodes(lender, borrower, functions)?.into_iter().try_for_each(|request| xenstore.tell(request))
}

/// Takes the nodes away, if there are any.
///
/// # Errors
/// As [`lend`].
pub fn take_back(xenstore: &mut XenStore, lender: DomId, borrower: DomId) -> Result<(), Error> {
    for path in [backends(lender, borrower), frontends(borrower)] {
        let path = path.parse().map_err(|_| Error::Unfit(path))?;
        match xenstore.tell(Request::Remove { path }) {
            Ok(()) | Err(Error::Refused { errno: Errno::Enoent, .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn backends(lender: DomId, borrower: DomId) -> String {
    format!("/local/domain/{}/backend/pci/{}", lender.0, borrower.0)
}

fn frontends(borrower: DomId) -> String {
    format!("/local/domain/{}/device/pci", borrower.0)
}

fn nodes(lender: DomId, borrower: DomId, functions: &[Address]) -> Result<Vec<Request>, Error> {
    let (back, front) = (format!("{}/0", backends(lender, borrower)), format!("{}/0", frontends(borrower)));
    let mut requests = Vec::new();
    // Each of the two has its own directory, and reads the other's.
    let mut node = |dir: &str, name: &str, value: &str, owner: DomId, reader: DomId| {
        let path = if name.is_empty() { dir.to_owned() } else { format!("{dir}/{name}") };
        let (own, read) = (Access::None, Access::Read);
        let perms = vec![Perm { access: own, domid: owner.0 }, Perm { access: read, domid: reader.0 }];
        requests.push(write(path, value, perms)?);
        Ok::<(), Error>(())
    };
    node(&front, "", "", borrower, lender)?;
    node(&front, "backend", &back, borrower, lender)?;
    node(&front, "backend-id", &lender.0.to_string(), borrower, lender)?;
    node(&front, "state", INITIALISING, borrower, lender)?;
    node(&back, "", "", lender, borrower)?;
    node(&back, "frontend", &front, lender, borrower)?;
    node(&back, "frontend-id", &borrower.0.to_string(), lender, borrower)?;
    node(&back, "online", "1", lender, borrower)?;
    for (index, address) in functions.iter().enumerate() {
        node(&back, &format!("dev-{index}"), &address.to_string(), lender, borrower)?;
    }
    node(&back, "num_devs", &functions.len().to_string(), lender, borrower)?;
    // Last: xen-pciback runs already, and begins when it sees it.
    node(&back, "state", INITIALISING, lender, borrower)?;
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_owns_its_directory_and_the_running_one_begins_last() {
        let functions = [Address::from_sbdf(0x100), Address::from_sbdf(0x208)];
        let written: Vec<_> = nodes(DomId(3), DomId(8), &functions)
            .expect("short enough")
            .into_iter()
            .map(|request| match request {
                Request::Write { path, value, perms } => {
                    let domids: Vec<u16> = perms.iter().map(|perm| perm.domid).collect();
                    let value = String::from_utf8(value.into_vec()).expect("text");
                    (path.trim_start_matches("/local/domain/").to_owned(), value, domids)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let front = |name: &str, value: &str| (format!("8/device/pci/0{name}"), value.to_owned(), vec![8, 3]);
        let back =
            |name: &str, value: &str| (format!("3/backend/pci/8/0{name}"), value.to_owned(), vec![3, 8]);
        assert_eq!(
            written,
            [
                front("", ""),
                front("/backend", "/local/domain/3/backend/pci/8/0"),
                front("/backend-id", "3"),
                front("/state", "1"),
                back("", ""),
                back("/frontend", "/local/domain/8/device/pci/0"),
                back("/frontend-id", "8"),
                back("/online", "1"),
                back("/dev-0", "0000:01:00.0"),
                back("/dev-1", "0000:02:01.0"),
                back("/num_devs", "2"),
                back("/state", "1"),
            ]
        );
    }
}
