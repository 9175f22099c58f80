//! A figure beside its bounds: measured in turns, with the distance of the processors taken between.
//!
//! A turn counts only if the distance was the same from its beginning to its end; its ratios are those
//! of neighbours a few milliseconds apart. What it is worth is said by the median over many turns.

use anyhow::Result;

use super::crew::Crew;
use super::distance::Distance;
use super::player::Task;
use super::{Measured, median};

/// Turns asked of the players at once: between two lists they rest, and the line of progress moves.
const BATCH: usize = 8;
/// As many lists of turns are played, in all, for each that was wanted.
const TRIES: usize = 3;
/// Readings of the distance between two measurements, of half a millisecond each.
const READINGS: usize = 4;

/// One turn: each of the measurements once.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The class of the distance.
    pub distance: Distance,
    /// Nanoseconds it was, in the middle.
    pub near: f64,
    /// What each player found, for each measurement.
    pub found: Vec<Vec<Measured>>,
}

/// The turns at one distance.
#[derive(Debug)]
pub struct Group<'a> {
    /// The distance.
    pub distance: Distance,
    /// The turns, at least one.
    pub turns: Vec<&'a Turn>,
}

impl Group<'_> {
    /// The median of a number of each turn's.
    pub fn median(&self, number: impl Fn(&Turn) -> f64) -> f64 {
        median(self.turns.iter().map(|turn| number(turn)))
    }
}

/// Measures until there are `wanted` turns during which the distance stayed, or it has moved too often.
/// A measurement is a task for each player; `progress` is told how many turns there are.
pub fn measure(
    crew: &mut Crew,
    measurements: &[Vec<Task>],
    wanted: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Turn>> {
    // Once for nothing: pages appear, caches warm, the other side's positions are learned.
    crew.perform(measurements)?;
    let (mut turns, mut steady) = (Vec::new(), 0);
    for _ in 0..TRIES * wanted.div_ceil(BATCH) {
        progress(steady);
        let count = BATCH.min(wanted - steady);
        let batch = batch(crew, measurements, count)?;
        steady += batch
            .iter()
            .filter(|turn| turn.distance != Distance::Moved)
            .count();
        turns.extend(batch);
        if steady == wanted {
            break;
        }
    }
    Ok(turns)
}

fn batch(crew: &mut Crew, measurements: &[Vec<Task>], count: usize) -> Result<Vec<Turn>> {
    let distance = || vec![Task::Ask(READINGS), Task::Answer];
    let mut steps = vec![distance()];
    for _ in 0..count {
        for measurement in measurements {
            steps.extend([measurement.clone(), distance()]);
        }
    }
    let found = crew.perform(&steps)?;
    // A turn is measurements and distances by turns, and begins with the last one's last distance.
    let turns = (0..count).map(|turn| {
        let first = turn * 2 * measurements.len();
        let turn = &found[first..=first + 2 * measurements.len()];
        let near = turn.iter().step_by(2).map(|asked| asked[0].near);
        let near: Vec<f64> = near.collect();
        Turn {
            distance: Distance::of_readings(&near),
            near: median(near),
            found: turn.iter().skip(1).step_by(2).cloned().collect(),
        }
    });
    Ok(turns.collect())
}

/// The turns by distance, nearest first. Those during which it changed are no group, unless there
/// are no others.
pub fn groups(turns: &[Turn]) -> Vec<Group<'_>> {
    let at = |distance| Group {
        distance,
        turns: turns.iter().filter(|t| t.distance == distance).collect(),
    };
    let steady = [Distance::Core, Distance::Cache, Distance::Apart].map(at);
    let steady: Vec<_> = steady.into_iter().filter(|g| !g.turns.is_empty()).collect();
    match (steady.is_empty(), turns.is_empty()) {
        (true, false) => vec![at(Distance::Moved)],
        _ => steady,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(distances: &[Distance]) -> Vec<Turn> {
        let turn = |&distance| Turn {
            distance,
            near: 0.0,
            found: Vec::new(),
        };
        distances.iter().map(turn).collect()
    }

    #[test]
    fn what_moved_is_shown_only_if_nothing_stayed() {
        use Distance::*;
        let some = turns(&[Apart, Moved, Core, Core]);
        let seen: Vec<_> = groups(&some)
            .iter()
            .map(|g| (g.distance, g.turns.len()))
            .collect();
        assert_eq!(seen, [(Core, 2), (Apart, 1)]);
        let none = turns(&[Moved, Moved]);
        assert_eq!(groups(&none)[0].turns.len(), 2);
        assert!(groups(&[]).is_empty());
    }
}
