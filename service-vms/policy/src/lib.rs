//! Plan -> FLASK policy; policy -> why may A do X to B.
//!
//! Xen asks FLASK before every privileged operation: may the caller's *type* use this *permission* of this *class* on the
//! target's type? The policy that answers is generated here from the checked manifest and from the access vectors of the Xen
//! that is being built. It is closed by default: what no rule allows is refused. Each rule carries the manifest line that it
//! comes from, so [`Policy::explain`] can say why.
//!
//! Types: a service VM of kind `k` runs as `k_t`; while its memory is being filled it is `k_building_t`, and only then may
//! its builder map that memory. pciback starts as `pciback_starting_t` and is sealed to `pciback_t`. `k_self_t` is what Xen
//! calls "the domain itself", so that two VMs of one type have no rights over each other. Event channels that `k` opens are
//! `k_channel_t`. A tenant's toolstack is `toolstack_TENANT_t` and its guests are `guest_TENANT_t`, and likewise.
#![forbid(unsafe_code)]

mod rules;
mod source;
mod vectors;

use std::collections::BTreeSet;
use std::fmt;

use ennead_manifest::Plan;

use vectors::Vectors;
pub use vectors::XenVectors;

/// The attribute that all domains' types have.
const EVERY_VM: &str = "domain_type";

/// Why a policy could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Xen's policy headers do not parse.
    #[error("Xen's access vectors are not as expected: {0}")]
    Vectors(String),
    /// A rule names a permission that this Xen does not have.
    #[error(
        "this Xen has no permission `{permission}` in class `{class}`: the policy's rules and the Xen source do not match"
    )]
    UnknownPermission {
        /// Class of the rule.
        class: String,
        /// The unknown permission.
        permission: String,
    },
    /// An initial SID of this Xen has no type in the policy.
    #[error("this Xen has an initial SID `{0}` that the policy gives no type")]
    UnknownSid(String),
    /// `explain` was asked for a name that is not in the manifest.
    #[error("the manifest has no VM, tenant or Xen object `{name}`; there are: {known}")]
    UnknownName {
        /// The name asked for.
        name: String,
        /// All names.
        known: String,
    },
}

/// Where a rule comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Line in the manifest, from 1.
    pub line: u32,
    /// The manifest's words: a permission and its reason, or what a VM of this kind always needs.
    pub reason: String,
}

/// One rule: `source` may use `permissions` of `class` on `target`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Type that acts.
    pub source: String,
    /// Type that is acted on.
    pub target: String,
    /// Class of access vectors.
    pub class: &'static str,
    /// Permissions of that class.
    pub permissions: BTreeSet<&'static str>,
    /// Refuse it as ever, but do not log it: what Linux merely probes.
    pub silent_refusal: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// A type transition: what `source` creates or becomes towards `target`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Transition {
    source: String,
    target: String,
    class: &'static str,
    result: String,
}

/// A policy, before it is text.
#[derive(Debug, Clone)]
pub struct Policy {
    vectors: Vectors,
    domain_types: BTreeSet<String>,
    other_types: BTreeSet<String>,
    transitions: BTreeSet<Transition>,
    rules: Vec<Rule>,
    /// Types of each tenant: its toolstack's and its guests'.
    tenants: Vec<BTreeSet<String>>,
    /// Name in the manifest -> its types.
    names: Vec<(String, BTreeSet<String>)>,
}

impl Policy {
    /// Makes the policy of `plan` for the Xen with these access vectors.
    ///
    /// # Errors
    /// When Xen's headers do not parse or lack something that a rule names.
    pub fn new(plan: &Plan, xen: &XenVectors<'_>) -> Result<Self, Error> {
        let policy = rules::policy(plan, Vectors::parse(xen)?);
        for rule in &policy.rules {
            for permission in &rule.permissions {
                if !policy.vectors.knows(rule.class, permission) {
                    return Err(Error::UnknownPermission {
                        class: rule.class.to_owned(),
                        permission: (*permission).to_owned(),
                    });
                }
            }
        }
        Ok(policy)
    }

    /// All rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The policy as text for `checkpolicy -t Xen -c 30`.
    ///
    /// # Errors
    /// When this Xen has an initial SID that the policy does not know.
    pub fn source(&self) -> Result<String, Error> {
        source::text(self)
    }

    /// What `a` may do to `b`, both names of the manifest (or a Xen object such as `xen`), with the line for each permission.
    ///
    /// # Errors
    /// When one of the names is unknown.
    pub fn explain(&self, a: &str, b: &str) -> Result<Explanation, Error> {
        let (from, to) = (self.types_of(a)?, self.types_of(b)?);
        let is_vm = to.iter().any(|t| self.domain_types.contains(t));
        let mut rules: Vec<Rule> = self
            .rules
            .iter()
            .filter(|rule| !rule.silent_refusal && from.contains(&rule.source))
            .filter(|rule| to.contains(&rule.target) || (rule.target == EVERY_VM && is_vm))
            // Of the types of `a` itself, "self" is the target only when `a` and `b` are one.
            .filter(|rule| a == b || !rule.target.ends_with("_self_t"))
            .cloned()
            .collect();
        rules.sort_by(|x, y| (x.origin.line, &x.target, x.class).cmp(&(y.origin.line, &y.target, y.class)));
        Ok(Explanation { a: a.to_owned(), b: b.to_owned(), rules })
    }

    /// Types of VMs that somebody built and that now run: their memory is their own.
    fn running_types(&self) -> impl Iterator<Item = &str> {
        let built = |t: &&String| {
            let stem = t.strip_suffix("_starting_t").or(t.strip_suffix("_t"));
            stem.is_some_and(|stem| self.domain_types.contains(&format!("{stem}_building_t")))
        };
        self.domain_types.iter().filter(built).map(String::as_str)
    }

    fn types_of(&self, name: &str) -> Result<&BTreeSet<String>, Error> {
        self.names.iter().find(|(known, _)| known == name).map(|(_, types)| types).ok_or_else(|| {
            Error::UnknownName {
                name: name.to_owned(),
                known: self.names.iter().map(|(known, _)| known.as_str()).collect::<Vec<_>>().join(", "),
            }
        })
    }
}

/// The answer of [`Policy::explain`]; its `Display` is for people.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Who acts.
    pub a: String,
    /// Who is acted on.
    pub b: String,
    /// Rules that allow it, by manifest line.
    pub rules: Vec<Rule>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return writeln!(
                f,
                "{} may do nothing to {}: no line of the manifest allows anything.",
                self.a, self.b
            );
        }
        let mut last = None;
        for rule in &self.rules {
            if last != Some(&rule.origin) {
                writeln!(f, "line {}: {}", rule.origin.line, rule.origin.reason)?;
                last = Some(&rule.origin);
            }
            let permissions = rule.permissions.iter().copied().collect::<Vec<_>>().join(" ");
            writeln!(f, "    {} -> {} : {} {{ {permissions} }}", rule.source, rule.target, rule.class)?;
        }
        Ok(())
    }
}
