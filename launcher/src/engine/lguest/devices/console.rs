//! The console: what the guest sends to key 0 is printed, what is typed goes to the block it bound there.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags};

use super::{Device, Given, Line, Trouble};
use crate::engine::lguest::dma::Block;
use crate::engine::lguest::inputs::{Source, wait_for};
use crate::stop::StopRequests;

/// Its key.
const KEY: u32 = 0;
/// The most that is read in one go: what a guest of 2.6.23 has room for, in bytes.
const MOST: usize = 256;

/// The console.
#[derive(Debug)]
pub struct Console<'a> {
    stream: UnixStream,
    stop: &'a StopRequests,
    source: Source,
    /// It counts among the inputs.
    listening: bool,
    /// Nothing will be typed any more.
    ended: bool,
    /// What was typed and found no room.
    typed: Vec<u8>,
}

impl<'a> Console<'a> {
    /// The guest's end of the console is `stream`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(stream: UnixStream, stop: &'a StopRequests, number: u8) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            stop,
            source: Source::Device(number),
            listening: false,
            ended: false,
            typed: Vec::new(),
        })
    }

    /// Prints all, however slow it goes, unless somebody wants the guest to end.
    fn print(&self, mut bytes: &[u8]) -> Result<(), Trouble> {
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [
                        PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT),
                        PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                    ];
                    wait_for(&mut fds, None)?;
                    if fds[1].any() == Some(true) {
                        break;
                    }
                }
                // Nobody reads it any more, which is no reason to stop.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Gives the guest what was typed; tells whether nothing is left.
    fn hand_over(&mut self, line: &mut Line<'_>) -> Result<bool, Trouble> {
        if !self.typed.is_empty()
            && let Given::Taken(count) = line.give(KEY, &self.typed)?
        {
            self.typed.drain(..count);
        }
        Ok(self.typed.is_empty())
    }

    /// Counts among the inputs if there is any use in it.
    fn listen(&mut self, line: &Line<'_>, wanted: bool) -> io::Result<()> {
        if wanted != self.listening {
            self.listening = wanted;
            match wanted {
                true => line.inputs.add(&self.stream, self.source)?,
                false => line.inputs.remove(&self.stream)?,
            }
        }
        Ok(())
    }
}

impl Device for Console<'_> {
    fn sent(&mut self, line: &mut Line<'_>, block: &Block, offset: u32) -> Result<u32, Trouble> {
        if offset != KEY {
            return Ok(0);
        }
        let mut bytes = vec![0; block.len()];
        block.copy_to(line.memory, &mut bytes)?;
        self.print(&bytes)?;
        Ok(bytes.len() as u32)
    }

    fn poll(&mut self, line: &mut Line<'_>, ready: bool) -> Result<(), Trouble> {
        let mut idle = self.hand_over(line)?;
        if ready && idle {
            let mut bytes = [0; MOST];
            match self.stream.read(&mut bytes) {
                Ok(count) => {
                    self.ended = count == 0;
                    self.typed.extend_from_slice(&bytes[..count]);
                    idle = self.hand_over(line)?;
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => self.ended = true,
            }
        }
        Ok(self.listen(line, idle && !self.ended)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stub, block};
    use super::*;
    use crate::engine::lguest::inputs::Inputs;
    use crate::engine::lguest::memory::GuestMemory;
    use crate::stop::{self, StopCause, StopRequest};

    #[test]
    fn what_is_typed_waits_until_there_is_a_block_for_it() {
        let memory = GuestMemory::new(0x4000).unwrap();
        let inputs = Inputs::new().unwrap();
        let (_, requests) = stop::channel().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut console = Console::new(near, &requests, 7).unwrap();
        let mut host = Stub::new(&memory);
        let mut poll = |host: &mut Stub<'_>| {
            let ready = inputs.ready().unwrap().has(Source::Device(7));
            console.poll(&mut host.line(&inputs), ready).unwrap();
        };
        poll(&mut host);
        far.write_all(b"hello").unwrap();
        poll(&mut host);
        far.write_all(b"world").unwrap();
        // Nobody is there, and nothing is asked again and again.
        poll(&mut host);
        assert!(!inputs.ready().unwrap().has(Source::Device(7)));
        block(&memory, 0x1000, &[(0x2000, 256)]);
        host.bindings.bind(KEY, 0x1000, 1, 8);
        for words in [b"hello", b"world"] {
            poll(&mut host);
            poll(&mut host);
            let mut got = [0; 5];
            memory.read_bytes(0x2000, &mut got).unwrap();
            assert_eq!(&got, words);
            assert_eq!(memory.load::<u32>(0x1000), Ok(5));
            assert_eq!(host.raised.pop(), Some(8));
            memory.store(0x1000, 0u32).unwrap();
        }
        drop(far);
        poll(&mut host);
        poll(&mut host);
        assert!(!inputs.ready().unwrap().has(Source::Device(7)));
    }

    #[test]
    fn a_console_nobody_reads_holds_the_guest_until_it_is_to_end() {
        let memory = GuestMemory::new(0x4000).unwrap();
        let inputs = Inputs::new().unwrap();
        let (sender, requests) = stop::channel().unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        let mut console = Console::new(near, &requests, 7).unwrap();
        let mut host = Stub::new(&memory);
        sender.request(StopRequest::End(StopCause::Escape));
        let page = block(&memory, 0x1000, &[(0x2000, 4096); 3]);
        for _ in 0..200 {
            let used = console.sent(&mut host.line(&inputs), &page, 0).unwrap();
            assert_eq!(used, 3 * 4096);
        }
    }
}
