//! What the guest's kernel says on its console before it resets the machine. A panic and a reboot
//! look the same to an engine; Linux's own words tell them apart.

/// How Linux begins its last sentence (kernel/panic.c).
const PANIC: &[u8] = b"Kernel panic - not syncing: ";

/// How it announces a wanted reboot (kernel/reboot.c): "reboot: Restarting system with command …".
const RESTART: &[u8] = b"reboot: Restarting system";

/// The longest line looked at, in bytes; the rest of a longer one is skipped.
const MAX_LINE: usize = 1024;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestWords {
    /// Why its kernel panicked.
    pub panic: Option<String>,
    /// Its kernel announced a reboot.
    pub restarting: bool,
}

/// Listens to a console.
#[derive(Debug, Default)]
pub struct Listener {
    line: Vec<u8>,
    words: GuestWords,
}

impl Listener {
    /// Hears what the guest printed: any bytes, cut anywhere.
    pub fn hear(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let room = MAX_LINE - self.line.len();
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_of_line();
            }
        }
    }

    /// What was heard so far. A last line without an end counts.
    pub fn words(&self) -> GuestWords {
        let mut heard = Self {
            line: self.line.clone(),
            words: self.words.clone(),
        };
        heard.end_of_line();
        heard.words
    }

    /// Forgets everything.
    pub fn start_again(&mut self) {
        *self = Self::default();
    }

    fn end_of_line(&mut self) {
        let line = without_stamp(&self.line);
        if let Some(why) = line.strip_prefix(PANIC) {
            // The first panic is the cause; what follows is its wake.
            let why = String::from_utf8_lossy(why)
                .trim()
                .chars()
                .filter(|c| !c.is_control())
                .collect();
            self.words.panic.get_or_insert(why);
        }
        self.words.restarting |= line.starts_with(RESTART);
        self.line.clear();
    }
}

/// A kernel message without its time stamp, and its caller's mark if there is one:
/// `[    2.309174][    T1] reboot: …`.
fn without_stamp(line: &[u8]) -> &[u8] {
    let mut rest = line.trim_ascii_start();
    while let Some(inner) = rest.strip_prefix(b"[") {
        let Some(end) = inner.iter().position(|&b| b == b']') else {
            break;
        };
        rest = inner[end + 1..].trim_ascii_start();
    }
    rest
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
    fn a_line_that_only_speaks_of_panics_is_none() {
        assert_eq!(
            heard("grep 'Kernel panic - not syncing: ' log\n"),
            GuestWords::default()
        );
    }

    #[test]
    fn a_wanted_reboot_is_heard() {
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
