//! QMP, QEMU's control channel (docs/interop/qmp-spec): JSON, a message a line.
//!
//! We want little of it: to let the guest start (QEMU is started stopped, so that no event can
//! come before we listen), to press its power button, to hear that it was reset or *why* it ended,
//! and to ask QEMU to end.

use serde::Deserialize;

/// What QEMU says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// It is there. It wants `qmp_capabilities` before anything else.
    Greeting,
    /// A command was carried out.
    Done,
    /// A command was refused, in these words.
    Refused(String),
    /// The guest, or its processor, reset it, and it starts again.
    Reset,
    /// The guest is over.
    Shutdown(Reason),
    /// Something that is no concern of ours.
    Other,
}

/// Why QEMU ends (`ShutdownCause` of its schema; unknown ones may come with newer versions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest asked for a reset, or its processor did.
    GuestReset,
    /// Somebody sent QEMU a signal.
    HostSignal,
    /// We asked it to.
    Quit,
    /// In QEMU's words.
    Other(String),
}

/// Ends the negotiation.
pub const CAPABILITIES: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
/// Lets the guest run.
pub const CONTINUE: &[u8] = b"{\"execute\":\"cont\"}\n";
/// Presses the guest's power button (ACPI).
pub const POWER_BUTTON: &[u8] = b"{\"execute\":\"system_powerdown\"}\n";
/// Ends QEMU in good order: disks are flushed.
pub const QUIT: &[u8] = b"{\"execute\":\"quit\"}\n";

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<serde_json::Value>,
    #[serde(rename = "return")]
    done: Option<serde_json::Value>,
    error: Option<RawError>,
    event: Option<String>,
    data: Option<RawData>,
}

#[derive(Deserialize)]
struct RawError {
    desc: String,
}

#[derive(Deserialize)]
struct RawData {
    #[serde(default)]
    guest: bool,
    reason: Option<String>,
}

impl Message {
    /// Reads one line. What is not JSON, or no message, is of no concern.
    pub fn parse(line: &str) -> Self {
        match serde_json::from_str::<Raw>(line) {
            Ok(Raw {
                greeting: Some(_), ..
            }) => Self::Greeting,
            Ok(Raw { done: Some(_), .. }) => Self::Done,
            Ok(Raw {
                error: Some(error), ..
            }) => Self::Refused(error.desc),
            Ok(Raw {
                event: Some(event),
                data: Some(RawData { guest: true, .. }),
                ..
            }) if event == "RESET" => Self::Reset,
            Ok(Raw {
                event: Some(event),
                data,
                ..
            }) if event == "SHUTDOWN" => {
                let reason = data.and_then(|data| data.reason).unwrap_or_default();
                Self::Shutdown(match reason.as_str() {
                    "guest-shutdown" => Reason::GuestShutdown,
                    "guest-reset" => Reason::GuestReset,
                    "host-signal" => Reason::HostSignal,
                    "host-qmp-quit" => Reason::Quit,
                    _ => Reason::Other(reason),
                })
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_is_understood() {
        for (line, message) in [
            (
                r#"{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}"#,
                Message::Greeting,
            ),
            (r#"{"return": {}}"#, Message::Done),
            (
                r#"{"error": {"class": "GenericError", "desc": "no"}}"#,
                Message::Refused("no".into()),
            ),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
                Message::Shutdown(Reason::GuestReset),
            ),
            (
                r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "new"}}"#,
                Message::Shutdown(Reason::Other("new".into())),
            ),
            (
                r#"{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}"#,
                Message::Reset,
            ),
            (
                r#"{"event": "RESET", "data": {"guest": false, "reason": "host-qmp-system-reset"}}"#,
                Message::Other,
            ),
            (r#"{"event": "RESUME"}"#, Message::Other),
            (
                r#"{"event": "RTC_CHANGE", "data": {"offset": 78}}"#,
                Message::Other,
            ),
            ("[]", Message::Other),
            ("", Message::Other),
        ] {
            assert_eq!(Message::parse(line), message, "{line}");
        }
    }
}
