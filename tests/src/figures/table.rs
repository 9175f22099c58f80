//! What is printed: a row a figure, ours and QEMU's, and whether the goal is reached.

use std::fmt;

/// What is asked of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// QEMU's is at least so many times ours.
    Times(f64),
    /// Ours is below this, in the figure's unit.
    Below(f64),
    /// Nothing; it explains another figure.
    None,
}

#[derive(Debug)]
struct Row {
    what: String,
    ours: f64,
    theirs: Option<f64>,
    goal: Goal,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.theirs.map(|theirs| theirs / self.ours)
    }

    fn is_reached(&self) -> Option<bool> {
        match self.goal {
            Goal::Times(least) => Some(self.ratio().is_some_and(|ratio| ratio >= least)),
            Goal::Below(limit) => Some(self.ours < limit),
            Goal::None => None,
        }
    }
}

/// The rows so far.
#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// A figure of ours (the smaller the better), and QEMU's if it was measured.
    pub fn row(&mut self, what: &str, ours: f64, theirs: Option<f64>, goal: Goal) {
        self.0.push(Row {
            what: what.into(),
            ours,
            theirs,
            goal,
        });
    }

    /// Whether no goal is missed.
    #[must_use]
    pub fn reaches_all(&self) -> bool {
        self.0.iter().all(|row| row.is_reached() != Some(false))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<58} {:>10} {:>10} {:>7}  goal",
            "what", "launcher", "QEMU", "ratio"
        )?;
        for row in &self.0 {
            let or_none = |number: Option<f64>| number.map_or("-".into(), |n| format!("{n:.2}"));
            let goal = match row.goal {
                Goal::Times(least) => format!("ratio of {least} or more"),
                Goal::Below(limit) => format!("below {limit}"),
                Goal::None => String::new(),
            };
            let verdict = match row.is_reached() {
                Some(true) => ": reached",
                Some(false) => ": MISSED",
                None => "",
            };
            writeln!(
                f,
                "{:<58} {:>10.2} {:>10} {:>7}  {goal}{verdict}",
                row.what,
                row.ours,
                or_none(row.theirs),
                or_none(row.ratio()),
            )?;
        }
        Ok(())
    }
}

/// The middle one, or the mean of the two in the middle. 0 of none.
#[must_use]
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    match (numbers.get(half), numbers.len() % 2) {
        (Some(middle), 1) => *middle,
        (Some(upper), _) => f64::midpoint(numbers[half - 1], *upper),
        (None, _) => 0.0,
    }
}
