//! Medians, ratios and targets, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::daemon::Kind;

/// Which way is better, and the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Higher(&'static str),
    Lower(&'static str),
}

/// What ours must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// Nothing: for information.
    None,
    /// At least as good as the better of the others.
    Best,
    /// At most this many times C's.
    TimesC(f64),
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// At most C's, and at most this.
    CAndAtMost(f64),
}

/// One number that is measured.
#[derive(Debug, Clone)]
pub(super) struct Metric {
    name: String,
    better: Better,
    target: Target,
}

impl Metric {
    pub(super) fn new(name: &str, better: Better, target: Target) -> Self {
        Self { name: name.to_owned(), better, target }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: &'static str,
    /// Each round's number, by daemon.
    pub rounds: BTreeMap<&'static str, Vec<f64>>,
    /// The median, by daemon.
    pub median: BTreeMap<&'static str, f64>,
    /// How many times as good as the better of the others ours is: the median of the rounds' ratios.
    pub ratio: Option<f64>,
    /// Whether ours reaches its target, if it has one.
    pub reached: Option<bool>,
}

impl Line {
    pub(super) fn new(metric: &Metric, rounds: BTreeMap<&'static str, Vec<f64>>) -> Self {
        let ratio = ratio(metric.better, &rounds);
        let median: BTreeMap<_, _> = rounds.iter().map(|(name, values)| (*name, median(values))).collect();
        let reached = reached(metric.target, &median, ratio);
        let (Better::Higher(unit) | Better::Lower(unit)) = metric.better;
        Self { name: metric.name.clone(), unit, rounds, median, ratio, reached }
    }
}

/// The middle one; the mean of the two middle ones of an even count.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) }
}

/// Rounds are compared one by one: what disturbs the machine disturbs a round of all daemons.
fn ratio(better: Better, rounds: &BTreeMap<&'static str, Vec<f64>>) -> Option<f64> {
    let ours = rounds.get(Kind::Ours.name())?;
    let others: Vec<&Vec<f64>> =
        [Kind::C, Kind::Ocaml].iter().filter_map(|kind| rounds.get(kind.name())).collect();
    let ratios = ours.iter().enumerate().filter_map(|(round, ours)| {
        let others = others.iter().filter_map(|values| values.get(round).copied());
        match better {
            Better::Higher(_) => Some(ours / others.reduce(f64::max)?),
            Better::Lower(_) => Some(others.reduce(f64::min)? / ours),
        }
    });
    let ratios: Vec<f64> = ratios.collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

fn reached(target: Target, median: &BTreeMap<&'static str, f64>, ratio: Option<f64>) -> Option<bool> {
    let ours = *median.get(Kind::Ours.name())?;
    let c = median.get(Kind::C.name()).copied();
    match target {
        Target::None => None,
        Target::Best => ratio.map(|ratio| ratio >= 1.0),
        Target::TimesC(times) => c.map(|c| ours <= times * c),
        Target::AtLeast(least) => Some(ours >= least),
        Target::AtMost(most) => Some(ours <= most),
        Target::CAndAtMost(most) => Some(ours <= most && c.is_none_or(|c| ours <= c)),
    }
}

/// The table for people.
#[must_use]
pub fn table(lines: &[Line]) -> String {
    let mut text = format!("{:<62} {:>12} {:>12} {:>12}  {:>6}\n", "", "c", "ocaml", "ours", "ratio");
    for line in lines {
        let _ = write!(text, "{:<62}", format!("{} [{}]", line.name, line.unit));
        for kind in [Kind::C, Kind::Ocaml, Kind::Ours] {
            let number = line.median.get(kind.name()).map_or_else(|| "-".to_owned(), |number| short(*number));
            let _ = write!(text, " {number:>12}");
        }
        let ratio = line.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let reached = match line.reached {
            None => "",
            Some(true) => "  ok",
            Some(false) => "  MISSED",
        };
        let _ = writeln!(text, "  {ratio:>6}{reached}");
    }
    text
}

/// Three or more digits.
fn short(number: f64) -> String {
    if number.abs() < 100.0 { format!("{number:.1}") } else { format!("{number:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(better: Better, target: Target, c: &[f64], ocaml: &[f64], ours: &[f64]) -> Line {
        let rounds =
            [("c", c), ("ocaml", ocaml), ("ours", ours)].map(|(name, values)| (name, values.to_vec()));
        Line::new(&Metric::new("m", better, target), rounds.into())
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_best_of_the_others_counts() {
        let faster = line(Better::Higher("/s"), Target::Best, &[10.0; 3], &[20.0; 3], &[20.0; 3]);
        assert_eq!(faster.reached, Some(true));
        let slower = line(Better::Higher("/s"), Target::Best, &[10.0; 3], &[20.0; 3], &[19.0; 3]);
        assert_eq!(slower.reached, Some(false));
        let quicker = line(Better::Lower("us"), Target::Best, &[10.0; 3], &[20.0; 3], &[9.0; 3]);
        assert_eq!(quicker.reached, Some(true));
        let later = line(Better::Lower("us"), Target::Best, &[10.0; 3], &[20.0; 3], &[11.0; 3]);
        assert_eq!(later.reached, Some(false));
    }

    #[test]
    fn a_slow_round_of_the_machine_is_no_miss() {
        let same =
            line(Better::Higher("/s"), Target::Best, &[10.0, 5.0, 10.0], &[1.0; 3], &[11.0, 5.5, 11.0]);
        assert!((same.ratio.unwrap() - 1.1).abs() < 1e-9);
    }

    #[test]
    fn absolute_targets() {
        let check = |target, ours| line(Better::Lower("B"), target, &[140.0], &[150.0], &[ours]).reached;
        assert_eq!(check(Target::CAndAtMost(150.0), 139.0), Some(true));
        assert_eq!(check(Target::CAndAtMost(150.0), 141.0), Some(false));
        assert_eq!(check(Target::CAndAtMost(130.0), 135.0), Some(false));
        assert_eq!(check(Target::TimesC(1.3), 181.0), Some(true));
        assert_eq!(check(Target::TimesC(1.3), 183.0), Some(false));
        assert_eq!(check(Target::AtLeast(90.0), 89.0), Some(false));
        assert_eq!(check(Target::AtMost(10.0), 9.0), Some(true));
        assert_eq!(check(Target::AtMost(10.0), 11.0), Some(false));
        assert_eq!(check(Target::None, 89.0), None);
    }

    #[test]
    fn without_ours_nothing_is_judged() {
        let rounds = [("c", vec![1.0]), ("ocaml", vec![2.0])].into();
        let line = Line::new(&Metric::new("m", Better::Higher("/s"), Target::Best), rounds);
        assert_eq!((line.ratio, line.reached), (None, None));
        assert!(table(&[line]).contains(" 2.0 "));
    }
}
