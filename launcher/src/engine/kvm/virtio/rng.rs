//! The entropy device (Virtual I/O Device 1.2, 5.4): the host's random numbers for the guest's pool.

use std::io::{self, Read};

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::chain::{Broken, Chain};
use super::description::{Config, Description};
use super::device::Device;
use super::vring::{Outcome, Vring};
use super::worker::{self, Work};

/// Bytes for one request at most: Linux asks for 64 and is glad of any number (5.4.6.2), and nobody
/// shall make us fill its memory.
const MOST: usize = 4096;

struct Rng {
    source: std::fs::File,
}

/// Makes the device.
///
/// # Errors
/// `/dev/urandom` can't be opened, or no thread is left.
pub fn device() -> io::Result<Device> {
    let description = Description {
        id: VIRTIO_ID_RNG,
        features: 0,
        queues: vec![64],
        config: Config::default(),
    };
    let source = std::fs::File::open("/dev/urandom")?;
    worker::device("rng", description, Rng { source })
}

impl Rng {
    fn fill(&mut self, chain: &mut Chain<'_>) -> u32 {
        let mut bytes = [0; MOST];
        let bytes = &mut bytes[..chain.writable.len().min(MOST)];
        // It can't fail; if it does the guest has no bytes of us, rather than no random ones.
        let Ok(()) = self.source.read_exact(bytes) else {
            return 0;
        };
        chain.writable.write(bytes) as u32
    }
}

impl Work for Rng {
    fn serve(&mut self, _: usize, queue: &mut Vring) -> Result<bool, Broken> {
        queue.serve(|chain| Ok(Outcome::Done(self.fill(chain))))
    }
}
