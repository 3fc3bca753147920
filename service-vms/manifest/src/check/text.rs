//! Names, reasons and options: text that ends up in file names, logs, generated policy and command lines.

use crate::plan::{Iommu, Kind, Quota};
use crate::raw::{Raw, RawVm};
use crate::report::{Errors, Span, code};
use crate::rules::{is_name, is_unprintable};
use crate::table::{At, Reasoned};

/// Bytes of options that one VM, or Xen, may at most have.
const MAX_OPTIONS: usize = 512;

/// Bytes of a PV domain's command line with its final NUL (`MAX_GUEST_CMDLINE` in Xen's public/xen.h).
const COMMAND_LINE: usize = 1024;

/// VMs that the runtime takes in `answers` and in `talks-to`.
const MAX_PEERS: usize = 32;

pub(super) fn check(raw: &Raw, errors: &mut Errors<'_>) {
    if let Some(host) = &raw.host {
        name(host.name.as_ref(), "the host", errors);
        if let Some(console) = &host.console {
            xen_console(console, errors);
        }
        if let Some(options) = &host.xen_options {
            self::options(options, "xen-options", None, errors);
        }
        if let Some(At { value: Iommu::None(reason), span }) = &host.iommu {
            let reason = At { value: reason.clone(), span: *span };
            self::reason(&reason, "`iommu = { none = ... }`", errors);
        }
    }
    for (kernel, file) in &raw.kernels {
        name(Some(kernel), "a kernel", errors);
        path(file.as_ref(), errors);
    }
    for vm in &raw.vms {
        name(Some(&vm.name), "a VM", errors);
        name(vm.program.as_ref(), "a program", errors);
        if let Some(options) = &vm.kernel_options {
            self::options(options, "kernel-options", vm.kind.as_ref().map(|kind| kind.value), errors);
        }
        command_line(vm, errors);
        reasons(&vm.talks_to, |peer| format!("The channel to {}", code(peer)), errors);
        if let Some(why) = vm.xenstore.as_ref().and_then(|ring| ring.reason.as_ref()) {
            reason(why, "The XenStore ring", errors);
        }
        if let Some(why) = &vm.accept_no_reset {
            reason(why, "`accept-no-reset`", errors);
        }
        reasons(&vm.may, |permission| format!("The permission `{permission}`"), errors);
    }
    for tenant in &raw.tenants {
        name(Some(&tenant.name), "a tenant", errors);
        reasons(&tenant.backends, |backend| format!("The backend {}", code(backend)), errors);
    }
    for guest in &raw.guests {
        name(Some(&guest.name), "a guest", errors);
        path(guest.config.as_ref(), errors);
    }
}

fn name(name: Option<&At<String>>, what: &str, errors: &mut Errors<'_>) {
    if let Some(name) = name.filter(|name| !is_name(&name.value)) {
        let message = format!("{} is no name for {what}", code(&name.value));
        errors.at(
            name.span,
            message,
            "a name is 1 to 32 of `a-z`, `0-9` and `-`, and does not begin with `-`",
        );
    }
}

fn path(path: Option<&At<String>>, errors: &mut Errors<'_>) {
    if let Some(path) = path.filter(|path| path.value.is_empty() || path.value.contains(is_unprintable)) {
        let message = format!("{} is no path of a file", code(&path.value));
        errors.at(path.span, message, "write a path relative to this file, without control characters");
    }
}

/// Xen's own options are made of it (`com1=115200,8n1`), so it is one serial port and no list.
fn xen_console(console: &At<String>, errors: &mut Errors<'_>) {
    if !matches!(console.value.as_str(), "com1" | "com2") {
        let message = format!("{} is no serial port of Xen's", code(&console.value));
        errors.at(console.span, message, "write `com1` or `com2`");
    }
}

/// What a VM is told about its channels (crate `ennead-runtime`, boot.rs) and its options must fit into its command line.
fn command_line(vm: &RawVm, errors: &mut Errors<'_>) {
    // The runtime's kernel options, `ennead.vm=NAME`, `ennead.health=DOMID:PORT`, `ennead.xenstore=DOMID` and the names of
    // the lists.
    const FIXED: usize = 224;
    const DOMID: usize = ":32751,".len();
    const DOMID_AND_GREF: usize = ":32751:4294967295,".len();
    for (key, count) in [("answers", vm.answers.len()), ("talks-to", vm.talks_to.len())] {
        if count > MAX_PEERS {
            errors.at(
                vm.name.span,
                format!("`{key}` of {} names {count} VMs", code(&vm.name.value)),
                format!("name at most {MAX_PEERS}, and divide the work between more VMs"),
            );
        }
    }
    let options = vm.kernel_options.as_ref().map_or(0, |options| options.value.len());
    let clients: usize = vm.answers.iter().map(|client| client.value.len() + DOMID).sum();
    let servers: usize = vm.talks_to.iter().map(|peer| peer.key.value.len() + DOMID_AND_GREF).sum();
    // ` ennead.quotas=`, and of each `NAME:NUMBER,`.
    let quota = |(quota, at): &(Quota, At<u32>)| quota.as_str().len() + at.value.to_string().len() + 2;
    let quotas = vm.quotas.as_ref().map_or(0, |all| 15 + all.set.iter().map(quota).sum::<usize>());
    let length = FIXED + options + clients + servers + quotas;
    if length >= COMMAND_LINE {
        errors.at(
            vm.name.span,
            format!(
                "The command line of {} could be {length} bytes long, but must be below {COMMAND_LINE}",
                code(&vm.name.value)
            ),
            "shorten its `kernel-options`, let it have fewer channels, or give its peers shorter names",
        );
    }
}

fn reasons<T>(all: &[Reasoned<T>], what: impl Fn(&T) -> String, errors: &mut Errors<'_>) {
    for reasoned in all {
        if let Some(reason) = &reasoned.reason {
            self::reason(reason, &what(&reasoned.key.value), errors);
        }
    }
}

fn reason(reason: &At<String>, what: &str, errors: &mut Errors<'_>) {
    if reason.value.trim().is_empty() {
        errors.at(
            reason.span,
            format!("{what} has no reason"),
            "say in a few words why: the reason stands in the policy and in the logs",
        );
    }
    if let Some(c) = reason.value.chars().find(|c| is_unprintable(*c)) {
        errors.at(
            reason.span,
            format!("The reason contains `{}`", c.escape_default()),
            "write it in one line, without control or invisible characters: it goes into logs and generated policy",
        );
    }
}

/// An option that Ennead sets itself. A name that ends in `*` stands for all that begin with it.
struct Reserved(&'static [&'static str], &'static str);

/// Xen's (docs/misc/xen-command-line.pandoc).
const XEN_RESERVED: &[Reserved] = &[
    Reserved(
        &["flask", "flask-*", "xsm"],
        "take it out: Xen always enforces the policy that is made from `[vm.NAME.may]` and `[vm.NAME.talks-to]`",
    ),
    Reserved(&["hardware-dom"], "take it out: it is the `domid` of the VM of kind `pciback`"),
    Reserved(&["dom0-iommu"], "take it out: it is always `strict`, for domain 0 would else see all memory"),
    Reserved(&["iommu"], "take it out and set `iommu` in `[host]`"),
    Reserved(&["dom0-mem"], "take it out and set `memory-mib` of the bootstrapper"),
    Reserved(&["dom0-max-vcpus"], "take it out and set `vcpus` of the bootstrapper"),
    Reserved(&["dom0", "dom0-*"], "take it out: domain 0 is the bootstrapper, see `[vm.bootstrapper]`"),
    Reserved(&["console"], "take it out and set `console` in `[host]`"),
];

/// Linux's (Documentation/admin-guide/kernel-parameters.txt), and the runtime's own.
const KERNEL_RESERVED: &[Reserved] = &[
    Reserved(&["init", "rdinit"], "take it out and set `program`"),
    Reserved(
        &["root", "rootfstype", "rootflags", "initrd", "noinitrd", "ro", "rw"],
        "take it out: a service VM runs from the ramdisk of its `program`",
    ),
    Reserved(
        &["console", "earlyprintk", "keep-bootcon", "printk.*"],
        "take it out: the console follows from `write-host-console` under `[vm.NAME.may]`",
    ),
    Reserved(
        &["panic", "panic-*", "oops"],
        "take it out: a panic always ends the VM; then `restart` says what happens",
    ),
    Reserved(&["xen-privcmd.*"], "take it out: what it may do with other VMs follows from `[vm.NAME.may]`"),
    Reserved(&["mem", "memmap"], "take it out and set `memory-mib`"),
    Reserved(&["maxcpus", "nr-cpus", "possible-cpus", "nosmp"], "take it out and set `vcpus`"),
    Reserved(
        &["lsm", "security", "lsm.*"],
        "take it out: the sandbox of the service VMs needs Linux's own setting",
    ),
    Reserved(&["ennead.*"], "take it out: these are the runtime's own, made from the other keys of the VM"),
];

/// Linux's, but not for the VMs that have PCI devices.
const PCI_RESERVED: Reserved = Reserved(
    &["pci"],
    "take it out: the bootstrapper has always `pci=off`, and whether another VM sees PCI follows from `devices`",
);

/// Place of a part of a string in the file; that of the whole string if it is not written there as it is.
fn within(at: &At<String>, start: usize, length: usize) -> Span {
    if at.span.end - at.span.start == at.value.len() + 2 {
        let start = at.span.start + 1 + start;
        Span { start, end: start + length }
    } else {
        at.span
    }
}

/// Options of Xen (`kind` is `None` and `key` is `xen-options`) or of a VM's kernel.
fn options(options: &At<String>, key: &str, kind: Option<Kind>, errors: &mut Errors<'_>) {
    let (text, span) = (options.value.as_str(), options.span);
    // What GRUB's shell gives a meaning (GRUB manual, 'Quoting'), and the back quote.
    let bad = |c: &char| !matches!(c, ' '..='~') || "\"'`\\$;|&<>{}#".contains(*c);
    if let Some((at, c)) = text.char_indices().find(|(_, c)| bad(c)) {
        errors.at(
            within(options, at, c.len_utf8()),
            format!("`{key}` contains `{}`", c.escape_default()),
            "write printable ASCII in one line, without quotes and ``\\ $ ; | & < > { } #``: it goes into GRUB's configuration",
        );
    }
    if text.len() > MAX_OPTIONS {
        let message = format!("`{key}` is {} bytes long", text.len());
        errors.at(span, message, format!("write at most {MAX_OPTIONS}: command lines are short"));
    }
    let xen = key == "xen-options";
    let mut next = 0;
    for word in text.split(' ') {
        let span = within(options, next, word.len());
        next += word.len() + 1;
        if word == "--" {
            let help = "take it out: what follows it is no option any more, but goes to another program";
            errors.at(span, format!("`{key}` contains `--`"), help);
            continue;
        }
        // Both Xen and Linux take `-` and `_` for the same; Xen knows `no-` before a name.
        let name = word.split('=').next().unwrap_or(word).replace('_', "-").to_ascii_lowercase();
        let positive = if xen { name.strip_prefix("no-").unwrap_or(&name) } else { &name };
        let reserved = if xen { XEN_RESERVED } else { KERNEL_RESERVED };
        let has_pci = matches!(kind, None | Some(Kind::Pciback | Kind::Netback | Kind::Blkback));
        let pci = if xen || has_pci { None } else { Some(&PCI_RESERVED) };
        let hit = reserved.iter().chain(pci).find(|reserved| {
            reserved.0.iter().any(|own| match own.strip_suffix('*') {
                Some(start) => positive.starts_with(start),
                None => positive == *own,
            })
        });
        if let Some(Reserved(_, help)) = hit {
            errors.at(span, format!("`{key}` contains {}, which Ennead sets itself", code(word)), *help);
        }
    }
}
