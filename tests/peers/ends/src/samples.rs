//! What was measured, and at which distance of the two processors.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use lgswitch::bench::distance::Distance;
use serde::Serialize;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    pub peer: String,
    /// Bytes of a frame, or `tcp`.
    pub size: String,
    /// Million frames a second; TCP has none.
    pub mpps: Option<f64>,
    /// Gigabits of frames, or of TCP's payload, a second.
    pub gbps: f64,
    /// Round trip of a cache line before and after, in nanoseconds.
    pub near: [f64; 2],
    pub distance: Distance,
}

/// How a peer was set up.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Note {
    pub pinned: String,
    pub about: String,
    pub commands: Vec<String>,
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Samples {
    /// Peers in the order they were measured.
    pub peers: Vec<String>,
    pub notes: BTreeMap<String, Note>,
    pub samples: Vec<Sample>,
}

/// Reads what the script wrote.
pub fn parse(samples: &str, notes: &str, commands: &str) -> Result<Samples> {
    let mut all = Samples::default();
    for line in samples.lines() {
        let sample = sample(line).with_context(|| format!("`{line}` is no sample"))?;
        if !all.peers.contains(&sample.peer) {
            all.peers.push(sample.peer.clone());
        }
        all.samples.push(sample);
    }
    for line in notes.lines() {
        if let [peer, pinned, about] = line.split('\t').collect::<Vec<_>>()[..] {
            let note = all.notes.entry(peer.to_owned()).or_default();
            (note.pinned, note.about) = (pinned.to_owned(), about.to_owned());
        }
    }
    for line in commands.lines() {
        if let Some((peer, command)) = line.split_once('\t') {
            let note = all.notes.entry(peer.to_owned()).or_default();
            note.commands.push(command.to_owned());
        }
    }
    Ok(all)
}

fn sample(line: &str) -> Result<Sample> {
    let [peer, size, mpps, gbps, before, after] = line.split_whitespace().collect::<Vec<_>>()[..]
    else {
        bail!("It has not six words");
    };
    let near = [before.parse()?, after.parse()?];
    Ok(Sample {
        peer: peer.to_owned(),
        size: size.to_owned(),
        mpps: if mpps == "-" {
            None
        } else {
            Some(mpps.parse()?)
        },
        gbps: gbps.parse()?,
        near,
        distance: Distance::of_readings(&near),
    })
}

/// The middle, the smallest and the largest; nothing of nothing.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (first, last) = (*values.first()?, *values.last()?);
    Some([values[values.len() / 2], first, last])
}

impl Samples {
    /// What of a peer's was measured at that size and distance.
    pub fn at<'a>(
        &'a self,
        peer: &'a str,
        size: &'a str,
        distance: Distance,
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.peer == peer && sample.size == size && sample.distance == distance
        })
    }

    /// Sizes of a peer, in the order they were measured.
    pub fn sizes(&self, peer: &str) -> Vec<&str> {
        let mut sizes = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.peer == peer) {
            if !sizes.contains(&sample.size.as_str()) {
                sizes.push(&sample.size);
            }
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_during_which_the_processors_moved_is_apart_from_the_others() {
        let text = "memif 64 19.1 9.8 55 52\nmemif 64 5.1 2.6 54 350\nvde tcp - 1.5 81 84\n";
        let all = parse(text, "memif\tboth\tabout it\n", "memif\trun it\n").unwrap();
        let distances: Vec<_> = all.samples.iter().map(|s| s.distance).collect();
        assert_eq!(
            distances,
            [Distance::Core, Distance::Moved, Distance::Cache]
        );
        assert_eq!(all.peers, ["memif", "vde"]);
        assert_eq!(all.at("memif", "64", Distance::Core).count(), 1);
        assert_eq!(all.samples[2].mpps, None);
        assert_eq!(all.notes["memif"].commands, ["run it"]);
    }

    #[test]
    fn a_line_that_is_no_sample_is_named() {
        let error = parse("memif 64 fast 9.8 55 52", "", "").unwrap_err();
        assert!(format!("{error:#}").contains("memif 64 fast"), "{error:#}");
    }
}
