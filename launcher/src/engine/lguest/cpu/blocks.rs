//! Decoded code, kept: blocks of instructions that run one after another, up to a jump or the end
//! of their page.
//!
//! A block belongs to a place in guest memory, not to a linear address, so it serves every process
//! that maps its page, and is valid until the page is written. Which block comes next is kept too,
//! in the block itself for direct jumps and in a table by eip for others, for as long as the stamp of
//! [`Paging`](super::paging::Paging) is what it was: it moves when code pages are remapped, and when blocks are dropped.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use iced_x86::Instruction;

use super::decode::{LONGEST, Reader, improve};
use super::op::Op;
use super::state::{Core, Mode, Outcome};
use crate::engine::lguest::memory::{GuestMemory, PAGE};

/// Operations kept before all are dropped, which bounds this at about 1.5 MiB: a kernel of 2007 comes to its init with
/// twice as many, most of them executed once.
const MOST_OPS: usize = 32 * 1024;
/// Blocks kept before all are dropped. There is room for all from the start, so that none is moved, and copies left behind;
/// the host gives it as it is used.
const MOST_BLOCKS: usize = MOST_OPS / 4;
/// Places in the table by which blocks are found, at first.
const PLACES: usize = 1024;
/// Instructions in a block.
const LONGEST_BLOCK: usize = 48;
/// Bytes in a block: positions in it are kept in a byte.
const MOST_BYTES: usize = 240;
/// Entries in the table of jumps.
const JUMPS: usize = 1024;

/// A block's number.
pub(super) type Id = u32;

/// A block.
#[derive(Debug)]
pub(super) struct Block {
    first: u32,
    len: u8,
    /// Instructions in it: its operations, or one more if the last stands for two.
    pub count: u8,
    /// Where the code behind it begins, from its start.
    pub bytes: u8,
    /// Of the place and the mode it was decoded in; [`NOWHERE`] once it is void.
    key: u64,
    /// Where the next page is, if its only instruction reaches there.
    second: Option<u32>,
    /// Where it leads, taken and not taken, and for which stamps that is so.
    links: [Id; 2],
    stamps: [u64; 2],
}

#[derive(Debug, Clone, Copy, Default)]
struct Jump {
    eip: u32,
    mode: Mode,
    id: Id,
    stamp: u64,
}

/// Multiplication spreads the keys well enough, and takes no time.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        // 2^64 divided by the golden ratio (Knuth, volume 3, 6.4).
        let product = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ product >> 32;
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// What was decoded.
struct Read {
    /// Bytes.
    end: usize,
    /// Instructions.
    count: u32,
}

/// All blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    ops: Vec<Op>,
    /// Those of the block that is being decoded.
    instructions: Vec<Instruction>,
    blocks: Vec<Block>,
    /// Each at the first free place from that of its key on; void ones, too, until others take theirs. At least half
    /// is free, so that one is soon found.
    by_place: Vec<Id>,
    by_page: Map<u32, Vec<Id>>,
    jumps: Box<[Jump; JUMPS]>,
}

/// A key that no place has.
const NOWHERE: u64 = u64::MAX;

/// A number that no block has.
const NONE: Id = Id::MAX;

fn key(place: u32, mode: Mode) -> u64 {
    u64::from(place) << 3
        | u64::from(mode.user) << 2
        | u64::from(mode.flat) << 1
        | u64::from(mode.exact)
}

impl Block {
    /// The block a direct jump leads to, if that is known. Way 0: taken, 1: not taken.
    #[inline(always)]
    pub fn linked(&self, way: usize, stamp: u64) -> Option<Id> {
        (self.stamps[way % 2] == stamp).then_some(self.links[way % 2])
    }
}

impl Blocks {
    pub fn new() -> Self {
        Self {
            ops: Vec::with_capacity(MOST_OPS),
            instructions: Vec::new(),
            blocks: Vec::with_capacity(MOST_BLOCKS),
            by_place: vec![NONE; PLACES],
            by_page: Map::default(),
            jumps: Box::new([Jump::default(); JUMPS]),
        }
    }

    /// A block and its operations.
    #[inline(always)]
    pub fn get(&self, id: Id) -> (&Block, &[Op]) {
        let block = &self.blocks[id as usize];
        let first = block.first as usize;
        (block, &self.ops[first..first + block.len as usize])
    }

    /// Remembers where a direct jump leads.
    pub fn link(&mut self, from: Id, way: usize, to: Id, stamp: u64) {
        if let Some(block) = self.blocks.get_mut(from as usize) {
            block.links[way % 2] = to;
            block.stamps[way % 2] = stamp;
        }
    }

    /// The block at eip, found or decoded. cs is flat. `exact`: see [`Mode`].
    pub fn find(&mut self, core: &mut Core, memory: &GuestMemory, exact: bool) -> Outcome<Id> {
        let eip = core.eip;
        let mode = Mode { exact, ..core.mode };
        let slot = (eip ^ eip >> 10) as usize % JUMPS;
        let jump = self.jumps[slot];
        let same = jump.eip == eip && jump.mode == mode;
        if same && jump.stamp == core.paging.stamp() {
            return Ok(jump.id);
        }
        let place = core.fetch(memory, eip)?;
        let id = match self.blocks.get(jump.id as usize) {
            // Pages have moved, but not this one.
            Some(block) if same && block.key == key(place, mode) && block.second.is_none() => {
                jump.id
            }
            _ => self.look_up(core, memory, place, mode)?,
        };
        self.jumps[slot] = Jump {
            eip,
            mode,
            id,
            stamp: core.paging.stamp(),
        };
        Ok(id)
    }

    fn look_up(
        &mut self,
        core: &mut Core,
        memory: &GuestMemory,
        place: u32,
        mode: Mode,
    ) -> Outcome<Id> {
        let key = key(place, mode);
        if let (_, Some(id)) = self.search(key) {
            match self.blocks[id as usize].second {
                None => return Ok(id),
                // The next page may be another one by now.
                Some(second) if core.fetch(memory, next_page(core.eip))? == second => {
                    return Ok(id);
                }
                Some(_) => self.blocks[id as usize].key = NOWHERE,
            }
        }
        self.decode(core, memory, place, mode)
    }

    /// Where in the table the block with a key is, or will be; and which it is.
    fn search(&self, key: u64) -> (usize, Option<Id>) {
        let mut hash = Spread::default();
        hash.write_u64(key);
        let places = self.by_place.len();
        let mut at = hash.finish() as usize % places;
        // The place of a void block is as good as a free one, so that code decoded ever again takes one place.
        let mut void = None;
        loop {
            let id = self.by_place[at];
            if id == NONE {
                return (void.unwrap_or(at), None);
            }
            match self.blocks[id as usize].key {
                NOWHERE => void = void.or(Some(at)),
                other if other == key => return (at, Some(id)),
                _ => {}
            }
            at = (at + 1) % places;
        }
    }

    /// Makes the table twice as large.
    fn grow(&mut self) {
        self.by_place = vec![NONE; 2 * self.by_place.len()];
        for id in 0..self.blocks.len() {
            let key = self.blocks[id].key;
            if key != NOWHERE {
                let (at, _) = self.search(key);
                self.by_place[at] = id as Id;
            }
        }
    }

    #[cold]
    fn decode(
        &mut self,
        core: &mut Core,
        memory: &GuestMemory,
        place: u32,
        mode: Mode,
    ) -> Outcome<Id> {
        if self.ops.len() + LONGEST_BLOCK > MOST_OPS || self.blocks.len() == MOST_BLOCKS {
            self.clear(core);
        }
        let mut bytes = [0; MOST_BYTES + LONGEST];
        let in_page = (PAGE - place % PAGE) as usize;
        let mut here = in_page.min(bytes.len());
        memory
            .read_bytes(place, &mut bytes[..here])
            .map_err(|_| core.beyond(core.eip))?;
        let first = self.ops.len();
        let mut read = self.read(&bytes[..here], mode, LONGEST_BLOCK);
        let mut second = None;
        if self.ops.len() == first {
            // Its first instruction reaches into the next page.
            let next = core.fetch(memory, next_page(core.eip))?;
            second = Some(next);
            let rest = &mut bytes[here..here + LONGEST];
            memory
                .read_bytes(next, rest)
                .map_err(|_| core.beyond(core.eip))?;
            here += LONGEST;
            read = self.read(&bytes[..here], mode, 1);
        }
        let id = self.blocks.len() as Id;
        if 2 * self.blocks.len() == self.by_place.len() {
            self.grow();
        }
        let (at, _) = self.search(key(place, mode));
        self.by_place[at] = id;
        self.blocks.push(Block {
            first: first as u32,
            len: (self.ops.len() - first) as u8,
            count: read.count as u8,
            bytes: read.end as u8,
            key: key(place, mode),
            second,
            links: [0; 2],
            stamps: [0; 2],
        });
        self.watch(core, memory, place, read.end.min(in_page), id);
        if let Some(second) = second {
            self.watch(
                core,
                memory,
                second,
                read.end.saturating_sub(in_page).max(1),
                id,
            );
        }
        Ok(id)
    }

    /// Decodes until a block ends, or has `most` instructions.
    fn read(&mut self, bytes: &[u8], mode: Mode, most: usize) -> Read {
        let mut reader = Reader::new(bytes, mode, true);
        let first = self.ops.len();
        let mut end = 0;
        self.instructions.clear();
        while end < MOST_BYTES && self.instructions.len() < most {
            let Some(decoded) = reader.next(self.instructions.len() as u32) else {
                break;
            };
            end = reader.position();
            self.ops.push(decoded.op);
            self.instructions.push(decoded.instruction);
            if decoded.ends {
                break;
            }
        }
        let count = self.instructions.len() as u32;
        if !mode.exact {
            improve(&self.instructions, &mut self.ops, first, mode);
        }
        Read { end, count }
    }

    fn watch(&mut self, core: &mut Core, memory: &GuestMemory, place: u32, bytes: usize, id: Id) {
        if memory.watch(place, bytes as u32) {
            core.paging.watch_frame(place & !(PAGE - 1));
        }
        self.by_page.entry(place / PAGE).or_default().push(id);
    }

    /// Drops the blocks of pages that were written.
    #[cold]
    pub fn forget_written(&mut self, core: &mut Core, memory: &GuestMemory) {
        for page in memory.take_written() {
            for id in self.by_page.remove(&page).unwrap_or_default() {
                self.blocks[id as usize].key = NOWHERE;
            }
        }
        core.paging.new_stamp();
    }

    /// Drops all.
    fn clear(&mut self, core: &mut Core) {
        *self = Self::new();
        core.paging.new_stamp();
    }
}

fn next_page(linear: u32) -> u32 {
    (linear & !(PAGE - 1)).wrapping_add(PAGE)
}
