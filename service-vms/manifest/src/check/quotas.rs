//! How much of XenStore one guest may use.

use crate::plan::{Kind, Quota};
use crate::raw::Raw;
use crate::report::{Errors, code};

pub(super) fn check(raw: &Raw, errors: &mut Errors<'_>) {
    for vm in &raw.vms {
        let Some(quotas) = &vm.quotas else { continue };
        let name = code(&vm.name.value);
        if let Some(kind) = vm.kind.as_ref().filter(|kind| kind.value != Kind::XenstoreState) {
            errors.at(
                quotas.span,
                format!("{name} has `quotas`, but is of kind `{}`", kind.value),
                "take them out: what a guest may use of XenStore stands at the VM of kind `xenstore-state`",
            );
        }
        let memory = quotas.set.iter().find(|(quota, _)| *quota == Quota::Memory);
        if let (Some((_, bytes)), Some(mib)) = (memory, &vm.memory_mib) {
            if u64::from(bytes.value) >= u64::from(mib.value) << 20 {
                errors.at(
                    bytes.span,
                    format!(
                        "One guest may use {} bytes of XenStore, but {name} has only {} MiB for all",
                        bytes.value, mib.value
                    ),
                    format!("write a smaller number of bytes, or raise `memory-mib` of {name}"),
                );
            }
        }
    }
}
