//! tmp
use std::process::ExitCode;
/// tmp
pub fn main() -> ExitCode {
    let r = (|| -> anyhow::Result<()> {
        let cache = crate::cache::Cache::from_environment()?;
        let p = crate::progress::Progress::for_stderr();
        let mut o = crate::host::Options::standard();
        if let Some(m) = std::env::args().nth(1) { o.manifest = m.into(); }
        if let Some(m) = std::env::args().nth(2) { o.out = m.into(); }
        let h = crate::host::build(&cache, p, &o)?;
        h.write_iso(&cache, p, &o.out)
    })();
    match r { Ok(()) => ExitCode::SUCCESS, Err(e) => { eprintln!("{e:#}"); ExitCode::FAILURE } }
}
