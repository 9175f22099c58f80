//! What goes to stderr, and to the log if there is one: one line each, in the program's name.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::transcript::Transcript;

/// Where our lines go besides stderr.
static LOG: OnceLock<Transcript> = OnceLock::new();

/// From here on our lines go to this log as well, if it is the first that is given.
pub fn also_to(log: Transcript) {
    // A process runs one guest; a test that runs more has its first one's log.
    let _ = LOG.set(log);
}

/// Prints one line, whatever is in `text`: names come from users and may hold line breaks.
pub fn say(text: &impl fmt::Display) {
    line(&format!("launcher: {}", in_one_line(&text.to_string())));
}

fn line(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "{text}");
    if let Some(log) = LOG.get() {
        log.line(text);
    }
}

fn in_one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Lets the libraries below speak: their warnings, and with `verbose` all they have to say.
pub fn let_libraries_speak(verbose: bool) {
    let level = if verbose { Level::DEBUG } else { Level::WARN };
    // Somebody else's subscriber (a test's) is as good.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Lines)
        .event_format(OneLine)
        .try_init();
}

/// Takes a whole line at a time, as its only writer, `tracing_subscriber`, gives it.
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        line(String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A library's message as one of our lines.
struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut message = Message::default();
        event.record(&mut message);
        let warning = if *event.metadata().level() <= Level::WARN {
            "warning: "
        } else {
            ""
        };
        writeln!(writer, "launcher: {warning}{}", in_one_line(&message.0))
    }
}

/// An event's own sentence; other fields are for programs.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
