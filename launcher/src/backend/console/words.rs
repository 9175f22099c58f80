//! What the guest says on its console that somebody waits for: that it is ready (`--ready`), that its
//! kernel met an error of its own, and why it resets the machine. A panic and a reboot look the
//! same to an engine; Linux's own words tell them apart.

use crate::plan::life::ReadyText;

/// How Linux begins its last sentence (kernel/panic.c).
const PANIC: &[u8] = b"Kernel panic - not syncing: ";

/// How it announces a wanted reboot (kernel/reboot.c): "reboot: Restarting system with command …".
/// Before 3.11 it did so without the first word.
const RESTART: [&[u8]; 2] = [b"reboot: Restarting system", b"Restarting system."];

/// How it begins to tell of an error of its own (arch/x86/kernel/dumpstack.c, arch/x86/mm/fault.c,
/// lib/bug.c, kernel/watchdog.c).
const OOPS: [&[u8]; 7] = [
    PANIC,
    b"BUG: ",
    b"kernel BUG at ",
    b"Oops: ",
    b"general protection fault",
    b"watchdog: BUG: ",
    b"Unable to handle kernel ",
];

/// The longest line looked at, in bytes; the rest of a longer one is skipped.
const MAX_LINE: usize = 1024;

/// What the guest has said of its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestWords {
    /// Why its kernel panicked.
    pub panic: Option<String>,
    /// Its kernel announced a reboot.
    pub restarting: bool,
}

/// Something worth telling at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It is ready. Told once until it starts again.
    Ready,
    /// Its kernel tells of an error of its own, in this line.
    Oops(String),
}

/// Listens to a console.
#[derive(Debug, Default)]
pub struct Listener {
    /// What marks it ready.
    ready: Option<ReadyText>,
    is_ready: bool,
    line: Vec<u8>,
    words: GuestWords,
}

impl Listener {
    /// Listens for `ready` as well, which counts anywhere in a line, and without the line's end: a
    /// prompt has none.
    pub fn new(ready: Option<ReadyText>) -> Self {
        Self {
            ready,
            ..Self::default()
        }
    }

    /// Hears what the guest printed: any bytes, cut anywhere.
    pub fn hear(&mut self, bytes: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let before = self.line.len();
            let room = MAX_LINE - before;
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            heard.extend(self.look_for_ready(before));
            if piece.ends_with(b"\n") {
                heard.extend(self.end_of_line());
            }
        }
        heard
    }

    /// What was heard so far. A last line without an end counts.
    pub fn words(&self) -> GuestWords {
        let mut heard = Self {
            line: self.line.clone(),
            words: self.words.clone(),
            ..Self::default()
        };
        heard.end_of_line();
        heard.words
    }

    /// Forgets what was heard: the guest starts again.
    pub fn start_again(&mut self) {
        *self = Self::new(self.ready.take());
    }

    /// Whether the text that marks it ready ends in what is new in the line, from `before` on.
    fn look_for_ready(&mut self, before: usize) -> Option<Heard> {
        let text = self.ready.as_ref()?.as_str().as_bytes();
        let from = before.saturating_sub(text.len() - 1);
        let is_there = self
            .line
            .get(from..)?
            .windows(text.len())
            .any(|window| window == text);
        if self.is_ready || !is_there {
            return None;
        }
        self.is_ready = true;
        Some(Heard::Ready)
    }

    fn end_of_line(&mut self) -> Option<Heard> {
        let line = message(&self.line);
        if let Some(why) = line.strip_prefix(PANIC) {
            // The first panic is the cause; what follows is its wake.
            self.words.panic.get_or_insert(printable(why));
        }
        self.words.restarting |= RESTART.iter().any(|text| line.starts_with(text));
        let oops = OOPS
            .iter()
            .any(|text| line.starts_with(text))
            .then(|| Heard::Oops(printable(line)));
        self.line.clear();
        oops
    }
}

/// For a sentence of ours.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

/// What the kernel says in a line, without its time stamp, and its caller's mark if there is one:
/// `[    2.309174][    T1] reboot: …`. A kernel in trouble does not wait for a program to end its
/// line, so the stamp may stand anywhere.
fn message(line: &[u8]) -> &[u8] {
    let starts = line.iter().enumerate().filter(|(_, b)| **b == b'[');
    let stamp = starts
        .map(|(at, _)| &line[at..])
        .rfind(|rest| is_stamp(rest));
    let mut rest = stamp.unwrap_or(line).trim_ascii_start();
    while let Some(inner) = rest.strip_prefix(b"[") {
        let Some(end) = inner.iter().position(|&b| b == b']') else {
            break;
        };
        rest = inner[end + 1..].trim_ascii_start();
    }
    rest
}

/// Whether this begins with a time stamp: seconds, a point and a fraction in brackets.
fn is_stamp(text: &[u8]) -> bool {
    let inner = text.get(1..).unwrap_or_default();
    let Some(end) = inner.iter().position(|&b| b == b']') else {
        return false;
    };
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let mut parts = inner[..end].trim_ascii_start().split(|&b| b == b'.');
    matches!(
        (parts.next(), parts.next(), parts.next()),
        (Some(seconds), Some(fraction), None) if is_number(seconds) && is_number(fraction)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> GuestWords {
        let mut listener = Listener::default();
        listener.hear(text.as_bytes());
        listener.words()
    }

    #[test]
    fn a_panic_is_heard_however_it_is_stamped_and_cut() {
        let text = "[    3.1] sysrq: Trigger a crash\r\n[    3.1][    T1] Kernel panic - not syncing: sysrq triggered crash\r\n\
                    [    3.2] ---[ end Kernel panic - not syncing: other ]---\r\n";
        for cut in 0..text.len() {
            let mut listener = Listener::default();
            listener.hear(&text.as_bytes()[..cut]);
            listener.hear(&text.as_bytes()[cut..]);
            assert_eq!(
                listener.words().panic.as_deref(),
                Some("sysrq triggered crash")
            );
        }
        assert!(
            heard("Kernel panic - not syncing: VFS: no root")
                .panic
                .is_some()
        );
    }

    #[test]
    fn a_panic_that_breaks_into_a_programs_line_is_heard() {
        let text = "917\r\n9[    4.565600] Kernel panic - not syncing: sysrq triggered crash\r\n";
        assert_eq!(heard(text).panic.as_deref(), Some("sysrq triggered crash"));
        let text = "a[1] [x.1] [1.] [.1] [ 4.5][ T1] reboot: Restarting system\r\n";
        assert!(heard(text).restarting);
    }

    #[test]
    fn a_line_that_only_speaks_of_panics_is_none() {
        assert_eq!(
            heard("grep 'Kernel panic - not syncing: ' log\n"),
            GuestWords::default()
        );
    }

    #[test]
    fn readiness_is_heard_once_wherever_it_is_cut_and_again_after_a_new_start() {
        let text = "noise\r\n[ 1.0] systemd: Welcome! box login: \r\nbox login: ";
        for cut in 0..text.len() {
            let mut listener = Listener::new(Some(ReadyText::parse("box login:").unwrap()));
            for _ in 0..2 {
                let mut heard = listener.hear(&text.as_bytes()[..cut]);
                heard.extend(listener.hear(&text.as_bytes()[cut..]));
                assert_eq!(heard, [Heard::Ready]);
                listener.start_again();
            }
            assert_eq!(listener.hear(b"box \nlogin:"), []);
        }
        assert_eq!(Listener::default().hear(text.as_bytes()), []);
    }

    #[test]
    fn a_kernels_errors_are_heard() {
        let hear = |text: &str| Listener::default().hear(text.as_bytes());
        for line in [
            "[    9.1] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "Oops: 0002 [#1]",
            "[    9.1][  T77] general protection fault, probably for non-canonical address",
            "[   30.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:77]",
            "Kernel panic - not syncing: Attempted to kill init!",
        ] {
            let oops = String::from_utf8(message(line.as_bytes()).to_vec()).unwrap();
            assert_eq!(hear(&format!("{line}\r\n")), [Heard::Oops(oops)]);
        }
        for line in ["grep 'BUG: ' log", "debug: on", "segfault at 0 ip 0"] {
            assert_eq!(hear(&format!("{line}\r\n")), []);
        }
    }

    #[test]
    fn a_wanted_reboot_is_heard() {
        assert!(heard("Restarting system.\n").restarting);
        assert!(heard("[   10.0] reboot: Restarting system\r\n").restarting);
        assert!(!heard("[   10.0] reboot: Power down\r\n").restarting);
    }

    #[test]
    fn a_line_without_end_costs_no_memory() {
        let mut listener = Listener::default();
        for _ in 0..1000 {
            listener.hear(&[b'x'; 4096]);
        }
        assert!(listener.line.len() <= MAX_LINE);
    }
}
