//! The table: a row a peer and size, a group of columns a distance of the two processors.
//!
//! Only medians of one group compare. A sharenet's ratios to its rivals are therefore taken within
//! each group.

use std::fmt::Write;

use anyhow::Result;
use lgswitch::bench::distance::Distance;
use serde::Serialize;

use crate::samples::{Sample, Samples, spread};

/// What is held against what: a sharenet's part, and the peer that does the same.
const RIVALS: [(&str, &str); 6] = [
    ("sharenet", "memif"),
    ("sharenet", "bare-ring"),
    ("sharenet-vhost", "vhost-relay"),
    ("sharenet-vhost", "ovs-vhost"),
    ("sharenet-tap", "vde-tap"),
    ("sharenet-tap", "bridge"),
];

/// The medians of one peer, size and distance.
#[derive(Debug, Serialize)]
struct Row<'a> {
    peer: &'a str,
    size: &'a str,
    distance: Distance,
    /// Median, smallest, largest.
    mpps: Option<[f64; 3]>,
    /// Median, smallest, largest.
    gbps: [f64; 3],
    samples: usize,
}

/// How much faster a sharenet was, by medians.
#[derive(Debug, Serialize)]
struct Ratio<'a> {
    of: &'a str,
    to: &'a str,
    size: &'a str,
    distance: Distance,
    ratio: f64,
}

/// Distances at which anything was measured.
fn distances(all: &Samples) -> Vec<Distance> {
    [Distance::Core, Distance::Cache, Distance::Apart]
        .into_iter()
        .filter(|&distance| all.samples.iter().any(|s| s.distance == distance))
        .collect()
}

fn row<'a>(all: &'a Samples, peer: &'a str, size: &'a str, distance: Distance) -> Option<Row<'a>> {
    let samples: Vec<&Sample> = all.at(peer, size, distance).collect();
    Some(Row {
        peer,
        size,
        distance,
        mpps: spread(samples.iter().filter_map(|sample| sample.mpps)),
        gbps: spread(samples.iter().map(|sample| sample.gbps))?,
        samples: samples.len(),
    })
}

fn ratios(all: &Samples) -> Vec<Ratio<'_>> {
    let mut ratios = Vec::new();
    for (of, to) in RIVALS {
        for size in all.sizes(of) {
            for distance in distances(all) {
                if let (Some(ours), Some(theirs)) =
                    (row(all, of, size, distance), row(all, to, size, distance))
                {
                    ratios.push(Ratio {
                        of,
                        to,
                        size,
                        distance,
                        ratio: ours.gbps[0] / theirs.gbps[0],
                    });
                }
            }
        }
    }
    ratios
}

/// All of it, for programs.
pub fn json(all: &Samples, title: &str) -> Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        title: &'a str,
        rows: Vec<Row<'a>>,
        ratios: Vec<Ratio<'a>>,
        #[serde(flatten)]
        all: &'a Samples,
    }
    let mut rows = Vec::new();
    for peer in &all.peers {
        for size in all.sizes(peer) {
            rows.extend(
                distances(all)
                    .into_iter()
                    .filter_map(|distance| row(all, peer, size, distance)),
            );
        }
    }
    let report = Report {
        title,
        rows,
        ratios: ratios(all),
        all,
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

/// The table, for people.
pub fn text(all: &Samples, title: &str) -> String {
    let distances = distances(all);
    let mut out = format!("{title}\n\n");
    header(&mut out, all, &distances);
    for peer in &all.peers {
        for size in all.sizes(peer) {
            let _ = write!(out, "{peer:<16}{size:>6}");
            for &distance in &distances {
                group(&mut out, row(all, peer, size, distance));
            }
            out.push('\n');
        }
    }
    ratio_lines(&mut out, &ratios(all), &distances);
    notes(&mut out, all);
    out
}

/// Width of a group: four columns.
const GROUP: usize = 2 + 8 + 9 + 7 + 4;

fn header(out: &mut String, all: &Samples, distances: &[Distance]) {
    let _ = write!(out, "{:<22}", "");
    for &distance in distances {
        let near = all.samples.iter().filter(|s| s.distance == distance);
        let near = spread(near.flat_map(|s| s.near)).unwrap_or_default()[0];
        let title = format!("{distance}, {near:.0} ns");
        let _ = write!(out, "  {title:>width$}", width = GROUP - 2);
    }
    let _ = write!(out, "\n{:<16}{:>6}", "PEER", "SIZE");
    for _ in distances {
        let _ = write!(out, "  {:>8}{:>9}{:>7}{:>4}", "MPPS", "GBIT/S", "+-%", "N");
    }
    out.push('\n');
}

fn group(out: &mut String, row: Option<Row<'_>>) {
    let Some(row) = row else {
        let _ = write!(out, "{:>width$}", "-", width = GROUP);
        return;
    };
    let mpps = row.mpps.map_or("-".to_owned(), |m| format!("{:.2}", m[0]));
    let [median, least, most] = row.gbps;
    let half = (most - least) / median * 50.0;
    let _ = write!(out, "  {mpps:>8}{median:>9.2}{half:>7.0}{:>4}", row.samples);
}

fn ratio_lines(out: &mut String, ratios: &[Ratio<'_>], distances: &[Distance]) {
    if ratios.is_empty() {
        return;
    }
    out.push_str("\nTimes as fast, by medians at one distance\n");
    let mut done: Vec<(&str, &str, &str)> = Vec::new();
    for ratio in ratios {
        let what = (ratio.of, ratio.to, ratio.size);
        if done.contains(&what) {
            continue;
        }
        done.push(what);
        let pair = format!("{} / {}", ratio.of, ratio.to);
        let _ = write!(out, "{pair:<32}{:>6}", ratio.size);
        for &distance in distances {
            let found = ratios
                .iter()
                .find(|r| (r.of, r.to, r.size) == what && r.distance == distance);
            let cell = found.map_or("-".to_owned(), |r| format!("{:.2}", r.ratio));
            let _ = write!(out, "  {distance:>17} {cell:>6}");
        }
        out.push('\n');
    }
}

fn notes(out: &mut String, all: &Samples) {
    let moved = all
        .samples
        .iter()
        .filter(|s| s.distance == Distance::Moved)
        .count();
    let _ = writeln!(
        out,
        "\nThe distance is the round trip of a cache line between the two processors, taken before and\n\
         after each measurement; in a virtual machine the host changes it at will. {moved} of {} measurements\n\
         during which it changed are in no median. +-%: half of largest less smallest, over the median.\n",
        all.samples.len()
    );
    for peer in &all.peers {
        if let Some(note) = all.notes.get(peer) {
            let _ = writeln!(out, "{peer:<16}{}", note.about);
            let _ = writeln!(out, "{:<16}Pinned: {}.", "", note.pinned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::parse;

    fn measured() -> Samples {
        let lines = "memif 64 20 10 55 52\nmemif 64 5 2.5 350 340\nmemif 64 7 3.5 55 340\n\
                     sharenet 64 30 15 55 52\nsharenet tcp - 15 55 52\n";
        parse(lines, "", "").unwrap()
    }

    #[test]
    fn a_ratio_is_taken_at_one_distance_only() {
        let all = measured();
        let ratios = ratios(&all);
        assert_eq!(ratios.len(), 1, "{ratios:?}");
        assert_eq!(ratios[0].distance, Distance::Core);
        assert!((ratios[0].ratio - 1.5).abs() < 1e-9);
    }

    #[test]
    fn what_moved_is_in_no_row() {
        let all = measured();
        let json: serde_json::Value = serde_json::from_str(&json(&all, "").unwrap()).unwrap();
        assert_eq!(json["rows"].as_array().unwrap().len(), 4);
        assert_eq!(json["samples"].as_array().unwrap().len(), 5);
        assert!(text(&all, "").contains("1 of 5 measurements"));
    }
}
