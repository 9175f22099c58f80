//! What the guest has printed and nobody has read yet. The newest is kept: whoever comes late wants to
//! know how it stands, and the guest never waits for a reader.

use std::collections::VecDeque;

/// How much is kept, in bytes.
const LIMIT: usize = 64 << 10;

/// Bytes to be read, oldest first.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: VecDeque<u8>,
    /// How many were dropped before these, which the reader has not been told.
    lost: u64,
}

impl Backlog {
    /// Adds what the guest printed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(LIMIT);
        self.bytes.drain(..surplus);
        self.lost += surplus as u64;
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is to be read next: some of it, but nothing only if there is nothing. Where bytes were
    /// dropped, a line says so.
    pub fn next(&mut self) -> &[u8] {
        if self.lost > 0 {
            let note = format!(
                "\r\n[launcher: {} bytes were not read in time]\r\n",
                self.lost
            );
            note.bytes().rev().for_each(|b| self.bytes.push_front(b));
            self.lost = 0;
        }
        self.bytes.as_slices().0
    }

    /// So many of them have been read.
    pub fn read(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(backlog: &mut Backlog) -> String {
        let mut text = Vec::new();
        while !backlog.is_empty() {
            let piece = backlog.next().to_vec();
            backlog.read(piece.len().min(7));
            text.extend(&piece[..piece.len().min(7)]);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_fits_comes_out_as_it_went_in() {
        let mut backlog = Backlog::default();
        backlog.push(b"one ");
        backlog.push(&b"x".repeat(LIMIT - 4));
        assert_eq!(rest(&mut backlog), format!("one {}", "x".repeat(LIMIT - 4)));
    }

    #[test]
    fn the_newest_is_kept_and_the_loss_is_told() {
        let mut backlog = Backlog::default();
        backlog.push(&b"old".repeat(LIMIT));
        backlog.push(&b"new!".repeat(LIMIT / 4));
        let text = rest(&mut backlog);
        let lost = 3 * LIMIT;
        assert!(text.starts_with(&format!(
            "\r\n[launcher: {lost} bytes were not read in time]\r\nnew!"
        )));
        assert!(text.ends_with("new!") && text.len() < LIMIT + 100);
        backlog.push(b"on");
        assert_eq!(rest(&mut backlog), "on");
    }
}
