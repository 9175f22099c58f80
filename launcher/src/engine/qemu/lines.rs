//! Lines out of a descriptor that must never make us wait.

use std::io::{self, ErrorKind, Read};

/// The longest line kept, in bytes; the rest of a longer one is dropped.
const MAX_LINE: usize = 64 << 10;

/// Reads what is there and cuts it into lines.
#[derive(Debug)]
pub struct Lines<R> {
    source: Option<R>,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Reads from `source`, which must be non-blocking.
    pub fn new(source: R) -> Self {
        Self {
            source: Some(source),
            line: Vec::new(),
        }
    }

    /// What there is to wait on: nothing after the end.
    pub fn source(&self) -> Option<&R> {
        self.source.as_ref()
    }

    /// Reads all that is there now, and gives the lines it completes, without their ends. At the
    /// end of the stream a last line counts without one.
    ///
    /// # Errors
    /// Reading fails; that is the end of the stream as well.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut buffer = [0; 4096];
        while let Some(source) = &mut self.source {
            match source.read(&mut buffer) {
                Ok(0) => {
                    self.source = None;
                    if !self.line.is_empty() {
                        lines.push(self.take_line());
                    }
                }
                Ok(n) => self.cut(&buffer[..n], &mut lines),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.source = None;
                    return Err(error);
                }
            }
        }
        Ok(lines)
    }

    fn cut(&mut self, bytes: &[u8], lines: &mut Vec<String>) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                lines.push(self.take_line());
            }
        }
    }

    fn take_line(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.line))
            .trim_end()
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn lines_come_when_they_are_whole_and_the_last_at_the_end() {
        let (mut near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let mut lines = Lines::new(far);
        near.write_all(b"one\r\ntw").unwrap();
        assert_eq!(lines.read().unwrap(), ["one"]);
        assert_eq!(lines.read().unwrap(), Vec::<String>::new());
        near.write_all(b"o\nthree").unwrap();
        drop(near);
        assert_eq!(lines.read().unwrap(), ["two", "three"]);
        assert!(lines.source().is_none());
    }
}
