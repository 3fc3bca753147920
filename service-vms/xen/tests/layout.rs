//! `src/sys.rs` against the installed headers: a C program prints every size, offset and number, as the compiler
//! sees them, and each must be what Rust has. Needs `cc` and libxen-dev 4.17.

#[path = "../src/sys.rs"]
mod sys;

use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::{offset_of, size_of};
use std::process::{Command, Stdio};

const HEADERS: &str = "
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <xen/xen.h>
#include <xen/memory.h>
#include <xen/grant_table.h>
#include <xen/event_channel.h>
#include <xen/hvm/params.h>
#include <xen/arch-x86/hvm/start_info.h>
#include <xen/sys/evtchn.h>
#include <xen/sys/gntdev.h>
#include <xen/sys/gntalloc.h>
#include <xen/sys/privcmd.h>
";

/// A C expression and the value that Rust has for it.
type Fact = (String, u64);

/// Size and alignment of a structure, offset and size of each field; fields with another name in C say so.
macro_rules! structure {
    ($facts:ident, $rust:ident = $c:literal { $($field:ident $(= $c_field:literal)?),* $(,)? }) => {
        $facts.push((format!("sizeof({})", $c), size_of::<sys::$rust>() as u64));
        $facts.push((format!("_Alignof({})", $c), align_of::<sys::$rust>() as u64));
        let mut covered = 0;
        $(
            let field = [$($c_field,)? stringify!($field)][0];
            let size = size_of_field(|s: &sys::$rust| &s.$field);
            covered += size;
            $facts.push((format!("offsetof({}, {field})", $c), offset_of!(sys::$rust, $field) as u64));
            $facts.push((format!("sizeof((({} *)0)->{field})", $c), size as u64));
        )*
        assert!(size_of::<sys::$rust>() - covered < 8, "{}: a field is not compared", $c);
    };
}

macro_rules! numbers {
    ($facts:ident, $($rust:ident = $c:ident),* $(,)?) => {
        $( $facts.push((stringify!($c).to_owned(), u64::from(sys::$rust))); )*
    };
}

fn size_of_field<S, F>(_: impl Fn(&S) -> &F) -> usize {
    size_of::<F>()
}

fn facts() -> Vec<Fact> {
    let mut facts = Vec::new();
    structure!(facts, EvtchnBindVirq = "struct ioctl_evtchn_bind_virq" { virq });
    structure!(facts, EvtchnBindInterdomain = "struct ioctl_evtchn_bind_interdomain" { remote_domain, remote_port });
    structure!(facts, EvtchnBindUnboundPort = "struct ioctl_evtchn_bind_unbound_port" { remote_domain });
    structure!(facts, EvtchnUnbind = "struct ioctl_evtchn_unbind" { port });
    structure!(facts, EvtchnNotify = "struct ioctl_evtchn_notify" { port });
    structure!(facts, EvtchnRestrictDomid = "struct ioctl_evtchn_restrict_domid" { domid });
    structure!(facts, GntdevGrantRef = "struct ioctl_gntdev_grant_ref" { domid, gref = "ref" });
    structure!(facts, GntdevMapGrantRef = "struct ioctl_gntdev_map_grant_ref" { count, pad, index, refs });
    structure!(facts, GntdevGrantCopySegment = "struct ioctl_gntdev_grant_copy_segment" {
        source, dest, len, flags, status
    });
    structure!(facts, GntdevGrantCopy = "struct ioctl_gntdev_grant_copy" { count, segments });
    structure!(facts, GntallocAllocGref = "struct ioctl_gntalloc_alloc_gref" {
        domid, flags, count, index, gref_ids
    });
    structure!(facts, PrivcmdHypercall = "struct privcmd_hypercall" { op, arg });
    structure!(facts, PrivcmdMmapbatchV2 = "struct privcmd_mmapbatch_v2" { num, dom, addr, arr, err });
    structure!(facts, PrivcmdMmapResource = "struct privcmd_mmap_resource" {
        dom, kind = "type", id, idx, num, addr
    });
    structure!(facts, GrantEntryV1 = "struct grant_entry_v1" { flags, domid, frame });
    numbers!(
        facts,
        IOCTL_EVTCHN_BIND_VIRQ = IOCTL_EVTCHN_BIND_VIRQ,
        IOCTL_EVTCHN_BIND_INTERDOMAIN = IOCTL_EVTCHN_BIND_INTERDOMAIN,
        IOCTL_EVTCHN_BIND_UNBOUND_PORT = IOCTL_EVTCHN_BIND_UNBOUND_PORT,
        IOCTL_EVTCHN_UNBIND = IOCTL_EVTCHN_UNBIND,
        IOCTL_EVTCHN_NOTIFY = IOCTL_EVTCHN_NOTIFY,
        IOCTL_EVTCHN_RESTRICT_DOMID = IOCTL_EVTCHN_RESTRICT_DOMID,
        IOCTL_GNTDEV_MAP_GRANT_REF = IOCTL_GNTDEV_MAP_GRANT_REF,
        IOCTL_GNTDEV_GRANT_COPY = IOCTL_GNTDEV_GRANT_COPY,
        IOCTL_GNTALLOC_ALLOC_GREF = IOCTL_GNTALLOC_ALLOC_GREF,
        GNTALLOC_FLAG_WRITABLE = GNTALLOC_FLAG_WRITABLE,
        IOCTL_PRIVCMD_HYPERCALL = IOCTL_PRIVCMD_HYPERCALL,
        IOCTL_PRIVCMD_MMAPBATCH_V2 = IOCTL_PRIVCMD_MMAPBATCH_V2,
        IOCTL_PRIVCMD_MMAP_RESOURCE = IOCTL_PRIVCMD_MMAP_RESOURCE,
        DOMID_SELF = DOMID_SELF,
        DOMID_FIRST_RESERVED = DOMID_FIRST_RESERVED,
        VIRQ_CONSOLE = VIRQ_CONSOLE,
        VIRQ_DOM_EXC = VIRQ_DOM_EXC,
        XENMEM_RESOURCE_GRANT_TABLE = XENMEM_resource_grant_table,
        XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED = XENMEM_resource_grant_table_id_shared,
        GTF_PERMIT_ACCESS = GTF_permit_access,
        GNTCOPY_SOURCE_GREF = GNTCOPY_source_gref,
        GNTCOPY_DEST_GREF = GNTCOPY_dest_gref,
        HVM_PARAM_STORE_PFN = HVM_PARAM_STORE_PFN,
        HVM_PARAM_STORE_EVTCHN = HVM_PARAM_STORE_EVTCHN,
        HVM_PARAM_IDENT_PT = HVM_PARAM_IDENT_PT,
        HVM_PARAM_CONSOLE_PFN = HVM_PARAM_CONSOLE_PFN,
        HVM_PARAM_CONSOLE_EVTCHN = HVM_PARAM_CONSOLE_EVTCHN,
        XEN_HVM_MEMMAP_TYPE_RAM = XEN_HVM_MEMMAP_TYPE_RAM,
        XEN_HVM_MEMMAP_TYPE_RESERVED = XEN_HVM_MEMMAP_TYPE_RESERVED,
        XEN_HVM_MEMMAP_TYPE_ACPI = XEN_HVM_MEMMAP_TYPE_ACPI,
    );
    facts
}

/// The values of C expressions, by a compiled and run program.
fn values_in_c(facts: &[Fact]) -> Vec<u64> {
    let mut source = format!("{HEADERS}int main(void) {{\n");
    for (expression, _) in facts {
        writeln!(source, "  printf(\"%llu\\n\", (unsigned long long)({expression}));").unwrap();
    }
    source.push_str("  return 0;\n}\n");
    let program = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("layout");
    let mut cc = Command::new("cc")
        .args(["-x", "c", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .expect("cc is needed for this test");
    cc.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(cc.wait().unwrap().success(), "libxen-dev 4.17 is needed for this test");
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|l| l.parse().unwrap()).collect()
}

#[test]
fn sys_is_what_the_headers_say() {
    let facts = facts();
    let values = values_in_c(&facts);
    assert_eq!(values.len(), facts.len());
    let wrong: Vec<_> = facts
        .iter()
        .zip(values)
        .filter(|((_, rust), c)| rust != c)
        .map(|((expression, rust), c)| format!("{expression}: {c:#x} in C, {rust:#x} in Rust"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_number_and_structure_is_compared() {
    let source = include_str!("../src/sys.rs");
    let this = include_str!("layout.rs");
    for line in source.lines() {
        let name = line.strip_prefix("pub(crate) const ").or_else(|| line.strip_prefix("pub(crate) struct "));
        if let Some(name) = name.and_then(|n| n.split([':', ' ', '<']).next()) {
            assert!(this.contains(&format!("{name} = ")), "{name} is not compared with the headers");
        }
    }
}
