//! What goes to stderr: one line each, in the program's name.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Prints one line, whatever is in `text`: names come from users and may hold line breaks.
pub fn say(text: &impl fmt::Display) {
    let line = text
        .to_string()
        .split(['\n', '\r'])
        .collect::<Vec<_>>()
        .join(" ");
    eprintln!("launcher: {line}");
}

/// Lets the libraries below speak: their warnings, and with `verbose` all they have to say.
pub fn let_libraries_speak(verbose: bool) {
    let level = if verbose { Level::DEBUG } else { Level::WARN };
    // Somebody else's subscriber (a test's) is as good.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .event_format(OneLine)
        .try_init();
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
        writeln!(
            writer,
            "launcher: {warning}{}",
            message.0.replace(['\n', '\r'], " ")
        )
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
