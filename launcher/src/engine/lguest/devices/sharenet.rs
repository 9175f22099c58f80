//! A network interface on a sharenet. The device's page *is* the segment's peers page, mapped from its file:
//! the guest writes its own address to its slot and reads the others'. For each peer that is to have a
//! frame it sends one block, to the key of the peer's slot; we put it into that peer's ring. What others
//! put into ours goes to the blocks the guest bound to the key of its own slot.
//!
//! The guest leaves checksums of TCP and UDP unfinished, on a wire that needs none, and takes them so; it
//! says nothing of it, so we find out ([`lgswitch::offload::unsaid`]) and tell the port, which finishes
//! them for those that need it. Segments of 64 KiB are cut by their sender: the port does not take them.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use lgswitch::bell::Bell;
use lgswitch::frame::{Frame, Offloads};
use lgswitch::plug::patience::Patience;
use lgswitch::port::{Caller, Sent, Verdict};
use lgswitch::{Gather, Port, PortRx, PortTx, SlotIndex, offload};

use super::{Device, FRAME, Given, Line, Trouble};
use crate::engine::lguest::dma::Block;

/// From one slot's key to the next.
const KEY: u32 = 4;
/// Frames given to the guest in one go: as many as it has blocks for.
const BURST: usize = 8;

/// A port on the bus.
pub struct SharenetDevice {
    tx: PortTx,
    rx: PortRx,
    /// What the guest binds its blocks to.
    key: u32,
    patience: Patience,
    /// None: whoever serves this port sleeps on it.
    listener: Option<Listener>,
    /// Frames are there that found no block.
    stuck: bool,
}

/// A thread that hears a port's bell.
struct Listener {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// What a listener calls when there are frames.
pub type Call = Box<dyn Fn() + Send>;

impl SharenetDevice {
    /// Puts a port behind the page at `page`, which is mapped from its segment's file. Frames that come while
    /// the guest waits are told by a call; without one, they are for who [sleeps](Device::sleep) on this device.
    ///
    /// # Errors
    /// No thread is left.
    pub fn new(page: u32, number: u8, port: Port, call: Option<Call>) -> io::Result<Self> {
        let listener = call.map(|call| Listener::new(number, &port, call));
        let listener = listener.transpose()?;
        let (tx, rx) = port.split();
        rx.caller().set_offloads(Offloads::CHECKSUM);
        Ok(Self {
            key: page + KEY * tx.slot().get() as u32,
            tx,
            rx,
            patience: Patience::default(),
            listener,
            stuck: false,
        })
    }

    /// Ends the sleep of who sleeps on this device.
    pub fn caller(&self) -> Caller {
        self.rx.caller()
    }

    /// Gives the guest what is there, as far as it has blocks.
    fn receive(&mut self, line: &mut Line<'_>) -> Result<(), Trouble> {
        let mut trouble = None;
        let mut full = false;
        let key = self.key;
        let mut bytes = [0; *FRAME.end()];
        self.rx.recv(BURST, |frame: &Frame<'_>| {
            if !FRAME.contains(&frame.bytes.len()) {
                return Verdict::Refused;
            }
            let count = frame.bytes.copy_to(&mut bytes);
            match line.give(key, &bytes[..count]) {
                Ok(Given::Taken(_)) => Verdict::Taken,
                Ok(Given::Full) => {
                    full = true;
                    Verdict::Later
                }
                // The interface is down.
                Ok(Given::Unwanted) => Verdict::Refused,
                Err(error) => {
                    trouble = Some(error);
                    Verdict::Refused
                }
            }
        });
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        if full && !self.stuck {
            line.remind(key)?;
        }
        self.stuck = full;
        Ok(())
    }
}

impl Device for SharenetDevice {
    fn sent(&mut self, line: &mut Line<'_>, block: &Block, offset: u32) -> Result<u32, Trouble> {
        let peer = SlotIndex::new((offset / KEY) as usize);
        let Some(peer) = peer.filter(|_| FRAME.contains(&block.len())) else {
            return Ok(0);
        };
        let mut bytes = [0; *FRAME.end()];
        let count = block.copy_to(line.memory, &mut bytes)?;
        let frame = &bytes[..count];
        let header = offload::unsaid::header_of(frame);
        let parts = [frame.into()];
        let sent = self
            .patience
            .send_to(peer, &mut self.tx, &header, &Gather::new(&parts));
        self.tx.flush();
        Ok(if sent == Sent::Done { count as u32 } else { 0 })
    }

    fn poll(&mut self, line: &mut Line<'_>, _ready: bool) -> Result<(), Trouble> {
        self.receive(line)
    }

    fn prepare_to_sleep(&mut self, line: &mut Line<'_>) -> Result<(), Trouble> {
        if let Some(listener) = &self.listener {
            self.rx.settle_down();
            listener.bell.arm();
        }
        self.receive(line)
    }

    fn sleep(&mut self, timeout: Duration) -> bool {
        if self.listener.is_some() {
            return false;
        }
        if self.stuck {
            // More frames are of no use to it.
            self.rx.wait_for_call(timeout);
        } else {
            self.rx.wait(timeout);
        }
        true
    }

    fn awake(&mut self) {
        if let Some(listener) = &self.listener {
            listener.bell.disarm();
        }
    }
}

impl Listener {
    fn new(number: u8, port: &Port, call: Call) -> io::Result<Self> {
        let bell = Arc::new(Bell::of(port));
        let thread = {
            let bell = Arc::clone(&bell);
            // Two calls deep.
            std::thread::Builder::new()
                .name(format!("bell {number}"))
                .stack_size(64 << 10)
                .spawn(move || bell.listen(call))?
        };
        Ok(Self {
            bell,
            thread: Some(thread),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.bell.silence();
        if let Some(thread) = self.thread.take() {
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Stub, block};
    use super::*;
    use crate::engine::lguest::inputs::Inputs;
    use crate::engine::lguest::memory::{GuestMemory, Sharing};
    use lgswitch::{CreateOptions, PortOptions, Segment, VnetHeader};
    use std::time::Duration;

    const PAGE: u32 = 0x10000;
    const BLOCKS: u32 = 0x1000;
    const GUEST: [u8; 6] = [2, 0, 5, 0, 0, 0];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// A guest's interface, and a port of today's, on one segment.
    struct Lan {
        device: SharenetDevice,
        tx: PortTx,
        rx: PortRx,
        _folder: tempfile::TempDir,
    }

    fn lan(call: Option<Call>) -> (GuestMemory, Lan) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lan0");
        Segment::create(&path, &CreateOptions::default()).unwrap();
        let segment = Segment::open(&path).unwrap();
        let other = segment.port(PortOptions {
            mac: Some(OTHER.into()),
            ..PortOptions::default()
        });
        let port = segment.port(PortOptions {
            guest_writes_address: true,
            ..PortOptions::default()
        });
        let mut memory = GuestMemory::new(PAGE + 0x10000).unwrap();
        memory
            .map_file(PAGE, segment.as_file(), 0, 4096, Sharing::Shared)
            .unwrap();
        let device = SharenetDevice::new(PAGE, 0, port.unwrap(), call).unwrap();
        let (tx, rx) = other.unwrap().split();
        let lan = Lan {
            device,
            tx,
            rx,
            _folder: folder,
        };
        (memory, lan)
    }

    impl Lan {
        /// What the driver does when the interface comes up: its address, and two blocks.
        fn up<'m>(&self, memory: &'m GuestMemory) -> Stub<'m> {
            let slot = (self.device.key - PAGE) / KEY;
            memory.write_bytes(PAGE + slot * 6, &GUEST).unwrap();
            for n in 0..2 {
                let room = [(0x4000 + n * 0x1000, 1514)];
                block(memory, BLOCKS + n * 100, &room);
            }
            let mut host = Stub::new(memory);
            host.bindings.bind(self.device.key, BLOCKS, 2, 1);
            host
        }

        fn other_sends(&mut self, n: u8, len: usize) -> Sent {
            let mut bytes = [GUEST, OTHER].concat();
            bytes.resize(len, n);
            let parts = [bytes.as_slice().into()];
            let sent = self.tx.send(&VnetHeader::default(), &Gather::new(&parts));
            self.tx.flush();
            sent
        }

        fn other_hears(&mut self) -> Vec<Vec<u8>> {
            let mut frames = Vec::new();
            self.rx.recv(64, |frame| {
                frames.push(frame.bytes.to_vec());
                Verdict::Taken
            });
            frames
        }
    }

    #[test]
    fn a_frame_for_the_guest_fills_the_next_block_and_one_too_many_waits() {
        let (memory, mut lan) = lan(None);
        let mut host = lan.up(&memory);
        for n in [1, 2, 3] {
            assert_eq!(lan.other_sends(n, 60), Sent::Done);
        }
        let inputs = Inputs::new().unwrap();
        lan.device.poll(&mut host.line(&inputs), false).unwrap();
        for n in 0..2 {
            assert_eq!(memory.load::<u32>(BLOCKS + n * 100), Ok(60));
            let byte = memory.load::<u8>(0x4000 + n * 0x1000 + 20);
            assert_eq!(byte, Ok(n as u8 + 1));
        }
        // Two for the frames, one to remind it that a third waits, and no more of those.
        assert_eq!(host.raised, [1, 1, 1]);
        lan.device.poll(&mut host.line(&inputs), false).unwrap();
        assert_eq!(host.raised, [1, 1, 1]);
        memory.store(BLOCKS, 0u32).unwrap();
        lan.device.poll(&mut host.line(&inputs), false).unwrap();
        assert_eq!(memory.load::<u8>(0x4000 + 20), Ok(3));
    }

    #[test]
    fn a_guest_that_is_down_hears_nothing_and_holds_nobody_up() {
        let (memory, mut lan) = lan(None);
        lan.up(&memory);
        let mut host = Stub::new(&memory);
        let inputs = Inputs::new().unwrap();
        for _ in 0..5 {
            assert_eq!(lan.other_sends(1, 60), Sent::Done);
        }
        lan.device.poll(&mut host.line(&inputs), false).unwrap();
        let mut host = lan.up(&memory);
        // Longer than it takes: dropped, and the next one comes.
        assert_eq!(lan.other_sends(2, 1518), Sent::Done);
        assert_eq!(lan.other_sends(3, 60), Sent::Done);
        lan.device.poll(&mut host.line(&inputs), false).unwrap();
        assert_eq!(memory.load::<u8>(0x4000 + 20), Ok(3));
        assert_eq!(host.raised, [1]);
    }

    #[test]
    fn what_the_guest_sends_to_a_slots_key_is_in_that_slots_ring() {
        let (memory, mut lan) = lan(None);
        let mut host = lan.up(&memory);
        let inputs = Inputs::new().unwrap();
        let bytes = [&OTHER[..], &GUEST, &[0x88, 0xb5], &[7; 46]].concat();
        memory.write_bytes(0x8ff0, &bytes).unwrap();
        let frame = block(&memory, 0x2000, &[(0x8ff0, 16), (0x9000, 44)]);
        let mut line = host.line(&inputs);
        let slot = lan.rx.slot().get() as u32;
        assert_eq!(lan.device.sent(&mut line, &frame, slot * KEY).unwrap(), 60);
        assert_eq!(lan.other_hears(), [bytes]);
        // To slots nobody has, and beyond the last.
        for offset in [5 * KEY, 681 * KEY, 682 * KEY, 4092] {
            assert_eq!(lan.device.sent(&mut line, &frame, offset).unwrap(), 0);
        }
        let short = block(&memory, 0x2000, &[(0x8ff0, 13)]);
        assert_eq!(lan.device.sent(&mut line, &short, slot * KEY).unwrap(), 0);
        assert!(lan.other_hears().is_empty());
    }

    #[test]
    fn a_frame_ends_the_sleep_on_its_port_and_so_does_a_call() {
        let (memory, mut lan) = lan(None);
        let mut host = lan.up(&memory);
        let inputs = Inputs::new().unwrap();
        let long = Duration::from_secs(3600);
        let caller = lan.device.caller();
        let calls = std::thread::spawn(move || caller.call());
        assert!(lan.device.sleep(long));
        calls.join().unwrap();
        for _ in 0..3 {
            assert_eq!(lan.other_sends(1, 60), Sent::Done);
            assert!(lan.device.sleep(long));
        }
        // Three frames for two blocks: what waits is no reason to wake, a call is.
        lan.device.poll(&mut host.line(&inputs), false).unwrap();
        let short = Duration::from_millis(20);
        let begun = std::time::Instant::now();
        assert!(lan.device.sleep(short));
        assert!(begun.elapsed() >= short);
        lan.device.caller().call();
        assert!(lan.device.sleep(long));
    }

    #[test]
    fn a_frame_is_called_out_where_nobody_sleeps_on_the_port() {
        let (calls, called) = std::sync::mpsc::channel();
        let (memory, mut lan) = lan(Some(Box::new(move || calls.send(()).unwrap())));
        let mut host = lan.up(&memory);
        let inputs = Inputs::new().unwrap();
        lan.device
            .prepare_to_sleep(&mut host.line(&inputs))
            .unwrap();
        assert!(!lan.device.sleep(Duration::ZERO));
        lan.other_sends(1, 60);
        called.recv().unwrap();
    }
}
