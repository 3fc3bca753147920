//! The calls to Xen that building a domain takes, as a trait: tests build on a fake.

use ennead_xen::{DomId, DomainKind, GrantRef, HvmParam, MemoryRegion, Mfn, Port, PvhStart, Sid};

/// What `XEN_DOMCTL_createdomain` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDomain {
    /// Its number, which must be free.
    pub domid: DomId,
    /// Its label.
    pub sid: Sid,
    /// How it runs.
    pub kind: DomainKind,
    /// Most vCPUs.
    pub vcpus: u32,
    /// Whether devices can be assigned to it; without, Xen accepts an assignment and does nothing.
    pub iommu: bool,
    /// Xen's limits.
    pub limits: Limits,
}

/// Limits for a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most event channels.
    pub event_channels: u32,
    /// Most frames of its grant table; each has 512 grants of version 1.
    pub grant_frames: u32,
    /// Most frames for what it maps of others' grants.
    pub maptrack_frames: u32,
}

impl Default for Limits {
    /// What is known to do for a Linux VM.
    fn default() -> Self {
        Limits { event_channels: 1023, grant_frames: 64, maptrack_frames: 1024 }
    }
}

/// Registers of the first vCPU of a PV domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpu0 {
    /// First instruction.
    pub rip: u64,
    /// Top of the boot stack.
    pub rsp: u64,
    /// Virtual address of the start info.
    pub rsi: u64,
    /// Root page table.
    pub cr3: Mfn,
}

/// Pages of another domain, mapped here until dropped.
pub trait Pages {
    /// What the calls fail with.
    type Error: std::error::Error + Send + Sync + 'static;
    /// Copies `bytes` to `offset` (in bytes) from the first page on.
    ///
    /// # Errors
    /// When that is not inside.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Self::Error>;
    /// Makes `len` bytes from `offset` on zero.
    ///
    /// # Errors
    /// When they are not inside.
    fn zero(&mut self, offset: usize, len: usize) -> Result<(), Self::Error>;
}

/// The calls to Xen that building a domain takes. `d` is always the new domain. A frame of a PVH domain is what it is for
/// the domain itself (a guest frame), also where the type says `Mfn`.
#[expect(clippy::missing_errors_doc, reason = "they fail as Xen does")]
pub trait Hypervisor: Sized {
    /// What they fail with.
    type Error: std::error::Error + Send + Sync + 'static;
    /// A mapping.
    type Pages: Pages<Error = Self::Error>;

    /// Creates a domain, paused.
    fn create_domain(&self, new: &NewDomain) -> Result<(), Self::Error>;
    /// Destroys it.
    fn destroy_domain(&self, d: DomId) -> Result<(), Self::Error>;
    /// Limits its memory, in KiB.
    fn set_max_mem_kib(&self, d: DomId, kib: u64) -> Result<(), Self::Error>;
    /// Gives it memory: for each pfn 2^order pages from there on. May give fewer extents than asked for.
    fn populate(&self, d: DomId, order: u32, pfns: &[u64]) -> Result<Vec<Mfn>, Self::Error>;
    /// A port of it that `remote` can bind.
    fn alloc_unbound_for(&self, d: DomId, remote: DomId) -> Result<Port, Self::Error>;
    /// Maps pages of it, writable.
    fn map(&self, d: DomId, frames: &[Mfn]) -> Result<Self::Pages, Self::Error>;
    /// Enters grants into its grant table: reference, who may map, which frame.
    fn seed_grants(&self, d: DomId, grants: &[(GrantRef, DomId, Mfn)]) -> Result<(), Self::Error>;

    /// PV: the frame of its shared info page.
    fn shared_info(&self, d: DomId) -> Result<Mfn, Self::Error>;
    /// PV: writes the hypercall page.
    fn hypercall_page(&self, d: DomId, mfn: Mfn) -> Result<(), Self::Error>;
    /// PV: pins its root page table.
    fn pin_l4(&self, d: DomId, mfn: Mfn) -> Result<(), Self::Error>;
    /// PV: sets vCPU 0 up.
    fn start_vcpu0(&self, d: DomId, vcpu: &Vcpu0) -> Result<(), Self::Error>;

    /// PVH: the memory, in KiB, that Xen has for its nested page tables.
    fn set_paging_pool_kib(&self, d: DomId, kib: u64) -> Result<(), Self::Error>;
    /// PVH: what it is told of its memory.
    fn set_memory_map(&self, d: DomId, map: &[MemoryRegion]) -> Result<(), Self::Error>;
    /// PVH: sets a parameter.
    fn set_hvm_param(&self, d: DomId, param: HvmParam, value: u64) -> Result<(), Self::Error>;
    /// PVH: sets vCPU 0 up.
    fn start_pvh(&self, d: DomId, start: &PvhStart) -> Result<(), Self::Error>;
}
