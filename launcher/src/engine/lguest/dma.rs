//! A DMA block: how guest and devices hand each other bytes.
//!
//! 100 bytes: u32 `used_len` (0: free), u32 addresses of up to 16 pieces from 4 on, u16 lengths of them
//! from 68 on; a zero length ends the list. A piece lies in one page.

use super::memory::{GuestMemory, OutOfBounds, PAGE};

/// Its size in bytes.
pub const BYTES: u32 = 100;

const ADDRESSES: u32 = 4;
const LENGTHS: u32 = 68;
/// Pieces it has at most.
const PIECES: u32 = 16;

/// A block that makes no sense: the guest dies of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBlock {
    /// A piece that is too long, lies in two pages, or not in memory.
    #[error("bad DMA entry: {len} bytes at {at:#x}")]
    Piece {
        /// Guest-physical.
        at: u32,
        /// How many bytes.
        len: u16,
    },
    /// The block itself is elsewhere.
    #[error("bad DMA block: {0}")]
    Outside(#[from] OutOfBounds),
}

/// A block, read once and found to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    at: u32,
    pieces: Vec<(u32, u16)>,
    len: usize,
}

/// Whether nobody has filled it.
pub fn is_free(memory: &GuestMemory, block: u32) -> Result<bool, OutOfBounds> {
    Ok(memory.load::<u32>(block)? == 0)
}

impl Block {
    /// Reads the block at `at`.
    ///
    /// # Errors
    /// It or a piece of it is not in memory, or a piece is not in one page.
    pub fn read(memory: &GuestMemory, at: u32) -> Result<Self, BadBlock> {
        let mut pieces = Vec::new();
        let mut total = 0;
        for piece in 0..PIECES {
            let len: u16 = memory.load(offset(at, LENGTHS + piece * 2)?)?;
            if len == 0 {
                break;
            }
            let start: u32 = memory.load(offset(at, ADDRESSES + piece * 4)?)?;
            let fits = u64::from(start) + u64::from(len) <= memory.len() as u64;
            if !fits || start % PAGE + u32::from(len) > PAGE {
                return Err(BadBlock::Piece { at: start, len });
            }
            pieces.push((start, len));
            total += usize::from(len);
        }
        Ok(Self {
            at,
            pieces,
            len: total,
        })
    }

    /// Bytes it has room for, or holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether that is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies from its pieces what fits into `out`; tells how much.
    ///
    /// # Errors
    /// None, for a block of this memory.
    pub fn copy_to(&self, memory: &GuestMemory, out: &mut [u8]) -> Result<usize, BadBlock> {
        let mut done = 0;
        for &(at, len) in &self.pieces {
            let end = out.len().min(done + usize::from(len));
            memory.read_bytes(at, &mut out[done..end])?;
            done = end;
        }
        Ok(done)
    }

    /// Copies to its pieces as much of `bytes` as fits; tells how much.
    ///
    /// # Errors
    /// None, for a block of this memory.
    pub fn fill(&self, memory: &GuestMemory, bytes: &[u8]) -> Result<usize, BadBlock> {
        let mut done = 0;
        for &(at, len) in &self.pieces {
            let end = bytes.len().min(done + usize::from(len));
            memory.write_bytes(at, &bytes[done..end])?;
            done = end;
        }
        Ok(done)
    }

    /// Says how many bytes were moved, which makes a block that was free a used one.
    ///
    /// # Errors
    /// None, for a block of this memory.
    pub fn set_used(&self, memory: &GuestMemory, bytes: u32) -> Result<(), BadBlock> {
        Ok(memory.store(self.at, bytes)?)
    }
}

fn offset(at: u32, offset: u32) -> Result<u32, OutOfBounds> {
    at.checked_add(offset).ok_or(OutOfBounds {
        at,
        bytes: BYTES as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(memory: &GuestMemory, at: u32, pieces: &[(u32, u16)]) -> Result<Block, BadBlock> {
        for (n, (start, len)) in (0..).zip(pieces) {
            memory.store(at + ADDRESSES + n * 4, *start).unwrap();
            memory.store(at + LENGTHS + n * 2, *len).unwrap();
        }
        Block::read(memory, at)
    }

    #[test]
    fn bytes_cross_pieces_in_order() {
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        let block = block(&memory, 0, &[(0x1000, 3), (0x2ffe, 2), (0x3000, 4)]).unwrap();
        assert_eq!(block.len(), 9);
        assert_eq!(block.fill(&memory, b"abcdefg"), Ok(7));
        let mut out = [0; 6];
        assert_eq!(block.copy_to(&memory, &mut out), Ok(6));
        assert_eq!(&out, b"abcdef");
        assert_eq!(memory.load::<u8>(0x3001), Ok(b'g'));
        assert_eq!(block.fill(&memory, &[1; 50]), Ok(9));
        block.set_used(&memory, 9).unwrap();
        assert_eq!(is_free(&memory, 0), Ok(false));
    }

    #[test]
    fn a_piece_lies_in_one_page_and_in_memory() {
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        for (at, len) in [
            (0x1fff, 2),
            (0x1000, 4097),
            (0x4000, 1),
            (0x3fff, 2),
            (u32::MAX, 1),
        ] {
            let read = block(&memory, 0, &[(at, len)]);
            assert_eq!(read, Err(BadBlock::Piece { at, len }));
        }
        assert!(block(&memory, 0, &[(0x3000, 4096)]).is_ok());
        for at in [4 * PAGE - 50, 4 * PAGE, u32::MAX, u32::MAX - 99] {
            assert!(matches!(
                Block::read(&memory, at),
                Err(BadBlock::Outside(_))
            ));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_block_or_none(bytes in proptest::collection::vec(any::<u8>(), 100), at in 0u32..0x2100) {
            let memory = GuestMemory::new(2 * PAGE).unwrap();
            let _ = memory.write_bytes(at, &bytes);
            if let Ok(block) = Block::read(&memory, at) {
                let mut out = vec![0; block.len()];
                prop_assert_eq!(block.copy_to(&memory, &mut out), Ok(block.len()));
                prop_assert_eq!(block.fill(&memory, &out), Ok(block.len()));
            }
        }
    }
}
