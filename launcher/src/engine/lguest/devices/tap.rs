//! A network interface whose other end is in the host. The guest is in slot 1 of the device's page, the host
//! in slot 0, and wants every frame.

use std::io;
use std::os::fd::AsFd;

use lgswitch::MacAddr;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{read, write};

use super::{Device, FRAME, Given, Line, Trouble};
use crate::engine::lguest::dma::Block;
use crate::engine::lguest::inputs::Source;
use crate::engine::lguest::memory::{GuestMemory, OutOfBounds};

/// The guest's slot.
pub const SLOT: u16 = 1;
/// What it binds its blocks to, from the page on.
const KEY: u32 = 4 * SLOT as u32;
/// In the first byte of an address on the page: wants every frame.
const EVERY_FRAME: u8 = 1;

/// Bytes of the header before each frame. All zero: nothing is left to be done to the frame.
const HEADER: usize = netsetup::VNET_HEADER_LEN;
/// Frames given to the guest in one go: as many as it has blocks for.
const BURST: usize = 8;

/// A tap on the bus. `F` is the tap, opened.
#[derive(Debug)]
pub struct TapDevice<F> {
    tap: F,
    page: u32,
    source: Source,
    /// It counts among the inputs.
    listening: bool,
    /// A frame that found no block, header and all.
    waiting: Vec<u8>,
    buffer: Vec<u8>,
}

impl<F: AsFd> TapDevice<F> {
    /// Puts the host, with this address, behind the page at `page`.
    ///
    /// # Errors
    /// The page is not in memory.
    pub fn new(
        memory: &GuestMemory,
        page: u32,
        number: u8,
        tap: F,
        host: MacAddr,
    ) -> Result<Self, Trouble> {
        let mut address = host.octets();
        address[0] |= EVERY_FRAME;
        memory
            .write_bytes(page, &address)
            .map_err(|outside: OutOfBounds| Trouble::from(outside))?;
        let flags = fcntl(&tap, FcntlArg::F_GETFL).map_err(io::Error::from)?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&tap, FcntlArg::F_SETFL(flags)).map_err(io::Error::from)?;
        Ok(Self {
            tap,
            page,
            source: Source::Device(number),
            listening: false,
            waiting: Vec::new(),
            buffer: vec![0; HEADER + (64 << 10)],
        })
    }

    /// The next frame from the host, with its header; none if there is none now.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            return match read(&self.tap, &mut self.buffer) {
                Ok(count) => Ok(Some(&self.buffer[..count])),
                Err(Errno::EAGAIN) => Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    fn listen(&mut self, line: &Line<'_>, wanted: bool) -> io::Result<()> {
        if wanted != self.listening {
            self.listening = wanted;
            match wanted {
                true => line.inputs.add(&self.tap, self.source)?,
                false => line.inputs.remove(&self.tap)?,
            }
        }
        Ok(())
    }

    /// Gives the guest a frame; `false` if it must wait.
    fn give(&self, line: &mut Line<'_>, bytes: &[u8]) -> Result<bool, Trouble> {
        let Some(frame) = bytes.get(HEADER..).filter(|f| FRAME.contains(&f.len())) else {
            return Ok(true);
        };
        // An interface that is down hears nothing, and nobody waits for it.
        Ok(line.give(self.page + KEY, frame)? != Given::Full)
    }
}

impl<F: AsFd> Device for TapDevice<F> {
    fn sent(&mut self, line: &mut Line<'_>, block: &Block, offset: u32) -> Result<u32, Trouble> {
        if offset != 0 || !FRAME.contains(&block.len()) {
            return Ok(0);
        }
        let mut bytes = [0; HEADER + *FRAME.end()];
        let count = block.copy_to(line.memory, &mut bytes[HEADER..])?;
        match write(&self.tap, &bytes[..HEADER + count]) {
            Ok(_) => Ok(count as u32),
            // A host end that is down, or too slow, loses it, as a card would.
            Err(_) => Ok(0),
        }
    }

    fn poll(&mut self, line: &mut Line<'_>, ready: bool) -> Result<(), Trouble> {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() && !self.give(line, &waiting)? {
            self.waiting = waiting;
            return Ok(());
        }
        if ready || !self.listening {
            for _ in 0..BURST {
                let Some(bytes) = self.next()?.map(<[u8]>::to_vec) else {
                    break;
                };
                if !self.give(line, &bytes)? {
                    self.waiting = bytes;
                    line.remind(self.page + KEY)?;
                    break;
                }
            }
        }
        let wanted = self.waiting.is_empty();
        Ok(self.listen(line, wanted)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stub, block};
    use super::*;
    use crate::engine::lguest::inputs::Inputs;
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
    use std::os::fd::{AsRawFd, OwnedFd};

    const PAGE: u32 = 0x8000;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::empty(),
        )
        .unwrap()
    }

    fn host_sends(far: &OwnedFd, frame: &[u8]) {
        let bytes = [&[0; HEADER], frame].concat();
        send(far.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
    }

    #[test]
    fn the_host_is_in_slot_0_and_hears_everything() {
        let memory = GuestMemory::new(0xa000).unwrap();
        let inputs = Inputs::new().unwrap();
        let (near, far) = pair();
        let mac = MacAddr::new(2, 3, 4, 5, 6, 7);
        let mut tap = TapDevice::new(&memory, PAGE, 0, near, mac).unwrap();
        let mut slot = [0; 6];
        memory.read_bytes(PAGE, &mut slot).unwrap();
        assert_eq!(slot, [3, 3, 4, 5, 6, 7]);
        let mut host = Stub::new(&memory);
        memory.write_bytes(0x2000, &[9; 60]).unwrap();
        let frame = block(&memory, 0x1000, &[(0x2000, 20), (0x2014, 40)]);
        let sent = tap.sent(&mut host.line(&inputs), &frame, 0).unwrap();
        assert_eq!(sent, 60);
        let mut got = [1; 100];
        assert_eq!(recv(far.as_raw_fd(), &mut got, MsgFlags::empty()), Ok(72));
        assert_eq!(got[..12], [0; 12]);
        assert_eq!(got[12..72], [9; 60]);
        // To no slot but that one, and no frame the wire does not take.
        let sent = tap.sent(&mut host.line(&inputs), &frame, 8).unwrap();
        assert_eq!(sent, 0);
        let long = block(&memory, 0x1000, &[(0x2000, 1515)]);
        assert_eq!(tap.sent(&mut host.line(&inputs), &long, 0).unwrap(), 0);
    }

    #[test]
    fn frames_wait_for_blocks_but_not_for_an_interface_that_is_down() {
        let memory = GuestMemory::new(0xa000).unwrap();
        let inputs = Inputs::new().unwrap();
        let (near, far) = pair();
        let mut tap = TapDevice::new(&memory, PAGE, 0, near, MacAddr::zero()).unwrap();
        let mut host = Stub::new(&memory);
        host_sends(&far, &[1; 60]);
        tap.poll(&mut host.line(&inputs), false).unwrap();
        assert!(!inputs.ready().unwrap().has(Source::Device(0)));
        // Up, with one block.
        block(&memory, 0x1000, &[(0x2000, 1514)]);
        host.bindings.bind(PAGE + KEY, 0x1000, 1, 4);
        for n in [2, 3] {
            host_sends(&far, &[n; 60]);
        }
        // Too long for it: thrown away.
        host_sends(&far, &[4; 1515]);
        host_sends(&far, &[5; 60]);
        for n in [2, 3, 5] {
            let ready = inputs.ready().unwrap().has(Source::Device(0));
            tap.poll(&mut host.line(&inputs), ready).unwrap();
            assert_eq!(memory.load::<u32>(0x1000), Ok(60));
            assert_eq!(memory.load::<u8>(0x2000), Ok(n));
            assert_eq!(host.raised.pop(), Some(4));
            memory.store(0x1000, 0u32).unwrap();
        }
    }
}
