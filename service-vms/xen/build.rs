//! Makes `libxenctrl` link into static programs without any flag in the program's own crate.
//!
//! `xenctrl-sys` asks for `dylib=xenctrl`. In a static-pie program the linker would take `libxenctrl.so`, and the
//! program would crash at its start. So for `+crt-static` this puts a directory first on the search path with one
//! file, `libxenctrl.a`: a linker script that names the static archives of libxenctrl and of all it needs, as a group.
//! Both GNU ld and lld read such scripts. Dynamic builds (`cargo test`) need nothing.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// libxenctrl of Xen 4.17 and everything it links to.
const CLOSURE: [&str; 8] = [
    "xenctrl",
    "xencall",
    "xenforeignmemory",
    "xengnttab",
    "xenevtchn",
    "xendevicemodel",
    "xentoollog",
    "xentoolcore",
];
const VARIABLE: &str = "ENNEAD_XEN_LIBDIR";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|f| f == "crt-static");
    if env::var_os("CARGO_FEATURE_CONTROL").is_none() || !is_static {
        return;
    }
    let Some(archives) = candidates().iter().find_map(|dir| archives_in(dir)) else {
        println!("cargo:warning=No static libxen*.a found: install libxen-dev 4.17 or set {VARIABLE}");
        return;
    };
    let script = archives.iter().map(|p| format!("\"{}\"", p.display())).collect::<Vec<_>>().join(" ");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("static");
    if let Err(e) = fs::create_dir_all(&out)
        .and_then(|()| fs::write(out.join("libxenctrl.a"), format!("GROUP ( {script} )\n")))
    {
        println!("cargo:warning=Cannot write {}: {e}", out.display());
    }
    println!("cargo:rustc-link-search=native={}", out.display());
}

fn candidates() -> Vec<PathBuf> {
    let usual = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    env::var_os(VARIABLE).map_or_else(|| usual.map(PathBuf::from).to_vec(), |dir| vec![PathBuf::from(dir)])
}

fn archives_in(dir: &Path) -> Option<Vec<PathBuf>> {
    let archive = |lib: &str| Some(dir.join(format!("lib{lib}.a"))).filter(|p| p.is_file());
    let mut all = CLOSURE.iter().map(|lib| archive(lib)).collect::<Option<Vec<_>>>()?;
    // rustc names libc before us, and GNU ld does not look back.
    all.extend(archive("c"));
    Some(all)
}
