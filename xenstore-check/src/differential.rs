//! The same actions to two daemons: every reply and every event must be the same, byte for byte.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use ennead_xs_wire::Op;

use crate::action::Action;
use crate::daemon::Daemon;
use crate::generate::sequence;
use crate::world::{Outcome, World};

/// How long a sequence is made shorter.
const SHRINK: Duration = Duration::from_secs(60);

/// Starts a fresh daemon.
pub type Start<'a> = &'a dyn Fn() -> Result<Daemon>;

/// How often each request (by its name) was answered how (`OK` or the error).
pub type Answers = BTreeMap<(String, String), usize>;

/// The first action that two daemons answered differently.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The number of the action in the sequence.
    pub step: usize,
    /// The actions up to it.
    pub actions: Vec<Action>,
    /// What came of the actions; the last is the one that differs.
    trace: Vec<String>,
    left: String,
    right: String,
}

impl Difference {
    /// The last `lines` actions with what came of them, and what both daemons said in the end.
    #[must_use]
    pub fn story(&self, lines: usize) -> String {
        let start = self.trace.len().saturating_sub(lines);
        let trace = self.trace.get(start..).unwrap_or_default().join("\n");
        format!("{trace}\nthe first says:\n{}the second says:\n{}", self.left, self.right)
    }
}

/// Does the actions on two fresh daemons; the first difference.
///
/// # Errors
/// When a daemon does not start. That it ends or falls silent later is a difference.
pub fn compare(
    left: Start<'_>,
    right: Start<'_>,
    actions: &[Action],
    answers: &mut Answers,
) -> Result<Option<Difference>> {
    let mut worlds = (World::new(left()?)?, World::new(right()?)?);
    let mut trace = Vec::new();
    for (step, action) in actions.iter().enumerate() {
        let outcome = |world: &mut World| world.run(action).map_err(|error| format!("{error:#}"));
        let outcomes = (outcome(&mut worlds.0), outcome(&mut worlds.1));
        if outcomes.0.is_err() || outcomes.0 != outcomes.1 {
            trace.push(format!("#{step} {action}"));
            return Ok(Some(Difference {
                step,
                actions: actions.get(..=step).unwrap_or(actions).to_vec(),
                trace,
                left: describe(&outcomes.0),
                right: describe(&outcomes.1),
            }));
        }
        trace.push(format!("#{step} {action}\n{}", describe(&outcomes.0).trim_end()));
        if let Ok(outcome) = &outcomes.0 {
            count(action, outcome, answers);
        }
    }
    Ok(None)
}

fn count(action: &Action, outcome: &Outcome, answers: &mut Answers) {
    let Some((who, op)) = action.request_of() else { return };
    let name = Op::from_u32(op).map_or_else(|| "unknown".to_owned(), |op| format!("{op:?}"));
    let packets = outcome.received.get(&who).into_iter().flatten();
    for reply in packets.filter(|packet| !packet.is_event()) {
        let errno = String::from_utf8_lossy(&reply.payload).trim_end_matches('\0').to_owned();
        let answer = if reply.is_error() { errno } else { "OK".to_owned() };
        *answers.entry((name.clone(), answer)).or_default() += 1;
    }
}

fn describe(outcome: &Result<Outcome, String>) -> String {
    const MOST: usize = 12;
    let mut text = String::new();
    let outcome = match outcome {
        Err(error) => return format!("    {error}\n"),
        Ok(outcome) => outcome,
    };
    if outcome.skipped {
        text.push_str("    (skipped)\n");
    }
    for (who, packets) in &outcome.received {
        for packet in packets.iter().take(MOST) {
            let _ = writeln!(text, "    {who} gets {packet}");
        }
        if packets.len() > MOST {
            let _ = writeln!(text, "    {who} gets {} more", packets.len() - MOST);
        }
    }
    for who in &outcome.closed {
        let _ = writeln!(text, "    {who} is disconnected");
    }
    text
}

/// Leaves out actions as long as the last one still makes a difference.
///
/// # Errors
/// When a daemon does not start.
pub fn shrink(left: Start<'_>, right: Start<'_>, found: Difference) -> Result<Difference> {
    let mut best = found;
    let began = Instant::now();
    let mut piece = best.actions.len() / 2;
    while piece > 0 && began.elapsed() < SHRINK {
        let mut at = 0;
        while at < best.actions.len() && began.elapsed() < SHRINK {
            let keep = |(number, action): (usize, &Action)| {
                let kept = !(at..at + piece).contains(&number) || action.is_ground();
                kept.then(|| action.clone())
            };
            let fewer: Vec<Action> = best.actions.iter().enumerate().filter_map(keep).collect();
            if fewer.len() == best.actions.len() {
                at += piece;
                continue;
            }
            match compare(left, right, &fewer, &mut Answers::new())? {
                Some(smaller) => best = smaller,
                None => at += piece,
            }
        }
        piece /= 2;
    }
    Ok(best)
}

/// What a run has compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Sequences.
    pub seeds: u64,
    /// Actions in them.
    pub actions: usize,
    /// What was asked and answered.
    pub answers: Answers,
}

/// How a difference is shown.
#[derive(Debug, Clone, Copy)]
pub struct Show {
    /// Leaves out actions that the difference does not need.
    pub shrink: bool,
    /// How many of the last actions are shown.
    pub lines: usize,
}

/// Compares two daemons over the sequences of these seeds; stops at the first difference, which it makes short.
///
/// # Errors
/// The difference, with its seed and the way there; or that a daemon does not start.
pub fn run(
    left: Start<'_>,
    right: Start<'_>,
    seeds: Range<u64>,
    steps: usize,
    show: Show,
) -> Result<Compared> {
    let mut compared = Compared::default();
    for seed in seeds {
        let actions = sequence(seed, steps);
        if let Some(found) = compare(left, right, &actions, &mut compared.answers)? {
            let step = found.step;
            let found = if show.shrink { shrink(left, right, found)? } else { found };
            anyhow::bail!("Seed {seed}, step {step}: the daemons differ\n{}", found.story(show.lines));
        }
        compared.seeds += 1;
        compared.actions += actions.len();
    }
    Ok(compared)
}
