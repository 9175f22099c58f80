//! Hypercalls: `int $0x1f` with a number in eax and arguments in edx, ebx, ecx; or the same in the ring.
//!
//! | n | call | arguments |
//! |---|---|---|
//! | 0 | flush async | the ring was run before it: that is all |
//! | 1 | init | where the guest's data are |
//! | 2 | crash | where the text is |
//! | 3 | load GDT | where, how many entries |
//! | 4 | new page table | where its directory is |
//! | 5 | flush TLB | 0: below the page offset; else all |
//! | 6 | load IDT entry | vector, low word, high word |
//! | 7 | set stack | ss, esp, pages |
//! | 8 | TS | whether the next x87 instruction traps |
//! | 9 | set clock event | nanoseconds from now |
//! | 10 | halt | |
//! | 12 | bind DMA | key, where the blocks are, how many of them · 256 + interrupt |
//! | 13 | send DMA | key, where the block is |
//! | 14 | set PTE | where the directory is, address, entry |
//! | 15 | set PMD | where the directory is, index |
//! | 16 | load TLS | where three descriptors are |

use super::data::{Call, RING};
use super::death::Death;
use super::interrupt::COUNT;
use super::segments::{ENTRIES, TLS};
use super::{InProcess, Sent};
use crate::engine::lguest::cpu::Register;
use crate::engine::lguest::dma;
use crate::engine::lguest::memory::PAGE;

const INIT: u32 = 1;
const BIND_DMA: u32 = 12;

/// The longest last words, in bytes.
const LAST_WORDS: u32 = 128;
/// The directory entry of the addresses that are the host's, and all beyond.
const SWITCHER: u32 = 1023;
/// Pages of a kernel stack at most.
const STACK_PAGES: u32 = 2;

impl InProcess<'_> {
    /// Does what the guest has asked for: first what is in the ring, then the call that brought it here. A
    /// block that was sent is to be handed over before anything more is done.
    pub(super) fn serve_calls(&mut self) -> Result<(), Death> {
        if self.data.is_some() {
            self.run_ring()?;
        }
        if !self.called || self.sent.is_some() {
            return Ok(());
        }
        self.called = false;
        let call = Call {
            number: self.register(Register::Eax),
            edx: self.register(Register::Edx),
            ebx: self.register(Register::Ebx),
            ecx: self.register(Register::Ecx),
        };
        if self.data.is_none() && call.number != INIT {
            return Err(Death::BeforeInit(call.number));
        }
        let result = self.call(call)?;
        if call.number == BIND_DMA {
            self.cpu.set_register(Register::Eax, result);
        }
        Ok(())
    }

    fn run_ring(&mut self) -> Result<(), Death> {
        // The guest may add to it only while it runs, so once round is all there can be.
        for _ in 0..RING {
            let memory = self.memory;
            let Some(data) = &mut self.data else { break };
            let Some(call) = data.next_call(memory)? else {
                break;
            };
            self.call(call)?;
            if let Some(data) = &mut self.data {
                data.done(memory)?;
            }
            if self.sent.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Makes one call. Only binding has a result.
    fn call(&mut self, call: Call) -> Result<u32, Death> {
        let Call {
            number,
            edx,
            ebx,
            ecx,
        } = call;
        match number {
            0 => {}
            INIT => self.open_data(edx)?,
            2 => return Err(self.last_words(edx)?),
            3 => {
                if ebx as usize > ENTRIES {
                    return Err(Death::TooManyGdtEntries(ebx));
                }
                self.load_descriptors(0, edx, ebx)?;
            }
            4 => {
                self.check(edx, PAGE)?;
                self.cpu.set_cr3(edx);
            }
            5 if edx == 0 => self.cpu.flush_below(self.page_offset),
            5 => self.cpu.flush_all(),
            6 => self.gates.set(edx, ebx, ecx)?,
            7 => self.set_stack(edx, ebx, ecx)?,
            8 => self.cpu.set_task_switched(edx != 0),
            9 => self.interrupts.set_clock(edx),
            10 => self.halted = true,
            BIND_DMA => return Ok(self.bind(edx, ebx, ecx)?.into()),
            13 => {
                self.check_key(edx)?;
                self.check(ebx, dma::BYTES)?;
                self.sent = Some(Sent {
                    block: ebx,
                    key: edx,
                });
            }
            // The entry itself is in the guest's table, where the processor will find it.
            14 if ebx >= self.page_offset || edx == self.cpu.cr3() => self.cpu.flush_page(ebx),
            15 if ebx < SWITCHER && edx == self.cpu.cr3() => self.cpu.flush_all(),
            14 | 15 => {}
            16 => self.load_descriptors(TLS, edx, 3)?,
            _ => return Err(Death::BadHypercall(number)),
        }
        Ok(0)
    }

    /// What the guest says as it dies.
    fn last_words(&self, at: u32) -> Result<Death, Death> {
        self.check(at, LAST_WORDS)?;
        let mut text = [0; LAST_WORDS as usize];
        self.memory.read_bytes(at, &mut text)?;
        // The last byte is the NUL's.
        let text = &text[..text.len() - 1];
        let end = text.iter().position(|&byte| byte == 0);
        let text = String::from_utf8_lossy(&text[..end.unwrap_or(text.len())]);
        Ok(Death::Crash(text.trim_end().to_owned()))
    }

    fn load_descriptors(&mut self, first: usize, at: u32, count: u32) -> Result<(), Death> {
        // At most 32, as checked.
        self.check(at, count * 8)?;
        let mut given = [0; ENTRIES];
        let given = &mut given[..count as usize];
        for (place, n) in given.iter_mut().zip(0..) {
            *place = self.memory.load(at + n * 8)?;
        }
        self.table.load(first, given);
        self.cpu.set_gdt(&self.table.0);
        // What is loaded follows the table at once, as it did when each entry to the guest loaded it anew.
        Ok(self.cpu.reload_segments()?)
    }

    fn set_stack(&mut self, ss: u32, esp: u32, pages: u32) -> Result<(), Death> {
        let selector = u16::try_from(ss).ok().filter(|ss| ss & 3 == 1);
        let selector = selector.ok_or(Death::BadStackSegment(ss))?;
        if pages > STACK_PAGES {
            return Err(Death::BadStackPages(pages));
        }
        for page in 0..pages {
            let address = esp.wrapping_sub(1).wrapping_sub(page * PAGE);
            if self.cpu.translate(self.memory, address)?.is_none() {
                return Err(Death::BadStackPage(address));
            }
        }
        self.stack = (selector, esp);
        Ok(())
    }

    fn check_key(&self, key: u32) -> Result<(), Death> {
        if !key.is_multiple_of(4) || self.check(key, 4).is_err() {
            return Err(Death::BadKey(key));
        }
        Ok(())
    }

    fn bind(&mut self, key: u32, blocks: u32, count_and_irq: u32) -> Result<bool, Death> {
        let irq = count_and_irq as u8;
        let count = count_and_irq >> 8 & 0xffff;
        if irq >= COUNT {
            return Ok(false);
        }
        self.check_key(key)?;
        if irq == 0 {
            return Ok(self.bindings.unbind(key, blocks));
        }
        self.check(blocks, count * dma::BYTES)?;
        Ok(self.bindings.bind(key, blocks, count, irq))
    }
}
