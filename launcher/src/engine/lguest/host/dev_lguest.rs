//! `/dev/lguest`: the kernel module of Linux 2.6.23 runs the guest.
//!
//! # Where this can run
//!
//! In a launcher of 32 bits (`cargo build --target i686-unknown-linux-gnu -p launcher`) on an x86 host whose module
//! speaks as 2.6.23's did. Those of 2.6.24 to 4.13 have the same name and speak of virtqueues; they are told
//! apart and left alone ([`open`]). The guest's physical addresses are then the launcher's own addresses: its
//! memory is mapped from address 0 on, which `vm.mmap_min_addr` must allow, and all of the launcher must be above it, as
//! position-independent programs of 32 bits are. Where one of these is missing, [`inprocess`](super::inprocess) runs
//! the guest.
//!
//! So, plainly: **no kernel as it was released has both** this module and what the rest of the launcher asks of a
//! host (the C library Linux 3.2, `epoll_create1` 2.6.27, the locks of sharenets 3.15). It takes a kernel
//! of those days with the old module ported to it. Such a host was not at hand. Tried were: the conversation, against a
//! stand-in that answers as the module does; memory at address 0, by the tests of a build of 32 bits on a kernel of 64; that
//! launcher without the device, whose guest, in its process, and one of a launcher of 64 bits ping each other. Not tried: the module.
//!
//! # The conversation
//!
//! `write` of u32 words is a request, `read` runs the guest.
//!
//! | request | words | answer |
//! |---|---|---|
//! | initialize | 0, frames, directory, entry, page offset | 16 |
//! | get DMA | 1, key | where the block is; its `used_len` holds the interrupt to raise |
//! | irq | 2, number | 0 |
//! | break | 3, 1 or 0 | 1: the running `read` ends with `EAGAIN`, and this waits for the 0 |
//!
//! `read` gives 8 bytes, a block and the key it was sent to; or `EAGAIN` after a break; or `ENOENT` when the
//! guest is dead, and the next `read` gives the reason.
//!
//! # What cannot be had through it
//!
//! A frame for another guest never comes to us: the module hands it on itself, to lguest guests of the same
//! host. So a guest there reaches those of its kind, and no others on the segment. And a block for input is
//! given even if all are in use: the last one then. The module has no word for "none is free". It numbers its guests itself.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Bound, Exit, Host, HostError, Sent};
use crate::engine::lguest::boot::Start;
use crate::engine::lguest::inputs::Inputs;
use crate::engine::lguest::memory::{GuestMemory, PAGE};

/// The device.
pub const PATH: &str = "/dev/lguest";

const INITIALIZE: u32 = 0;
const GET_DMA: u32 = 1;
const IRQ: u32 = 2;
const BREAK: u32 = 3;

/// The longest reason of death that is read, in bytes.
const REASON: usize = 512;

/// How one speaks with the module.
pub trait Channel: Send + Sync + 'static {
    /// A request; gives the answer, of which only all ones is a failure.
    ///
    /// # Errors
    /// The kernel's.
    fn write(&self, words: &[u32]) -> io::Result<u32>;

    /// Runs the guest; gives how many bytes of `out` were filled.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&self, out: &mut [u8]) -> io::Result<usize>;
}

impl Channel for File {
    fn write(&self, words: &[u32]) -> io::Result<u32> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // An address may have its highest bit set, so what is not -1 is an answer, negative or not: the
        // standard library would not tell it.
        let answer = nix::unistd::write(self, &bytes)?;
        Ok(answer as u32)
    }

    fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        // Not by the standard library: it takes EINTR for itself.
        Ok(nix::unistd::read(self, out)?)
    }
}

/// Opens the device, and maps the guest's memory where the module looks for it. None: there is no such device
/// here, or it can't be used, and the log says why.
#[cfg(target_arch = "x86")]
pub fn open(bytes: u32) -> Option<(File, GuestMemory)> {
    let open = || File::options().read(true).write(true).open(PATH);
    let prepare = || {
        // What is asked first makes a guest of a later module, so that one is thrown away.
        if !speaks_of_dma(&open()?)? {
            return Err(io::Error::other("it is a later one, of virtqueues"));
        }
        Ok((open()?, GuestMemory::at_zero(bytes)?))
    };
    match prepare() {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("{PATH} is not used: {}", crate::error::reason(&error));
            None
        }
    }
}

/// Whether this is the module that the words here are for: it refuses a guest whose memory begins where its own
/// code is. A later one knows no page offset, and takes the number for something else.
///
/// # Errors
/// It has no room for a guest.
fn speaks_of_dma(channel: &impl Channel) -> io::Result<bool> {
    match channel.write(&[INITIALIZE, 0, 0, 0, u32::MAX]) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(true),
        Err(error) => Err(error),
    }
}

/// A guest in the module.
pub struct DevLguest<'m, C: Channel> {
    memory: &'m GuestMemory,
    channel: Arc<C>,
    /// The waker has broken in and waits.
    broken: bool,
    over: Arc<AtomicBool>,
}

impl<'m, C: Channel> DevLguest<'m, C> {
    /// A guest about to execute its first instruction. It is bound to this thread. Whenever `inputs` have
    /// something, the guest is interrupted.
    ///
    /// # Errors
    /// The module refuses it, or there is no thread for the waker.
    pub fn initialize(
        memory: &'m GuestMemory,
        start: &Start,
        channel: C,
        inputs: &Arc<Inputs>,
    ) -> Result<Self, HostError> {
        let frames = (memory.len() / PAGE as usize) as u32;
        channel
            .write(&[
                INITIALIZE,
                frames,
                start.directory,
                start.entry,
                start.page_offset,
            ])
            .map_err(failed("start a guest through"))?;
        let guest = Self {
            memory,
            channel: Arc::new(channel),
            broken: false,
            over: Arc::default(),
        };
        let (channel, over) = (Arc::clone(&guest.channel), Arc::clone(&guest.over));
        let inputs = Arc::clone(inputs);
        // Never waited for: if the guest dies first, the module does not let it go before all is closed.
        std::thread::Builder::new()
            .name("waker".into())
            .spawn(move || wake(&*channel, &inputs, &over))
            .map_err(failed("start a thread for"))?;
        Ok(guest)
    }
}

/// The life of the waker: whenever there is something, it breaks in, and waits until that was looked at.
fn wake(channel: &impl Channel, inputs: &Inputs, over: &AtomicBool) {
    while inputs.wait(None).is_ok() && !over.load(Ordering::SeqCst) {
        match channel.write(&[BREAK, 1]) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
            _ => {}
        }
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> HostError {
    move |error| HostError { action, error }
}

impl<C: Channel> Host for DevLguest<'_, C> {
    fn run(&mut self) -> Result<Exit, HostError> {
        if std::mem::take(&mut self.broken) {
            // It fails only for a guest that is dead, and `read` tells that.
            let _ = self.channel.write(&[BREAK, 0]);
        }
        let mut words = [0; 8];
        match self.channel.read(&mut words) {
            Ok(_) => {
                let [a, b, c, d, e, f, g, h] = words;
                Ok(Exit::Sent(Sent {
                    block: u32::from_ne_bytes([a, b, c, d]),
                    key: u32::from_ne_bytes([e, f, g, h]),
                }))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    self.broken = true;
                    Ok(Exit::Break)
                }
                Some(libc::EINTR) => Ok(Exit::Break),
                Some(libc::ENOENT) => {
                    let mut reason = [0; REASON];
                    let len = self.channel.read(&mut reason);
                    let len = len.map_err(failed("read the reason of a guest's death from"))?;
                    let reason = reason[..len.min(REASON)].split(|&byte| byte == 0).next();
                    let reason = String::from_utf8_lossy(reason.unwrap_or_default());
                    Ok(Exit::Died(reason.into_owned()))
                }
                _ => Err(failed("run a guest through")(error)),
            },
        }
    }

    fn get_dma(&mut self, key: u32) -> Result<Bound, HostError> {
        let block = match self.channel.write(&[GET_DMA, key]) {
            Ok(block) => block,
            // Not bound; or dead, which `read` tells.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Bound::Nothing),
            Err(error) => return Err(failed("get a block from")(error)),
        };
        // The module found it to be in the guest's memory.
        let irq = self.memory.load::<u32>(block).unwrap_or(0) as u8;
        Ok(Bound::Free { block, irq })
    }

    fn irq(&mut self, irq: u8) -> Result<(), HostError> {
        match self.channel.write(&[IRQ, irq.into()]) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(failed("interrupt a guest through")(error))
            }
            _ => Ok(()),
        }
    }

    fn waits_itself(&self) -> bool {
        true
    }
}

impl<C: Channel> Drop for DevLguest<'_, C> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lguest::inputs::Source;
    use nix::sys::eventfd::EventFd;
    use std::sync::{Condvar, Mutex};

    const START: Start = Start {
        directory: 0x3000,
        entry: 0xc010_0000,
        page_offset: 0xc000_0000,
    };

    /// A stand-in for the module, as far as one guest goes.
    #[derive(Default)]
    struct Module {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        said: Vec<Vec<u32>>,
        breaking: bool,
        sends: Vec<[u32; 2]>,
        dead: bool,
        told: bool,
    }

    impl Channel for Arc<Module> {
        fn write(&self, words: &[u32]) -> io::Result<u32> {
            let os = io::Error::from_raw_os_error;
            let mut state = self.state.lock().unwrap();
            state.said.push(words.to_vec());
            match *words {
                [INITIALIZE, _, _, _, offset] if offset >= 0xffc0_0000 => Err(os(libc::EINVAL)),
                [INITIALIZE, ..] => Ok(16),
                _ if state.dead => Err(os(libc::ENOENT)),
                // As an address above 2 GiB would be.
                [GET_DMA, 0x8000] => Ok(0x2000),
                [GET_DMA, 0x8004] => Ok(0xf000_0000),
                [GET_DMA, _] => Err(os(libc::ENOENT)),
                [IRQ, irq] if irq < 32 => Ok(0),
                [BREAK, 1] => {
                    state.breaking = true;
                    self.changed.notify_all();
                    while state.breaking {
                        state = self.changed.wait(state).unwrap();
                    }
                    Ok(0)
                }
                [BREAK, 0] => {
                    state.breaking = false;
                    self.changed.notify_all();
                    Ok(0)
                }
                _ => Err(os(libc::EINVAL)),
            }
        }

        fn read(&self, out: &mut [u8]) -> io::Result<usize> {
            let mut state = self.state.lock().unwrap();
            loop {
                if state.dead {
                    if !std::mem::replace(&mut state.told, true) {
                        return Err(io::Error::from_raw_os_error(libc::ENOENT));
                    }
                    let reason = b"CRASH: Power down\0";
                    out[..reason.len()].copy_from_slice(reason);
                    return Ok(reason.len());
                }
                if let Some([block, key]) = state.sends.pop() {
                    out[..4].copy_from_slice(&block.to_ne_bytes());
                    out[4..8].copy_from_slice(&key.to_ne_bytes());
                    return Ok(8);
                }
                if state.breaking {
                    return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                }
                state = self.changed.wait(state).unwrap();
            }
        }
    }

    #[test]
    fn the_words_are_those_the_module_knows() {
        let module = Arc::new(Module::default());
        let memory = GuestMemory::new(0x9000).unwrap();
        let inputs = Arc::new(Inputs::new().unwrap());
        let guest = DevLguest::initialize(&memory, &START, Arc::clone(&module), &inputs);
        let mut guest = guest.unwrap_or_else(|error| panic!("{error}"));
        let said = || module.state.lock().unwrap().said.pop().unwrap();
        assert_eq!(said(), [0, 9, 0x3000, 0xc010_0000, 0xc000_0000]);
        module.state.lock().unwrap().sends.push([0x2000, 0x8000]);
        let sent = Sent {
            block: 0x2000,
            key: 0x8000,
        };
        assert_eq!(guest.run().unwrap(), Exit::Sent(sent));
        memory.store(0x2000, 5u32).unwrap();
        let free = |block, irq| Bound::Free { block, irq };
        assert_eq!(guest.get_dma(0x8000).unwrap(), free(0x2000, 5));
        assert_eq!(said(), [1, 0x8000]);
        assert_eq!(guest.get_dma(0x8004).unwrap(), free(0xf000_0000, 0));
        assert_eq!(guest.get_dma(0x8008).unwrap(), Bound::Nothing);
        guest.irq(5).unwrap();
        assert_eq!(said(), [2, 5]);
        module.state.lock().unwrap().dead = true;
        let end = Exit::Died("CRASH: Power down".into());
        assert_eq!(guest.run().unwrap(), end);
        // And what is asked of it now is no trouble of ours.
        guest.irq(5).unwrap();
        assert_eq!(guest.get_dma(0x8000).unwrap(), Bound::Nothing);
    }

    #[test]
    fn a_later_module_is_told_apart() {
        /// Of 2.6.24 on: whatever the last word says is an instruction to begin with.
        struct Later;
        impl Channel for Later {
            fn write(&self, words: &[u32]) -> io::Result<u32> {
                assert_eq!(words.len(), 5);
                Ok(16)
            }
            fn read(&self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::InvalidInput.into())
            }
        }
        assert!(!speaks_of_dma(&Later).unwrap());
        assert!(speaks_of_dma(&Arc::new(Module::default())).unwrap());
    }

    #[test]
    fn input_breaks_in_and_the_guest_goes_on_when_it_was_looked_at() {
        let module = Arc::new(Module::default());
        let memory = GuestMemory::new(0x9000).unwrap();
        let inputs = Arc::new(Inputs::new().unwrap());
        let fd = EventFd::new().unwrap();
        inputs.add(&fd, Source::Device(0)).unwrap();
        let guest = DevLguest::initialize(&memory, &START, Arc::clone(&module), &inputs);
        let mut guest = guest.unwrap_or_else(|error| panic!("{error}"));
        for _ in 0..3 {
            fd.write(1).unwrap();
            assert_eq!(guest.run().unwrap(), Exit::Break);
            assert!(inputs.ready().unwrap().has(Source::Device(0)));
            fd.read().unwrap();
        }
        module.state.lock().unwrap().dead = true;
        assert!(matches!(guest.run().unwrap(), Exit::Died(_)));
    }

    #[test]
    fn what_the_module_refuses_is_told() {
        let memory = GuestMemory::new(0x9000).unwrap();
        let inputs = Arc::new(Inputs::new().unwrap());
        let start = Start {
            page_offset: 0xffc0_0000,
            ..START
        };
        let module = Arc::new(Module::default());
        let Err(error) = DevLguest::initialize(&memory, &start, module, &inputs) else {
            panic!("it was taken")
        };
        assert!(
            error
                .to_string()
                .starts_with("Cannot start a guest through /dev/lguest")
        );
    }
}
