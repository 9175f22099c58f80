//! What instructions do, a family a file. Read [`arithmetic`] first: the others are made like it.
//!
//! A handler works through the traits of [`super::op`] and [`super::access`]; it checks all that can
//! fault before it changes anything. Each family has functions from a [`Form`] (width and kinds of
//! operands) to the handler for it; the decoder calls them.

pub(super) mod arithmetic;
pub(super) mod bits;
pub(super) mod branch;
pub(super) mod decimal;
pub(super) mod exchange;
pub(super) mod far;
pub(super) mod fused;
pub(super) mod moves;
pub(super) mod multiply;
pub(super) mod quiet;
pub(super) mod segments;
pub(super) mod shift;
pub(super) mod stack;
pub(super) mod string;
pub(super) mod system;
pub(super) mod x87;

/// What an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    Register,
    Memory,
    Immediate,
    /// A segment register.
    Segment,
}

/// What decides which handler an instruction gets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// Bytes of the operation: 1, 2 or 4.
    pub width: u32,
    /// The memory operand is in a flat segment and has an address of 32 bits.
    pub flat: bool,
    /// The stack is flat.
    pub flat_stack: bool,
    pub kinds: [Kind; 3],
}

/// The handler for the form's width.
macro_rules! by_width {
    ($form:expr, $T:ident => $handler:expr) => {
        match $form.width {
            1 => {
                type $T = u8;
                let handler: $crate::engine::lguest::cpu::op::Handler = $handler;
                handler
            }
            2 => {
                type $T = u16;
                $handler
            }
            _ => {
                type $T = u32;
                $handler
            }
        }
    };
}

/// The handler for the form's width, of what has no form of 8 bits.
macro_rules! by_wide {
    ($form:expr, $T:ident => $handler:expr) => {
        if $form.width == 2 {
            type $T = u16;
            let handler: $crate::engine::lguest::cpu::op::Handler = $handler;
            handler
        } else {
            type $T = u32;
            $handler
        }
    };
}

/// The handler for a kind of address: `flat` says which.
macro_rules! by_address {
    ($flat:expr, $A:ident => $handler:expr) => {
        if $flat {
            type $A = $crate::engine::lguest::cpu::access::Flat;
            let handler: $crate::engine::lguest::cpu::op::Handler = $handler;
            handler
        } else {
            type $A = $crate::engine::lguest::cpu::access::Segmented;
            $handler
        }
    };
}

pub(super) use {by_address, by_wide, by_width};
