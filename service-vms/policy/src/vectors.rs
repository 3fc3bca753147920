//! Reads the access vectors of the Xen that is being built, so that a permission which that Xen does not know is an error here
//! and not a silent gap on the host.

use std::collections::BTreeMap;

use crate::Error;

/// The text of Xen's three policy headers (`xen/xsm/flask/policy/`).
#[derive(Debug, Clone)]
pub struct XenVectors<'a> {
    /// `security_classes`: the classes in the order that the hypervisor was compiled with.
    pub security_classes: &'a str,
    /// `initial_sids`: likewise.
    pub initial_sids: &'a str,
    /// `access_vectors`: the permissions of each class.
    pub access_vectors: &'a str,
}

/// The same, parsed. Order matters to the hypervisor and is kept.
#[derive(Debug, Clone)]
pub(crate) struct Vectors {
    pub(crate) classes: Vec<String>,
    pub(crate) initial_sids: Vec<String>,
    pub(crate) permissions: BTreeMap<String, Vec<String>>,
}

impl Vectors {
    pub(crate) fn parse(xen: &XenVectors<'_>) -> Result<Self, Error> {
        let classes = keyword_lines(xen.security_classes, "class");
        let initial_sids = keyword_lines(xen.initial_sids, "sid");
        if classes.is_empty() || initial_sids.is_empty() {
            return Err(Error::Vectors("security_classes and initial_sids name nothing".into()));
        }
        Ok(Self { permissions: access_vectors(xen.access_vectors, &classes)?, classes, initial_sids })
    }

    pub(crate) fn knows(&self, class: &str, permission: &str) -> bool {
        self.permissions.get(class).is_some_and(|known| known.iter().any(|name| name == permission))
    }
}

fn without_comment(line: &str) -> &str {
    line.split_once('#').map_or(line, |(code, _)| code).trim()
}

/// `KEYWORD NAME` lines, in order.
fn keyword_lines(text: &str, keyword: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| without_comment(line).strip_prefix(keyword)?.strip_prefix(' '))
        .map(|name| name.trim().to_owned())
        .collect()
}

fn access_vectors(text: &str, classes: &[String]) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let code: String = text.lines().map(without_comment).collect::<Vec<_>>().join(" ");
    let mut permissions = BTreeMap::new();
    for block in code.split('}').map(str::trim).filter(|block| !block.is_empty()) {
        let (head, body) =
            block.split_once('{').ok_or_else(|| Error::Vectors(format!("no `{{` after `{block}`")))?;
        let name = head
            .trim()
            .strip_prefix("class ")
            .ok_or_else(|| Error::Vectors(format!("expected `class NAME`, found `{head}`")))?
            .trim();
        if !classes.iter().any(|class| class == name) {
            return Err(Error::Vectors(format!("class `{name}` is not in security_classes")));
        }
        permissions.insert(name.to_owned(), body.split_whitespace().map(str::to_owned).collect());
    }
    Ok(permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_keep_their_order_and_comments_are_passed_over() {
        let v = Vectors::parse(&XenVectors {
            security_classes: "# x\nclass xen\nclass domain # y\n",
            initial_sids: "sid xenboot\nsid xen\n",
            access_vectors: "class xen\n{\n# c\n  one\n two # d\n}\nclass domain { create }",
        })
        .expect("valid");
        assert_eq!(v.classes, ["xen", "domain"]);
        assert_eq!(v.initial_sids, ["xenboot", "xen"]);
        assert!(v.knows("xen", "two") && v.knows("domain", "create"));
        assert!(!v.knows("xen", "create") && !v.knows("nothing", "one"));
    }

    #[test]
    fn a_class_that_is_nowhere_declared_is_an_error() {
        let e = Vectors::parse(&XenVectors {
            security_classes: "class xen",
            initial_sids: "sid xen",
            access_vectors: "class mmu { map }",
        });
        assert_eq!(
            e.expect_err("unknown class").to_string(),
            "Xen's access vectors are not as expected: class `mmu` is not in security_classes"
        );
    }
}
