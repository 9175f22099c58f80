//! `lgswitch capture`: what passes on a segment, into a pcapng file or a pipe, or a line each.

use std::io::IsTerminal;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use clap::error::ErrorKind;
use lgswitch::capture::writer::{MIN_FILE_SIZE, Ring, WriterOptions, names_files};
use lgswitch::capture::{self, Form, Limits, Monitor, Output, Printer, Sink, Writer};
use lgswitch::port::Caller;
use lgswitch::{Segment, SegmentName, SlotIndex};
use nix::sys::signal::{SigSet, Signal};

use super::create::parse_size;
use super::link::print_json;

/// Show or keep what passes on a sharenet.
///
/// Takes a slot of its own. Without -w it prints a line for each packet, or with --json a JSON
/// object. Ends at ^C, or when a limit is reached, and says how many packets there were and how
/// many more there would have been had it been faster.
#[derive(Debug, Args)]
pub struct CaptureCommand {
    /// Its name, or a path with a '/'
    name: SegmentName,
    /// Keep packets in this pcapng file; '-' is standard output, for Wireshark or 'tshark -r -'
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only what this slot sent; may be repeated [default: every slot]
    #[arg(long = "slot", value_name = "N")]
    slots: Vec<SlotIndex>,
    /// End after so many packets
    #[arg(short, long, value_name = "N")]
    count: Option<NonZeroU64>,
    /// End after that time, in seconds, or as 500ms, 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// End before the files take more than that together, as 512K or 10M
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "write")]
    size: Option<u64>,
    /// Start another file when one has that size, at least 512K; FILE.pcapng becomes
    /// FILE-00001.pcapng and so on
    #[arg(long, value_name = "SIZE", value_parser = parse_file_size, requires = "write")]
    file_size: Option<u64>,
    /// Keep only the newest N of these files
    #[arg(long, value_name = "N", requires = "file_size")]
    files: Option<NonZeroUsize>,
    /// Keep at most the first BYTES of each packet
    #[arg(short, long, value_name = "BYTES", requires = "write")]
    snaplen: Option<NonZeroU32>,
    /// Leave large segments whole instead of cutting them to the packets a wire would carry
    #[arg(long)]
    as_sent: bool,
}

impl CaptureCommand {
    /// Captures until told to end.
    pub fn run(self, json: bool) -> Result<()> {
        self.check();
        let segment = Segment::open(&self.name.path())?;
        let mut sink = self.open(json)?;
        let form = if self.as_sent {
            Form::AsSent
        } else {
            Form::Cut
        };
        let mut monitor = Monitor::join(&segment, &self.slots, form)?;
        let stop = end_on_signals(monitor.caller())?;
        let to = match self.write.as_deref() {
            None => String::new(),
            Some(path) if path == Path::new("-") => " to standard output".into(),
            Some(path) => format!(" to {}", path.display()),
        };
        let (name, slot) = (&self.name, monitor.slot());
        eprintln!("lgswitch: Capturing {name} at slot {slot}{to}; ^C ends it");
        let limits = Limits {
            count: self.count,
            duration: self.duration,
        };
        let account = capture::run(&mut monitor, sink.as_mut(), &limits, &stop)?;
        eprintln!("lgswitch: {account}");
        match self.write {
            Some(path) if json && path != Path::new("-") => print_json(&account),
            _ => Ok(()),
        }
    }

    /// Ends with a usage error where options do not go together in a way clap can't say.
    fn check(&self) {
        let conflict = |message: &str| {
            clap::Error::raw(ErrorKind::ArgumentConflict, format!("{message}\n")).exit()
        };
        match self.write.as_deref() {
            Some(path) if path == Path::new("-") => {
                if self.file_size.is_some() {
                    conflict("--file-size needs a file to write to, not standard output");
                }
                if std::io::stdout().is_terminal() {
                    conflict("-w - writes pcapng, which no terminal shows: pipe it to a program");
                }
            }
            Some(path) if self.file_size.is_some() && !names_files(path) => {
                conflict("--file-size needs the name of a file in -w, not of a folder");
            }
            _ => {}
        }
    }

    /// Opens what packets go to. What is in a file stays until the capture runs.
    fn open(&self, json: bool) -> Result<Box<dyn Sink>> {
        let Some(path) = &self.write else {
            return Ok(Box::new(Printer::new(Output::stdout()?, json)));
        };
        let options = WriterOptions {
            snaplen: self.snaplen,
            size: self.size,
        };
        let writer = match self.file_size {
            Some(file_size) => {
                let ring = Ring {
                    path: path.clone(),
                    file_size,
                    files: self.files,
                };
                Writer::ring(ring, options)?
            }
            None if path == Path::new("-") => Writer::new(Output::stdout()?, options),
            None => Writer::new(Output::open(path)?, options),
        };
        Ok(Box::new(writer))
    }
}

/// From here on a ^C, or being told to end, sets the flag; a second one ends us at once, should we
/// be stuck in a pipe that nobody empties. A pipe without a reader and a file at its limit are errors
/// of writing, not signals.
fn end_on_signals(caller: Caller) -> Result<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    let mut blocked = signals;
    blocked.add(Signal::SIGPIPE);
    blocked.add(Signal::SIGXFSZ);
    // Of this thread, and those it starts.
    blocked.thread_block().context("Can't block signals")?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if stopped.swap(true, Ordering::AcqRel) {
                process::exit(128 + signal as i32);
            }
            caller.call();
        }
    });
    Ok(stop)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    // The longer unit first: "ms" ends in an "s".
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1.0));
    let seconds: f64 = number
        .parse()
        .map_err(|_| "a time is a number of seconds, or as 500ms, 5m or 1h")?;
    match Duration::try_from_secs_f64(seconds * unit) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("a time is more than 0, and not absurd".into()),
    }
}

fn parse_file_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size if size < MIN_FILE_SIZE => Err("a file of a ring has at least 512K".into()),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, milliseconds) in [
            ("10", 10_000),
            ("1.5s", 1500),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds))
            );
        }
        for text in ["", "m", "-1", "0", "1d", "nan", "inf", "1e300"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
