//! What a service VM gives up before it talks to anybody. The VM is the wall that counts; this is the second one: a
//! program that is taken over stays without the kernel's larger and rarer doors, behind which most of its bugs are.
//!
//! In this order:
//! 1. **Device nodes** that are not named are removed from /dev: the VM has only its own.
//! 2. **Capabilities** that are not named leave the thread's sets and the bounding set. (User 0 stays the owner of all files.)
//! 3. **No new privileges**: what is given up cannot come back with a program file.
//! 4. **Landlock** (ABI 2, Linux 5.19): no file or directory can be opened or changed, but for the named paths. What is
//!    open stays open: open devices first.
//! 5. **Seccomp**: the system calls in `DENIED` fail with `EPERM`. It is a list of what no service VM needs, not of what each
//!    does need: it must not break a program in a rare path that no test takes.
//!
//! Landlock and capabilities hold for the thread that calls and those that it starts: enter before any other thread.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Why a system call is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It changes what is where in the file system, past Landlock.
    Mounts,
    /// It loads code into the kernel or replaces it.
    KernelCode,
    /// It reads or changes another process.
    OtherProcesses,
    /// It starts another program: a service VM is one.
    OtherPrograms,
    /// It does what a filter of system calls does not see, or has been a way into the kernel often.
    KernelSurface,
    /// It makes device nodes, which step 1 has removed.
    Devices,
    /// It reaches I/O ports; Xen refuses too, but for the VMs that own devices.
    IoPorts,
    /// It changes clocks, quotas, swap or accounting of the VM.
    Administration,
}

/// The system calls that fail with `EPERM`, and why.
pub const DENIED: &[(i64, Reason)] = &[
    (libc::SYS_mount, Reason::Mounts),
    (libc::SYS_umount2, Reason::Mounts),
    (libc::SYS_pivot_root, Reason::Mounts),
    (libc::SYS_chroot, Reason::Mounts),
    (libc::SYS_open_tree, Reason::Mounts),
    (libc::SYS_move_mount, Reason::Mounts),
    (libc::SYS_fsopen, Reason::Mounts),
    (libc::SYS_fsconfig, Reason::Mounts),
    (libc::SYS_fsmount, Reason::Mounts),
    (libc::SYS_fspick, Reason::Mounts),
    (libc::SYS_mount_setattr, Reason::Mounts),
    (libc::SYS_open_by_handle_at, Reason::Mounts),
    (libc::SYS_unshare, Reason::Mounts),
    (libc::SYS_setns, Reason::Mounts),
    (libc::SYS_init_module, Reason::KernelCode),
    (libc::SYS_finit_module, Reason::KernelCode),
    (libc::SYS_delete_module, Reason::KernelCode),
    (libc::SYS_kexec_load, Reason::KernelCode),
    (libc::SYS_kexec_file_load, Reason::KernelCode),
    (libc::SYS_bpf, Reason::KernelCode),
    (libc::SYS_ptrace, Reason::OtherProcesses),
    (libc::SYS_process_vm_readv, Reason::OtherProcesses),
    (libc::SYS_process_vm_writev, Reason::OtherProcesses),
    (libc::SYS_process_madvise, Reason::OtherProcesses),
    (libc::SYS_pidfd_getfd, Reason::OtherProcesses),
    (libc::SYS_kcmp, Reason::OtherProcesses),
    (libc::SYS_execve, Reason::OtherPrograms),
    (libc::SYS_execveat, Reason::OtherPrograms),
    (libc::SYS_fork, Reason::OtherPrograms),
    (libc::SYS_vfork, Reason::OtherPrograms),
    (libc::SYS_io_uring_setup, Reason::KernelSurface),
    (libc::SYS_io_uring_enter, Reason::KernelSurface),
    (libc::SYS_io_uring_register, Reason::KernelSurface),
    (libc::SYS_perf_event_open, Reason::KernelSurface),
    (libc::SYS_userfaultfd, Reason::KernelSurface),
    (libc::SYS_add_key, Reason::KernelSurface),
    (libc::SYS_request_key, Reason::KernelSurface),
    (libc::SYS_keyctl, Reason::KernelSurface),
    (libc::SYS_modify_ldt, Reason::KernelSurface),
    (libc::SYS_personality, Reason::KernelSurface),
    (libc::SYS_mknod, Reason::Devices),
    (libc::SYS_mknodat, Reason::Devices),
    (libc::SYS_iopl, Reason::IoPorts),
    (libc::SYS_ioperm, Reason::IoPorts),
    (libc::SYS_swapon, Reason::Administration),
    (libc::SYS_swapoff, Reason::Administration),
    (libc::SYS_acct, Reason::Administration),
    (libc::SYS_quotactl, Reason::Administration),
    (libc::SYS_quotactl_fd, Reason::Administration),
    (libc::SYS_settimeofday, Reason::Administration),
    (libc::SYS_clock_settime, Reason::Administration),
    (libc::SYS_adjtimex, Reason::Administration),
    (libc::SYS_clock_adjtime, Reason::Administration),
    (libc::SYS_sethostname, Reason::Administration),
    (libc::SYS_setdomainname, Reason::Administration),
    (libc::SYS_syslog, Reason::Administration),
];

/// The sandbox could not be closed. The VM must not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Other threads run already and would stay outside.
    #[error("Cannot enter the sandbox with {threads} threads: enter it before any other is started")]
    Threads {
        /// Number of threads of the process.
        threads: usize,
    },
    /// A file or directory.
    #[error("Cannot {action} {}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which path.
        path: PathBuf,
        /// What Linux said.
        source: io::Error,
    },
    /// Capabilities or `no_new_privs`.
    #[error("Cannot {action}")]
    Privileges {
        /// What was tried.
        action: &'static str,
        /// What Linux said.
        source: io::Error,
    },
    /// Landlock.
    #[error(
        "Landlock refused the rules: does the kernel have CONFIG_SECURITY_LANDLOCK and `landlock` in CONFIG_LSM?"
    )]
    Landlock(#[source] RulesetError),
    /// Landlock did less than what was asked.
    #[error("Landlock enforces only a part of the rules ({0:?}): is the kernel older than 5.19?")]
    LandlockPart(RulesetStatus),
    /// A path for Landlock.
    #[error("Landlock cannot open {}: does it exist?", .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// What Linux said.
        source: landlock::PathFdError,
    },
    /// Seccomp.
    #[error("Seccomp refused the filter: does the kernel have CONFIG_SECCOMP_FILTER?")]
    Seccomp(#[source] seccompiler::Error),
}

/// What a VM keeps; everything else goes when it enters. A new one keeps nothing.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    devices: Vec<PathBuf>,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    trees: Vec<PathBuf>,
    capabilities: Option<CapabilitySet>,
    allowed: Vec<i64>,
}

impl Sandbox {
    /// Keeps nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a device node in /dev, which can also be opened again later. One that does not exist is fine.
    #[must_use]
    pub fn keep_device(mut self, path: impl Into<PathBuf>) -> Self {
        self.devices.push(path.into());
        self
    }

    /// Keeps the right to open a file for reading, or all beneath a directory.
    #[must_use]
    pub fn keep_read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Keeps the right to open a file for reading and writing, or all beneath a directory (nothing can be made or removed).
    #[must_use]
    pub fn keep_write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// Keeps the right to all beneath a directory, also to make and remove files and directories there.
    #[must_use]
    pub fn keep_tree(mut self, path: impl Into<PathBuf>) -> Self {
        self.trees.push(path.into());
        self
    }

    /// Keeps capabilities: `SYS_BOOT` to end the VM with `power_off` or `restart`.
    #[must_use]
    pub fn keep_capabilities(mut self, capabilities: CapabilitySet) -> Self {
        self.capabilities = Some(self.capabilities.unwrap_or(CapabilitySet::empty()) | capabilities);
        self
    }

    /// Keeps one system call of `DENIED` (`libc::SYS_...`).
    #[must_use]
    pub fn keep_call(mut self, number: i64) -> Self {
        self.allowed.push(number);
        self
    }

    /// Gives everything else up, for good. Needs /proc and /dev.
    ///
    /// # Errors
    /// Which step failed. The steps before it have been taken.
    pub fn enter(&self) -> Result<(), Error> {
        single_thread()?;
        remove_devices(Path::new("/dev"), &self.devices)?;
        self.drop_capabilities()?;
        rustix::thread::set_no_new_privs(true)
            .map_err(|e| Error::Privileges { action: "set no_new_privs", source: e.into() })?;
        self.landlock()?;
        self.seccomp()
    }

    fn drop_capabilities(&self) -> Result<(), Error> {
        let wrong = |source: rustix::io::Errno| Error::Privileges {
            action: "drop capabilities",
            source: source.into(),
        };
        let keep = self.capabilities.unwrap_or(CapabilitySet::empty());
        // The bounding set first: to shrink it takes CAP_SETPCAP.
        for capability in (0..u64::BITS).map(|n| CapabilitySet::from_bits_retain(1 << n)) {
            if keep.contains(capability) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // The kernel knows no capability with this number, nor a higher one.
                Err(rustix::io::Errno::INVAL) => break,
                Err(errno) => return Err(wrong(errno)),
            }
        }
        let now = rustix::thread::capabilities(None).map_err(wrong)?;
        let kept = CapabilitySets {
            effective: now.effective & keep,
            permitted: now.permitted & keep,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, kept).map_err(wrong)
    }

    fn landlock(&self) -> Result<(), Error> {
        let abi = ABI::V2;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = read | AccessFs::WriteFile;
        let tree = write | AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::RemoveFile;
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(abi))
            .and_then(Ruleset::create)
            .map_err(Error::Landlock)?;
        let devices = self.devices.iter().filter(|path| path.exists());
        let all =
            self.read.iter().map(|path| (path, read)).chain(self.write.iter().map(|path| (path, write)));
        let all = all.chain(self.trees.iter().map(|path| (path, tree)));
        for (path, access) in all.chain(devices.map(|path| (path, write))) {
            let file = PathFd::new(path).map_err(|source| Error::Path { path: path.clone(), source })?;
            // Rights of directories are not for files.
            let access: BitFlags<AccessFs> =
                if path.is_dir() { access } else { access & AccessFs::from_file(abi) };
            rules = rules.add_rule(PathBeneath::new(file, access)).map_err(Error::Landlock)?;
        }
        let status = rules.restrict_self().map_err(Error::Landlock)?.ruleset;
        if status == RulesetStatus::FullyEnforced { Ok(()) } else { Err(Error::LandlockPart(status)) }
    }

    fn seccomp(&self) -> Result<(), Error> {
        let filter = self.filter().map_err(|error| Error::Seccomp(error.into()))?;
        seccompiler::apply_filter(&filter).map_err(Error::Seccomp)
    }

    fn filter(&self) -> Result<BpfProgram, seccompiler::BackendError> {
        let denied = DENIED.iter().map(|&(number, _)| number).filter(|number| !self.allowed.contains(number));
        // A number without conditions matches whatever the arguments are. Another architecture's calls end the process.
        SeccompFilter::new(
            denied.map(|number| (number, Vec::new())).collect(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            TargetArch::x86_64,
        )?
        .try_into()
    }
}

fn file_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::File { action, path: path.to_owned(), source }
}

/// Fails if there is more than the calling thread.
fn single_thread() -> Result<(), Error> {
    let tasks = Path::new("/proc/self/task");
    let threads = fs::read_dir(tasks).map_err(file_error("read", tasks))?.count();
    if threads == 1 { Ok(()) } else { Err(Error::Threads { threads }) }
}

/// Removes the device nodes beneath a directory that are not to be kept. Follows no links; a depth of 8 is more than any
/// /dev has.
fn remove_devices(directory: &Path, keep: &[PathBuf]) -> Result<(), Error> {
    let mut directories = vec![(directory.to_owned(), 8)];
    while let Some((directory, depth)) = directories.pop() {
        let wrong = file_error("read", &directory);
        for entry in fs::read_dir(&directory).map_err(&wrong)? {
            let entry = entry.map_err(&wrong)?;
            let kind = entry.file_type().map_err(&wrong)?;
            let path = entry.path();
            if kind.is_dir() && depth > 0 {
                directories.push((path, depth - 1));
            } else if (kind.is_char_device() || kind.is_block_device()) && !keep.contains(&path) {
                fs::remove_file(&path).map_err(file_error("remove", &path))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
