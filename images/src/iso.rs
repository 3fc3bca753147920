//! The ISO: GRUB for BIOS and UEFI, Xen, domain 0's kernel and initrd, the policy. It boots from a CD and from a USB stick.
//!
//! The same inputs give the same bytes: every time, name and serial number in it is fixed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, sha256};
use crate::plan::CommandLines;
use crate::progress::Progress;
use crate::step::{Step, size};
use crate::xen::{file_size, write};

/// 2026-01-01 00:00:00 UTC: every date in the ISO.
const EPOCH: &str = "1767225600";

/// The same for xorriso.
const DATE: &str = "2026010100000000";

/// Where Debian's packages put GRUB.
const GRUB: &str = "/usr/lib/grub";

/// GRUB's modules for every firmware: all that the configuration needs, in the core image. None is loaded from the ISO.
const MODULES: [&str; 12] = [
    "normal",
    "multiboot2",
    "iso9660",
    "part_gpt",
    "part_msdos",
    "search_fs_file",
    "serial",
    "terminal",
    "test",
    "echo",
    "reboot",
    "halt",
];

/// Where the policy is on the ISO.
const POLICY: &str = "boot/policy.bin";

/// What goes into the ISO.
#[derive(Debug)]
pub struct Contents<'a> {
    /// Xen, an ELF file.
    pub xen: &'a [u8],
    /// Domain 0's kernel, a bzImage, and the name of its file.
    pub kernel: (&'a str, &'a [u8]),
    /// Domain 0's initrd.
    pub initrd: &'a [u8],
    /// The binary FLASK policy, if Xen is to have one.
    pub policy: Option<&'a [u8]>,
    /// What GRUB tells Xen and the kernel.
    pub command_lines: &'a CommandLines,
    /// The host's serial console in Xen's words (`com1`).
    pub console: &'a str,
}

/// Makes the ISO at `out`. An older file there is replaced only when the new one is whole.
///
/// # Errors
/// When GRUB's tools, mtools or xorriso are missing or fail, or the disk is full.
pub fn build(cache: &Cache, progress: Progress, contents: &Contents<'_>, out: &Path) -> Result<()> {
    let mut step = progress.step("ISO");
    let work = cache.temporary("iso")?;
    step.log_to(&cache.log_path("iso"))?;
    assemble(contents, work.path(), &mut step, out)?;
    step.done(&format!("{}, {}", size(file_size(out)?), out.display()));
    Ok(())
}

fn assemble(contents: &Contents<'_>, work: &Path, step: &mut Step, out: &Path) -> Result<()> {
    let marker = format!("/boot/ennead-{}", identity(contents));
    let tree = work.join("tree");
    for dir in ["boot/grub", "EFI/BOOT"] {
        fs::create_dir_all(tree.join(dir))
            .with_context(|| format!("Cannot make a folder in {}", work.display()))?;
    }
    let kernel = format!("boot/{}", contents.kernel.0);
    let config = grub_config(contents, &kernel);
    let files: [(&str, &[u8]); 5] = [
        ("boot/xen", contents.xen),
        (&kernel, contents.kernel.1),
        ("boot/initrd", contents.initrd),
        ("boot/grub/grub.cfg", config.as_bytes()),
        (marker.trim_start_matches('/'), b""),
    ];
    let policy = contents.policy.map(|bytes| (POLICY, bytes));
    for (name, bytes) in files.into_iter().chain(policy) {
        fs::write(tree.join(name), bytes)
            .with_context(|| format!("Cannot write {name} into {}", work.display()))?;
    }
    // GRUB finds the file system that it came from by a file that only this ISO has.
    let start = work.join("start.cfg");
    write(&start, &format!("search.file {marker} root\nset prefix=($root)/boot/grub\n"))?;
    bios_image(step, &start, &tree.join("boot/grub/bios.img"))?;
    efi_image(step, work, &start, &tree.join("boot/grub/efi.img"))?;
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
    let unfinished = out.with_extension(format!("iso.{}.tmp", std::process::id()));
    let made = xorriso(step, &tree, &unfinished);
    if made.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    made?;
    fs::rename(&unfinished, out).with_context(|| format!("Cannot write {}", out.display()))
}

/// 16 hex digits that differ between ISOs with different contents.
fn identity(contents: &Contents<'_>) -> String {
    let parts = [
        contents.xen,
        contents.kernel.1,
        contents.initrd,
        contents.policy.unwrap_or_default(),
        contents.command_lines.xen.as_bytes(),
        contents.command_lines.kernel.as_bytes(),
    ];
    let hashes: Vec<String> = parts.into_iter().map(sha256).collect();
    let mut identity = sha256(hashes.concat().as_bytes());
    identity.truncate(16);
    identity
}

/// GRUB's configuration.
fn grub_config(contents: &Contents<'_>, kernel: &str) -> String {
    let unit = match contents.console {
        "com2" => "1",
        _ => "0",
    };
    let CommandLines { xen, kernel: kernel_options } = contents.command_lines;
    let policy = contents.policy.map_or_else(String::new, |_| format!("  module2 /{POLICY}\n"));
    format!(
        "if serial --unit={unit} --speed=115200; then\n  terminal_input serial console\n  \
         terminal_output serial console\nfi\n\
         set timeout=0\nset default=0\n\
         menuentry 'Ennead' {{\n  multiboot2 /boot/xen {xen}\n  module2 /{kernel} {kernel_options}\n  \
         module2 /boot/initrd\n{policy}}}\n"
    )
}

fn grub_mkimage(
    step: &mut Step,
    format: &str,
    folder: &str,
    start: &Path,
    extra: &[&str],
    out: &Path,
) -> Result<()> {
    let directory = Path::new(GRUB).join(folder);
    anyhow::ensure!(
        directory.is_dir(),
        "GRUB's files are not in {}: apt-get install grub-pc-bin grub-efi-amd64-bin",
        directory.display()
    );
    let mut command = Command::new("grub-mkimage");
    command.args(["--format", format, "--prefix", "/boot/grub", "--directory"]).arg(&directory);
    command.arg("--config").arg(start).arg("--output").arg(out);
    step.run(command.args(MODULES).args(extra).env("SOURCE_DATE_EPOCH", EPOCH))
}

fn bios_image(step: &mut Step, start: &Path, out: &Path) -> Result<()> {
    grub_mkimage(step, "i386-pc-eltorito", "i386-pc", start, &["biosdisk"], out)
}

/// A FAT file system with GRUB as the firmware's default program.
fn efi_image(step: &mut Step, work: &Path, start: &Path, out: &Path) -> Result<()> {
    let program = work.join("bootx64.efi");
    // Without a video module GRUB complains on its console that it finds no mode.
    grub_mkimage(step, "x86_64-efi", "x86_64-efi", start, &["efi_gop"], &program)?;
    let kib = (file_size(&program)? / 1024 + 64).next_multiple_of(32);
    let mtools = |name: &str| {
        let mut command = Command::new(name);
        command.env("SOURCE_DATE_EPOCH", EPOCH).env("MTOOLS_SKIP_CHECK", "1").env("TZ", "UTC");
        command
    };
    // Heads and sectors of no importance: the size is heads * sectors * cylinders = 2 * 32 sectors (32 KiB) * cylinders.
    let cylinders = (kib / 32).to_string();
    let mut format = mtools("mformat");
    format.args(["-C", "-i"]).arg(out).args(["-h", "2", "-s", "32", "-t", &cylinders]);
    step.run(format.args(["-N", "454e4e44", "-v", "ENNEAD", "::"]))?;
    step.run(mtools("mmd").arg("-i").arg(out).args(["::/EFI", "::/EFI/BOOT"]))?;
    step.run(mtools("mcopy").arg("-i").arg(out).arg(&program).arg("::/EFI/BOOT/BOOTX64.EFI"))
}

fn xorriso(step: &mut Step, tree: &Path, out: &Path) -> Result<()> {
    // Files get their dates and order from here, not from the disk they lie on.
    let hybrid = PathBuf::from(GRUB).join("i386-pc/boot_hybrid.img");
    let mut command = Command::new("xorriso");
    command.args(["-as", "mkisofs", "-quiet", "-o"]).arg(out);
    command.args(["-V", "ENNEAD", "-r"]);
    command.arg(format!("--modification-date={DATE}")).args(["--set_all_file_dates", DATE]);
    command.args(["-b", "boot/grub/bios.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
    command.arg("--grub2-boot-info").arg("--grub2-mbr").arg(hybrid);
    command.args(["-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat"]);
    command.arg(tree).env("SOURCE_DATE_EPOCH", EPOCH).env("TZ", "UTC");
    step.run(&mut command)
}
