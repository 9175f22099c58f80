//! The page tables a guest starts with: all its memory, from the page offset on. There is no identity map.

use crate::engine::lguest::memory::{GuestMemory, OutOfBounds, PAGE};

/// Entries of a directory, and of a table.
const ENTRIES: u32 = 1024;
/// Present, writable, for users too: the guest makes its own soon.
const FLAGS: u32 = 7;

/// Where directory and tables are: the tables first, in order, then the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    directory: u32,
    /// Tables.
    count: u32,
    /// Pages they map.
    pages: u32,
}

impl Place {
    /// Just below `top`, for `ram` bytes of memory; none if there is no room above the first MiB.
    pub fn below(top: u32, ram: u32) -> Option<Self> {
        let pages = ram / PAGE;
        let count = pages.div_ceil(ENTRIES);
        let directory = (top & !(PAGE - 1)).checked_sub(PAGE)?;
        let start = directory.checked_sub(count * PAGE)?;
        (start >= 1 << 20).then_some(Self {
            directory,
            count,
            pages,
        })
    }

    /// Where the first of them is.
    pub fn start(&self) -> u32 {
        self.directory - self.count * PAGE
    }

    /// Writes them; gives the directory's address. `page_offset` is a multiple of 4 MiB, and memory fits
    /// between it and the end of addresses.
    ///
    /// # Errors
    /// None, if the place is in memory.
    pub fn write(&self, memory: &GuestMemory, page_offset: u32) -> Result<u32, OutOfBounds> {
        for page in 0..self.pages {
            memory.store(self.start() + page * 4, (page * PAGE) | FLAGS)?;
        }
        let first = page_offset / (PAGE * ENTRIES);
        for table in 0..self.count {
            let entry = (self.start() + table * PAGE) | FLAGS;
            memory.store(self.directory + (first + table) * 4, entry)?;
        }
        Ok(self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_memory_is_mapped_from_the_page_offset_on_and_nothing_else() {
        let ram = 6 << 20;
        let memory = GuestMemory::new(ram + PAGE).unwrap();
        let place = Place::below(ram - 3 * PAGE, ram).unwrap();
        let directory = place.write(&memory, 0xc000_0000).unwrap();
        assert_eq!(directory, ram - 4 * PAGE);
        let look_up = |address: u32| {
            let pde: u32 = memory.load(directory + (address >> 22) * 4).unwrap();
            if pde == 0 {
                return None;
            }
            let pte: u32 = memory
                .load((pde & !0xfff) + (address >> 12 & 1023) * 4)
                .unwrap();
            (pte != 0).then_some((pte & !0xfff, pte & 0xfff))
        };
        for address in (0..ram).step_by(PAGE as usize) {
            assert_eq!(look_up(0xc000_0000 + address), Some((address, 7)));
        }
        for address in [0, 0xbfff_f000, 0xc000_0000 + ram, 0xffff_f000] {
            assert_eq!(look_up(address), None);
        }
    }

    #[test]
    fn there_must_be_room() {
        assert_eq!(Place::below(0, 1 << 20), None);
        assert_eq!(Place::below(1 << 20, 1 << 20), None);
        assert_eq!(Place::below(5000, u32::MAX), None);
    }
}
