//! Paging: a linear address becomes a place in guest memory (Intel SDM volume 3, chapter 4.3).
//!
//! The guest's own two-level tables are walked, and what was found is kept in a translation cache
//! until the guest says that it changed something. Write protection holds for ring 1 too (WP).
//! Accessed and dirty bits are set in the guest's tables as a processor does.

use super::exit::{Broken, Exit};
use super::state::Core;
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

/// The translation cache, and how far tables may point.
#[derive(Debug)]
pub(super) struct Paging {
    /// Frames beyond this one are not the guest's.
    frames: u32,
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

impl Paging {
    pub fn new(frames: u32) -> Self {
        Self { frames }
    }

    pub fn flush_all(&mut self) {}

    pub fn flush_below(&mut self, _end: u32) {}

    pub fn flush_page(&mut self, _linear: u32) {}

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
            Ok(place) => Ok(Some(place)),
            Err(Exit::Broken(broken)) => Err(broken),
            Err(_) => Ok(None),
        }
    }

    /// Walks for an access: the place, or what the access raises.
    fn resolve(&mut self, memory: &GuestMemory, linear: u32, want: Want) -> Result<u32, Exit> {
        let fault = |present: bool| Exit::Fault {
            vector: 14,
            error: Some(
                u32::from(present) | u32::from(want.write) * RW | u32::from(want.user) * US,
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
        Ok(table_entry & !(PAGE - 1) | linear & (PAGE - 1))
    }
}
