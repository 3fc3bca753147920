//! How Builder asks a VM with a XenStore ring to end its work before it is destroyed: it writes [`WISH`] to [`NODE`] of the VM, which
//! writes [`DONE`] there once it has answered what it had begun, and begins nothing more. Who starts takes the node away first: an
//! earlier wish is not for it.

/// The node, below the VM's own directory.
pub const NODE: &str = "control/drain";
/// Builder's value.
pub const WISH: &[u8] = b"wish";
/// The VM's.
pub const DONE: &[u8] = b"done";
