//! What happens seldom: domains come and go, quotas are reached, requests are malformed.

use ennead_xs_wire::{Op, Request};

use super::Generator;
use crate::action::{Action, Tx, Who};
use crate::daemon::DomainState;
use crate::universe::{GUESTS, REGIONS, Region, domid, pick};
use crate::world::OPERATORS;

impl Generator {
    pub(super) fn look(&mut self, who: Who) {
        let domid = domid(&mut self.rng);
        match self.rng.u8(0..4) {
            0 => self.ask(who, &Request::GetDomainPath { domid }),
            1 | 2 => self.ask(who, &Request::IsDomainIntroduced { domid }),
            _ => self.ask(Who::Guest(domid), &Request::Control(b"help\0")),
        }
    }

    /// Requests whose form is wrong, and numbers of operations that there are not.
    pub(super) fn malformed(&mut self, who: Who) {
        let requests: [(Op, &[u8]); 17] = [
            (Op::Watch, b"/t/a\0"),
            (Op::Watch, b"/t/a\0t\0x\0"),
            (Op::Watch, b""),
            (Op::Unwatch, b"/t/a\0"),
            (Op::TransactionEnd, b"X\0"),
            (Op::TransactionEnd, b"TT\0"),
            (Op::TransactionEnd, b"T\0"),
            (Op::SetPerms, b"/t/a/x\0"),
            (Op::SetPerms, b"/t/a/x\0q1\0"),
            (Op::SetPerms, b""),
            (Op::Write, b"/t/a/x"),
            (Op::DirectoryPart, b"/t/a\0"),
            (Op::DirectoryPart, b"/t/a\x000\0x\0"),
            (Op::Introduce, b"1\x001\0"),
            (Op::Introduce, b"1\x001\x000\0"),
            (Op::SetTarget, b"1\0"),
            (Op::Release, b"0\0"),
        ];
        let (op, payload) = pick(&mut self.rng, &requests).unwrap_or((Op::Write, b""));
        let mut op = op as u32;
        if self.rng.u8(..) < 60 {
            op = pick(&mut self.rng, &[15, 16, 20, 27, 0xffff, u32::MAX]).unwrap_or(20);
        }
        let payload = payload.to_vec();
        self.actions.push_back(Action::Request { who, tx: Tx::None, op, payload, opens: None });
    }

    /// Makes a listing long and looks at it. A transaction goes on in a region only if nobody else changed it.
    fn fill(&mut self, who: Who, region: Region) {
        let under = region.path(&mut self.rng, false);
        self.large.push(region);
        let open = self.open.iter_mut().find(|open| open.who == who && !open.stale.contains(&region));
        let tx = open.map_or(Tx::None, |open| {
            open.wrote.push(region);
            Tx::Slot(open.slot)
        });
        let outside = tx == Tx::None;
        if outside {
            self.stale(&[region]);
        }
        let own = match who {
            Who::Operator(_) => true,
            Who::Guest(domid) => region == Region::Home(domid),
        };
        let count = match (who, outside) {
            // While transactions are open, C xenstored lets a guest write only 200 times a second outside of them.
            _ if outside && !self.open.is_empty() => 20,
            // Events at once, when the transaction commits or the nodes' owner goes: ours keeps 256 of them apart.
            (Who::Operator(_), false) => 200,
            (Who::Guest(_), true) if !own => 200,
            // A guest's transaction with more nodes than the quota has no events.
            _ => 1100,
        };
        self.actions.push_back(Action::Fill { who, tx, under: under.clone(), count });
        let path = under.as_slice();
        self.actions.push_back(Action::in_transaction(who, tx, &Request::Directory { path }));
        for offset in [0, 4070, 4075, 6000] {
            let part = Request::DirectoryPart { path, offset };
            self.actions.push_back(Action::in_transaction(who, tx, &part));
        }
    }

    /// Runs into a quota.
    pub(super) fn quota(&mut self, who: Who) {
        let region = pick(&mut self.rng, &REGIONS).filter(|region| self.reaches(*region) != Region::Top);
        let region = region.unwrap_or(Region::Shared(b'a'));
        match self.rng.u8(0..4) {
            0 => {
                self.actions.push_back(Action::Watches { who, path: region.root(), count: 135 });
                self.step();
                self.reset(who);
            }
            1 => self.start(who, 13),
            _ => {
                let home = match who {
                    Who::Guest(domid) if self.rng.bool() => Region::Home(domid),
                    _ => region,
                };
                self.fill(who, if self.reaches(home) == home { home } else { region });
            }
        }
    }

    pub(super) fn reset(&mut self, who: Who) {
        self.forget_transactions(who);
        self.ask(who, &Request::ResetWatches);
    }

    /// The toolstack and Xen act on domains.
    pub(super) fn domain(&mut self) {
        let domid = pick(&mut self.rng, &GUESTS).unwrap_or(1);
        if !self.alive.contains(&domid) {
            return self.create(domid);
        }
        let operator = Who::Operator(self.rng.u8(0..OPERATORS));
        let is_target = self.targets.iter().any(|(_, target)| *target == domid);
        match self.rng.u8(0..12) {
            0..3 => self.state(domid, DomainState::Shutdown),
            3 => self.ask(operator, &Request::Resume { domid }),
            4 => {
                self.forget_transactions(Who::Guest(domid));
                self.ask(operator, &Request::Introduce { domid, gfn: 1, port: 7 });
            }
            5 => {
                let target = pick(&mut self.rng, &GUESTS).filter(|target| *target != domid).unwrap_or(7);
                self.targets.push((domid, target));
                self.ask(operator, &Request::SetTarget { domid, target });
            }
            6 => self.ask(operator, &Request::Release { domid: 7 }),
            _ if is_target => self.ask(operator, &Request::IsDomainIntroduced { domid }),
            7 => {
                self.lost(domid);
                self.ask(operator, &Request::Release { domid });
                self.state(domid, DomainState::Gone);
            }
            8 => {
                self.lost(domid);
                self.ask(operator, &Request::Release { domid });
                self.create(domid);
            }
            9 => {
                self.lost(domid);
                self.state(domid, DomainState::Dying);
                self.state(domid, DomainState::Gone);
            }
            _ => {
                self.lost(domid);
                self.state(domid, DomainState::Gone);
            }
        }
    }

    /// A domain loses its connection, and its nodes everywhere are removed.
    fn lost(&mut self, domid: u16) {
        self.alive.retain(|alive| *alive != domid);
        self.homes.retain(|home| *home != domid);
        self.targets.retain(|(owner, _)| *owner != domid);
        self.forget_transactions(Who::Guest(domid));
        self.stale(&REGIONS);
    }

    fn state(&mut self, domid: u16, state: DomainState) {
        self.actions.push_back(Action::State(domid, state));
    }

    pub(super) fn odd(&mut self, who: Who) {
        let operator = self.rng.u8(0..OPERATORS);
        match self.rng.u8(0..8) {
            0 | 1 => {
                self.forget_transactions(Who::Operator(operator));
                self.actions.push_back(Action::Reconnect(operator));
            }
            2 => {
                self.forget_transactions(Who::Operator(operator));
                self.actions.push_back(Action::Oversize(operator));
            }
            3..6 => {
                let read = Request::Read { path: b"/t/a" };
                let id = pick(&mut self.rng, &[0x6000_0000, u32::MAX]).unwrap_or(u32::MAX);
                self.actions.push_back(Action::in_transaction(who, Tx::Bad(id), &read));
            }
            _ => {
                // Transactions do not nest.
                let open = self.open.iter().find(|open| open.who == who).map(|open| open.slot);
                let tx = open.map_or(Tx::Bad(5_000_000), Tx::Slot);
                self.actions.push_back(Action::in_transaction(who, tx, &Request::TransactionStart));
            }
        }
    }
}
