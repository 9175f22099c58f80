//! The x87 unit (Intel SDM volume 1, chapter 8): numbers of 80 bits on a stack of eight.
//!
//! [`extended`] is the number, [`arithmetic`] and [`convert`] compute exactly what a processor does,
//! [`transcendental`] nearly. This file is the registers and their images in memory.
//!
//! An exception that is not masked is remembered, and raised (#MF) by the next instruction that
//! waits. One known before the result is (invalid, denormal, division by zero) keeps the result
//! from being stored. Overflow and underflow that are not masked store it with its exponent wrapped
//! around.

pub(super) mod arithmetic;
pub(super) mod convert;
pub(super) mod extended;
pub(super) mod transcendental;

use extended::{Environment, Extended, INDEFINITE};

/// Invalid operation.
pub(super) const IE: u16 = 1;
/// Denormal operand.
pub(super) const DE: u16 = 2;
/// Division by zero.
pub(super) const ZE: u16 = 4;
/// Overflow.
pub(super) const OE: u16 = 8;
/// Underflow.
pub(super) const UE: u16 = 0x10;
/// Inexact.
pub(super) const PE: u16 = 0x20;
/// Stack fault.
pub(super) const SF: u16 = 0x40;
/// An exception that is not masked waits.
pub(super) const ES: u16 = 0x80;
/// Condition codes.
pub(super) const C0: u16 = 0x100;
pub(super) const C1: u16 = 0x200;
pub(super) const C2: u16 = 0x400;
pub(super) const C3: u16 = 0x4000;
const BUSY: u16 = 0x8000;
const EXCEPTIONS: u16 = 0x3F;
/// Those that are known before there is a result.
const EARLY: u16 = IE | DE | ZE;
const TOP: u16 = 0x3800;
/// The control word's reserved bit that reads as one.
const CONTROL_ONE: u16 = 0x40;
/// Bits of the control word that can be set.
const CONTROL_MASK: u16 = 0x1F3F;

/// The unit's registers.
#[derive(Debug, Clone)]
pub(super) struct Fpu {
    pub control: u16,
    /// Without TOP.
    status: u16,
    top: u8,
    /// Bit n: physical register n is empty.
    empty: u8,
    registers: [Extended; 8],
    /// Where the last instruction was, and its operand: offsets and selectors.
    pub last_code: (u32, u16),
    pub last_data: (u32, u16),
}

impl Fpu {
    /// As after `fninit`.
    pub fn new() -> Self {
        Self {
            control: 0x37F,
            status: 0,
            top: 0,
            empty: 0xFF,
            registers: [Extended::default(); 8],
            last_code: (0, 0),
            last_data: (0, 0),
        }
    }

    /// `fninit`: what is in the registers stays there, out of sight.
    pub fn initialize(&mut self) {
        let registers = self.registers;
        *self = Self {
            registers,
            ..Self::new()
        };
    }

    /// The rounding and masks that hold.
    pub fn environment(&self) -> Environment {
        Environment::new(self.control)
    }

    fn physical(&self, n: u8) -> usize {
        usize::from(self.top.wrapping_add(n) % 8)
    }

    /// Whether st(n) is empty.
    pub fn is_empty(&self, n: u8) -> bool {
        self.empty >> self.physical(n) & 1 != 0
    }

    /// st(n), whatever is in it.
    pub fn raw(&self, n: u8) -> Extended {
        self.registers[self.physical(n)]
    }

    /// st(n). An empty one is a stack fault: it is noted, and stands for the indefinite if that is masked.
    pub fn read(&mut self, n: u8) -> Option<Extended> {
        if !self.is_empty(n) {
            return Some(self.raw(n));
        }
        self.status &= !C1;
        self.note(IE | SF).then_some(INDEFINITE)
    }

    /// Sets st(n).
    pub fn write(&mut self, n: u8, value: Extended) {
        let physical = self.physical(n);
        self.registers[physical] = value;
        self.empty &= !(1 << physical);
    }

    /// Pushes. A full stack is a stack fault, and the indefinite is pushed if that is masked.
    pub fn push(&mut self, value: Extended) {
        let mut value = value;
        self.status &= !C1;
        if !self.is_empty(7) {
            self.status |= C1;
            if !self.note(IE | SF) {
                return;
            }
            value = INDEFINITE;
        }
        self.rotate(7);
        self.write(0, value);
    }

    /// Frees st(0) and moves the top up.
    pub fn pop(&mut self) {
        self.free(0);
        self.rotate(1);
    }

    /// Marks st(n) empty.
    pub fn free(&mut self, n: u8) {
        self.empty |= 1 << self.physical(n);
    }

    /// Moves the top up by n, of eight.
    pub fn rotate(&mut self, n: u8) {
        self.top = (self.top + n) % 8;
    }

    /// Whether one of these stops an operation before it has a result.
    pub fn stops(&self, exceptions: u16) -> bool {
        exceptions & EARLY & !self.control != 0
    }

    /// Notes exceptions. True: all of those that are noted before there is a result are masked.
    pub fn note(&mut self, exceptions: u16) -> bool {
        // One of these that is not masked stops the operation: nothing more is found out.
        let stops = self.stops(exceptions);
        let exceptions = if stops {
            exceptions & (EARLY | SF)
        } else {
            exceptions
        };
        self.status |= exceptions & (EXCEPTIONS | SF);
        let unmasked = exceptions & EXCEPTIONS & !self.control;
        if unmasked != 0 {
            self.status |= ES | BUSY;
        }
        !stops
    }

    /// Takes over what a computation noted, with C1; says whether its result may be stored.
    pub fn settle(&mut self, environment: &Environment) -> bool {
        let proceeds = self.note(environment.exceptions);
        let rounded_up = proceeds && environment.rounded_up;
        self.set_condition(C1, if rounded_up { C1 } else { 0 });
        proceeds
    }

    /// Whether a store to memory is kept from happening by an overflow or underflow that is not masked.
    pub fn stops_store(&self, environment: &Environment) -> bool {
        environment.exceptions & (OE | UE) & !self.control != 0
    }

    /// Sets condition codes: those in `mask`, to `value`.
    pub fn set_condition(&mut self, mask: u16, value: u16) {
        self.status = self.status & !mask | value & mask;
    }

    /// Whether an exception waits to be raised.
    pub fn pending(&self) -> bool {
        self.status & ES != 0
    }

    /// `fnclex`.
    pub fn clear_exceptions(&mut self) {
        self.status &= !(EXCEPTIONS | SF | ES | BUSY);
    }

    /// The status word.
    pub fn status(&self) -> u16 {
        self.status | u16::from(self.top) << 11
    }

    /// Sets the control word; what becomes unmasked may become pending.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & CONTROL_MASK | CONTROL_ONE;
        self.update_summary();
    }

    fn update_summary(&mut self) {
        if self.status & EXCEPTIONS & !self.control != 0 {
            self.status |= ES | BUSY;
        } else {
            self.status &= !(ES | BUSY);
        }
    }

    /// Two bits a physical register: 0 a number, 1 zero, 2 special, 3 empty.
    fn tag_word(&self) -> u16 {
        (0..8).rev().fold(0, |word, n| {
            let tag = if self.empty >> n & 1 != 0 {
                3
            } else {
                self.registers[n].tag()
            };
            word << 2 | tag
        })
    }

    /// The environment as `fnstenv` writes it: seven words, each of which is 32 bits or, cut, 16.
    pub fn image(&self) -> [u32; 7] {
        // Bits that are not there read as ones.
        let high = |word: u16| 0xFFFF_0000 | u32::from(word);
        [
            high(self.control),
            high(self.status()),
            high(self.tag_word()),
            self.last_code.0,
            self.last_code.1.into(),
            self.last_data.0,
            high(self.last_data.1),
        ]
    }

    /// Takes over an environment that `fldenv` read.
    pub fn set_image(&mut self, image: &[u32; 7]) {
        self.control = image[0] as u16 & CONTROL_MASK | CONTROL_ONE;
        self.status = image[1] as u16 & !(TOP | ES | BUSY);
        self.top = (image[1] >> 11) as u8 % 8;
        self.empty = (0..8).fold(0, |empty, n| {
            empty | u8::from(image[2] >> (2 * n) & 3 == 3) << n
        });
        self.last_code = (image[3], image[4] as u16);
        self.last_data = (image[5], image[6] as u16);
        self.update_summary();
    }

    /// Sets the register at st(n) without touching its tag: `frstor`.
    pub fn restore(&mut self, n: u8, value: Extended) {
        let physical = self.physical(n);
        self.registers[physical] = value;
    }
}
