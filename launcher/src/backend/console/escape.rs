//! Three ^C within a second: the way out of a guest that listens to nothing.

use std::time::{Duration, Instant};

/// What the terminal sends for ^C when it is raw (ETX).
const INTERRUPT: u8 = 0x03;

/// How many in a row.
const PRESSES: usize = 3;

/// Within what time.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts ^C in what is typed.
#[derive(Debug, Default)]
pub struct Escape {
    /// When the last ones came, oldest first, without another byte in between.
    presses: Vec<Instant>,
}

impl Escape {
    /// Looks at bytes that arrived at `now`. True when they complete the third ^C.
    pub fn typed(&mut self, bytes: &[u8], now: Instant) -> bool {
        for &byte in bytes {
            if byte == INTERRUPT {
                self.presses
                    .retain(|&then| now.duration_since(then) <= WINDOW);
                self.presses.push(now);
                if self.presses.len() >= PRESSES {
                    return true;
                }
            } else {
                self.presses.clear();
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(presses: &[(&[u8], u64)]) -> bool {
        let start = Instant::now();
        let mut escape = Escape::default();
        presses
            .iter()
            .any(|(bytes, ms)| escape.typed(bytes, start + Duration::from_millis(*ms)))
    }

    #[test]
    fn three_within_a_second_are_the_way_out() {
        assert!(run(&[(b"\x03\x03\x03", 0)]));
        assert!(run(&[(b"\x03", 0), (b"\x03", 400), (b"\x03", 1000)]));
        assert!(run(&[
            (b"\x03", 0),
            (b"\x03", 900),
            (b"\x03", 1800),
            (b"\x03", 1850)
        ]));
    }

    #[test]
    fn fewer_slower_or_interrupted_ones_are_the_guests() {
        assert!(!run(&[(b"\x03\x03", 0)]));
        assert!(!run(&[
            (b"\x03", 0),
            (b"\x03", 600),
            (b"\x03", 1200),
            (b"\x03", 1800)
        ]));
        assert!(!run(&[(b"\x03\x03x\x03", 0)]));
    }
}
