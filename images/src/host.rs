//! The whole build: manifest -> ISO.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ennead_api::ENDPOINT;
use ennead_manifest::{BootPlan, Kind, Plan};
use ennead_xen::DomainKind;

use crate::cache::Cache;
use crate::iso::{self, Contents};
use crate::plan::{self, CommandLines};
use crate::progress::Progress;
use crate::ramdisk::{self, Extra};
use crate::{certificate, kernel, loader, policy, previous, program, sign, xen};

/// Name of the public key in the ramdisks of those that verify the plan.
const PUBLIC_KEY: &str = "plan.pub";
/// Most that a service VM's kernel may unpack to, in bytes.
const KERNEL_MAX: usize = 128 << 20;

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// The manifest.
    pub manifest: PathBuf,
    /// Its text, if it is not to be read from the file (tests change it).
    pub text: Option<String>,
    /// The ISO.
    pub out: PathBuf,
    /// The user's own key; else the development key.
    pub key: Option<PathBuf>,
    /// An ISO that was there before, whose images VMs go back to.
    pub previous: Option<PathBuf>,
    /// Further kernel options by VM, also those that no manifest may set: for tests.
    pub kernel_options: BTreeMap<String, String>,
    /// Further files (name, bytes) in the ramdisks of these programs: for tests.
    pub files: BTreeMap<String, Vec<(String, Vec<u8>)>>,
    /// Further rules of FLASK's policy, one in a line: to measure what the manifest would not allow.
    pub rules: String,
}

impl Options {
    /// The text of the manifest.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn manifest_text(&self) -> Result<String> {
        self.text.clone().map_or_else(|| xen::read(&self.manifest), Ok)
    }

    /// The project's own host, as `out/ennead.iso`.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            manifest: crate::images_dir().join("host.toml"),
            text: None,
            out: crate::source_root().join("out/ennead.iso"),
            key: None,
            previous: None,
            kernel_options: BTreeMap::new(),
            files: BTreeMap::new(),
            rules: String::new(),
        }
    }
}

/// Everything that the ISO is made of. Tests change a part before they write the ISO.
#[derive(Debug, Clone)]
pub struct Host {
    /// The checked plan.
    pub plan: Plan,
    /// The plan with the hash of each image.
    pub boot_plan: BootPlan,
    /// Images that the bootstrapper is given, by name.
    pub images: BTreeMap<String, Vec<u8>>,
    /// The boot plan as TOML: what is signed.
    pub plan_toml: Vec<u8>,
    /// The signature: 64 bytes.
    pub signature: Vec<u8>,
    /// The bootstrapper's kernel.
    pub kernel: Vec<u8>,
    /// The bootstrapper's compressed ramdisk, with the public key.
    pub ramdisk: Vec<u8>,
    /// The hypervisor.
    pub xen: Vec<u8>,
    /// The binary FLASK policy.
    pub policy: Vec<u8>,
    /// What GRUB tells Xen and domain 0's kernel.
    pub command_lines: CommandLines,
    /// Bytes of each program.
    pub program_sizes: BTreeMap<String, usize>,
}

/// Builds all parts, or takes them from the cache.
///
/// # Errors
/// Every mistake in the manifest; a missing package; the first part that does not build.
pub fn build(cache: &Cache, progress: Progress, options: &Options) -> Result<Host> {
    build_with(cache, progress, options, &BTreeMap::new())
}

/// The same, with some images replaced before they are hashed and signed: for tests of VMs that cannot start.
///
/// # Errors
/// As [`build`].
pub fn build_with(
    cache: &Cache,
    progress: Progress,
    options: &Options,
    replaced: &BTreeMap<String, Vec<u8>>,
) -> Result<Host> {
    let mut manifest = plan::check_text(&options.manifest, options.manifest_text()?)?;
    for vm in &mut manifest.plan.vms {
        if let Some(more) = options.kernel_options.get(&vm.name) {
            vm.kernel_options = format!("{} {more}", vm.kernel_options).trim().to_owned();
        }
    }
    let plan = &manifest.plan;
    crate::packages::require()?;
    let key = sign::key(cache, options.key.as_deref())?;
    let xen = xen::build(cache, progress)?;
    let policy = policy::build(cache, progress, &xen, plan, &options.rules)?;
    let base = options.manifest.parent().unwrap_or(Path::new(""));
    let mut kernels = BTreeMap::new();
    for name in plan::kernels(plan) {
        let config =
            plan.kernels.get(name).with_context(|| format!("The manifest has no kernel `{name}`"))?;
        let path = kernel::build(cache, progress, name, &base.join(config))?;
        kernels.insert(name.to_owned(), read_bytes(&path)?);
    }
    let names: Vec<String> = plan::programs(plan).into_iter().map(str::to_owned).collect();
    let programs = program::build(cache, progress, &names)?;
    let public = key.verifying_key().to_bytes();
    let verifier = [Extra { name: PUBLIC_KEY, content: &public }];
    let has_toolstack = plan.vms.iter().any(|vm| vm.kind == Kind::Toolstack);
    let loaders = if has_toolstack { loader::files(cache, progress)? } else { Vec::new() };
    let mut ramdisks = BTreeMap::new();
    for vm in &plan.vms {
        let mut extras = match vm.kind {
            Kind::Bootstrapper | Kind::Builder => verifier.to_vec(),
            Kind::Toolstack => loaders.iter().map(|(name, content)| Extra { name, content }).collect(),
            _ => Vec::new(),
        };
        let endpoint = certificate::endpoint(cache, plan, vm)?;
        let endpoint = endpoint.map(|endpoint| serde_json::to_vec(&endpoint)).transpose()?;
        extras.extend(endpoint.as_ref().map(|content| Extra { name: ENDPOINT, content }));
        let guests = vm.tenant.as_ref().map(|tenant| manifest.guests.files(tenant)).transpose()?;
        extras.extend(guests.iter().flatten().map(|(name, content)| Extra { name, content }));
        let files = options.files.get(&vm.program).into_iter().flatten();
        extras.extend(files.map(|(name, content)| Extra { name, content }));
        if let Entry::Vacant(place) = ramdisks.entry(vm.ramdisk_image()) {
            let bytes = programs
                .get(&vm.program)
                .with_context(|| format!("Program `{}` was not built", vm.program))?;
            place.insert(ramdisk::ramdisk(bytes, &extras)?);
        }
    }
    let bootstrapper = plan::bootstrapper(plan)?;
    let mut images = BTreeMap::new();
    for name in plan::images(plan) {
        let built = match name.strip_suffix(".kernel") {
            Some(kernel) => kernels.get(kernel).map(|file| prepared(kernel, file)).transpose()?,
            None => ramdisks.get(&name).cloned(),
        };
        let bytes = replaced.get(&name).cloned().or(built);
        let bytes = bytes.with_context(|| format!("Image `{name}` was not built"))?;
        images.insert(name, bytes);
    }
    if let Some(iso) = &options.previous {
        images.extend(previous::images(cache, iso, &public, plan, &images)?);
    }
    let boot_plan = plan::boot_plan(&manifest, &images)?;
    let plan_toml = boot_plan.to_toml().context("Cannot write the boot plan")?.into_bytes();
    let signature = sign::sign(&key, &plan_toml);
    let command_lines = plan::command_lines(plan)?;
    let part =
        |found: Option<Vec<u8>>, what: &str| found.with_context(|| format!("The bootstrapper has no {what}"));
    Ok(Host {
        kernel: part(kernels.remove(&bootstrapper.kernel), "kernel")?,
        ramdisk: part(ramdisks.remove(&bootstrapper.ramdisk_image()), "ramdisk")?,
        xen: read_bytes(&xen.hypervisor())?,
        program_sizes: programs.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect(),
        plan: manifest.plan.clone(),
        boot_plan,
        images,
        plan_toml,
        signature,
        policy,
        command_lines,
    })
}

/// What a VM's builder is given in place of a kernel's file.
fn prepared(name: &str, file: &[u8]) -> Result<Vec<u8>> {
    let kernel =
        ennead_domain::Kernel::parse(file, KERNEL_MAX).and_then(|kernel| kernel.prepare(DomainKind::Pv));
    kernel.with_context(|| format!("Kernel `{name}` cannot be started by Xen"))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Cannot read {}", path.display()))
}

impl Host {
    /// Writes the ISO.
    ///
    /// # Errors
    /// When a tool is missing or the disk is full.
    pub fn write_iso(&self, cache: &Cache, progress: Progress, out: &Path) -> Result<()> {
        let images: Vec<Extra<'_>> =
            self.images.iter().map(|(name, content)| Extra { name, content: content.as_slice() }).collect();
        let initrd = ramdisk::domain_zero(&self.ramdisk, &images, &self.plan_toml, &self.signature)?;
        let kernel = plan::bootstrapper(&self.plan)?.kernel_image();
        let contents = Contents {
            xen: &self.xen,
            kernel: (&kernel, &self.kernel),
            initrd: &initrd,
            policy: Some(&self.policy),
            command_lines: &self.command_lines,
            console: &self.plan.host.console,
        };
        iso::build(cache, progress, &contents, out)
    }
}
