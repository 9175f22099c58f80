//! `lgswitch ls`: the segments that have a bare name.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use lgswitch::name::{directory, is_bare_name};
use lgswitch::report::SegmentReport;
use lgswitch::{Error, Segment};
use serde::Serialize;

use super::inspect::size;
use super::link::print_json;
use super::table;

/// List the sharenets of this user.
#[derive(Debug, Args)]
pub struct LsCommand {}

/// One line.
#[derive(Serialize)]
struct Line {
    name: String,
    #[serde(flatten)]
    report: Option<SegmentReport>,
    /// Why there is no report.
    error: Option<String>,
}

impl LsCommand {
    /// Lists them. A file that is no sharenet is listed with what is wrong with it.
    pub fn run(self, json: bool) -> Result<()> {
        let folder = directory()
            .context("No folder of sharenets: XDG_RUNTIME_DIR is not set; set LGSWITCH_DIR")?;
        let lines: Vec<Line> = names(&folder)?
            .into_iter()
            .filter_map(|name| line(&folder, name))
            .collect();
        if json {
            return print_json(&lines);
        }
        let rows: Vec<_> = lines.into_iter().map(row).collect();
        table::print(["NAME", "MTU", "SLOTS", "HELD", "SIZE"], &rows);
        Ok(())
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("Can't list {}", folder.display()))?,
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_bare_name(name))
        .collect();
    names.sort();
    Ok(names)
}

fn line(folder: &Path, name: String) -> Option<Line> {
    let report = Segment::open_read_only(&folder.join(&name)).and_then(|v| SegmentReport::of(&v));
    match report {
        Ok(report) => Some(Line {
            name,
            report: Some(report),
            error: None,
        }),
        // Removed since it was listed.
        Err(Error::Missing(_)) => None,
        Err(error) => Some(Line {
            name,
            report: None,
            error: Some(error.to_string()),
        }),
    }
}

fn row(line: Line) -> [String; 5] {
    match line.report {
        Some(report) => [
            line.name,
            table::cell(report.mtu),
            report.slots.to_string(),
            report.held.to_string(),
            size(report.allocated_bytes),
        ],
        None => {
            let dash = || "-".to_owned();
            [
                line.name,
                dash(),
                dash(),
                dash(),
                line.error.unwrap_or_default(),
            ]
        }
    }
}
