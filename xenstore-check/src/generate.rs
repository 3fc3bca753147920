//! Generates sequences of actions. A seed always gives the same sequence.
//!
//! Not generated, because daemons answer differently on purpose or C xenstored 4.17 has a fault there:
//! - payloads without NUL and domids that are no numbers (C: the last error of any request, or domain 0);
//! - RESET_WATCHES in a transaction (C: assertion, XSA-484);
//! - SET_PERMS on a special path that is refused (C: the last error of any request, or an assertion);
//! - in a transaction, a node that was changed outside since START (C reads the new state, ours that of START): a
//!   transaction does not look into a [`Region`] that anybody else has changed since it began.

mod rare;

use std::collections::VecDeque;

use ennead_xs_wire::{Access, Perm, Request};
use fastrand::Rng;

use crate::action::{Action, Tx, Who};
use crate::universe::{GUESTS, REGIONS, Region, odd_path, perms, pick, value};
use crate::world::OPERATORS;

const TOKENS: [&[u8]; 5] = [b"t", b"u", b"token-3", b"", b"t"];

/// A transaction that was started and not ended.
#[derive(Debug)]
struct Open {
    who: Who,
    slot: u16,
    stale: Vec<Region>,
    wrote: Vec<Region>,
}

#[derive(Debug)]
struct Generator {
    rng: Rng,
    actions: VecDeque<Action>,
    open: Vec<Open>,
    next_slot: u16,
    alive: Vec<u16>,
    /// Domains whose home surely exists.
    homes: Vec<u16>,
    /// Which domain was given whose rights. A target goes only after that domain: see [`crate::world`].
    targets: Vec<(u16, u16)>,
    /// Regions with very many nodes.
    large: Vec<Region>,
    /// Watches that were asked for: to be taken back, or asked for again.
    watched: Vec<(Who, Vec<u8>, Vec<u8>)>,
}

/// The sequence of a seed: the preparations and `steps` actions more.
#[must_use]
pub fn sequence(seed: u64, steps: usize) -> Vec<Action> {
    let mut generator = Generator {
        rng: Rng::with_seed(seed),
        actions: VecDeque::new(),
        open: Vec::new(),
        next_slot: 0,
        alive: Vec::new(),
        homes: Vec::new(),
        targets: Vec::new(),
        large: Vec::new(),
        watched: Vec::new(),
    };
    generator.prepare();
    let length = generator.actions.len().saturating_add(steps);
    while generator.actions.len() < length {
        generator.step();
    }
    generator.actions.truncate(length);
    generator.actions.into()
}

impl Generator {
    /// The regions' roots: one for everybody, one for some, one for the operator; and the guests with their homes.
    fn prepare(&mut self) {
        for domid in GUESTS {
            self.create(domid);
        }
        let entry = |access, domid| Perm { access, domid };
        let lists = [
            (b'a', vec![entry(Access::Both, 0)]),
            (
                b'b',
                vec![
                    entry(Access::None, 0),
                    entry(Access::Read, 1),
                    entry(Access::Write, 2),
                    entry(Access::Both, 3),
                ],
            ),
            (b'c', vec![entry(Access::Read, 0)]),
        ];
        for (name, perms) in lists {
            let path = Region::Shared(name).root();
            self.ask(Who::Operator(0), &Request::Mkdir { path: &path });
            self.ask(Who::Operator(0), &Request::SetPerms { path: &path, perms });
        }
    }

    fn create(&mut self, domid: u16) {
        self.stale(&REGIONS);
        self.alive.push(domid);
        self.homes.push(domid);
        self.actions.push_back(Action::Create(domid));
        let home = Region::Home(domid).root();
        let data = [home.as_slice(), b"/data"].concat();
        let other = pick(&mut self.rng, &GUESTS).unwrap_or(1);
        for (path, access) in [(&home, Access::None), (&data, Access::Read)] {
            let perms = vec![Perm { access: Access::None, domid }, Perm { access, domid: other }];
            self.ask(Who::Operator(0), &Request::Mkdir { path });
            self.ask(Who::Operator(0), &Request::SetPerms { path, perms });
        }
    }

    fn ask(&mut self, who: Who, request: &Request<'_>) {
        self.actions.push_back(Action::request(who, request));
    }

    /// These regions changed for every open transaction.
    fn stale(&mut self, regions: &[Region]) {
        for open in &mut self.open {
            open.stale.extend_from_slice(if regions.contains(&Region::Top) { &REGIONS } else { regions });
        }
    }

    fn forget_transactions(&mut self, who: Who) {
        self.open.retain(|open| open.who != who);
    }

    fn who(&mut self) -> Who {
        let guest = pick(&mut self.rng, &self.alive);
        match guest {
            Some(domid) if self.rng.u8(..) < 150 => Who::Guest(domid),
            _ => Who::Operator(self.rng.u8(0..OPERATORS)),
        }
    }

    fn step(&mut self) {
        let who = self.who();
        match self.rng.u16(0..1000) {
            0..720 => self.access(who),
            720..830 => self.watch(who),
            830..880 => self.start(who, 1),
            880..945 => self.end(who),
            945..955 => self.look(who),
            955..968 => self.malformed(who),
            968..972 => self.quota(who),
            972..976 => self.reset(who),
            976..990 => self.domain(),
            _ => self.odd(who),
        }
    }

    /// A domain's home is a region while it exists; else whoever looks there looks at the directory above.
    fn reaches(&self, region: Region) -> Region {
        match region {
            Region::Home(domid) if !self.homes.contains(&domid) => Region::Top,
            region => region,
        }
    }

    /// An access to a node, perhaps in a transaction.
    fn access(&mut self, mut who: Who) {
        let own: Vec<usize> = (0..self.open.len())
            .filter(|at| self.open.get(*at).is_some_and(|open| open.who == who))
            .collect();
        let at = pick(&mut self.rng, &own).filter(|_| self.rng.u8(..) < 170);
        let slot = at.and_then(|at| self.open.get(at)).map(|open| open.slot);
        let kind = self.rng.u8(0..70);
        // Removing a region's root would let transactions look beyond it.
        let removes = (44..52).contains(&kind);
        let sets_perms = (58..66).contains(&kind);
        let stale = at.and_then(|at| self.open.get(at)).map(|open| open.stale.clone()).unwrap_or_default();
        let fresh: Vec<Region> =
            REGIONS.into_iter().filter(|region| !stale.contains(&self.reaches(*region))).collect();
        let Some(mut region) = pick(&mut self.rng, &fresh) else { return self.end(who) };
        if region == Region::Top && self.rng.u8(..) < 160 {
            region = fresh.first().copied().unwrap_or(region);
        }
        if removes && at.is_none() && !self.open.is_empty() && self.large.contains(&region) {
            // While transactions are open, each node that a guest removes outside of them delays it in C xenstored.
            who = Who::Operator(0);
        }
        let mut path = region.path(&mut self.rng, !removes);
        if let (Who::Guest(domid), true) = (who, self.rng.u8(..) < 30) {
            // The same in a relative form.
            let home = Region::Home(domid).root();
            path =
                path.strip_prefix(home.as_slice()).and_then(|rest| rest.get(1..)).unwrap_or(&path).to_vec();
        }
        if self.rng.u8(..) < 6 && !stale.contains(&Region::Top) {
            (path, region) = (odd_path(&mut self.rng), Region::Top);
        }
        let refused = matches!(who, Who::Guest(_))
            || !matches!(path.as_slice(), b"@introduceDomain" | b"@releaseDomain");
        if sets_perms && path.starts_with(b"@") && refused {
            path = Region::Top.root();
        }
        let value = value(&mut self.rng, path.len());
        let likely = match (who, region) {
            (Who::Guest(domid), _) | (_, Region::Home(domid)) => domid,
            _ => 0,
        };
        let mut perms = perms(&mut self.rng, likely);
        let stays = region == Region::Top || (matches!(region, Region::Shared(_)) && path == region.root());
        if let (Some(owner), true) = (perms.first_mut(), stays) {
            // A dead domain's nodes go, and with the root all others: C removes all but the root itself then.
            owner.domid = 0;
        }
        let offset = pick(&mut self.rng, &[0, 0, 0, 2, 3, 1000, 4080, 5000]).unwrap_or(0);
        let path = path.as_slice();
        let (request, writes) = match kind {
            0..14 => (Request::Read { path }, false),
            14..20 => (Request::Directory { path }, false),
            20..24 => (Request::DirectoryPart { path, offset }, false),
            24..30 => (Request::GetPerms { path }, false),
            30..44 => (Request::Write { path, value: &value }, true),
            44..52 => (Request::Rm { path }, true),
            52..58 => (Request::Mkdir { path }, true),
            58..66 => (Request::SetPerms { path, perms }, true),
            _ => (Request::Write { path, value: &[] }, true),
        };
        let tx = slot.map_or(Tx::None, Tx::Slot);
        self.actions.push_back(Action::in_transaction(who, tx, &request));
        let region = self.reaches(region);
        match at.and_then(|at| self.open.get_mut(at)) {
            Some(open) if writes => open.wrote.push(region),
            None if writes => self.stale(&[region]),
            _ => {}
        }
    }

    fn watch(&mut self, who: Who) {
        let region = pick(&mut self.rng, &REGIONS).unwrap_or(Region::Top);
        let mut path = region.path(&mut self.rng, true);
        match self.rng.u8(0..10) {
            0 => path = odd_path(&mut self.rng),
            1 => path = b"@releaseDomain".to_vec(),
            2 => path = b"@introduceDomain".to_vec(),
            3 => path = b"data/x".to_vec(),
            4 => path = b"data".to_vec(),
            _ => {}
        }
        let mut token = pick(&mut self.rng, &TOKENS).unwrap_or(b"t").to_vec();
        let unwatch = self.rng.u8(..) < 70;
        if self.rng.u8(..) < if unwatch { 200 } else { 15 } {
            let known = self.watched.iter().filter(|(watcher, ..)| *watcher == who).count();
            let at = self.rng.usize(0..known.max(1));
            let found = self.watched.iter().filter(|(watcher, ..)| *watcher == who).nth(at);
            if let Some((_, old_path, old_token)) = found {
                (path, token) = (old_path.clone(), old_token.clone());
            }
        }
        if unwatch {
            self.watched.retain(|(watcher, p, t)| (watcher, p, t) != (&who, &path, &token));
        } else {
            self.watched.push((who, path.clone(), token.clone()));
        }
        let (path, token) = (path.as_slice(), token.as_slice());
        let request = if unwatch { Request::Unwatch { path, token } } else { Request::Watch { path, token } };
        let tx = if self.rng.u8(..) < 8 { Tx::Bad(0x6000_0000) } else { Tx::None };
        self.actions.push_back(Action::in_transaction(who, tx, &request));
    }

    fn start(&mut self, who: Who, count: usize) {
        for _ in 0..count {
            let slot = self.next_slot;
            self.next_slot = slot.wrapping_add(1);
            let mut action = Action::request(who, &Request::TransactionStart);
            if let Action::Request { opens, payload, .. } = &mut action {
                *opens = Some(slot);
                if self.rng.u8(..) < 20 {
                    // Its payload means nothing.
                    *payload = b"what\0ever".to_vec();
                }
            }
            self.actions.push_back(action);
            self.open.push(Open { who, slot, stale: Vec::new(), wrote: Vec::new() });
        }
    }

    fn end(&mut self, who: Who) {
        let Some(at) = self.open.iter().position(|open| open.who == who) else { return };
        let open = self.open.remove(at);
        let commit = self.rng.u8(..) < 210;
        let end = Request::TransactionEnd { commit };
        self.actions.push_back(Action::in_transaction(who, Tx::Slot(open.slot), &end));
        if commit {
            self.stale(&open.wrote);
        }
    }
}
