//! The bus: a page of descriptors above the guest's memory, and above it a page for each device that wants
//! one. A device is found by the key of what the guest sends it: an address in its page.
//!
//! A descriptor is 12 bytes: u16 type, u16 features, u16 status (the guest's to write), u16 pages, u32 number
//! of the first page. There are 16, and the place is the device's number; its interrupt is that and one. The
//! console is made last, so that its number does not matter to the others; it has no page, and key 0.

use std::time::Duration;

use super::devices::{Device, Line, Trouble};
use super::dma::Block;
use super::host::Sent;
use super::inputs::{Ready, Source};
use super::memory::{GuestMemory, OutOfBounds, PAGE};

/// Devices there can be, the console among them.
pub const MAX_DEVICES: usize = 16;

const DESCRIPTOR: u32 = 12;

/// The kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes, both ways.
    Console = 1,
    /// Frames, both ways.
    Net = 2,
    /// Sectors, one request at a time.
    Block = 3,
}

/// When its interrupts come is hard to guess, so the guest may draw random numbers from it.
pub const RANDOM_TIMES: u16 = 0x8000;
/// Frames need no checksums on its wire.
pub const NO_CHECKSUM: u16 = 0x4000;

/// A device of a bus.
struct Place<'a> {
    /// Where its page is; 0 for one that has none.
    page: u32,
    device: Box<dyn Device + 'a>,
}

/// The bus.
pub struct Bus<'a> {
    /// Where the descriptors are.
    descriptors: u32,
    places: Vec<Place<'a>>,
}

/// Bytes above RAM that a bus takes on which `devices` have a page.
pub fn bytes(devices: usize) -> u32 {
    // More than there can be is refused elsewhere.
    (1 + devices.min(MAX_DEVICES) as u32) * PAGE
}

/// Where the page of device number `index` is, if all before it have one too.
pub fn page_of(ram: u32, index: usize) -> u32 {
    ram + (1 + index as u32) * PAGE
}

impl<'a> Bus<'a> {
    /// An empty bus above `ram` bytes of memory.
    pub fn new(ram: u32) -> Self {
        Self {
            descriptors: ram,
            places: Vec::new(),
        }
    }

    /// The number, and so the source, of the device that is added next.
    pub fn next(&self) -> u8 {
        self.places.len() as u8
    }

    /// Adds a device whose page is `page`, or that has none.
    ///
    /// # Errors
    /// The descriptor would not be in memory.
    pub fn add(
        &mut self,
        memory: &GuestMemory,
        kind: Kind,
        features: u16,
        page: Option<u32>,
        device: impl Device + 'a,
    ) -> Result<(), OutOfBounds> {
        let at = self.descriptors + u32::from(self.next()) * DESCRIPTOR;
        memory.store(at, kind as u16)?;
        memory.store(at + 2, features)?;
        memory.store(at + 6, u16::from(page.is_some()))?;
        memory.store(at + 8, page.unwrap_or(0) / PAGE)?;
        self.places.push(Place {
            page: page.unwrap_or(0),
            device: Box::new(device),
        });
        Ok(())
    }

    /// Hands a block the guest sent to the device it was sent to.
    ///
    /// # Errors
    /// What the guest dies of, or we.
    pub fn sent(&mut self, line: &mut Line<'_>, sent: Sent) -> Result<(), Trouble> {
        let Sent { block, key } = sent;
        let block = Block::read(line.memory, block)?;
        let page = key & !(PAGE - 1);
        // The console has no page, and nothing else is at 0.
        let to = self.places.iter_mut().find(|place| place.page == page);
        let used = match to {
            Some(place) => place.device.sent(line, &block, key % PAGE)?,
            None => {
                tracing::warn!(
                    "The guest sent {} bytes to nobody, at {key:#x}",
                    block.len()
                );
                0
            }
        };
        Ok(block.set_used(line.memory, used)?)
    }

    /// Has all devices look at what is there for them.
    ///
    /// # Errors
    /// What the guest dies of, or we.
    pub fn poll(&mut self, line: &mut Line<'_>, ready: Ready) -> Result<(), Trouble> {
        for (index, place) in (0..).zip(&mut self.places) {
            let ready = ready.has(Source::Device(index));
            place.device.poll(line, ready)?;
        }
        Ok(())
    }

    /// Has all devices see to it that what comes from now on makes the inputs ready, and look once more for
    /// what came before.
    ///
    /// # Errors
    /// What the guest dies of, or we.
    pub fn prepare_to_sleep(&mut self, line: &mut Line<'_>) -> Result<(), Trouble> {
        let mut devices = self.places.iter_mut();
        devices.try_for_each(|place| place.device.prepare_to_sleep(line))
    }

    /// Sleeps on the first device that can be slept on, at most that long; `false` if there is none.
    pub fn sleep(&mut self, timeout: Duration) -> bool {
        let mut devices = self.places.iter_mut();
        devices.any(|place| place.device.sleep(timeout))
    }

    /// The guest runs again.
    pub fn awake(&mut self) {
        for place in &mut self.places {
            place.device.awake();
        }
    }
}

impl std::fmt::Debug for Bus<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pages = self.places.iter().map(|place| place.page);
        f.debug_list().entries(pages).finish()
    }
}
