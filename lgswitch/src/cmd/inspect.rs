//! `lgswitch inspect`: who is on a segment, and what passed.

use anyhow::Result;
use clap::Args;
use lgswitch::report::{SegmentReport, SlotReport, Traffic};
use lgswitch::{Segment, SegmentName};

use super::link::print_json;
use super::table::{self, cell};

/// Show who is on a sharenet, and what passed.
#[derive(Debug, Args)]
pub struct InspectCommand {
    /// Its name, or a path with a '/'
    name: SegmentName,
}

impl InspectCommand {
    /// Shows it.
    pub fn run(self, json: bool) -> Result<()> {
        let report = SegmentReport::of(&Segment::open_read_only(&self.name.path())?)?;
        if json {
            return print_json(&report);
        }
        let mtu = report.mtu.map(|mtu| format!(", MTU {mtu}"));
        let kind = if report.version == 0 {
            ", one page of the old kind"
        } else {
            ""
        };
        println!(
            "{}: {} of {} slots held{}{kind}, {}",
            self.name,
            report.held,
            report.slots,
            mtu.unwrap_or_default(),
            size(report.allocated_bytes)
        );
        let rows: Vec<_> = report.ports.iter().map(row).collect();
        table::print(
            [
                "SLOT", "MAC", "PROMISC", "PID", "COMMAND", "NAME", "SENT", "RECEIVED", "DROPPED",
            ],
            &rows,
        );
        Ok(())
    }
}

fn row(port: &SlotReport) -> [String; 9] {
    let frames = |traffic: &Option<Traffic>| cell(traffic.as_ref().map(|t| t.frames));
    [
        port.slot.to_string(),
        cell(port.mac.as_ref()),
        if port.promiscuous { "yes" } else { "no" }.into(),
        cell(port.pid),
        cell(port.command.as_ref()),
        cell(port.name.as_ref()),
        frames(&port.sent),
        frames(&port.received),
        dropped(port),
    ]
}

/// "12 ring-full, 3 lapped": frames this port could not send, and frames it lost on their way in.
fn dropped(port: &SlotReport) -> String {
    let (Some(sent), Some(received)) = (&port.sent, &port.received) else {
        return "-".into();
    };
    let reasons: Vec<_> = sent
        .dropped
        .iter()
        .chain(&received.dropped)
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    match reasons.is_empty() {
        true => "0".into(),
        false => reasons.join(", "),
    }
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
