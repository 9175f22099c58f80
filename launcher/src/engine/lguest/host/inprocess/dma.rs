//! What the guest has bound for input, and to which keys.

use crate::engine::lguest::dma;
use crate::engine::lguest::host::Bound;
use crate::engine::lguest::memory::{GuestMemory, OutOfBounds};

/// Bindings a guest may have.
const MAX: usize = 32;

/// Blocks in a row, bound to a key.
#[derive(Debug, Clone, Copy)]
struct Binding {
    key: u32,
    blocks: u32,
    count: u32,
    irq: u8,
    /// The block whose turn it is.
    turn: u32,
}

/// All bindings.
#[derive(Debug, Default)]
pub struct Bindings {
    places: Vec<Binding>,
}

impl Bindings {
    /// Binds `count` blocks from `blocks` on. `false` if there is no room for one more.
    pub fn bind(&mut self, key: u32, blocks: u32, count: u32, irq: u8) -> bool {
        let room = self.places.len() < MAX;
        if room {
            self.places.push(Binding {
                key,
                blocks,
                count,
                irq,
                turn: 0,
            });
        }
        room
    }

    /// Takes a binding back. `false` if there was none.
    pub fn unbind(&mut self, key: u32, blocks: u32) -> bool {
        let is_it = |binding: &Binding| binding.key == key && binding.blocks == blocks;
        let found = self.places.iter().position(is_it);
        found.map(|at| self.places.remove(at)).is_some()
    }

    /// A free block for `key`. They take turns, so that what comes first is found first.
    pub fn get(&mut self, memory: &GuestMemory, key: u32) -> Result<Bound, OutOfBounds> {
        let is_it = |binding: &&mut Binding| binding.key == key && binding.count > 0;
        let Some(binding) = self.places.iter_mut().find(is_it) else {
            return Ok(Bound::Nothing);
        };
        for step in 0..binding.count {
            let index = (binding.turn + step) % binding.count;
            // All of them were found to be in memory when they were bound.
            let block = binding.blocks + index * dma::BYTES;
            if dma::is_free(memory, block)? {
                binding.turn = (index + 1) % binding.count;
                return Ok(Bound::Free {
                    block,
                    irq: binding.irq,
                });
            }
        }
        Ok(Bound::Full { irq: binding.irq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_blocks_take_turns_and_used_ones_are_left_alone() {
        let memory = GuestMemory::new(0x4000).unwrap();
        let mut bindings = Bindings::default();
        assert!(bindings.bind(0x1000, 0x2000, 3, 5));
        let free = |index: u32| Bound::Free {
            block: 0x2000 + index * dma::BYTES,
            irq: 5,
        };
        for index in [0, 1, 2, 0] {
            assert_eq!(bindings.get(&memory, 0x1000), Ok(free(index)));
        }
        memory.store(0x2000 + dma::BYTES, 60_u32).unwrap();
        assert_eq!(bindings.get(&memory, 0x1000), Ok(free(2)));
        memory.store(0x2000, 60_u32).unwrap();
        assert_eq!(bindings.get(&memory, 0x1000), Ok(free(2)));
        memory.store(0x2000 + 2 * dma::BYTES, 60_u32).unwrap();
        assert_eq!(bindings.get(&memory, 0x1000), Ok(Bound::Full { irq: 5 }));
        assert_eq!(bindings.get(&memory, 0x1004), Ok(Bound::Nothing));
    }

    #[test]
    fn there_is_room_for_32_and_what_is_unbound_makes_room() {
        let mut bindings = Bindings::default();
        for n in 0..32 {
            assert!(bindings.bind(n * 4, 0, 1, 1));
        }
        assert!(!bindings.bind(0x100, 0, 1, 1));
        assert!(!bindings.unbind(4, 1));
        assert!(bindings.unbind(4, 0));
        assert!(bindings.bind(0x100, 0, 1, 1));
    }
}
