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
pub(super) mod pairs;
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

/// The handler that does an operation, a function `(core, memory, op) -> Step`, and what comes after it in its block.
///
/// The next one is called last of all, with the same arguments: the compiler makes a jump of that, so
/// each operation's end is a jump of its own that the host's processor learns to foresee. If it did
/// not, nothing worse than a stack as deep as the longest block would come of it.
macro_rules! handler {
    ($operation:expr) => {{
        let handler: $crate::engine::lguest::cpu::op::Handler =
            |core, memory, op, rest| match $operation(core, memory, op) {
                Ok(()) => $crate::engine::lguest::cpu::op::run(core, memory, rest),
                Err(leave) => op.leave(leave),
            };
        handler
    }};
}

/// The handler for the form's width. What stands behind the arrow, here and below, is an operation or
/// another such choice.
macro_rules! by_width {
    ($form:expr, $T:ident => $($choice:tt)*) => {
        match $form.width {
            1 => {
                type $T = u8;
                $crate::engine::lguest::cpu::exec::chosen!($($choice)*)
            }
            2 => {
                type $T = u16;
                $crate::engine::lguest::cpu::exec::chosen!($($choice)*)
            }
            _ => {
                type $T = u32;
                $crate::engine::lguest::cpu::exec::chosen!($($choice)*)
            }
        }
    };
}

/// The handler for the form's width, of what has no form of 8 bits.
macro_rules! by_wide {
    ($form:expr, $T:ident => $($choice:tt)*) => {
        if $form.width == 2 {
            type $T = u16;
            $crate::engine::lguest::cpu::exec::chosen!($($choice)*)
        } else {
            type $T = u32;
            $crate::engine::lguest::cpu::exec::chosen!($($choice)*)
        }
    };
}

/// The handler for a kind of address: `flat` says which. This is the last choice, and an operation stands
/// behind the arrow. What misses the short way is done over on the long one.
macro_rules! by_address {
    ($flat:expr, $A:ident => $operation:expr) => {
        if $flat {
            let handler: $crate::engine::lguest::cpu::op::Handler = |core, memory, op, rest| {
                type $A = $crate::engine::lguest::cpu::access::Flat;
                match $operation(core, memory, op) {
                    Ok(()) => $crate::engine::lguest::cpu::op::run(core, memory, rest),
                    Err($crate::engine::lguest::cpu::state::Leave::Missed) => {
                        type $A = $crate::engine::lguest::cpu::access::Segmented;
                        let over = $crate::engine::lguest::cpu::exec::handler!($operation);
                        $crate::engine::lguest::cpu::op::run_over(core, memory, op, rest, over)
                    }
                    Err(leave) => op.leave(leave),
                }
            };
            handler
        } else {
            type $A = $crate::engine::lguest::cpu::access::Segmented;
            $crate::engine::lguest::cpu::exec::handler!($operation)
        }
    };
}

/// A choice within a choice, or an operation at last.
macro_rules! chosen {
    ([ $($choice:tt)* ]) => { $crate::engine::lguest::cpu::exec::chosen!($($choice)*) };
    ({ $($choice:tt)* }) => { $crate::engine::lguest::cpu::exec::chosen!($($choice)*) };
    ($choice:ident ! $($rest:tt)*) => { $choice! $($rest)* };
    ($operation:expr) => { $crate::engine::lguest::cpu::exec::handler!($operation) };
}

pub(super) use {by_address, by_wide, by_width, chosen, handler};
