//! Paging: a linear address becomes a place in guest memory (Intel SDM volume 3, chapter 4.3).
//!
//! The guest's own two-level tables are walked, and what was found is kept in a translation cache
//! until the guest says that it changed something. Write protection holds for ring 1 too (WP).
//! Accessed and dirty bits are set in the guest's tables as a processor does.

use super::exit::{Broken, Exit};
use super::state::{Core, Outcome};
use crate::engine::lguest::memory::{GuestMemory, PAGE};

/// Present.
const P: u32 = 1;
/// Writable.
const RW: u32 = 2;
/// For ring 3 too.
const US: u32 = 4;
/// Write-through: lguest refuses it.
const PWT: u32 = 8;
/// Accessed.
const A: u32 = 0x20;
/// Dirty.
const D: u32 = 0x40;
/// Large page in a directory, PAT in a table: lguest refuses both.
const PSE: u32 = 0x80;
/// The flags lguest allows in a directory entry.
const DIRECTORY_FLAGS: u32 = P | RW | US | A | D;
/// The directory's last entry, for the top 4 MiB, is the host's.
const SWITCHER: u32 = 1023;

/// Pages the cache knows for data, for each of supervisor and user. A power of two.
const DATA: usize = 256;
/// The same for code: as many as a kernel of 2007 has, so that it does not drive out its own.
const CODE: usize = 512;
/// A tag no page has.
const NONE: u32 = 1;

/// Where a page of data is. A tag is the page's linear address, if accesses of its kind may go ahead.
#[derive(Debug, Clone, Copy)]
#[repr(align(16))]
struct DataEntry {
    read: u32,
    /// Only once the page is dirty, and while no code was decoded from it.
    write: u32,
    frame: u32,
}

/// Where a page of code is.
#[derive(Debug, Clone, Copy)]
struct CodeEntry {
    tag: u32,
    frame: u32,
}

/// The translation cache, and how far tables may point.
#[derive(Debug)]
pub(super) struct Paging {
    /// Frames from this one on are not the guest's.
    frames: u32,
    data: [DataEntry; 2 * DATA],
    code: [CodeEntry; 2 * CODE],
    /// Where the half that serves begins in `data`: 0 for the supervisor, [`DATA`] for the user.
    half: usize,
    /// Moves whenever a page of code may have gone elsewhere: who remembers where a jump leads
    /// remembers it for one stamp.
    stamp: u64,
}

/// What an access wants of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub write: bool,
    /// From ring 3.
    pub user: bool,
}

/// What the tables say of a page.
struct Mapping {
    /// Where its entries are.
    directory_entry_at: u32,
    table_entry_at: u32,
    directory_entry: u32,
    table_entry: u32,
}

const EMPTY_DATA: DataEntry = DataEntry {
    read: NONE,
    write: NONE,
    frame: 0,
};
const EMPTY_CODE: CodeEntry = CodeEntry {
    tag: NONE,
    frame: 0,
};

impl Paging {
    pub fn new(frames: u32) -> Self {
        Self {
            frames,
            data: [EMPTY_DATA; 2 * DATA],
            code: [EMPTY_CODE; 2 * CODE],
            half: 0,
            stamp: 1,
        }
    }

    /// From now on accesses are the user's, or the supervisor's.
    pub fn set_user(&mut self, user: bool) {
        self.half = if user { DATA } else { 0 };
    }

    /// The current stamp.
    #[inline(always)]
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Makes all that was remembered with an earlier stamp void.
    pub fn new_stamp(&mut self) {
        self.stamp += 1;
    }

    pub fn flush_all(&mut self) {
        self.flush(|_| true);
    }

    pub fn flush_below(&mut self, end: u32) {
        self.flush(|page| page < end);
    }

    pub fn flush_page(&mut self, linear: u32) {
        let page = linear & !(PAGE - 1);
        let number = (linear >> 12) as usize;
        for user in 0..2 {
            let entry = &mut self.data[user * DATA + number % DATA];
            if entry.read == page {
                *entry = EMPTY_DATA;
            }
            let entry = &mut self.code[user * CODE + number % CODE];
            if entry.tag == page {
                *entry = EMPTY_CODE;
                self.stamp += 1;
            }
        }
    }

    fn flush(&mut self, goes: impl Fn(u32) -> bool) {
        for entry in &mut self.data {
            // A page that may be written may be read, so this tag is the page whenever there is one.
            if goes(entry.read) {
                *entry = EMPTY_DATA;
            }
        }
        for entry in &mut self.code {
            if entry.tag != NONE && goes(entry.tag) {
                *entry = EMPTY_CODE;
                self.stamp += 1;
            }
        }
    }

    #[inline(always)]
    fn data_index(&self, linear: u32) -> usize {
        (self.half + (linear >> 12) as usize % DATA) % (2 * DATA)
    }

    /// Where `bytes` bytes may be read at once, if the cache knows.
    #[inline(always)]
    pub fn readable(&self, linear: u32, bytes: u32) -> Option<u32> {
        let entry = &self.data[self.data_index(linear)];
        // The last byte's page is compared, with the first byte's entry: what crosses into the
        // next page never matches.
        let page = linear.wrapping_add(bytes - 1) & !(PAGE - 1);
        (entry.read == page).then_some(entry.frame | linear & (PAGE - 1))
    }

    /// Where `bytes` bytes may be written at once and unwatched, if the cache knows.
    #[inline(always)]
    pub fn writable(&self, linear: u32, bytes: u32) -> Option<u32> {
        let entry = &self.data[self.data_index(linear)];
        let page = linear.wrapping_add(bytes - 1) & !(PAGE - 1);
        (entry.write == page).then_some(entry.frame | linear & (PAGE - 1))
    }

    /// Code was decoded from this frame: writes to it are to be watched.
    pub fn watch_frame(&mut self, frame: u32) {
        for entry in &mut self.data {
            if entry.frame == frame {
                entry.write = NONE;
            }
        }
    }

    /// Walks the tables. None if there is no page.
    fn walk(&self, memory: &GuestMemory, cr3: u32, linear: u32) -> Result<Option<Mapping>, Broken> {
        let index = linear >> 22;
        let directory = Broken::Directory { directory: cr3 };
        let directory_entry_at = (cr3 & !(PAGE - 1)) + 4 * index;
        let directory_entry: u32 = memory.load(directory_entry_at).map_err(|_| directory)?;
        if directory_entry & P == 0 {
            return Ok(None);
        }
        if index == SWITCHER {
            return Err(Broken::SwitcherPages { linear });
        }
        let bad = Broken::DirectoryEntry {
            entry: directory_entry,
            linear,
        };
        if directory_entry & (PAGE - 1) & !DIRECTORY_FLAGS != 0
            || directory_entry / PAGE >= self.frames
        {
            return Err(bad);
        }
        let table_entry_at = (directory_entry & !(PAGE - 1)) + 4 * (linear >> 12 & 1023);
        let table_entry: u32 = memory.load(table_entry_at).map_err(|_| bad)?;
        if table_entry & P == 0 {
            return Ok(None);
        }
        let inside = (table_entry / PAGE) < self.frames
            && (table_entry & !(PAGE - 1)) as usize + 4096 <= memory.len();
        if table_entry & (PWT | PSE) != 0 || !inside {
            return Err(Broken::TableEntry {
                entry: table_entry,
                linear,
            });
        }
        Ok(Some(Mapping {
            directory_entry_at,
            table_entry_at,
            directory_entry,
            table_entry,
        }))
    }
}

impl Core {
    /// Where a linear address is, if it is mapped. Changes nothing.
    pub fn look_up(&self, memory: &GuestMemory, linear: u32) -> Result<Option<u32>, Broken> {
        let mapping = self.paging.walk(memory, self.cr3, linear)?;
        Ok(mapping.map(|mapping| mapping.table_entry & !(PAGE - 1) | linear & (PAGE - 1)))
    }

    /// Where the supervisor may write, if it may; sets accessed and dirty.
    pub fn writable_for_host(
        &mut self,
        memory: &GuestMemory,
        linear: u32,
    ) -> Result<Option<u32>, Broken> {
        let want = Want {
            write: true,
            user: false,
        };
        match self.resolve(memory, linear, want) {
            Ok((place, _)) => Ok(Some(place)),
            Err(Exit::Broken(broken)) => Err(broken),
            Err(_) => Ok(None),
        }
    }

    /// The linear address's place for an access that stays in its page. Walks the tables, and keeps what it finds.
    #[cold]
    #[inline(never)]
    pub fn translate(&mut self, memory: &GuestMemory, linear: u32, write: bool) -> Outcome<u32> {
        let user = self.ring == 3;
        let (place, writable) = match self.resolve(memory, linear, Want { write, user }) {
            Ok(found) => found,
            Err(exit) => return Err(self.leave(exit)),
        };
        let page = linear & !(PAGE - 1);
        let frame = place & !(PAGE - 1);
        let index = self.paging.data_index(linear);
        self.paging.data[index] = DataEntry {
            read: page,
            write: if writable && !memory.is_watched(frame / PAGE) {
                page
            } else {
                NONE
            },
            frame,
        };
        Ok(place)
    }

    /// Where the instruction at a linear address is.
    pub fn fetch(&mut self, memory: &GuestMemory, linear: u32) -> Outcome<u32> {
        let page = linear & !(PAGE - 1);
        let index = (self.paging.half / DATA * CODE + (linear >> 12) as usize % CODE) % (2 * CODE);
        let entry = self.paging.code[index];
        if entry.tag == page {
            return Ok(entry.frame | linear & (PAGE - 1));
        }
        let want = Want {
            write: false,
            user: self.ring == 3,
        };
        let place = match self.resolve(memory, linear, want) {
            Ok((place, _)) => place,
            Err(exit) => return Err(self.leave(exit)),
        };
        if entry.tag != NONE {
            // Whoever remembers jumps into that page would not hear of its next move.
            self.paging.new_stamp();
        }
        self.paging.code[index] = CodeEntry {
            tag: page,
            frame: place & !(PAGE - 1),
        };
        Ok(place)
    }

    /// Walks for an access: the place, and whether it may be written without another walk; or what
    /// the access raises.
    fn resolve(
        &mut self,
        memory: &GuestMemory,
        linear: u32,
        want: Want,
    ) -> Result<(u32, bool), Exit> {
        let fault = |present: bool| Exit::Fault {
            vector: 14,
            error: Some(
                u32::from(present) | (u32::from(want.write) * RW) | (u32::from(want.user) * US),
            ),
            cr2: linear,
        };
        let mapping = self
            .paging
            .walk(memory, self.cr3, linear)
            .map_err(Exit::Broken)?
            .ok_or(fault(false))?;
        let rights = mapping.directory_entry & mapping.table_entry;
        if (want.write && rights & RW == 0) || (want.user && rights & US == 0) {
            return Err(fault(true));
        }
        let table_entry = mapping.table_entry | A | if want.write { D } else { 0 };
        let stored = |at, old, new| {
            if old == new {
                return Ok(());
            }
            memory.store(at, new).map_err(|_| fault(true))
        };
        stored(
            mapping.directory_entry_at,
            mapping.directory_entry,
            mapping.directory_entry | A,
        )?;
        stored(mapping.table_entry_at, mapping.table_entry, table_entry)?;
        let place = table_entry & !(PAGE - 1) | linear & (PAGE - 1);
        Ok((place, rights & RW != 0 && table_entry & D != 0))
    }
}
