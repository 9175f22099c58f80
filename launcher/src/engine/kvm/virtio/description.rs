//! What the driver can see of a device before it starts it: its kind, what it offers, how many queues
//! it has, and its configuration space (Virtual I/O Device 1.2, 2.5).

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG_GENERATION;

use super::page::Page;

/// A device, as it shows itself.
#[derive(Debug)]
pub struct Description {
    /// Its kind: a device ID of chapter 5.
    pub id: u32,
    /// The feature bits it offers beside those of its transport.
    pub features: u64,
    /// The most entries each of its queues can have: powers of two.
    pub queues: Vec<u16>,
    /// Its configuration space.
    pub config: Config,
}

/// A configuration space.
#[derive(Debug, Default)]
pub struct Config {
    state: Mutex<State>,
    /// The bytes that the driver may write.
    writable: Range<usize>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Counts changes, so that a driver sees whether several reads belong together (2.5.1).
    generation: u32,
    /// Where the driver reads all that.
    page: Option<Page>,
}

impl State {
    fn show(&self) {
        if let Some(page) = &self.page {
            page.set_config(&self.bytes);
            // Afterwards: who has read half of the old sees that it is another.
            page.set(VIRTIO_MMIO_CONFIG_GENERATION, self.generation);
        }
    }
}

impl Config {
    /// One with these bytes, of which the driver may write those at `writable`.
    pub fn new(bytes: Vec<u8>, writable: Range<usize>) -> Self {
        Self {
            state: Mutex::new(State {
                bytes,
                ..State::default()
            }),
            writable,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Bytes are bytes, whoever panicked while he had them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the driver reads it there.
    pub fn show_on(&self, page: Page) {
        let mut state = self.state();
        state.page = Some(page);
        state.show();
    }

    /// Which state of it the driver reads.
    pub fn generation(&self) -> u32 {
        self.state().generation
    }

    /// The driver reads. What is past the end is zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let bytes = &self.state().bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = bytes.get(start..).unwrap_or_default();
        let len = rest.len().min(data.len());
        data[..len].copy_from_slice(&rest[..len]);
    }

    /// The driver writes. What it may not write stays.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        for (at, byte) in (offset..).zip(data) {
            if let Ok(at) = usize::try_from(at)
                && self.writable.contains(&at)
                && let Some(place) = state.bytes.get_mut(at)
            {
                *place = *byte;
            }
        }
        state.show();
    }

    /// The device changes it. The driver is still to be told.
    pub fn change(&self, offset: usize, data: &[u8]) {
        let mut state = self.state();
        if let Some(place) = state.bytes.get_mut(offset..offset + data.len()) {
            place.copy_from_slice(data);
        }
        state.generation = state.generation.wrapping_add(1);
        state.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_reads_anything_and_writes_what_it_may() {
        let config = Config::new(vec![1, 2, 3, 4], 2..3);
        let mut data = [9; 8];
        config.read(2, &mut data);
        assert_eq!(data, [3, 4, 0, 0, 0, 0, 0, 0]);
        for offset in [0, 1, 2, 3, 4, u64::MAX - 9] {
            config.write(offset, &[7; 8]);
            config.read(offset, &mut data);
        }
        config.read(0, &mut data);
        assert_eq!(data[..5], [1, 2, 7, 4, 0]);
        assert_eq!(config.generation(), 0);
        config.change(0, &[5]);
        assert_eq!(config.generation(), 1);
    }
}
