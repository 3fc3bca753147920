//! Random requests of an operator and two guests, held against a store that is as simple as can be.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use proptest::prelude::*;

use super::world::World;
use crate::{Conn, State};

/// A node: value, permissions as they are listed, and when it was created.
type Node = (String, Vec<String>, u64);

/// A store without snapshots, quotas or watches.
#[derive(Debug, Clone)]
struct Model {
    nodes: BTreeMap<String, Node>,
    created: u64,
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

impl Model {
    fn new() -> Self {
        let mut model = Self { nodes: BTreeMap::new(), created: 0 };
        for path in ["/", "/tool", "/tool/xenstored"] {
            model.add(path, "", ["n0".to_string()].into());
        }
        model
    }

    fn add(&mut self, path: &str, value: &str, perms: Vec<String>) {
        self.created += 1;
        self.nodes.insert(path.into(), (value.into(), perms, self.created));
    }

    /// r, w and o (owner) for domain `who` (0: the operator).
    fn rights(&self, who: u16, path: &str) -> String {
        let (_, perms, _) = &self.nodes[path];
        if who == 0 || perms[0][1..] == who.to_string() {
            return "rwo".into();
        }
        let named = perms[1..].iter().find(|perm| perm[1..] == who.to_string());
        named.unwrap_or(&perms[0])[..1].replace('b', "rw").replace('n', "")
    }

    fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// An error, if `who` may not do `need` (all of it) or there is no such node.
    fn refused(&self, who: u16, path: &str, need: &str) -> Option<&'static str> {
        if self.has(path) {
            let rights = self.rights(who, path);
            return (!need.chars().all(|right| rights.contains(right))).then_some("EACCES|");
        }
        let mut above = parent(path);
        while !self.has(above) {
            above = parent(above);
        }
        let rights = self.rights(who, above);
        Some(if need.chars().any(|right| rights.contains(right)) { "ENOENT|" } else { "EACCES|" })
    }

    fn create(&mut self, who: u16, path: &str, value: &str) {
        let up = parent(path).to_string();
        if !self.has(&up) {
            self.create(who, &up, "");
        }
        let mut perms = self.nodes[&up].1.clone();
        if who != 0 {
            perms[0] = format!("{}{who}", &perms[0][..1]);
        }
        self.add(path, value, perms);
    }

    fn answer(&mut self, who: u16, request: &str) -> String {
        let mut words = request.splitn(3, ' ');
        let mut next = || words.next().unwrap_or_default();
        let (op, path, rest) = (next(), next(), next());
        let need = match op {
            "read" | "ls" | "perms" => "r",
            "chmod" => "wo",
            _ => "w",
        };
        match (op, self.refused(who, path, need)) {
            ("write", Some("ENOENT|")) => self.create(who, path, rest),
            ("mkdir", Some("ENOENT|")) => self.create(who, path, ""),
            ("rm", Some("ENOENT|")) if self.has(parent(path)) => {}
            (_, Some(errno)) => return errno.into(),
            ("read", None) => return self.nodes[path].0.clone(),
            ("perms", None) => return self.nodes[path].1.join("|") + "|",
            ("ls", None) => {
                let mut kids: Vec<_> =
                    self.nodes.iter().filter(|(kid, _)| *kid != "/" && parent(kid) == path).collect();
                kids.sort_by_key(|(_, node)| node.2);
                return kids
                    .iter()
                    .map(|(kid, _)| format!("{}|", &kid[kid.rfind('/').unwrap() + 1..]))
                    .collect();
            }
            ("write", None) => self.nodes.get_mut(path).unwrap().0 = rest.into(),
            ("mkdir", None) => {}
            ("rm", None) => {
                self.nodes.retain(|at, _| at != path && !at.starts_with(&format!("{path}/")));
            }
            ("chmod", None) => {
                let perms: Vec<String> = rest.split(' ').map(String::from).collect();
                let node = self.nodes.get_mut(path).unwrap();
                if who != 0 && perms[0][1..] != node.1[0][1..] {
                    return "EPERM|".into();
                }
                node.1 = perms;
            }
            _ => unreachable!("{op}"),
        }
        "OK|".into()
    }

    /// Everything but the numbers, children in order.
    fn all(&self) -> Vec<(String, String, String)> {
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by_key(|(path, node)| (parent(path).to_string(), node.2));
        nodes.iter().map(|(path, node)| ((*path).clone(), node.0.clone(), node.1.join(" "))).collect()
    }
}

/// The same of what State holds.
fn all(state: &State) -> Vec<(String, String, String)> {
    let tree = &state.store.tree;
    let mut nodes = Vec::new();
    tree.walk(state.store.root, b"/", |id, path| {
        let perms = tree.perms.get(tree.perms(id)).iter();
        let perms: Vec<_> =
            perms.map(|entry| format!("{}{}", char::from(entry.access.letter()), entry.domid)).collect();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        nodes.push((text(path), text(tree.value(id)), perms.join(" ")));
        true
    });
    nodes.sort_by_key(|(path, ..)| parent(path).to_string());
    nodes
}

#[derive(Debug, Clone)]
enum Step {
    /// A request of client 0 (the operator), 1 or 2; in its transaction, if it has one and `inside`.
    Ask {
        who: u16,
        inside: bool,
        request: String,
    },
    Start {
        who: u16,
    },
    End {
        who: u16,
        commit: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..4)
        .prop_map(|names| format!("/{}", names.join("/")));
    let perm = (prop::sample::select(vec!['n', 'r', 'w', 'b', 'b']), 0..3u16);
    let perms = prop::collection::vec(perm, 1..4).prop_map(|perms| {
        perms.iter().map(|(letter, domid)| format!("{letter}{domid}")).collect::<Vec<_>>().join(" ")
    });
    let request = (0..16u8, path, perms, 0..3u8).prop_map(|(op, path, perms, value)| match op {
        0..=4 => format!("write {path} {value}"),
        5..=6 => format!("mkdir {path}"),
        7..=8 if path != "/" => format!("rm {path}"),
        9..=11 => format!("chmod {path} {perms}"),
        12 => format!("perms {path}"),
        13..=14 => format!("ls {path}"),
        _ => format!("read {path}"),
    });
    let step = prop_oneof![
        12 => (0..3u16, prop::bool::weighted(0.7), request)
            .prop_map(|(who, inside, request)| Step::Ask { who, inside, request }),
        1 => (0..3u16).prop_map(|who| Step::Start { who }),
        2 => (0..3u16, prop::bool::weighted(0.8)).prop_map(|(who, commit)| Step::End { who, commit }),
    ];
    prop::collection::vec(step, 1..80)
}

/// A client's open transaction: what it saw, and whether anybody else changed anything since it started.
struct Open {
    id: u32,
    own: Model,
    log: Vec<(String, String)>,
    alone: bool,
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut w = World::new();
    let mut clients: Vec<Conn> = [w.operator].into();
    for domid in [1, 2] {
        w.state.created(domid, None);
        clients.push(w.state.introduce(domid, 1, None).expect("it is a domain"));
    }
    let mut model = Model::new();
    let mut open: [Option<Open>; 3] = [None, None, None];
    for step in steps {
        let before = model.all();
        match step {
            Step::Ask { who, inside, request } => {
                let conn = clients[usize::from(*who)];
                match open[usize::from(*who)].as_mut().filter(|_| *inside) {
                    Some(txn) => {
                        let answer = w.within(conn, txn.id, request);
                        prop_assert_eq!(
                            &answer,
                            &txn.own.answer(*who, request),
                            "{} in transaction",
                            request
                        );
                        txn.log.push((request.clone(), answer));
                    }
                    None => {
                        let answer = w.by(conn, request);
                        prop_assert_eq!(&answer, &model.answer(*who, request), "{}", request);
                        if answer == "OK|" {
                            open.iter_mut().flatten().for_each(|txn| txn.alone = false);
                        }
                    }
                }
            }
            Step::Start { who } => {
                let client = usize::from(*who);
                if open[client].is_none() {
                    let id = w.start(clients[client]);
                    open[client] = Some(Open { id, own: model.clone(), log: Vec::new(), alone: true });
                }
            }
            Step::End { who, commit } => {
                let client = usize::from(*who);
                let Some(txn) = open[client].take() else { continue };
                let request = if *commit { "commit" } else { "abort" };
                match w.within(clients[client], txn.id, request).as_str() {
                    // As if all of it happened now: each answer is what it would be now.
                    "OK|" if *commit => {
                        for (request, answer) in &txn.log {
                            prop_assert_eq!(&model.answer(*who, request), answer, "{} at commit", request);
                        }
                        open.iter_mut().flatten().for_each(|txn| txn.alone = false);
                    }
                    "OK|" => {}
                    "EAGAIN|" => {
                        prop_assert!(!txn.alone, "nothing else happened");
                        prop_assert_eq!(&before, &all(&w.state));
                    }
                    other => prop_assert!(false, "{}", other),
                }
            }
        }
        prop_assert_eq!(model.all(), all(&w.state), "after {:?}", step);
        prop_assert_eq!(w.state.check(), Ok(()), "after {:?}", step);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_that_of_the_model(steps in steps()) {
        run(&steps)?;
    }
}
