//! FLASK types of service VMs. The policy defines them, Builder gives them: both take the names from here.

use crate::{Kind, Vm};

impl Kind {
    /// Its name in FLASK types.
    #[must_use]
    pub fn stem(self) -> &'static str {
        match self {
            Self::Bootstrapper => "bootstrapper",
            Self::Builder => "builder",
            Self::Pciback => "pciback",
            Self::XenstoreLogic => "xenstore_logic",
            Self::XenstoreState => "xenstore_state",
            Self::Toolstack => "toolstack",
            Self::Blkback => "blkback",
            Self::Netback => "netback",
            Self::QemuStub => "qemu_stub",
        }
    }

    /// The type that a VM of this kind runs as.
    #[must_use]
    pub fn running_type(self) -> String {
        format!("{}_t", self.stem())
    }

    /// The type that a VM of this kind starts with: its running type, but for pciback, which has more rights until Builder
    /// seals it.
    #[must_use]
    pub fn starting_type(self) -> String {
        match self {
            Self::Pciback => format!("{}_starting_t", self.stem()),
            _ => self.running_type(),
        }
    }

    /// The type of a VM of this kind while its memory is being filled.
    #[must_use]
    pub fn building_type(self) -> String {
        format!("{}_building_t", self.stem())
    }
}

impl Vm {
    /// Name of its kernel's image.
    #[must_use]
    pub fn kernel_image(&self) -> String {
        format!("{}.kernel", self.kernel)
    }

    /// Name of its ramdisk's image.
    #[must_use]
    pub fn ramdisk_image(&self) -> String {
        format!("{}.ramdisk", self.program)
    }
}

/// The full FLASK context of a type (user:role:type), as `FLASK_CONTEXT_TO_SID` takes it.
#[must_use]
pub fn context(type_name: &str) -> String {
    format!("system_u:system_r:{type_name}")
}
