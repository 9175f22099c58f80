//! The sink that shows packets: a line for each, for people or, as JSON, for programs.

use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde::Serialize;

use super::output::{Output, OutputError};
use super::sources::Sources;
use super::summary::Summary;
use super::{Packet, Room, Sink};

/// Lines are written when nothing more comes for now, or in lots of about this many bytes.
const LOT: usize = 16 << 10;

/// The sink.
#[derive(Debug)]
pub struct Printer {
    output: Output,
    json: bool,
    lines: String,
}

/// A line for programs.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    slot: usize,
    source: &'a str,
    #[serde(flatten)]
    summary: &'a Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    flaw: Option<&'static str>,
}

impl Printer {
    /// Prints lines, each a JSON object if `json`.
    pub fn new(output: Output, json: bool) -> Self {
        Self {
            output,
            json,
            lines: String::new(),
        }
    }
}

/// A moment, if the calendar has it: it came from our own clock.
fn moment(time: Duration) -> DateTime<Utc> {
    let seconds = time.as_secs().try_into().unwrap_or(i64::MAX);
    DateTime::from_timestamp(seconds, time.subsec_nanos()).unwrap_or_default()
}

impl Sink for Printer {
    fn begin(&mut self) -> Result<(), OutputError> {
        self.output.begin()
    }

    fn packet(&mut self, packet: &Packet<'_>, sources: &Sources) -> Result<Room, OutputError> {
        let source = sources.get(packet.source);
        let summary = Summary::of(packet.bytes);
        let moment = moment(packet.time);
        let flaw = packet.flaw.map(|flaw| flaw.describe());
        // Neither can fail: a string takes all, and a summary has no maps with odd keys.
        if self.json {
            let line = JsonLine {
                time: moment.to_rfc3339_opts(SecondsFormat::Nanos, true),
                slot: source.slot.get(),
                source: &source.name,
                summary: &summary,
                flaw,
            };
            self.lines += &serde_json::to_string(&line).unwrap_or_default();
        } else {
            let time = moment.with_timezone(&Local).format("%H:%M:%S%.6f");
            let _ = write!(self.lines, "{time} slot{} {summary}", source.slot);
            if let Some(flaw) = flaw {
                let _ = write!(self.lines, " ({flaw})");
            }
        }
        self.lines.push('\n');
        if self.lines.len() >= LOT {
            self.flush()?;
        }
        Ok(Room::Taken)
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let written = self.output.write(self.lines.as_bytes());
        self.lines.clear();
        written
    }

    fn finish(&mut self, _sources: &Sources) -> Result<(), OutputError> {
        self.flush()
    }

    fn reader_is_gone(&self) -> bool {
        self.output.reader_is_gone()
    }
}
