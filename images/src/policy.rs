//! The FLASK policy as the binary file that Xen takes as a boot module.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use ennead_manifest::Plan;
use ennead_policy::{Policy, XenVectors};

use crate::cache::{Cache, Key};
use crate::packages;
use crate::progress::Progress;
use crate::step::size;
use crate::xen::{Xen, file_size, write};

/// Version of the policy format that this Xen reads (Xen's Makefile takes the same from its own tool).
const FORMAT: &str = "30";

/// The policy of a plan for this Xen, before it is text.
///
/// # Errors
/// When Xen's access vectors and the policy's rules do not match.
pub fn policy(xen: &Xen, plan: &Plan) -> Result<Policy> {
    let access_vectors = xen.flask_file("access_vectors")?;
    let security_classes = xen.flask_file("security_classes")?;
    let initial_sids = xen.flask_file("initial_sids")?;
    let vectors = XenVectors {
        access_vectors: &access_vectors,
        security_classes: &security_classes,
        initial_sids: &initial_sids,
    };
    Policy::new(plan, &vectors).context("Cannot make the FLASK policy")
}

/// Builds the binary policy with further rules, or takes it from the cache.
///
/// # Errors
/// When the policy cannot be made or `checkpolicy` refuses it.
pub fn build(cache: &Cache, progress: Progress, xen: &Xen, plan: &Plan, rules: &str) -> Result<Vec<u8>> {
    let source = policy(xen, plan)?.source().context("Cannot write the FLASK policy")?;
    // Where the others are.
    let source = source.replacen("\nallow ", &format!("\n{rules}\nallow "), 1);
    let version = packages::installed_version("checkpolicy")?.context("Package checkpolicy is missing")?;
    let key = Key::new("policy 1").with("checkpolicy", version).with("source", &source);
    let mut step = progress.step("FLASK policy");
    let dir = cache.artefact("policy", &key, &mut step, |dir, step| {
        write(&dir.join("policy.conf"), &source)?;
        step.run(
            Command::new("checkpolicy")
                .args(["-t", "Xen", "-c", FORMAT, "-o", "policy.bin", "policy.conf"])
                .current_dir(dir),
        )
    })?;
    let path = dir.join("policy.bin");
    step.done(&size(file_size(&path)?));
    fs::read(&path).with_context(|| format!("Cannot read {}", path.display()))
}
